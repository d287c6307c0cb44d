//! `support-access health`

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use clap::Args;
use http::{StatusCode, Uri};
use tokio::time::timeout;

use super::{
    failure::Failure,
    output::{Exit, Report},
    settings::SettingArgs,
    table::clean,
};
use crate::{
    api::health::Phase,
    auth::http::{Answer, HttpClient},
    server::config::HealthConfig,
};

/// Timeout of the request. A healthy server answers at once.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Maximum number of bytes that are read of an answer.
const LENGTH_MAX: usize = 1_024;

const NOTES: &str = "\
The setting is that of the server, and comes from the same places, so that this command finds the
server in the same container. No credentials are needed. Instead of 0.0.0.0 and [::], the command
connects to loopback.

Exit codes: 0 serving; 1 starting, stale, stopping or unreachable; 64 wrong usage or configuration.";

/// Check whether the server or sidecar on this machine serves, as the health check of a container.
#[derive(Debug, Args)]
#[command(after_help = NOTES)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    settings: SettingArgs<HealthConfig>,
}

pub(crate) async fn run(args: &HealthArgs) -> Result<Report, Failure> {
    let HealthConfig { metrics_listen } = args.settings.load()?;
    if metrics_listen.port() == 0 {
        return Err(Failure::usage(format!(
            "{metrics_listen} stands for a free port, which only the server knows; its log contains the address"
        )));
    }
    let url = format!("http://{}/readyz", reachable(metrics_listen));
    let (status, text) = get(&url).await?;
    let exit = match status {
        StatusCode::OK if text.trim_end() == Phase::Serving.as_str() => Exit::Done,
        StatusCode::SERVICE_UNAVAILABLE => Exit::Failed,
        other => {
            return Err(Failure::new(format!("{url} answers {other}, as support-access does not"))
                .with_hint("another program may be listening there"));
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

async fn get(url: &str) -> Result<(StatusCode, String), Failure> {
    let failed = |cause: String| Failure::new(format!("{url} cannot be read: {cause}"));
    let parsed: Uri =
        url.parse().map_err(|error: http::uri::InvalidUri| failed(error.to_string()))?;
    let answer = timeout(TIMEOUT, HttpClient::plain().get(&parsed, LENGTH_MAX)).await;
    let answer = answer.unwrap_or_else(|_| Err("no answer within the timeout".into()));
    let Answer { status, body, .. } = answer.map_err(failed)?;
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
