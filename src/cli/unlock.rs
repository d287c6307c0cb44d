//! `support-access unlock`

use clap::Args;

use super::{
    client::{Call, Client},
    failure::Failure,
    output::Report,
};
use crate::api::proto::v1;

const CALL: Call = Call {
    fields: &[
        ("lock_id", "LOCK_ID"),
        ("tenant_id", "--tenant"),
        ("reason", "--reason"),
        ("support-access-actor", "--actor"),
    ],
    repeatable: true,
};

/// Lift a lock before its time.
///
/// Only the side that set it may: a tenant's own lock an administrator of that tenant, the vendor's an operator. Lifting what
/// does not hold any more changes nothing, and is no failure.
#[derive(Debug, Args)]
pub(crate) struct UnlockArgs {
    /// The lock, as `locks` shows it.
    lock_id: String,
    /// The tenant in which the lock applies. Default: all tenants.
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Why: at most 1,000 characters. Must not be empty.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(crate) async fn run(client: &Client, args: &UnlockArgs) -> Result<Report, Failure> {
    let message = v1::UnlockAccessRequest {
        request_id: String::new(),
        tenant_id: args.tenant.clone(),
        lock_id: args.lock_id.clone(),
        etag: String::new(),
        reason: args.reason.clone(),
    };
    let send = async |request| client.admin().unlock_access(request).await;
    client.report(&client.call(&CALL, message, send).await?)
}
