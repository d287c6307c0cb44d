//! `support-access show`

use clap::Args;

use super::{
    client::{Call, Client},
    failure::Failure,
    output::Report,
};
use crate::api::proto::v1;

const CALL: Call = Call {
    fields: &[
        ("tenant_id", "TENANT"),
        ("grant_id", "GRANT_ID"),
        ("support-access-actor", "--actor"),
    ],
    repeatable: true,
};

/// Show one grant, with all there is to know about it.
#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The tenant whose grant it is.
    tenant: String,
    /// The grant, as `list` shows it.
    grant_id: String,
}

pub(crate) async fn run(client: &Client, args: &ShowArgs) -> Result<Report, Failure> {
    let (tenant_id, grant_id) = (args.tenant.clone(), args.grant_id.clone());
    let message = v1::GetGrantRequest { tenant_id, grant_id };
    let send = async |request| client.admin().get_grant(request).await;
    client.report(&client.call(&CALL, message, send).await?)
}
