//! `support-access lock`

use clap::{ArgGroup, Args};
use prost_types::Timestamp;

use super::{
    args::{parse_span, parse_time, to_duration},
    client::{CHANGE_EXIT_CODES, Call, Client},
    failure::Failure,
    output::Report,
};
use crate::{
    api::proto::v1::{
        self,
        lock_access_request::{End, Target},
    },
    domain::Span,
};

/// Not repeatable: every arrival makes another lock.
const CALL: Call = Call {
    fields: &[
        ("tenant_id", "--tenant"),
        ("agent_id", "--agent"),
        ("group_id", "--group"),
        ("everything", "--everything"),
        ("target", "--tenant, --agent, --group or --everything"),
        ("reason", "--reason"),
        ("expire_time", "--until"),
        ("duration", "--for"),
        ("support-access-actor", "--actor"),
    ],
    repeatable: false,
};

/// Lock support out of a tenant, or an agent, a group or everybody out of all tenants, whatever is granted.
///
/// A lock beats every grant, also one that is made later. Each call makes a lock of its own, and each lock holds until it is
/// lifted or has come to its end. The answer says whether it is in force at every check node.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["tenant", "agent", "group", "everything"]))]
#[command(after_help = CHANGE_EXIT_CODES)]
pub(crate) struct LockArgs {
    /// Nobody enters this tenant.
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// This agent enters no tenant, whichever groups it is in.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Nobody in this group enters any tenant, not even by another group.
    #[arg(long, value_name = "ID")]
    group: Option<String>,
    /// Nobody enters any tenant.
    #[arg(long)]
    everything: bool,
    /// Why: at most 1,000 characters. Must not be empty.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// How long the lock holds, such as 8h, 7d or "1d 12h". Default: until it is lifted.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_span, conflicts_with = "until")]
    duration: Option<Span>,
    /// The first moment without the lock, such as 2026-12-01T09:00Z. In the future. Default: until it is lifted.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
}

pub(crate) async fn run(client: &Client, args: &LockArgs) -> Result<Report, Failure> {
    let tenant = args.tenant.clone().map(Target::TenantId);
    let agent = args.agent.clone().map(Target::AgentId);
    let group = args.group.clone().map(Target::GroupId);
    let everything = args.everything.then_some(Target::Everything(true));
    let duration = args.duration.map(to_duration).transpose()?.map(End::Duration);
    let message = v1::LockAccessRequest {
        target: tenant.or(agent).or(group).or(everything),
        reason: args.reason.clone(),
        end: duration.or(args.until.map(End::ExpireTime)),
    };
    let send = async |request| client.admin().lock_access(request).await;
    let answer = client.call(&CALL, message, send).await?;
    client.report_change(&answer, answer.enforcement.as_ref())
}
