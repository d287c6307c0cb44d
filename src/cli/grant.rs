//! `support-access grant`

use clap::Args;
use prost_types::{Duration, Timestamp};
use uuid::Uuid;

use super::{
    args::{EndArgs, parse_level, parse_time},
    client::{Call, Client},
    failure::Failure,
    output::Report,
    policy,
};
use crate::api::proto::v1;

const CALL: Call = Call {
    fields: &[
        ("tenant_id", "TENANT"),
        ("group_id", "GROUP"),
        ("named_agents", "--agent"),
        ("access_level", "--level"),
        ("start_time", "--start"),
        ("expire_time", "--until"),
        ("duration", "--for"),
        ("until_revoked", "--until-revoked"),
        ("reason", "--reason"),
        ("ticket", "--ticket"),
        ("request_id", "--request-id"),
        ("support-access-actor", "--actor"),
    ],
    repeatable: true,
};

/// Let a support group into a tenant.
///
/// Without --for, --until and --until-revoked, access lasts for the default duration of the tenant's support policy.
#[derive(Debug, Args)]
pub(crate) struct GrantArgs {
    /// The tenant that lets support in: 1 to 128 characters.
    tenant: String,
    /// The support group to let in: one of those in the tenant's support policy.
    group: String,
    /// The highest level the group may act at: READ_ONLY, READ_WRITE or ADMIN, in upper or lower case.
    #[arg(long, value_parser = parse_level)]
    level: v1::AccessLevel,
    #[command(flatten)]
    end: EndArgs,
    /// Only this agent of the group. May be repeated, up to 100 times. Default: every agent of the group.
    #[arg(long = "agent", value_name = "ID")]
    agents: Vec<String>,
    /// When access begins, as far ahead as the tenant's support policy allows. Default: now.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    start: Option<Timestamp>,
    /// Why: at most 1,000 characters. The support policy may require it.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// The support ticket it belongs to: at most 128 characters. The support policy may require it.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    ticket: String,
    /// Makes it safe to give the command again: the same id grants once. At most 128 characters. Default: a new UUID.
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

pub(crate) async fn run(client: &Client, args: &GrantArgs) -> Result<Report, Failure> {
    let (expire_time, duration, until_revoked) = match args.end.fields()? {
        (None, None, false) => (None, Some(default_duration(client, &args.tenant).await?), false),
        fields => fields,
    };
    let agent_ids = args.agents.clone();
    let request_id = args.request_id.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
    let message = v1::GrantAccessRequest {
        request_id: request_id.clone(),
        tenant_id: args.tenant.clone(),
        group_id: args.group.clone(),
        named_agents: (!agent_ids.is_empty()).then_some(v1::NamedAgents { agent_ids }),
        access_level: args.level.into(),
        start_time: args.start,
        reason: args.reason.clone(),
        ticket: args.ticket.clone(),
        agent_kinds: None,
        expire_time,
        duration,
        until_revoked,
    };
    let answer = client
        .call(&CALL, message, async |request| client.admin().grant_access(request).await)
        .await
        .map_err(|failure| with_request_id(failure, &request_id))?;
    client.report(&answer)
}

async fn default_duration(client: &Client, tenant: &str) -> Result<Duration, Failure> {
    let policy = policy::get(client, tenant).await?.support_policy.unwrap_or_default();
    policy.default_duration.ok_or_else(|| {
        Failure::new("the tenant's support policy has no default duration")
            .with_hint("say how long with --for, --until or --until-revoked")
    })
}

/// Tells how to try again without granting twice, if it may have been granted.
fn with_request_id(failure: Failure, request_id: &str) -> Failure {
    if !failure.maybe_done {
        return failure;
    }
    failure.with_hint(format!(
        "access may have been granted all the same; with --request-id {request_id} the command may be given again, \
         and grants once"
    ))
}
