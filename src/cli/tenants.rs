//! `support-access tenant list`.

use clap::{Args, Subcommand};

use super::{
    args::LimitArgs,
    client::{Call, Client, Remote},
    error::CliError,
    output::Report,
    table::{Cell, Column, Layout, table},
    view::MORE,
};
use crate::api::proto::v1;

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    List(Remote<ListArgs>),
}

/// List the ids of the tenants that have a history
///
/// With --output json, all pages are one object.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  support-access tenant list --limit 1000")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    limit: LimitArgs,
}

impl TenantCommand {
    pub(crate) async fn run(&self) -> Result<Report, CliError> {
        let Self::List(command) = self;
        command.run().await
    }
}

impl Call for ListArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let read_page = async |page_size, page_token| {
            let message = v1::ListTenantsRequest { page_size, page_token };
            let send = async |request| client.admin().list_tenants(request).await;
            let page = client.call(message, send).await?;
            Ok((page.tenants, page.next_page_token))
        };
        let (tenants, next_page_token) = self.limit.read(read_page).await?;
        client.report(&v1::ListTenantsResponse { tenants, next_page_token }, view)
    }
}

fn view(layout: Layout, list: &v1::ListTenantsResponse) -> String {
    if list.tenants.is_empty() {
        return "No tenants.\n".into();
    }
    let rows: Vec<_> = list.tenants.iter().map(|found| vec![Cell::new(&found.tenant_id)]).collect();
    let more = if list.next_page_token.is_empty() { "" } else { MORE };
    table(layout, &[Column::fixed("TENANT", 0)], &rows) + more
}
