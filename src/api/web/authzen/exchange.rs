//! The translation of a request and its response, from and to messages of the API.

use std::sync::{Arc, OnceLock};

use prost::Message;
use serde_json::Value;

use super::{
    answer::{Evaluation, Evaluations, actions, nothing},
    config::AuthZenConfig,
    question::{Entities, Flaw, Page},
    text::{Object, with_object},
};
use crate::{
    api::{
        format::Translator,
        grpc::{Failure, MESSAGE_LENGTH_MAX, Unread, excess, unwritten},
        limit::{BytesPermit, CallPermit, UNCOUNTED_BYTES},
        proto::v1 as pb,
    },
    domain::{ViolationReason, violation::Violations},
    service::check::BATCH_MAX,
};

/// The agent in the question of a subject search. Grants to whole groups admit this agent, too.
pub(super) const ANY_AGENT: &str = "authzen-subject-search";
/// Estimated memory of a check, in bytes, without its groups and texts.
const CHECK_SIZE: usize = 256;
/// Estimated memory of a group in a check, in bytes, without its text.
const GROUP_SIZE: usize = 48;
/// Estimated memory of the answer to a check, in bytes, for each byte of the message.
const TEXT_PER_BYTE: usize = 8;
/// Memory of checks is counted in steps of this size, in bytes.
const STEP: usize = 64 * 1_024;
/// Maximum estimated memory of the checks of a request, in bytes.
const CHECKS_SIZE_MAX: usize = 24 * 1_024 * 1_024;

/// A question with an endpoint of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::api::web) enum Endpoint {
    /// One decision.
    Evaluation,
    /// Several decisions.
    Evaluations,
    /// The agents that may enter a tenant.
    Subjects,
    /// The levels at which an agent may enter a tenant.
    Actions,
}

/// One request and its response.
#[derive(Debug)]
pub(super) struct Exchange {
    endpoint: Endpoint,
    config: Arc<AuthZenConfig>,
    /// Set once the request was read.
    asked: OnceLock<Asked>,
}

/// The parts of a request on which the response depends, beyond the results of the checks.
#[derive(Debug)]
struct Asked {
    /// Whether the request contains no check, so that the response is known.
    is_answered: bool,
    kind: AskedKind,
}

#[derive(Debug)]
enum AskedKind {
    /// One decision. `None`: the decision on the only check.
    One(Option<Flaw>),
    /// A decision for each element. `None`: the decision on the next check.
    All(Vec<Option<Flaw>>, Semantic),
    /// The names of the actions. Each has a check, unless nothing is permitted.
    Actions(Vec<String>, Page),
    /// The type of the subjects, and the check about them.
    Subjects(String, Option<pb::AccessCheck>, Page),
}

/// After which decision the others are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Semantic {
    ExecuteAll,
    DenyOnFirstDeny,
    PermitOnFirstPermit,
}

/// Counts the memory of checks.
struct Counted<'a> {
    permit: &'a CallPermit,
    shares: Vec<BytesPermit>,
    uncounted: usize,
    size: usize,
    length: usize,
}

// === impl Endpoint ===

impl Endpoint {
    /// Every endpoint.
    pub(super) const ALL: [Self; 4] =
        [Self::Evaluation, Self::Evaluations, Self::Subjects, Self::Actions];

    /// The endpoint with this path.
    pub(in crate::api::web) fn of(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|endpoint| endpoint.path() == path)
    }

    /// The path, as the specification proposes.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Evaluation => "/access/v1/evaluation",
            Self::Evaluations => "/access/v1/evaluations",
            Self::Subjects => "/access/v1/search/subject",
            Self::Actions => "/access/v1/search/action",
        }
    }

    /// The name in the metadata.
    pub(super) const fn key(self) -> &'static str {
        match self {
            Self::Evaluation => "access_evaluation_endpoint",
            Self::Evaluations => "access_evaluations_endpoint",
            Self::Subjects => "search_subject_endpoint",
            Self::Actions => "search_action_endpoint",
        }
    }

    /// The path of the RPC that answers.
    pub(super) const fn rpc(self) -> &'static str {
        match self {
            Self::Evaluation => "/supportaccess.v1.SupportAccess/CheckAccess",
            Self::Evaluations | Self::Actions => "/supportaccess.v1.SupportAccess/BatchCheckAccess",
            Self::Subjects => "/supportaccess.v1.SupportAccess/ExplainAccess",
        }
    }
}

// === impl Exchange ===

impl Exchange {
    pub(super) fn new(endpoint: Endpoint, config: &Arc<AuthZenConfig>) -> Self {
        Self { endpoint, config: Arc::clone(config), asked: OnceLock::new() }
    }

    /// The response to a request that was read and contains no check. The RPC has rejected its
    /// message, which is empty, but only after it had accepted the caller.
    pub(super) fn answer_without_checks(&self) -> Option<Vec<u8>> {
        let asked = self.asked.get().filter(|asked| asked.is_answered)?;
        asked.answer(Vec::new()).ok()
    }

    /// The type of the subjects of a search, the check about them, and the page.
    pub(super) fn subjects(&self) -> Option<(&str, &pb::AccessCheck, &Page)> {
        match &self.asked.get()?.kind {
            AskedKind::Subjects(name, Some(check), page) => Some((name, check, page)),
            _ => None,
        }
    }

    fn ask(
        &self,
        request: &Object,
        counted: &mut Counted<'_>,
    ) -> Result<(Asked, Vec<pb::AccessCheck>), Unread> {
        let entities = Entities::of(request);
        let mut checks = Vec::new();
        let kind = match self.endpoint {
            Endpoint::Evaluations if has_evaluations(request)? => {
                self.ask_all(request, entities, counted, &mut checks)?
            }
            Endpoint::Evaluation | Endpoint::Evaluations => {
                let flaw = known(entities.check(&self.config))?.map(|check| checks.push(check));
                AskedKind::One(flaw.err())
            }
            Endpoint::Actions => {
                let page = Page::of(request).map_err(invalid)?;
                let asked = known(entities.checks_of_actions(&self.config))?;
                let (names, of_actions) = asked.unwrap_or_default();
                for check in &of_actions {
                    counted.add(check)?;
                }
                checks = of_actions;
                AskedKind::Actions(names, page)
            }
            Endpoint::Subjects => {
                let page = Page::of(request).map_err(invalid)?;
                let asked = known(entities.check_of_subjects(&self.config, ANY_AGENT))?;
                let (name, check) = asked
                    .map_or_else(|_| (String::new(), None), |(name, check)| (name, Some(check)));
                checks.extend(check.clone());
                AskedKind::Subjects(name, check, page)
            }
        };
        Ok((Asked { is_answered: checks.is_empty(), kind }, checks))
    }

    fn ask_all(
        &self,
        request: &Object,
        defaults: Entities<'_>,
        counted: &mut Counted<'_>,
        checks: &mut Vec<pb::AccessCheck>,
    ) -> Result<AskedKind, Unread> {
        let semantic = Semantic::of(request)?;
        let elements = request.get("evaluations").and_then(Value::as_array);
        let mut flaws = Vec::new();
        for element in elements.into_iter().flatten() {
            let check = if let Some(element) = element.as_object() {
                Entities::of(element).or(defaults).check(&self.config)
            } else {
                let (reason, description) = (ViolationReason::Malformed, "must be an object");
                Err(Flaw::Invalid(Violations::of("evaluation", reason, description)))
            };
            flaws.push(match check {
                Ok(check) => {
                    counted.add(&check)?;
                    checks.push(check);
                    None
                }
                Err(flaw) => Some(flaw),
            });
        }
        Ok(AskedKind::All(flaws, semantic))
    }
}

impl Translator for Exchange {
    fn read(&self, text: &[u8], permit: &CallPermit, encoded: &mut Vec<u8>) -> Result<(), Unread> {
        let mut counted = Counted::new(permit);
        let (asked, mut checks) =
            with_object(text, permit, |request| self.ask(request, &mut counted))?;
        let consistency_token = String::new();
        let written = match self.endpoint {
            Endpoint::Evaluation => {
                let check = checks.pop();
                pb::CheckAccessRequest { check, consistency_token }.encode(encoded)
            }
            Endpoint::Subjects => {
                let check = checks.pop();
                pb::ExplainAccessRequest { check, consistency_token }.encode(encoded)
            }
            Endpoint::Evaluations | Endpoint::Actions => {
                pb::BatchCheckAccessRequest { checks, consistency_token }.encode(encoded)
            }
        };
        // Fails only if the buffer is full, and a vector grows.
        written.map_err(|_| Unread::Malformed)?;
        // Evaluations share defaults, so the message may be longer than its JSON.
        let grown = encoded.len().saturating_sub(text.len().max(UNCOUNTED_BYTES));
        if grown > 0 && !permit.try_count(grown) {
            return Err(Unread::Excess);
        }
        // A request is read once.
        let _ = self.asked.set(asked);
        Ok(())
    }

    fn write(
        &self,
        message: &[u8],
        permit: &CallPermit,
        text: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let _share = permit.try_convert(TEXT_PER_BYTE * message.len()).ok_or_else(excess)?;
        let decoded = match self.endpoint {
            Endpoint::Evaluation => {
                pb::CheckAccessResponse::decode(message).map(|result| vec![result])
            }
            Endpoint::Evaluations | Endpoint::Actions => {
                pb::BatchCheckAccessResponse::decode(message).map(|response| response.results)
            }
            Endpoint::Subjects => {
                text.extend_from_slice(message);
                return Ok(());
            }
        };
        let results = decoded.map_err(|error| unwritten(&error))?;
        let asked = self.asked.get().ok_or_else(|| unwritten(&"no request"))?;
        text.extend(asked.answer(results).map_err(|error| unwritten(&error))?);
        Ok(())
    }
}

/// Whether the request has evaluations. Without any, the request is a single evaluation.
fn has_evaluations(request: &Object) -> Result<bool, Unread> {
    let malformed = |description| {
        invalid(Violations::of("evaluations", ViolationReason::Malformed, description))
    };
    let Some(evaluations) = request.get("evaluations") else { return Ok(false) };
    let evaluations = evaluations.as_array().ok_or_else(|| malformed("must be an array"))?;
    if evaluations.len() > BATCH_MAX {
        let description = format!("must have at most {BATCH_MAX} elements");
        let violations = Violations::of("evaluations", ViolationReason::OutOfRange, description);
        return Err(invalid(violations));
    }
    Ok(!evaluations.is_empty())
}

/// Rejects an invalid request. The inner error: nothing is permitted.
fn known<T>(asked: Result<T, Flaw>) -> Result<Result<T, Flaw>, Unread> {
    match asked {
        Err(Flaw::Invalid(violations)) => Err(invalid(violations)),
        asked => Ok(asked),
    }
}

fn invalid(violations: Violations) -> Unread {
    Unread::Invalid(Box::new(violations))
}

// === impl Semantic ===

impl Semantic {
    fn of(request: &Object) -> Result<Self, Unread> {
        let malformed = |field: &str, description: &str| {
            invalid(Violations::of(field, ViolationReason::Malformed, description))
        };
        let Some(options) = request.get("options") else { return Ok(Self::ExecuteAll) };
        let options =
            options.as_object().ok_or_else(|| malformed("options", "must be an object"))?;
        let Some(name) = options.get("evaluations_semantic") else { return Ok(Self::ExecuteAll) };
        match name.as_str() {
            Some("execute_all") => Ok(Self::ExecuteAll),
            Some("deny_on_first_deny") => Ok(Self::DenyOnFirstDeny),
            Some("permit_on_first_permit") => Ok(Self::PermitOnFirstPermit),
            _ => Err(malformed(
                "options.evaluations_semantic",
                "must be execute_all, deny_on_first_deny or permit_on_first_permit",
            )),
        }
    }

    fn ends_after(self, decision: bool) -> bool {
        match self {
            Self::ExecuteAll => false,
            Self::DenyOnFirstDeny => !decision,
            Self::PermitOnFirstPermit => decision,
        }
    }
}

// === impl Counted ===

impl<'a> Counted<'a> {
    fn new(permit: &'a CallPermit) -> Self {
        Self { permit, shares: Vec::new(), uncounted: 0, size: 0, length: 0 }
    }

    fn add(&mut self, check: &pb::AccessCheck) -> Result<(), Unread> {
        let length = check.encoded_len();
        let size = CHECK_SIZE + GROUP_SIZE * check.group_ids.len() + length;
        self.length += length;
        self.size += size;
        self.uncounted += size;
        if self.length > MESSAGE_LENGTH_MAX || self.size > CHECKS_SIZE_MAX {
            return Err(Unread::TooManyFields);
        }
        if self.uncounted > STEP {
            self.shares.push(self.permit.try_convert(self.uncounted).ok_or(Unread::Excess)?);
            self.uncounted = 0;
        }
        Ok(())
    }
}

// === impl Asked ===

impl Asked {
    /// The text of the response.
    fn answer(&self, results: Vec<pb::CheckAccessResponse>) -> Result<Vec<u8>, serde_json::Error> {
        let mut results = results.into_iter();
        // A check without a result is denied.
        let mut decide = |flaw: &Option<Flaw>| match flaw {
            Some(flaw) => Evaluation::of_flaw(flaw),
            None => Evaluation::of(results.next().unwrap_or_default()),
        };
        match &self.kind {
            AskedKind::One(flaw) => serde_json::to_vec(&decide(flaw)),
            AskedKind::All(flaws, semantic) => {
                let mut evaluations = Vec::new();
                for flaw in flaws {
                    let evaluation = decide(flaw);
                    let is_last = semantic.ends_after(evaluation.decision);
                    evaluations.push(evaluation);
                    if is_last {
                        break;
                    }
                }
                serde_json::to_vec(&Evaluations { evaluations })
            }
            AskedKind::Actions(names, page) => {
                serde_json::to_vec(&actions(names, page, &results.collect::<Vec<_>>()))
            }
            // The results of other subjects need further checks.
            AskedKind::Subjects(..) => serde_json::to_vec(&nothing()),
        }
    }
}
