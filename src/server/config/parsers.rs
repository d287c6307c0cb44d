//! What settings may be. An error is the rest of a sentence that begins with the setting's name.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use http::{Uri, uri::PathAndQuery};
use tracing_subscriber::EnvFilter;

use super::{LIVE_GRANTS_MAX, ListenAddress, LogFormat, TraceRatio, sources::Parsed};
use crate::{
    api::{credentials::ClientCredentials, grpc::upstream::GrpcUpstream},
    domain::{chain::CheckpointKey, time::Span},
};

/// What stands before the first colon; nothing if there is none.
pub(super) fn scheme(url: &str) -> &str {
    url.split_once(':').map_or("", |(scheme, _)| scheme)
}

pub(super) fn parse_listen(text: &str) -> Parsed<ListenAddress> {
    match text.strip_prefix("unix:") {
        Some("") => {
            Err(format!("must name a path, such as unix:/run/access.sock, but is {text:?}"))
        }
        Some(path) => Ok(ListenAddress::Unix(path.into())),
        None => parse_tcp(text).map(ListenAddress::Tcp).map_err(|_| {
            format!("must be like 127.0.0.1:50051, [::1]:50051 or unix:/path, but is {text:?}")
        }),
    }
}

pub(super) fn parse_upstream(text: &str) -> Parsed<String> {
    let schemes = ["http://", "https://", "unix:"];
    let rest = schemes.into_iter().find_map(|scheme| text.strip_prefix(scheme));
    if rest.is_none_or(str::is_empty) {
        return Err(format!(
            "must be like https://replica:50051 or unix:/run/support-access/check.sock, but is {text:?}"
        ));
    }
    GrpcUpstream::new(text, &ClientCredentials::default())
        .map(|_| text.to_owned())
        .map_err(|cause| format!("is wrong: {cause}"))
}

pub(super) fn parse_tcp(text: &str) -> Parsed<SocketAddr> {
    // The one name that needs no resolver.
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    text.parse().map_err(|_| {
        format!("must be an IP address and a port, such as 127.0.0.1:9464, but is {text:?}")
    })
}

pub(super) fn parse_duration(text: &str, min: Duration, max: Duration) -> Parsed<Duration> {
    let found = text.parse::<Span>().ok().map(|span| span.0);
    found.filter(|duration| (min..=max).contains(duration)).ok_or_else(|| {
        let (min, max) = (Span(min), Span(max));
        format!("must be a duration from {min} to {max}, such as 2s, but is {text:?}")
    })
}

pub(super) fn parse_bool(text: &str) -> Parsed<bool> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("must be true or false, but is {text:?}")),
    }
}

pub(super) fn parse_log(text: &str) -> Parsed<String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("must be like info or warn,support_access=debug, but is {text:?}")),
    }
}

pub(super) fn parse_log_format(text: &str) -> Parsed<LogFormat> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("must be auto, text or json, but is {text:?}")),
    }
}

/// The URL of a collector: of what it may hold besides, nothing is repeated.
pub(super) fn parse_collector(text: &str) -> Parsed<String> {
    let uri = text.parse::<Uri>().ok().filter(|uri| {
        let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
        let is_bare = uri.authority().is_some_and(|it| !it.as_str().contains('@'));
        is_known
            && is_bare
            && matches!(uri.path_and_query().map(PathAndQuery::as_str), None | Some("/"))
    });
    uri.map(|_| text.to_owned()).ok_or_else(|| {
        "must be the URL of a collector that takes OTLP over gRPC, such as http://127.0.0.1:4317, without a path or a password"
            .into()
    })
}

pub(super) fn parse_ratio(text: &str) -> Parsed<TraceRatio> {
    let ratio = text.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is from 0 to 1"
    )]
    let millionths = ratio.map(|ratio| TraceRatio((ratio * 1_000_000.0).round() as u32));
    millionths.ok_or_else(|| format!("must be a number from 0 to 1, such as 0.01, but is {text:?}"))
}

pub(super) fn parse_live_grants(text: &str) -> Parsed<usize> {
    text.parse().ok().filter(|number| (1..=LIVE_GRANTS_MAX).contains(number)).ok_or_else(|| {
        format!("must be a whole number from 1 to {LIVE_GRANTS_MAX}, but is {text:?}")
    })
}

/// The key in a file. What is in the file is never repeated.
pub(super) fn read_key(path: &str) -> Parsed<CheckpointKey> {
    let pem = fs::read(path).map_err(|error| {
        format!("must name a file with a key, but {path} cannot be read: {error}")
    })?;
    CheckpointKey::from_pem(&pem).map_err(|error| format!("{error}, but {path} does not"))
}
