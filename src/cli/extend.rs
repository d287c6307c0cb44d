//! `support-access extend`

use clap::{ArgGroup, Args};
use uuid::Uuid;

use super::{
    args::EndArgs,
    client::{CHANGE_EXIT_CODES, Call, Client},
    failure::Failure,
    output::Report,
};
use crate::api::proto::v1;

const CALL: Call = Call {
    fields: &[
        ("tenant_id", "TENANT"),
        ("grant_id", "GRANT_ID"),
        ("expire_time", "--until"),
        ("duration", "--for"),
        ("until_revoked", "--until-revoked"),
        ("reason", "--reason"),
        ("etag", "--etag"),
        ("support-access-actor", "--actor"),
    ],
    repeatable: true,
};

/// Move the end of a grant, later or earlier, without a gap.
///
/// --for counts from now, or from the start of a grant that has not started. A later end must be one that a new grant with
/// the same start could have. A grant that has ended stays ended.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("new end").required(true).args(["duration", "until", "until_revoked"]))]
#[command(after_help = CHANGE_EXIT_CODES)]
pub(crate) struct ExtendArgs {
    /// The tenant whose grant it is.
    tenant: String,
    /// The grant, as `list` shows it.
    grant_id: String,
    #[command(flatten)]
    end: EndArgs,
    /// Why: at most 1,000 characters. The support policy may require it for a later end.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Only if the grant is still as it was when `show` said this. Default: however it is now.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
}

pub(crate) async fn run(client: &Client, args: &ExtendArgs) -> Result<Report, Failure> {
    let (expire_time, duration, until_revoked) = args.end.fields()?;
    let message = v1::ExtendAccessRequest {
        request_id: Uuid::now_v7().to_string(),
        tenant_id: args.tenant.clone(),
        grant_id: args.grant_id.clone(),
        etag: args.etag.clone(),
        reason: args.reason.clone(),
        expire_time,
        duration,
        until_revoked,
    };
    let send = async |request| client.admin().extend_access(request).await;
    let answer = client.call(&CALL, message, send).await?;
    client.report_change(&answer, answer.enforcement.as_ref())
}
