//! The JSON of responses.

use serde::Serialize;

use super::question::{Flaw, Page};
use crate::{
    api::proto::v1 as pb,
    domain::{Reason, Remedy},
};

const NOTHING_KNOWN: &str =
    "the type, the action or the id is unknown here; compare with the table [authzen]";
const ACTIONS: &str = "the actions for an agent with the stated groups, kind and human";

/// The response to several evaluations.
#[derive(Serialize)]
pub(super) struct Evaluations {
    pub(super) evaluations: Vec<Evaluation>,
}

/// The response to one evaluation.
#[derive(Serialize)]
pub(super) struct Evaluation {
    pub(super) decision: bool,
    context: EvaluationContext,
}

#[derive(Serialize)]
struct EvaluationContext {
    reason: &'static str,
    message: String,
    remedy: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    grant_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    lock_id: String,
    /// How long the decision may be used. `None`: the agent may not enter.
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_for: Option<String>,
}

/// The response to a search.
#[derive(Serialize)]
pub(super) struct SearchResults<R, C> {
    pub(super) results: Vec<R>,
    pub(super) page: NextPage,
    pub(super) context: C,
}

#[derive(Serialize)]
pub(super) struct NextPage {
    /// Empty: the page is the last.
    pub(super) next_token: String,
}

/// An action in the results of a search.
#[derive(Serialize)]
pub(super) struct ActionName {
    name: String,
}

/// The context of the results of a search.
#[derive(Serialize)]
pub(super) struct SearchContext {
    message: &'static str,
    /// `STALE`: the results are empty because the node could not decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// The response to a search about unknown types, names or ids.
pub(super) fn nothing() -> SearchResults<ActionName, SearchContext> {
    SearchResults {
        results: Vec::new(),
        page: NextPage { next_token: String::new() },
        context: SearchContext { message: NOTHING_KNOWN, reason: None },
    }
}

/// The response to a search for actions.
pub(super) fn actions(
    names: &[String],
    page: &Page,
    results: &[pb::CheckAccessResponse],
) -> SearchResults<ActionName, SearchContext> {
    let is_stale = results.iter().any(|result| result.reason() == pb::DecisionReason::Stale);
    let permitted = names.iter().zip(results).filter(|(_, result)| is_allowed(result));
    let mut rest = permitted.map(|(name, _)| name).filter(|name| **name > page.after).peekable();
    let results: Vec<_> = rest.by_ref().take(page.limit).collect();
    let last = results.last().filter(|_| rest.peek().is_some());
    let next_token = last.map(|name| Page::token_after(name)).unwrap_or_default();
    SearchResults {
        results: results.into_iter().map(|name| ActionName { name: name.clone() }).collect(),
        page: NextPage { next_token },
        context: SearchContext {
            message: if names.is_empty() { NOTHING_KNOWN } else { ACTIONS },
            reason: is_stale.then_some(Reason::Stale.as_str()),
        },
    }
}

/// Whether the agent may enter.
pub(super) fn is_allowed(result: &pb::CheckAccessResponse) -> bool {
    result.decision() == pb::Decision::Allowed
}

// === impl Evaluation ===

impl Evaluation {
    /// A denial without a check.
    pub(super) fn of_flaw(flaw: &Flaw) -> Self {
        let context = EvaluationContext {
            reason: Reason::InputInvalid.as_str(),
            message: flaw.violations().to_string(),
            remedy: Remedy::CorrectInput.as_str(),
            grant_id: String::new(),
            lock_id: String::new(),
            valid_for: None,
        };
        Self { decision: false, context }
    }

    /// The decision on a check.
    pub(super) fn of(result: pb::CheckAccessResponse) -> Self {
        let decision = is_allowed(&result);
        let reason = result.reason().as_str_name().trim_start_matches("DECISION_REASON_");
        let remedy = result.remedy().as_str_name().trim_start_matches("REMEDY_");
        let valid_for = result.valid_for.filter(|_| decision);
        let valid_for = valid_for.map(|span| format!("{}.{:09}s", span.seconds, span.nanos));
        let context = EvaluationContext {
            reason,
            message: result.message,
            remedy,
            grant_id: result.grant_id,
            lock_id: result.lock_id,
            valid_for,
        };
        Self { decision, context }
    }
}
