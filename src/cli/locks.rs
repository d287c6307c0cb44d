//! `support-access locks`

use clap::Args;

use super::{
    client::{Call, Client},
    failure::Failure,
    list::page_size,
    output::Report,
};
use crate::api::proto::v1;

const CALL: Call = Call {
    fields: &[
        ("tenant_id", "--tenant"),
        ("page_size", "--limit"),
        ("support-access-actor", "--actor"),
    ],
    repeatable: true,
};

/// List locks, newest first.
///
/// With --output json all pages are in one answer, and a `next_page_token` in it means that there are more.
#[derive(Debug, Args)]
pub(crate) struct LocksArgs {
    /// Only locks on this tenant. Default: all locks, on tenants and on everything else.
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    tenant: String,
    /// Also those that were lifted, or have come to their end.
    #[arg(long)]
    all: bool,
    /// How many locks at most, from 1 to 1000000.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
}

pub(crate) async fn run(client: &Client, args: &LocksArgs) -> Result<Report, Failure> {
    let mut answer = v1::ListLocksResponse::default();
    let mut left = args.limit;
    loop {
        let message = v1::ListLocksRequest {
            scope: if args.tenant.is_empty() { v1::Scope::All } else { v1::Scope::Tenant }.into(),
            tenant_id: args.tenant.clone(),
            include_ended: args.all,
            page_size: page_size(left),
            page_token: answer.next_page_token,
        };
        let send = async |request| client.admin().list_locks(request).await;
        let page = client.call(&CALL, message, send).await?;
        left = left.saturating_sub(u32::try_from(page.locks.len()).unwrap_or(u32::MAX));
        answer.locks.extend(page.locks);
        answer.next_page_token = page.next_page_token;
        if left == 0 || answer.next_page_token.is_empty() {
            return client.report(&answer);
        }
    }
}
