//! Explains why a connection failed.
//!
//! The error of the transport alone seldom names the mistake. A probe of the address shows whether
//! the peer uses TLS, serves metrics, or is another program.

use std::{error::Error, io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::rustls::{self, CertificateError};

use super::{
    error::{CliError, causes},
    server_address::ServerAddress,
};
use crate::api::health::Phase;

/// The timeout of each step of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// A server without TLS closes the connection or sends an HTTP response. A server with TLS sends an
/// alert.
const PROBE: &[u8] = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
/// The maximum number of bytes that are read of a response.
const RESPONSE_LENGTH_MAX: u64 = 4_096;

/// Why a connection failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Diagnosis {
    /// The address has https://, but the server has no TLS.
    PlainServer,
    /// The address has http://, but the server has TLS.
    TlsServer,
    /// The port serves metrics.
    MetricsPort,
    /// The peer sends an HTTP response, but does not serve gRPC.
    NotGrpc,
    /// No trusted authority has signed the server's certificate.
    UnknownAuthority,
    /// The server's certificate is not valid, for example for this name.
    InvalidCertificate(String),
    /// The server closed the connection after the TLS handshake. With TLS 1.3, a server rejects a
    /// missing or invalid client certificate this way. The cause is the alert of the server, unless
    /// the alert was lost.
    ClosedAfterHandshake(String),
    /// The server closed the connection on the Unix socket.
    SocketClosed,
    /// No response before the deadline.
    NoResponse,
    /// Any other cause.
    Other(String),
}

/// The peer, as found by a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Tls,
    Metrics,
    Http,
    Closed,
    Other,
}

/// Finds the cause of a failed connection.
pub(crate) async fn diagnose(server: &ServerAddress, error: &(dyn Error + 'static)) -> Diagnosis {
    let cause = causes(error).last().map(ToString::to_string).unwrap_or_default();
    if let Some(error) = causes(error).find_map(tls_error)
        && let Some(found) = diagnose_tls(error)
    {
        return match probe(server).await {
            Peer::Metrics if found == Diagnosis::PlainServer => Diagnosis::MetricsPort,
            _ => found,
        };
    }
    match probe(server).await {
        Peer::Tls if server.uses_tls() => Diagnosis::ClosedAfterHandshake(cause),
        Peer::Tls => Diagnosis::TlsServer,
        Peer::Metrics => Diagnosis::MetricsPort,
        Peer::Http => Diagnosis::NotGrpc,
        Peer::Closed if server.socket().is_some() => Diagnosis::SocketClosed,
        _ => Diagnosis::Other(cause),
    }
}

/// The TLS error in `error`. `source` of an `io::Error` does not return the contained error.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(error) = error.downcast_ref::<rustls::Error>() {
        return Some(error);
    }
    error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

fn diagnose_tls(error: &rustls::Error) -> Option<Diagnosis> {
    use rustls::Error;
    match error {
        Error::InvalidMessage(_) => Some(Diagnosis::PlainServer),
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            Some(Diagnosis::UnknownAuthority)
        }
        Error::InvalidCertificate(found) => Some(Diagnosis::InvalidCertificate(found.to_string())),
        _ => None,
    }
}

async fn probe(server: &ServerAddress) -> Peer {
    if let Some(path) = server.socket() {
        match timeout(PROBE_TIMEOUT, UnixStream::connect(path)).await {
            Ok(Ok(stream)) => return classify(&exchange(stream).await),
            _ => return Peer::Other,
        }
    }
    let Some((host, port)) = server.host_and_port() else { return Peer::Other };
    match timeout(PROBE_TIMEOUT, TcpStream::connect((host, port))).await {
        Ok(Ok(stream)) => classify(&exchange(stream).await),
        _ => Peer::Other,
    }
}

/// Sends [`PROBE`], and returns the start of the peer's response.
async fn exchange(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin) -> Vec<u8> {
    let mut response = Vec::new();
    // The bytes that arrived before an error or the timeout identify the peer.
    let steps = async {
        stream.write_all(PROBE).await?;
        stream.take(RESPONSE_LENGTH_MAX).read_to_end(&mut response).await
    };
    let _ = timeout(PROBE_TIMEOUT, steps).await;
    response
}

fn classify(response: &[u8]) -> Peer {
    const PHASES: [Phase; 4] = [Phase::Starting, Phase::Serving, Phase::Stale, Phase::Stopping];
    if let [0x15, 0x03, ..] = response {
        return Peer::Tls;
    }
    if response.is_empty() {
        return Peer::Closed;
    }
    let response = String::from_utf8_lossy(response);
    match response.strip_prefix("HTTP/1.").and_then(|rest| rest.split_once("\r\n\r\n")) {
        Some((_, body)) if PHASES.iter().any(|phase| body.contains(phase.as_str())) => {
            Peer::Metrics
        }
        Some(_) => Peer::Http,
        None => Peer::Other,
    }
}

impl Diagnosis {
    /// The error, with the remedy. `has_ca` and `has_certificate` state whether --ca and
    /// --certificate are given.
    pub(crate) fn to_error(
        &self,
        server: &ServerAddress,
        has_ca: bool,
        has_certificate: bool,
    ) -> CliError {
        let server = server.to_string();
        let message = |text: &str| CliError::unavailable(text.replace("SERVER", &server));
        match self {
            Self::PlainServer => message("the server at SERVER does not use TLS")
                .with_hint("use http:// in --server"),
            Self::TlsServer => message("the server at SERVER uses TLS")
                .with_hint("use https:// in --server, and name a private authority with --ca"),
            Self::MetricsPort => message("SERVER is a metrics port, not a gRPC port")
                .with_hint("the gRPC port is 50051, unless the server's `listen` names another"),
            Self::NotGrpc => message("the server at SERVER does not serve gRPC")
                .with_hint("another program may use this port"),
            Self::UnknownAuthority if has_ca => {
                message("the certificate of SERVER is not signed by an authority in --ca")
                    .with_hint("--ca must contain the authority of the server's certificate")
            }
            Self::UnknownAuthority => {
                message("this machine does not trust the authority of the certificate of SERVER")
                    .with_hint("--ca names a file with the authority of the server's certificate")
            }
            Self::InvalidCertificate(cause) => {
                message(&format!("the certificate of SERVER is not valid: {cause}"))
            }
            Self::ClosedAfterHandshake(cause) => {
                let text = "the server at SERVER closed the connection after the TLS handshake";
                message(&format!("{text}: {cause}")).with_hint(if has_certificate {
                    "the server may reject the client certificate; its log has the reason"
                } else {
                    "the server may require a client certificate: --certificate and --key"
                })
            }
            Self::SocketClosed => {
                let uid = rustix::process::getuid().as_raw();
                message("the server at SERVER closed the connection").with_hint(format!(
                    "the server's table [users] may not list your user id, {uid}"
                ))
            }
            Self::NoResponse => message("the server at SERVER did not respond before the deadline"),
            Self::Other(cause) => message(&format!("the connection to SERVER failed: {cause}"))
                .with_hint(
                    "`support-access serve` starts a server on this machine; --server names \
                     another",
                ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_recognized_by_its_response() {
        let cases: [(&[u8], Peer); 6] = [
            (b"\x15\x03\x03\0\x02\x02\x46", Peer::Tls),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nserving\n", Peer::Metrics),
            (b"HTTP/1.1 404 Not Found\r\n\r\n", Peer::Http),
            (b"", Peer::Closed),
            (b"\0\0\x12\x04\0\0\0\0\0", Peer::Other),
            (b"SSH-2.0-OpenSSH", Peer::Other),
        ];
        for (response, expected) in cases {
            assert_eq!(classify(response), expected);
        }
    }
}
