//! `support-access version` and `whoami`.

use clap::Args;
use serde::Serialize;

use super::{
    args::names,
    client::{Call, Client},
    connection::{ConnectionArgs, Format, OutputArgs},
    error::CliError,
    json::{JsonMessage, to_json},
    output::{Report, stdout_layout},
    table::{Cell, Column, Layout, details, table},
    view::{short, time_utc},
};
use crate::api::proto::v1;

/// Show the version of this program and, if the server is reachable, of the server
#[derive(Debug, Args)]
#[command(after_help = "Example:
  support-access version --server access.example:50051")]
pub(crate) struct VersionArgs {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

/// Show how the server identifies you: name, roles and tenants
#[derive(Debug, Args)]
#[command(after_help = "Example:
  support-access whoami --token-file maria.token")]
pub(crate) struct WhoamiArgs {}

/// The version of this program.
#[derive(Debug, Serialize)]
struct ClientVersion {
    version: &'static str,
    commit: &'static str,
}

/// The versions as JSON.
#[derive(Debug, Serialize)]
struct Versions {
    client: ClientVersion,
    server: Option<JsonMessage>,
}

const CLIENT: ClientVersion =
    ClientVersion { version: env!("CARGO_PKG_VERSION"), commit: env!("SUPPORT_ACCESS_COMMIT") };

impl VersionArgs {
    /// An unreachable server is a warning, not an error.
    pub(crate) async fn run(&self) -> Result<Report, CliError> {
        let server = self.server_version().await;
        let warnings = match &server {
            Ok(_) => Vec::new(),
            Err(error) => error.lines().map(|line| format!("no server version: {line}")).collect(),
        };
        let server = server.ok();
        let text = if self.output.output == Format::Json {
            let server = server.map(|server| JsonMessage::new(&server));
            to_json(&Versions { client: CLIENT, server: server.transpose()? })?
        } else {
            versions(stdout_layout(self.output.wide), server.as_ref())
        };
        Ok(Report { warnings, ..Report::new(text) })
    }

    async fn server_version(&self) -> Result<v1::GetServerInfoResponse, CliError> {
        let client = Client::new(&self.connection, &self.output, names::<Self>()).await?;
        let send = async |request| client.info().get_server_info(request).await;
        client.call(v1::GetServerInfoRequest {}, send).await
    }
}

impl Call for WhoamiArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let send = async |request| client.info().get_caller(request).await;
        let response = client.call(v1::GetCallerRequest {}, send).await?;
        client.report(&response, caller)
    }
}

fn versions(layout: Layout, server: Option<&v1::GetServerInfoResponse>) -> String {
    let columns = ["PROGRAM", "VERSION", "COMMIT"].map(|header| Column::fixed(header, 0));
    let client = ["client", CLIENT.version, CLIENT.commit].map(Cell::new);
    let mut rows = vec![client.to_vec()];
    if let Some(server) = server {
        let kind = short(server.kind().as_str_name(), "NODE_KIND_").to_lowercase();
        rows.push([kind.as_str(), &server.version, &server.commit].map(Cell::new).to_vec());
    }
    table(layout, &columns, &rows)
}

fn caller(layout: Layout, caller: &v1::GetCallerResponse) -> String {
    let method = match caller.authentication_method() {
        v1::AuthenticationMethod::None => "none: every local caller has every role",
        v1::AuthenticationMethod::Certificate => "client certificate",
        v1::AuthenticationMethod::Token => "bearer token",
        v1::AuthenticationMethod::UnixUser => "user id at the Unix socket",
        v1::AuthenticationMethod::Unspecified => "-",
    };
    let roles = caller.roles().map(|role| short(role.as_str_name(), "ROLE_").to_lowercase());
    let roles = roles.collect::<Vec<_>>().join(", ");
    let tenants = if caller.all_tenants { "all".to_owned() } else { caller.tenant_ids.join(", ") };
    let mut rows = vec![
        ("Name", Cell::new(&caller.name)),
        ("Authentication", Cell::new(method)),
        ("Roles", Cell::new(roles)),
        ("Tenants", Cell::new(tenants)),
    ];
    if !caller.via.is_empty() {
        rows.push(("Via", Cell::new(&caller.via)));
    }
    if caller.expire_time.is_some() {
        rows.push(("Expires", Cell::new(time_utc(caller.expire_time.as_ref(), "never"))));
    }
    details(layout, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_a_name_roles_and_tenants() {
        let response = v1::GetCallerResponse {
            name: "maria@acme".into(),
            authentication_method: v1::AuthenticationMethod::Token.into(),
            roles: vec![v1::Role::TenantAdmin.into(), v1::Role::TenantAuditor.into()],
            tenant_ids: vec!["acme".into(), "globex".into()],
            via: "spiffe://vendor.example/portal".into(),
            expire_time: Some(prost_types::Timestamp { seconds: 1_796_115_600, nanos: 0 }),
            ..v1::GetCallerResponse::default()
        };
        let expected = "\
Name            maria@acme
Authentication  bearer token
Roles           tenant_admin, tenant_auditor
Tenants         acme, globex
Via             spiffe://vendor.example/portal
Expires         2026-12-01 09:00:00 UTC
";
        assert_eq!(caller(Layout::default(), &response), expected);
    }
}
