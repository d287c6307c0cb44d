//! `support-access revoke`

use clap::Args;
use uuid::Uuid;

use super::{
    client::{CHANGE_EXIT_CODES, Call, Client},
    failure::Failure,
    output::Report,
};
use crate::api::proto::v1;

const CALL: Call = Call {
    fields: &[
        ("tenant_id", "TENANT"),
        ("grant_id", "GRANT_ID"),
        ("reason", "--reason"),
        ("etag", "--etag"),
        ("support-access-actor", "--actor"),
    ],
    repeatable: true,
};

/// End one grant of a tenant at once, or all of them.
///
/// Ending what has ended changes nothing, and is no failure. The answer says whether it is in force at every check node,
/// and which grants still let somebody in.
#[derive(Debug, Args)]
#[command(override_usage = "support-access revoke [OPTIONS] <TENANT> <GRANT_ID>
       support-access revoke [OPTIONS] --all <TENANT>")]
#[command(after_help = CHANGE_EXIT_CODES)]
pub(crate) struct RevokeArgs {
    /// The tenant whose grants they are.
    tenant: String,
    /// The grant, as `list` shows it.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    grant_id: Option<String>,
    /// Every scheduled and active grant of the tenant.
    #[arg(long)]
    all: bool,
    /// Why: at most 1,000 characters.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Only if the grant is still as it was when `show` said this. Default: however it is now.
    #[arg(long, conflicts_with = "all")]
    etag: Option<String>,
}

pub(crate) async fn run(client: &Client, args: &RevokeArgs) -> Result<Report, Failure> {
    let request_id = Uuid::now_v7().to_string();
    let (tenant_id, reason) = (args.tenant.clone(), args.reason.clone());
    let Some(grant_id) = args.grant_id.clone() else {
        let message = v1::RevokeAllAccessRequest { request_id, tenant_id, reason };
        let send = async |request| client.admin().revoke_all_access(request).await;
        let answer = client.call(&CALL, message, send).await?;
        return client.report_change(&answer, answer.enforcement.as_ref());
    };
    let etag = args.etag.clone().unwrap_or_default();
    let message = v1::RevokeAccessRequest { request_id, tenant_id, grant_id, etag, reason };
    let send = async |request| client.admin().revoke_access(request).await;
    let answer = client.call(&CALL, message, send).await?;
    client.report_change(&answer, answer.enforcement.as_ref())
}
