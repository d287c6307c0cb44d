//! `support-access check` and `explain`.

use clap::{Args, ValueEnum};

use super::{
    client::{Call, Client},
    error::CliError,
    exit::Exit,
    grants::view::{UNTIL_REVOKED, candidates},
    output::Report,
    table::{Cell, Column, Highlight, Layout, details, table},
    view::{level, measured, short, time_utc},
};
use crate::api::proto::v1;

/// Check whether a support agent may enter a tenant now, at a level
///
/// Allow the agent only if the exit code is 0. The exit code is 2 for a denial, and 8 if the check
/// could not be answered: no response, or STALE.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  support-access check acme dana --group support --level read-only && echo \"welcome\"
  support-access check acme dana --group support --group engineering --level admin
  support-access check acme bot --kind ai --on-behalf-of dana --group support --level admin
  support-access check acme dana --group support --level read-only --expect denied    # in a test")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    question: QuestionArgs,
    /// The decision that exits with 0; the opposite decision exits with 2
    #[arg(long, value_name = "DECISION", default_value = "allowed")]
    expect: Expected,
}

/// Explain the answer to a check: the checklist, and every grant that was considered
///
/// The exit code is 0 for each decision.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  support-access explain acme dana --group support --level read-only")]
pub(crate) struct ExplainArgs {
    #[command(flatten)]
    question: QuestionArgs,
}

/// An expected decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Expected {
    Allowed,
    Denied,
}

/// The question of a check.
#[derive(Debug, Clone, Args)]
struct QuestionArgs {
    /// The tenant to enter
    #[arg(value_name = "TENANT")]
    tenant_id: String,
    /// The support agent
    #[arg(value_name = "AGENT")]
    agent_id: String,
    /// A group of the agent; may be repeated, up to 500 times
    #[arg(long = "group", value_name = "ID")]
    group_ids: Vec<String>,
    /// The level that the agent needs
    #[arg(long = "level", value_name = "LEVEL", ignore_case = true)]
    required_level: v1::AccessLevel,
    /// The kind of the agent
    #[arg(long = "kind", value_name = "KIND", default_value = "human", ignore_case = true)]
    agent_kind: v1::AgentKind,
    /// The human behind an AI or service agent
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    on_behalf_of: String,
    /// Answer from the change with this consistency token, or from a later change
    #[arg(long = "token", value_name = "TOKEN", default_value = "", hide_default_value = true)]
    consistency_token: String,
}

impl QuestionArgs {
    fn to_check(&self) -> v1::AccessCheck {
        v1::AccessCheck {
            tenant_id: self.tenant_id.clone(),
            agent_id: self.agent_id.clone(),
            group_ids: self.group_ids.clone(),
            required_level: self.required_level.into(),
            agent_kind: self.agent_kind.into(),
            on_behalf_of: self.on_behalf_of.clone(),
        }
    }

    /// A warning for a list of groups in one option. The whole list counts as one group id.
    fn warning(&self) -> Option<String> {
        let group = self.group_ids.iter().find(|group| group.contains(','))?;
        Some(format!("{group:?} is the id of one group; repeat --group for several groups"))
    }
}

impl Call for CheckArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let message = v1::CheckAccessRequest {
            check: Some(self.question.to_check()),
            consistency_token: self.question.consistency_token.clone(),
        };
        let send = async |request| client.checks().check_access(request).await;
        let response = client.call(message, send).await?;
        let report =
            client.report(&response, |layout, response| details(layout, &result_rows(response)))?;
        let warnings = self.question.warning().into_iter().collect();
        Ok(Report { exit: exit(&response, self.expect), warnings, ..report })
    }
}

impl Call for ExplainArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let message = v1::ExplainAccessRequest {
            check: Some(self.question.to_check()),
            consistency_token: self.question.consistency_token.clone(),
        };
        let send = async |request| client.checks().explain_access(request).await;
        let response = client.call(message, send).await?;
        let report = client.report(&response, explanation)?;
        Ok(Report { warnings: self.question.warning().into_iter().collect(), ..report })
    }
}

/// STALE and unknown decisions are neither allowed nor denied.
fn exit(response: &v1::CheckAccessResponse, expected: Expected) -> Exit {
    let decision = match (response.decision(), response.reason()) {
        (v1::Decision::Allowed, _) => Expected::Allowed,
        (v1::Decision::Unspecified, _) | (_, v1::DecisionReason::Stale) => {
            return Exit::Unavailable;
        }
        (v1::Decision::Denied, _) => Expected::Denied,
    };
    if decision == expected { Exit::Success } else { Exit::Denied }
}

fn result_rows(response: &v1::CheckAccessResponse) -> Vec<(&'static str, Cell)> {
    let is_allowed = response.decision() == v1::Decision::Allowed;
    let decision = short(response.decision().as_str_name(), "DECISION_");
    let highlight = if is_allowed { Highlight::Good } else { Highlight::Bad };
    let mut rows = vec![
        ("Decision", Cell::new(decision).highlighted(highlight)),
        ("Reason", Cell::new(reason(response.reason()))),
        ("Message", Cell::new(&response.message)),
        ("Grant", Cell::new(&response.grant_id)),
    ];
    if !response.lock_id.is_empty() {
        rows.push(("Lock", Cell::new(&response.lock_id)));
    }
    if response.ignored_group_count > 0 {
        let ignored = format!("{} values are not group ids", response.ignored_group_count);
        rows.push(("Ignored", Cell::new(ignored)));
    }
    if is_allowed {
        let end = time_utc(response.expire_time.as_ref(), UNTIL_REVOKED);
        rows.push(("Level", Cell::new(level(response.access_level()))));
        rows.push(("End", Cell::new(end)));
        rows.push(("Valid for", Cell::new(measured(response.valid_for.as_ref()))));
    }
    rows
}

fn explanation(layout: Layout, response: &v1::ExplainAccessResponse) -> String {
    const COLUMNS: [Column; 3] =
        [Column::fixed("CHECKLIST", 0), Column::fixed("ANSWER", 0), Column::wrapped("DETAIL", 0)];
    let mut rows = result_rows(&response.result.clone().unwrap_or_default());
    if !response.ignored_group_ids.is_empty() {
        rows.push(("Not ids", Cell::new(response.ignored_group_ids.join(", "))));
    }
    let checklist: Vec<_> = response.checklist.iter().map(checklist_row).collect();
    let mut text = details(layout, &rows) + "\n" + &table(layout, &COLUMNS, &checklist) + "\n";
    if response.candidates.is_empty() {
        return text + "The tenant has no grants.\n";
    }
    let finding = |candidate: &v1::CandidateGrant| {
        candidate.reasons().map(reason).collect::<Vec<_>>().join(", ")
    };
    text += &candidates(layout, &response.candidates, finding);
    if response.candidates_truncated {
        text +=
            "\nThe tenant may have more grants; `support-access list` at a replica shows all.\n";
    }
    text
}

fn reason(reason: v1::DecisionReason) -> &'static str {
    short(reason.as_str_name(), "DECISION_REASON_")
}

fn checklist_row(item: &v1::ChecklistItem) -> Vec<Cell> {
    let question = match item.question() {
        v1::ChecklistQuestion::AccessGranted => "Access has been granted",
        v1::ChecklistQuestion::PeriodNotExpired => "The period has not expired",
        v1::ChecklistQuestion::EntryActive => "The entry is active",
        v1::ChecklistQuestion::CorrectOption => "The correct option was selected",
        v1::ChecklistQuestion::NotLocked => "No lock matches",
        v1::ChecklistQuestion::Unspecified => "-",
    };
    let (answer, highlight) = match item.answer() {
        v1::ChecklistAnswer::Yes => ("yes", Some(Highlight::Good)),
        v1::ChecklistAnswer::No => ("NO", Some(Highlight::Bad)),
        v1::ChecklistAnswer::NotApplicable => ("not applicable", Some(Highlight::Dim)),
        v1::ChecklistAnswer::Unspecified => ("-", None),
    };
    vec![Cell::new(question), Cell::new(answer).highlighted(highlight), Cell::new(&item.detail)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_expected_decision_succeeds_and_stale_is_no_decision() {
        let response = |decision: i32, reason: v1::DecisionReason| v1::CheckAccessResponse {
            decision,
            reason: reason.into(),
            ..Default::default()
        };
        let cases = [
            (1, v1::DecisionReason::GrantActive, Exit::Success, Exit::Denied),
            (2, v1::DecisionReason::Expired, Exit::Denied, Exit::Success),
            (2, v1::DecisionReason::Locked, Exit::Denied, Exit::Success),
            (2, v1::DecisionReason::Stale, Exit::Unavailable, Exit::Unavailable),
            (0, v1::DecisionReason::GrantActive, Exit::Unavailable, Exit::Unavailable),
            (9, v1::DecisionReason::GrantActive, Exit::Unavailable, Exit::Unavailable),
        ];
        for (decision, reason, if_allowed, if_denied) in cases {
            let response = response(decision, reason);
            assert_eq!(exit(&response, Expected::Allowed), if_allowed, "{response:?}");
            assert_eq!(exit(&response, Expected::Denied), if_denied, "{response:?}");
        }
    }
}
