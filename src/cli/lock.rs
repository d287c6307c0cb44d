//! `support-access lock`

use clap::{ArgGroup, Args};
use prost_types::Timestamp;
use uuid::Uuid;

use super::{
    args::{parse_kind, parse_span, parse_time, to_duration},
    client::{CHANGE_EXIT_CODES, Call, Client},
    failure::Failure,
    output::Report,
};
use crate::{api::proto::v1, domain::Span};

const CALL: Call = Call {
    fields: &[
        ("tenant_id", "--tenant"),
        ("agent_id", "--agent"),
        ("group_id", "--group"),
        ("everything", "--everything"),
        ("agent_kind", "--kind"),
        ("reason", "--reason"),
        ("expire_time", "--until"),
        ("duration", "--for"),
        ("support-access-actor", "--actor"),
    ],
    repeatable: true,
};

/// Lock an agent, a group, an agent kind or everything, in one tenant or in all tenants.
///
/// A lock overrides present and future grants. Each call creates a lock of its own, which applies until it is lifted
/// or reaches its end. The answer says whether it is in force at every check node.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["agent", "group", "kind", "everything"]))]
#[command(after_help = CHANGE_EXIT_CODES)]
pub(crate) struct LockArgs {
    /// The tenant in which the lock applies. Default: all tenants.
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Lock this agent, and every agent that acts on behalf of it.
    #[arg(long, value_name = "ID")]
    agent: Option<String>,
    /// Lock every agent of this group.
    #[arg(long, value_name = "ID")]
    group: Option<String>,
    /// Lock every agent of this kind: HUMAN, AI or SERVICE.
    #[arg(long, value_parser = parse_kind)]
    kind: Option<v1::AgentKind>,
    /// Lock every agent.
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
    let message = v1::LockAccessRequest {
        request_id: Uuid::now_v7().to_string(),
        tenant_id: args.tenant.clone(),
        agent_id: args.agent.clone().unwrap_or_default(),
        group_id: args.group.clone().unwrap_or_default(),
        agent_kind: args.kind.map(i32::from).unwrap_or_default(),
        everything: args.everything,
        reason: args.reason.clone(),
        expire_time: args.until,
        duration: args.duration.map(to_duration).transpose()?,
    };
    let send = async |request| client.admin().lock_access(request).await;
    let answer = client.call(&CALL, message, send).await?;
    client.report_change(&answer, answer.enforcement.as_ref())
}
