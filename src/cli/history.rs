//! `support-access history`

use clap::{Args, Subcommand};

use super::{
    client::{Asking, Call, Client},
    failure::Failure,
    list::page_size,
    output::Report,
};
use crate::api::proto::v1;

mod export;
mod verify;

const CALL: Call = Call {
    fields: &[
        ("tenant_id", "TENANT"),
        ("grant_id", "--grant"),
        ("page_size", "--limit"),
        ("support-access-actor", "--actor"),
    ],
    repeatable: true,
};

/// List what happened in a tenant, or on the vendor's own side, newest first: who did what, when and why.
///
/// With --output json all pages are in one answer, and a `next_page_token` in it means that there are more.
///
/// The commands are for a history that can be verified: export it, verify what was exported, and keep checkpoints of it.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true
)]
pub(crate) struct HistoryArgs {
    #[command(subcommand)]
    command: Option<HistoryCommand>,
    /// The tenant. One that is called like a command is named after two dashes, as in `history -- export`.
    #[arg(required_unless_present = "vendor", conflicts_with = "vendor")]
    tenant: Option<String>,
    /// The vendor's own history, of what is no tenant's: locks on agents, groups and everything.
    #[arg(long, conflicts_with = "grant")]
    vendor: bool,
    /// Only what happened to this grant. Default: everything.
    #[arg(long, value_name = "GRANT_ID", default_value = "", hide_default_value = true)]
    grant: String,
    /// How many events at most, from 1 to 1000000.
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
}

#[derive(Debug, Subcommand)]
enum HistoryCommand {
    Export(export::ExportArgs),
    Verify(verify::VerifyArgs),
    Checkpoint(export::CheckpointArgs),
}

pub(crate) async fn run(asking: &Asking<HistoryArgs>) -> Result<Report, Failure> {
    match &asking.args.command {
        None => list(&asking.connect().await?, &asking.args).await,
        Some(HistoryCommand::Export(args)) => export::run(&asking.connect().await?, args).await,
        Some(HistoryCommand::Verify(args)) => verify::run(args),
        Some(HistoryCommand::Checkpoint(args)) => {
            export::checkpoint(&asking.connect().await?, args).await
        }
    }
}

async fn list(client: &Client, args: &HistoryArgs) -> Result<Report, Failure> {
    let mut answer = v1::ListEventsResponse::default();
    let mut left = args.limit;
    loop {
        let message = v1::ListEventsRequest {
            scope: if args.vendor { v1::Scope::Vendor } else { v1::Scope::Tenant }.into(),
            tenant_id: args.tenant.clone().unwrap_or_default(),
            grant_id: args.grant.clone(),
            order: v1::ListOrder::NewestFirst.into(),
            page_size: page_size(left),
            page_token: answer.next_page_token,
        };
        let send = async |request| client.admin().list_events(request).await;
        let page = client.call(&CALL, message, send).await?;
        left = left.saturating_sub(u32::try_from(page.events.len()).unwrap_or(u32::MAX));
        answer.events.extend(page.events);
        answer.next_page_token = page.next_page_token;
        if left == 0 || answer.next_page_token.is_empty() {
            return client.report(&answer);
        }
    }
}
