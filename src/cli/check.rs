//! `support-access check`

use clap::{Args, ValueEnum};

use super::{
    args::{parse_kind, parse_level},
    client::{Call, Client},
    failure::Failure,
    output::{Exit, Report},
};
use crate::api::proto::v1;

pub(crate) const CALL: Call = Call {
    fields: &[
        ("tenant_id", "TENANT"),
        ("agent_id", "AGENT"),
        ("group_ids", "--group"),
        ("required_level", "--level"),
        ("agent_kind", "--kind"),
        ("on_behalf_of", "--on-behalf-of"),
        ("consistency_token", "--token"),
        ("support-access-actor", "--actor"),
    ],
    repeatable: true,
};

const EXIT_CODES: &str = "\
Exit codes: 0 allowed, 1 denied, 2 could not tell (no answer from the server, or a STALE one),
64 wrong usage. Let the agent in only on 0. With --expect denied, 0 and 1 change places: for tests.";

/// Ask whether a support agent may enter a tenant, now, at a level.
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    pub(crate) question: QuestionArgs,
    /// The decision that exits with 0; the other then exits with 1. For tests, where no shell can turn an exit code around.
    #[arg(long, value_name = "DECISION", default_value = "allowed")]
    expect: Expected,
}

/// A decision that is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Expected {
    Allowed,
    Denied,
}

/// What is asked.
#[derive(Debug, Clone, Args)]
pub(crate) struct QuestionArgs {
    /// The tenant to enter.
    pub(crate) tenant: String,
    /// The support agent who wants to.
    pub(crate) agent: String,
    /// A group the agent is in. May be repeated, up to 500 times. Default: none, which is denied.
    #[arg(long = "group", value_name = "ID")]
    pub(crate) groups: Vec<String>,
    /// The level the agent needs: READ_ONLY, READ_WRITE or ADMIN, in upper or lower case.
    #[arg(long, value_parser = parse_level)]
    pub(crate) level: v1::AccessLevel,
    /// The kind of the agent: HUMAN, AI or SERVICE, in upper or lower case.
    #[arg(long, default_value = "human", value_parser = parse_kind)]
    pub(crate) kind: v1::AgentKind,
    /// The human behind the agent. Default: no human is named.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub(crate) on_behalf_of: String,
    /// The consistency token of a change: answer from that change or a later one. Default: answer from the node's
    /// current data.
    #[arg(long, value_name = "TOKEN", default_value = "", hide_default_value = true)]
    pub(crate) token: String,
}

impl QuestionArgs {
    pub(crate) fn to_check(&self) -> v1::AccessCheck {
        v1::AccessCheck {
            tenant_id: self.tenant.clone(),
            agent_id: self.agent.clone(),
            group_ids: self.groups.clone(),
            required_level: self.level.into(),
            agent_kind: self.kind.into(),
            on_behalf_of: self.on_behalf_of.clone(),
        }
    }
}

pub(crate) async fn run(client: &Client, args: &CheckArgs) -> Result<Report, Failure> {
    let message = v1::CheckAccessRequest {
        check: Some(args.question.to_check()),
        consistency_token: args.question.token.clone(),
    };
    let send = async |request| client.checks().check_access(request).await;
    let answer = client.call(&CALL, message, send).await?;
    Ok(Report { exit: exit(&answer, args.expect), ..client.report(&answer)? })
}

/// A node that does not know enough has not said no; neither has one whose words are unknown here.
fn exit(answer: &v1::CheckAccessResponse, expected: Expected) -> Exit {
    let found = match (answer.decision(), answer.reason()) {
        (v1::Decision::Allowed, _) => Expected::Allowed,
        (v1::Decision::Unspecified, _) | (_, v1::DecisionReason::Stale) => return Exit::Unknown,
        (v1::Decision::Denied, _) => Expected::Denied,
    };
    if found == expected { Exit::Done } else { Exit::Failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_allowed_exits_with_0_and_only_a_sure_no_with_1() {
        let answer = |decision: i32, reason: v1::DecisionReason| v1::CheckAccessResponse {
            decision,
            reason: reason.into(),
            ..Default::default()
        };
        let exit = |decision, reason| super::exit(&answer(decision, reason), Expected::Allowed);
        assert_eq!(exit(1, v1::DecisionReason::GrantActive), Exit::Done);
        assert_eq!(exit(2, v1::DecisionReason::Expired), Exit::Failed);
        assert_eq!(exit(2, v1::DecisionReason::Stale), Exit::Unknown);
        assert_eq!(exit(0, v1::DecisionReason::GrantActive), Exit::Unknown);
        assert_eq!(exit(9, v1::DecisionReason::GrantActive), Exit::Unknown);
        let exit = |decision, reason| super::exit(&answer(decision, reason), Expected::Denied);
        assert_eq!(exit(1, v1::DecisionReason::GrantActive), Exit::Failed);
        assert_eq!(exit(2, v1::DecisionReason::Locked), Exit::Done);
        assert_eq!(exit(2, v1::DecisionReason::Stale), Exit::Unknown);
        assert_eq!(exit(0, v1::DecisionReason::NoGrant), Exit::Unknown);
    }
}
