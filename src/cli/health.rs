//! `support-access health check`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use clap::{Args, Subcommand};
use http::{StatusCode, Uri};
use tokio::time::timeout;

use super::{error::CliError, exit::Exit, output::Report, settings::SettingArgs, table::clean};
use crate::{
    api::health::Phase,
    auth::http::{Answer, HttpClient},
    server::config::HealthConfig,
};

/// Timeout of the request. A healthy server responds at once.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of bytes that are read of a response.
const LENGTH_MAX: usize = 1_024;

#[derive(Debug, Subcommand)]
pub(crate) enum HealthCommand {
    Check(CheckArgs),
}

/// Check whether the server or sidecar on this machine serves; for the health check of a container
///
/// This command reads the same settings as the server, and therefore finds the server in the same
/// container. No credentials are needed. An unspecified address, such as 0.0.0.0, stands for
/// loopback. The exit code is 0 if the server serves, and 1 otherwise.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  support-access health check")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    settings: SettingArgs<HealthConfig>,
}

impl HealthCommand {
    pub(crate) async fn run(&self) -> Result<Report, CliError> {
        let Self::Check(args) = self;
        check(args).await
    }
}

async fn check(args: &CheckArgs) -> Result<Report, CliError> {
    let HealthConfig { metrics_listen } = args.settings.load()?;
    if metrics_listen.port() == 0 {
        return Err(CliError::usage(format!(
            "{metrics_listen} stands for a free port, which only the server knows; name the port \
             in the server's log"
        )));
    }
    let url = format!("http://{}/readyz", reachable(metrics_listen));
    let (status, text) = get(&url).await?;
    let exit = match status {
        StatusCode::OK if text.trim_end() == Phase::Serving.as_str() => Exit::Success,
        StatusCode::SERVICE_UNAVAILABLE => Exit::Unexpected,
        other => {
            return Err(CliError::new(format!(
                "{url} returned {other}, in a response that is not from support-access"
            ))
            .with_hint("another program may listen there"));
        }
    };
    Ok(Report { text: format!("{}\n", clean(text.trim_end())), exit, ..Report::default() })
}

/// The address at which a listener of this machine is reached.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn get(url: &str) -> Result<(StatusCode, String), CliError> {
    let failed = |cause: String| CliError::new(format!("{url} cannot be read: {cause}"));
    let parsed: Uri =
        url.parse().map_err(|error: http::uri::InvalidUri| failed(error.to_string()))?;
    let response = timeout(TIMEOUT, HttpClient::plain().get(&parsed, LENGTH_MAX)).await;
    let response = response.unwrap_or_else(|_| Err("no response within the timeout".into()));
    let Answer { status, body, .. } = response.map_err(failed)?;
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_addresses_are_reached_at_loopback() {
        let cases = [
            ("0.0.0.0:1", "127.0.0.1:1"),
            ("[::]:2", "[::1]:2"),
            ("10.0.0.1:3", "10.0.0.1:3"),
            ("[::1]:4", "[::1]:4"),
        ];
        for (address, expected) in cases {
            assert_eq!(reachable(address.parse().unwrap()).to_string(), expected);
        }
    }
}
