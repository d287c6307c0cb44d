//! `support-access list`

use clap::Args;
use prost_types::Timestamp;

use super::{
    args::{parse_state, parse_time},
    client::{Call, Client},
    failure::Failure,
    output::Report,
};
use crate::api::proto::v1;

/// The most that the server puts on a page.
pub(crate) const PAGE_SIZE_MAX: u32 = 1_000;

const CALL: Call = Call {
    fields: &[
        ("tenant_id", "TENANT"),
        ("states", "--state"),
        ("group_id", "--group"),
        ("agent_id", "--agent"),
        ("overlap_start", "--overlap-start"),
        ("overlap_end", "--overlap-end"),
        ("page_size", "--limit"),
        ("support-access-actor", "--actor"),
    ],
    repeatable: true,
};

/// List a tenant's grants, ended ones too, newest first.
///
/// With --output json all pages are in one answer, and a `next_page_token` in it means that there are more.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// The tenant.
    tenant: String,
    /// Only grants in this state: SCHEDULED, ACTIVE, EXPIRED or REVOKED, in upper or lower case. May be repeated, or be
    /// several, separated by commas. Default: every state.
    #[arg(long = "state", value_name = "STATE", value_delimiter = ',', value_parser = parse_state)]
    states: Vec<v1::GrantState>,
    /// Only grants to this group. Default: every group.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    group: String,
    /// Only grants that name this agent. Default: every grant.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    agent: String,
    /// Only grants in force at this time or later. Default: since ever.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    overlap_start: Option<Timestamp>,
    /// Only grants in force before this time. Default: for ever.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    overlap_end: Option<Timestamp>,
    /// How many grants at most, from 1 to 1000000.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
}

pub(crate) async fn run(client: &Client, args: &ListArgs) -> Result<Report, Failure> {
    let mut answer = v1::ListGrantsResponse::default();
    let mut left = args.limit;
    loop {
        let message = v1::ListGrantsRequest {
            scope: v1::Scope::Tenant.into(),
            tenant_id: args.tenant.clone(),
            states: args.states.iter().map(|state| i32::from(*state)).collect(),
            group_id: args.group.clone(),
            agent_id: args.agent.clone(),
            overlap_start: args.overlap_start,
            overlap_end: args.overlap_end,
            order: v1::ListOrder::NewestFirst.into(),
            page_size: page_size(left),
            page_token: answer.next_page_token,
        };
        let send = async |request| client.admin().list_grants(request).await;
        let page = client.call(&CALL, message, send).await?;
        left = left.saturating_sub(u32::try_from(page.grants.len()).unwrap_or(u32::MAX));
        answer.grants.extend(page.grants);
        answer.next_page_token = page.next_page_token;
        if left == 0 || answer.next_page_token.is_empty() {
            return client.report(&answer);
        }
    }
}

/// How many to ask for when `left` are still wanted.
pub(crate) fn page_size(left: u32) -> i32 {
    i32::try_from(left.min(PAGE_SIZE_MAX)).unwrap_or_default()
}
