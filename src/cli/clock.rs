//! `support-access clock accept`.

use clap::{Args, Subcommand};

use super::{
    args::RequestArgs,
    client::{Call, Client, Remote},
    error::CliError,
    output::Report,
    table::{Cell, Highlight, Layout, details},
    view::clock_distance,
};
use crate::api::proto::v1;

#[derive(Debug, Subcommand)]
pub(crate) enum ClockCommand {
    Accept(Remote<AcceptArgs>),
}

/// Accept the clock of the database as it is
///
/// After a step, the clock is not trusted, and grants are rejected. Use this command only if the
/// clock is right now; correct a wrong clock. If the clock is behind, the ends of all grants first
/// move back by the step, so that no grant lasts longer. Repeat the command after a failure.
///
/// Check nodes then load all data again, and consistency tokens from before are no longer accepted.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  support-access clock accept --reason \"NTP corrected the database server, INC-42\"")]
pub(crate) struct AcceptArgs {
    /// Why the clock is accepted; tenants read this in their histories
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    request: RequestArgs,
}

impl ClockCommand {
    pub(crate) async fn run(&self) -> Result<Report, CliError> {
        let Self::Accept(command) = self;
        command.run().await
    }
}

impl Call for AcceptArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let request_id = self.request.id();
        let message =
            v1::AcceptClockRequest { request_id: request_id.clone(), reason: self.reason.clone() };
        let send = async |request| client.admin().accept_clock(request).await;
        let response = client.change(&request_id, message, send).await?;
        client.report(&response, accepted)
    }
}

fn accepted(layout: Layout, response: &v1::AcceptClockResponse) -> String {
    let v1::AcceptClockResponse { step, moved_count, consistency_token } = response;
    let is_trusted = step.is_none_or(|step| step == prost_types::Duration::default());
    let clock = if is_trusted {
        Cell::new("trusted already; nothing has changed")
    } else {
        Cell::new(format!("accepted ({})", clock_distance(step.as_ref())))
            .highlighted(Highlight::Good)
    };
    let rows = [
        ("Clock", clock),
        ("Moved grants", Cell::new(moved_count.to_string())),
        ("Token", Cell::new(consistency_token)),
    ];
    details(layout, &rows)
}

#[cfg(test)]
mod tests {
    use prost_types::Duration;

    use super::*;

    #[test]
    fn an_accepted_step_has_a_size_and_a_direction() {
        let text = |seconds, nanos, moved_count| {
            let step = Some(Duration { seconds, nanos });
            let consistency_token = "t".into();
            accepted(
                Layout::default(),
                &v1::AcceptClockResponse { step, moved_count, consistency_token },
            )
        };
        let expected = "\
Clock         accepted (1h behind)
Moved grants  12
Token         t
";
        assert_eq!(text(-3_600, -1_000_000, 12), expected);
        assert!(text(7_200, 0, 0).contains("accepted (2h ahead)"));
        assert!(text(0, 0, 0).contains("trusted already"));
    }
}
