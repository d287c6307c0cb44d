//! `support-access grant`, `extend`, `revoke`, `list` and `show`.

use clap::{ArgGroup, Args};
use prost_types::Timestamp;

use super::{
    args::{LimitArgs, RequestArgs, parse_duration, parse_kind, parse_time, to_proto},
    client::{Call, Client},
    error::CliError,
    output::Report,
    policy,
    view::time_utc,
};
use crate::{
    api::proto::v1,
    domain::{
        Span,
        time::{after, from_parts},
    },
};

pub(crate) mod view;

/// Grant a support group access to a tenant
///
/// Without --for, --until and --until-revoked, access lasts for the default duration of the
/// tenant's support policy.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("end").args(["duration", "expire_time", "until_revoked"]),
    after_help = "Examples:
  support-access grant acme support --level read-only --for 8h --reason \"Wrong invoices\"
  support-access grant acme support --level admin --start 2026-12-01T09:00Z --for 8h
  support-access grant acme engineering --level read-write --until-revoked --agent erin
  support-access grant acme support --level read-write --kind human --kind ai:read-only"
)]
pub(crate) struct GrantArgs {
    /// The tenant
    #[arg(value_name = "TENANT")]
    tenant_id: String,
    /// The support group, one of the tenant's support policy
    #[arg(value_name = "GROUP")]
    group_id: String,
    /// The highest level
    #[arg(long = "level", value_name = "LEVEL", ignore_case = true)]
    access_level: v1::AccessLevel,
    /// How long access lasts, such as 8h, 7d or "1d 12h"
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Span>,
    /// When access ends, such as 2026-12-01T09:00Z
    #[arg(long = "until", value_name = "TIME", value_parser = parse_time)]
    expire_time: Option<Timestamp>,
    /// Access lasts until it is revoked
    #[arg(long)]
    until_revoked: bool,
    /// When access starts [default: now]
    #[arg(long = "start", value_name = "TIME", value_parser = parse_time)]
    start_time: Option<Timestamp>,
    /// Only this agent of the group; may be repeated [default: every agent of the group]
    #[arg(long = "agent", value_name = "ID")]
    named_agents: Vec<String>,
    /// A kind of agents that is admitted: human, ai or service; may be repeated [default: human]
    ///
    /// A lower level and the condition that the agent acts on behalf of a human may follow, such as
    /// ai:read-only or ai:read-only:on-behalf-of.
    #[arg(long = "kind", value_name = "KIND[:LEVEL][:on-behalf-of]", value_parser = parse_kind)]
    agent_kinds: Vec<v1::AgentKindEntry>,
    /// Why access is granted
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// The support ticket
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    ticket: String,
    #[command(flatten)]
    request: RequestArgs,
}

/// Move the end of a grant, later or earlier, without a gap
///
/// A later end must be allowed by the tenant's support policy. A grant that has ended cannot be
/// extended.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("end")
        .required(true)
        .args(["duration", "expire_time", "until_revoked", "by"]),
    override_usage = "support-access extend [OPTIONS] <TENANT> <GRANT> \
        <--for <DURATION>|--until <TIME>|--until-revoked|--by <DURATION>>",
    after_help = "Examples:
  support-access extend acme $GRANT --by 2d        # two days more than before
  support-access extend acme $GRANT --for 2d       # two days from now, maybe an earlier end
  support-access extend acme $GRANT --until 2026-12-01T17:00Z"
)]
pub(crate) struct ExtendArgs {
    /// The tenant
    #[arg(value_name = "TENANT")]
    tenant_id: String,
    /// The grant
    #[arg(value_name = "GRANT")]
    grant_id: String,
    /// The new end, counted from now, or from the start of a scheduled grant
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    duration: Option<Span>,
    /// The new end, counted from the present end
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    by: Option<Span>,
    /// The new end, such as 2026-12-01T09:00Z
    #[arg(long = "until", value_name = "TIME", value_parser = parse_time)]
    expire_time: Option<Timestamp>,
    /// Access lasts until it is revoked
    #[arg(long)]
    until_revoked: bool,
    /// Why the end is moved
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Only if the grant still has this etag
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
    #[command(flatten)]
    request: RequestArgs,
}

/// End one grant of a tenant at once, or all of them
///
/// Returns when no check node can allow access by the grant, and lists the tenant's other live
/// grants. A grant that has ended already does not change.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("which").required(true).args(["grant_id", "all"]),
    override_usage = "support-access revoke [OPTIONS] <TENANT> <GRANT|--all>",
    after_help = "Examples:
  support-access revoke acme $GRANT --reason \"Solved\"
  support-access revoke acme --all"
)]
pub(crate) struct RevokeArgs {
    /// The tenant
    #[arg(value_name = "TENANT")]
    tenant_id: String,
    /// The grant
    #[arg(value_name = "GRANT")]
    grant_id: Option<String>,
    /// Every scheduled and active grant of the tenant
    #[arg(long)]
    all: bool,
    /// Why access ends
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Only if the grant still has this etag
    #[arg(long, default_value = "", hide_default_value = true, conflicts_with = "all")]
    etag: String,
    #[command(flatten)]
    request: RequestArgs,
}

/// List grants, including ended ones, newest first
///
/// With --output json, all pages are one object.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("scope").required(true).args(["tenant_id", "all_tenants"]),
    after_help = "Examples:
  support-access list acme
  support-access list acme --state active --state scheduled
  support-access list --all-tenants --state active     # for operators and auditors"
)]
pub(crate) struct ListArgs {
    /// The tenant
    #[arg(value_name = "TENANT")]
    tenant_id: Option<String>,
    /// The grants of all tenants
    #[arg(long)]
    all_tenants: bool,
    /// Only grants in this state; may be repeated
    #[arg(long = "state", value_name = "STATE", ignore_case = true)]
    states: Vec<v1::GrantState>,
    /// Only grants to this group
    #[arg(long = "group", value_name = "ID", default_value = "", hide_default_value = true)]
    group_id: String,
    /// Only grants that name this agent
    #[arg(long = "agent", value_name = "ID", default_value = "", hide_default_value = true)]
    agent_id: String,
    /// Only grants that are active at this time or later
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    overlap_start: Option<Timestamp>,
    /// Only grants that are active before this time
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    overlap_end: Option<Timestamp>,
    #[command(flatten)]
    limit: LimitArgs,
}

/// Show one grant in full
#[derive(Debug, Args)]
#[command(after_help = "Example:
  support-access show acme $GRANT")]
pub(crate) struct ShowArgs {
    /// The tenant
    #[arg(value_name = "TENANT")]
    tenant_id: String,
    /// The grant
    #[arg(value_name = "GRANT")]
    grant_id: String,
}

impl Call for GrantArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let mut duration = self.duration.map(to_proto).transpose()?;
        if self.expire_time.is_none() && duration.is_none() && !self.until_revoked {
            let policy = policy::get(client, &self.tenant_id).await?.support_policy;
            duration = policy.unwrap_or_default().default_duration;
        }
        let agent_ids = self.named_agents.clone();
        let entries = self.agent_kinds.clone();
        let request_id = self.request.id();
        let message = v1::GrantAccessRequest {
            request_id: request_id.clone(),
            tenant_id: self.tenant_id.clone(),
            group_id: self.group_id.clone(),
            named_agents: (!agent_ids.is_empty()).then_some(v1::NamedAgents { agent_ids }),
            access_level: self.access_level.into(),
            agent_kinds: (!entries.is_empty()).then_some(v1::AgentKinds { entries }),
            start_time: self.start_time,
            reason: self.reason.clone(),
            ticket: self.ticket.clone(),
            expire_time: self.expire_time,
            duration,
            until_revoked: self.until_revoked,
        };
        let send = async |request| client.admin().grant_access(request).await;
        let response = client.change(&request_id, message, send).await?;
        client.report(&response, view::granted)
    }
}

impl Call for ExtendArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let request_id = self.request.id();
        let mut message = v1::ExtendAccessRequest {
            request_id: request_id.clone(),
            tenant_id: self.tenant_id.clone(),
            grant_id: self.grant_id.clone(),
            etag: self.etag.clone(),
            reason: self.reason.clone(),
            expire_time: self.expire_time,
            duration: self.duration.map(to_proto).transpose()?,
            until_revoked: self.until_revoked,
        };
        if let Some(by) = self.by {
            let grant = get(client, &self.tenant_id, &self.grant_id).await?;
            message.expire_time = Some(later(grant.expire_time, by)?);
            if message.etag.is_empty() {
                message.etag = grant.etag;
            }
        }
        let send = async |request| client.admin().extend_access(request).await;
        let response = client.change(&request_id, message, send).await?;
        let report = client.report(&response, view::extended)?;
        let mut report = report.with_enforcement(response.enforcement.as_ref());
        report.warnings.extend(shortened(&response));
        Ok(report)
    }
}

impl Call for RevokeArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let request_id = self.request.id();
        let (tenant_id, reason) = (self.tenant_id.clone(), self.reason.clone());
        let Some(grant_id) = self.grant_id.clone() else {
            let message =
                v1::RevokeAllAccessRequest { request_id: request_id.clone(), tenant_id, reason };
            let send = async |request| client.admin().revoke_all_access(request).await;
            let response = client.change(&request_id, message, send).await?;
            let report = client.report(&response, view::revoked_all)?;
            return Ok(report.with_enforcement(response.enforcement.as_ref()));
        };
        let message = v1::RevokeAccessRequest {
            request_id: request_id.clone(),
            tenant_id,
            grant_id,
            etag: self.etag.clone(),
            reason,
        };
        let send = async |request| client.admin().revoke_access(request).await;
        let response = client.change(&request_id, message, send).await?;
        let report = client.report(&response, view::revoked)?;
        Ok(report.with_enforcement(response.enforcement.as_ref()))
    }
}

impl Call for ListArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let scope = if self.all_tenants { v1::Scope::All } else { v1::Scope::Tenant };
        let states = self.states.iter().map(|state| (*state).into());
        let read_page = async |page_size, page_token| {
            let message = v1::ListGrantsRequest {
                scope: scope.into(),
                tenant_id: self.tenant_id.clone().unwrap_or_default(),
                states: states.clone().collect(),
                group_id: self.group_id.clone(),
                agent_id: self.agent_id.clone(),
                overlap_start: self.overlap_start,
                overlap_end: self.overlap_end,
                order: v1::ListOrder::NewestFirst.into(),
                page_size,
                page_token,
            };
            let send = async |request| client.admin().list_grants(request).await;
            let page = client.call(message, send).await?;
            Ok((page.grants, page.next_page_token))
        };
        let (grants, next_page_token) = self.limit.read(read_page).await?;
        let list = v1::ListGrantsResponse { grants, next_page_token, ..Default::default() };
        client.report(&list, |layout, list| view::list(layout, list, self.all_tenants))
    }
}

impl Call for ShowArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let grant = get(client, &self.tenant_id, &self.grant_id).await?;
        let response = v1::GetGrantResponse { grant: Some(grant.clone()) };
        client.report(&response, |layout, _| view::grant_details(layout, &grant))
    }
}

async fn get(client: &Client, tenant_id: &str, grant_id: &str) -> Result<v1::Grant, CliError> {
    let (tenant_id, grant_id) = (tenant_id.to_owned(), grant_id.to_owned());
    let message = v1::GetGrantRequest { tenant_id, grant_id };
    let send = async |request| client.admin().get_grant(request).await;
    Ok(client.call(message, send).await?.grant.unwrap_or_default())
}

/// The end of a grant, moved by a duration.
fn later(expire_time: Option<Timestamp>, by: Span) -> Result<Timestamp, CliError> {
    let Some(end) = expire_time else {
        return Err(CliError::usage("--by: the grant lasts until it is revoked, and has no end")
            .with_hint("--for or --until sets an end"));
    };
    let moved = from_parts(end.seconds, end.nanos).and_then(|end| after(end, by));
    let moved = moved.ok_or_else(|| {
        CliError::usage("--by: the new end is after the year 9999; write a shorter duration")
    })?;
    let nanos = i32::try_from(moved.timestamp_subsec_nanos()).unwrap_or_default();
    Ok(Timestamp { seconds: moved.timestamp(), nanos })
}

/// The warning for a grant that now ends earlier.
fn shortened(response: &v1::ExtendAccessResponse) -> Option<String> {
    let order = |time: Timestamp| (time.seconds, time.nanos);
    let end = response.grant.as_ref()?.expire_time?;
    let previous = response.previous_expire_time;
    let is_shorter = previous.is_none_or(|previous| order(end) < order(previous));
    is_shorter.then(|| {
        let (end, previous) =
            (time_utc(Some(&end), ""), time_utc(previous.as_ref(), view::UNTIL_REVOKED));
        format!("access now ends earlier: {end} (before: {previous})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }

    #[test]
    fn an_end_is_moved_by_a_duration() {
        assert_eq!(later(Some(at(1_000)), Span::hours(1)).unwrap(), at(4_600));
        assert!(later(None, Span::hours(1)).is_err(), "until revoked");
        assert!(later(Some(at(253_402_300_799)), Span::hours(1)).is_err(), "after the year 9999");
    }

    #[test]
    fn an_earlier_end_is_a_warning() {
        let response = |end: Option<i64>, previous: Option<i64>| v1::ExtendAccessResponse {
            grant: Some(v1::Grant { expire_time: end.map(at), ..v1::Grant::default() }),
            previous_expire_time: previous.map(at),
            ..v1::ExtendAccessResponse::default()
        };
        let warning = shortened(&response(Some(1_796_115_600), None)).unwrap();
        let expected = "access now ends earlier: 2026-12-01 09:00:00 UTC (before: until revoked)";
        assert_eq!(warning, expected);
        assert!(shortened(&response(Some(5), Some(6))).is_some());
        for (end, previous) in [(Some(6), Some(6)), (Some(7), Some(6)), (None, Some(6))] {
            assert_eq!(shortened(&response(end, previous)), None, "{end:?} {previous:?}");
        }
    }
}
