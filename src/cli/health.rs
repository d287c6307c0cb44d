//! `support-access health`

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Subcommand};
use futures::StreamExt;
use reqwest::{Client, StatusCode, redirect};

use super::{
    error::{CliError, causes},
    output::{Exit, Report},
    serve::variable,
    table::clean,
};
use crate::{
    api::health::Phase,
    server::config::{self, Config, Flags},
};

/// How long an answer may take. It is at hand, so whoever takes longer does not serve.
const TIME_LIMIT: Duration = Duration::from_secs(3);
/// The most bytes of an answer that are looked at; each phase takes fewer.
const LENGTH_MAX: usize = 1_024;

#[derive(Debug, Subcommand)]
pub(crate) enum HealthCommand {
    Check(CheckArgs),
}

/// Check whether the server or sidecar on this machine serves; for the health check of a container
///
/// The address comes from the same places as that of the server, so this command finds the server in
/// the same container. No credentials are needed. 0.0.0.0 and [::] stand for loopback. The exit code
/// is 0 if the server serves, and 1 otherwise.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  support-access health check")]
pub(crate) struct CheckArgs {
    /// Where it serves HTTP: IP:PORT or localhost:PORT.
    ///
    /// Default: 127.0.0.1:9464. Environment: SUPPORT_ACCESS_METRICS_LISTEN. File: metrics_listen.
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<String>,
    /// The file with its configuration, in TOML. Environment: SUPPORT_ACCESS_CONFIG. Default: none.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl HealthCommand {
    pub(crate) async fn run(&self) -> Result<Report, CliError> {
        let Self::Check(args) = self;
        check(args).await
    }
}

async fn check(args: &CheckArgs) -> Result<Report, CliError> {
    let CheckArgs { metrics_listen, config } = args;
    let flags = Flags::default()
        .with_file(config.clone())
        .with(config::METRICS_LISTEN, metrics_listen.clone());
    let listen = Config::load_metrics_listen(&flags, &variable)
        .map_err(|error| CliError::usage(error.to_string()))?;
    if listen.port() == 0 {
        return Err(CliError::usage(format!(
            "{listen} takes a free port, which only the server knows: its log says where it listens"
        )));
    }
    let url = format!("http://{}/readyz", reachable(listen));
    let (status, text) = ask(&url).await?;
    let exit = match status {
        StatusCode::OK if text.trim_end() == Phase::Serving.as_str() => Exit::Success,
        StatusCode::SERVICE_UNAVAILABLE => Exit::Unexpected,
        other => {
            return Err(CliError::new(format!(
                "{url} answers {other}, as support-access does not"
            ))
            .with_hint("another program may listen there"));
        }
    };
    Ok(Report { text: format!("{}\n", clean(text.trim_end())), exit, ..Report::default() })
}

/// Where who listens at `address` is reached from the same machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn ask(url: &str) -> Result<(StatusCode, String), CliError> {
    let told = |error: reqwest::Error| {
        let cause = causes(&error).last().map(ToString::to_string).unwrap_or_default();
        let cause = if error.is_timeout() { "no answer in time" } else { &cause };
        CliError::new(format!("{url} cannot be read: {cause}"))
    };
    // Nothing here is for TLS: whose certificates this machine trusts need not even be known.
    let client = Client::builder()
        .tls_certs_only([])
        .redirect(redirect::Policy::none())
        .no_proxy()
        .timeout(TIME_LIMIT)
        .build()
        .map_err(told)?;
    let answer = client.get(url).send().await.map_err(told)?;
    let status = answer.status();
    let mut text = Vec::new();
    let mut chunks = answer.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        text.extend_from_slice(&chunk.map_err(told)?);
        if text.len() > LENGTH_MAX {
            text.truncate(LENGTH_MAX);
            break;
        }
    }
    Ok((status, String::from_utf8_lossy(&text).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_everywhere_is_asked_at_loopback() {
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
