//! `support-access wait`

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::{
    client::{CHANGE_EXIT_CODES, Call, Client},
    failure::Failure,
    output::Report,
};
use crate::api::proto::v1;

const CALL: Call = Call {
    fields: &[
        ("consistency_token", "TOKEN"),
        ("tenant_id", "--tenant"),
        ("support-access-actor", "--actor"),
    ],
    repeatable: true,
};
/// With less time left than this, nothing is asked any more.
const TIME_TO_ASK: Duration = Duration::from_millis(500);

/// Wait until a change is in force at every check node: for when extend, revoke or policy set could not tell (PENDING).
///
/// It waits for as long as --timeout says. After about max-staleness, 2s unless configured, every change is in force.
#[derive(Debug, Args)]
#[command(after_help = CHANGE_EXIT_CODES)]
pub(crate) struct WaitArgs {
    /// The consistency token of the change, as its response shows it.
    token: String,
    /// The tenant in whose history the change is. Default: the vendor's own history.
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
}

pub(crate) async fn run(client: &Client, args: &WaitArgs) -> Result<Report, Failure> {
    let deadline = Instant::now() + client.timeout();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let client = client.with_timeout(left);
        let message = v1::WaitEnforcedRequest {
            tenant_id: args.tenant.clone(),
            consistency_token: args.token.clone(),
        };
        let send = async |request| client.admin().wait_enforced(request).await;
        let answer = client.call(&CALL, message, send).await?;
        let state = answer.enforcement.as_ref().map(v1::Enforcement::state);
        let is_pending = state == Some(v1::EnforcementState::Pending);
        // A server does not wait for ever.
        if !is_pending || Instant::now() + TIME_TO_ASK > deadline {
            return client.report_change(&answer, answer.enforcement.as_ref());
        }
    }
}
