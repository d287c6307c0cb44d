//! `support-access history list`, `export`, `verify`, `checkpoint` and `wait`.

use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use tokio::time::Instant;

use super::{
    args::{HistoryArgs, LimitArgs},
    client::{Call, Client, Remote},
    error::CliError,
    output::Report,
};
use crate::api::proto::v1;

mod export;
mod verify;
mod view;

/// `history wait` sends no further request if less time remains.
const REQUEST_TIME_MIN: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(crate) enum HistoryCommand {
    List(Remote<ListArgs>),
    Export(Remote<export::ExportArgs>),
    Verify(verify::VerifyArgs),
    Checkpoint(Remote<export::CheckpointArgs>),
    Wait(Remote<WaitArgs>),
}

/// List the events of a history, newest first
///
/// With --output json, all pages are one object.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("scope").required(true).args(["tenant_id", "vendor", "all"]),
    after_help = "Examples:
  support-access history list acme
  support-access history list acme --grant $GRANT
  support-access history list --vendor      # the locks that apply in all tenants"
)]
pub(crate) struct ListArgs {
    /// The tenant
    #[arg(value_name = "TENANT")]
    tenant_id: Option<String>,
    /// The vendor's own history: the locks that apply in all tenants
    #[arg(long)]
    vendor: bool,
    /// The histories of all tenants and of the vendor
    #[arg(long)]
    all: bool,
    /// Only events of this grant
    #[arg(
        long = "grant",
        value_name = "GRANT",
        default_value = "",
        hide_default_value = true,
        conflicts_with_all = ["vendor", "all"]
    )]
    grant_id: String,
    #[command(flatten)]
    limit: LimitArgs,
}

/// Wait until a change is enforced at every check node
///
/// Every change prints a consistency token. A change is enforced at the latest after about the
/// server's max-staleness, 2s by default, even if nodes are dead or unreachable.
#[derive(Debug, Args)]
#[command(
    allow_missing_positional = true,
    override_usage = "support-access history wait [OPTIONS] <TENANT|--vendor> <TOKEN>",
    after_help = "Examples:
  support-access history wait acme $TOKEN --timeout 1m
  support-access history wait --vendor $TOKEN     # a lock in all tenants"
)]
pub(crate) struct WaitArgs {
    #[command(flatten)]
    history: HistoryArgs,
    /// The consistency token of the change
    #[arg(value_name = "TOKEN", required = true)]
    consistency_token: String,
}

impl HistoryCommand {
    pub(crate) async fn run(&self) -> Result<Report, CliError> {
        match self {
            Self::List(command) => command.run().await,
            Self::Export(command) => command.run().await,
            Self::Verify(args) => verify::run(args),
            Self::Checkpoint(command) => command.run().await,
            Self::Wait(command) => command.run().await,
        }
    }
}

impl Call for ListArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let scope = match (self.vendor, self.all) {
            (true, _) => v1::Scope::Vendor,
            (_, true) => v1::Scope::All,
            _ => v1::Scope::Tenant,
        };
        let read_page = async |page_size, page_token| {
            let message = v1::ListEventsRequest {
                scope: scope.into(),
                tenant_id: self.tenant_id.clone().unwrap_or_default(),
                grant_id: self.grant_id.clone(),
                order: v1::ListOrder::NewestFirst.into(),
                page_size,
                page_token,
            };
            let send = async |request| client.admin().list_events(request).await;
            let page = client.call(message, send).await?;
            Ok((page.events, page.next_page_token))
        };
        let (events, next_page_token) = self.limit.read(read_page).await?;
        let list = v1::ListEventsResponse { events, next_page_token, ..Default::default() };
        client.report(&list, |layout, list| view::list(layout, list, self.all))
    }
}

impl Call for WaitArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let tenant_id = self.history.tenant_id()?;
        let deadline = client.deadline();
        loop {
            let message = v1::WaitEnforcedRequest {
                tenant_id: tenant_id.clone(),
                consistency_token: self.consistency_token.clone(),
            };
            let send = async |request| client.admin().wait_enforced(request).await;
            let response = client.call_until(deadline, message, send).await?;
            let state = response.enforcement.as_ref().map(v1::Enforcement::state);
            let is_pending = state == Some(v1::EnforcementState::Pending);
            // The server limits the duration of a call.
            if !is_pending || Instant::now() + REQUEST_TIME_MIN > deadline {
                let report = client.report(&response, view::waited)?;
                return Ok(report.with_enforcement(response.enforcement.as_ref()));
            }
        }
    }
}
