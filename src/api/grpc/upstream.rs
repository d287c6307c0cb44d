//! The follower side of a stream between check nodes.

use std::{error::Error, fmt, io, iter::successors, net::SocketAddr, sync::Arc, time::Duration};

use futures::{StreamExt, stream::unfold};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    sync::mpsc,
    time::timeout,
};
use tonic::{
    Code, Request, Status, async_trait,
    metadata::{AsciiMetadataValue, MetadataMap},
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use crate::{
    api::{
        credentials::{AUTHORIZATION, ClientCredentials},
        grpc::{
            convert::replication::{parse_response, request},
            replication::RESPONSE_LENGTH_MAX,
        },
        proto::replication::v1::{self as rpb, replication_client::ReplicationClient},
    },
    node::{
        message::{ToFollower, ToUpstream},
        upstream_session::FollowError,
        upstreams::{Incoming, Upstream, UpstreamName},
    },
};

/// The timeout of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The timeout until a stream is open, including the connection.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// The HTTP/2 keepalive, which closes the connection to a dead peer. The replication protocol
/// notices a dead peer sooner.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// The flow control window, in bytes: a snapshot should not wait for window updates.
const WINDOW: u32 = 4 * 1_024 * 1_024;
/// The maximum length of an upstream's message in an error, in characters.
const MESSAGE_LENGTH_MAX: usize = 300;
/// The first bytes of every response of an HTTP/1 server.
const HTTP1: &[u8; 7] = b"HTTP/1.";
/// Texts by which HTTP/2 and gRPC report a response of another protocol.
const NOT_GRPC: [&str; 4] = [
    "frame with invalid size",
    "unspecific protocol error detected",
    "invalid compression flag",
    "failed to decode Protobuf message",
];

/// Check nodes to follow, by URL. The host of the URL may have several addresses. TLS verifies the
/// host, at every address.
#[derive(Clone)]
pub struct GrpcUpstream {
    url: String,
    endpoint: Endpoint,
    credentials: ClientCredentials,
}

/// One of the check nodes. Each stream has a separate connection.
pub struct GrpcNode {
    upstream: GrpcUpstream,
    /// `None`: the URL is the path of a Unix socket.
    address: Option<SocketAddr>,
}

impl GrpcUpstream {
    /// The node at `url`: `https://HOST:PORT`, `http://HOST:PORT`, or `unix:PATH`. The error is a
    /// sentence with the problem and the fix.
    pub fn new(url: &str, credentials: &ClientCredentials) -> Result<Self, String> {
        const EXAMPLE: &str =
            "write it like https://replica:50051 or unix:/run/support-access/check.sock";
        // The error must not repeat the credentials.
        if url.contains('@') && !url.starts_with("unix:") {
            return Err(format!("the URL of an upstream must not contain credentials; {EXAMPLE}"));
        }
        let is_path = url.strip_prefix("unix:").is_some_and(|path| !path.is_empty());
        let is_url = (url.starts_with("http://") || url.starts_with("https://"))
            && url.parse::<http::Uri>().is_ok_and(|uri| matches!(uri.path(), "" | "/"));
        let endpoint = Endpoint::from_shared(url.to_owned()).ok().filter(|_| is_path || is_url);
        let endpoint = endpoint.ok_or_else(|| format!("{url:?} is not a URL; {EXAMPLE}"))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        Ok(Self { url: url.to_owned(), endpoint, credentials: credentials.clone() })
    }

    /// The node at one address. `None`: at the Unix socket of the URL.
    pub fn at(&self, address: Option<SocketAddr>) -> GrpcNode {
        GrpcNode { upstream: self.clone(), address }
    }

    /// Reads the credential files. Returns the problems.
    pub fn check_credentials(&self) -> Vec<String> {
        [self.credentials.token().err(), self.secured().err()].into_iter().flatten().collect()
    }

    /// The endpoint, with TLS by the current content of the files.
    fn secured(&self) -> Result<Endpoint, String> {
        if !self.url.starts_with("https://") {
            return Ok(self.endpoint.clone());
        }
        let config = self.credentials.tls()?;
        self.endpoint.clone().tls_config(config).map_err(|error| innermost(&error))
    }

    /// Host and port of the URL; `None` for a Unix socket.
    fn host_and_port(&self) -> Option<String> {
        if self.url.starts_with("unix:") {
            return None;
        }
        let uri = self.endpoint.uri();
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        Some(format!("{}:{}", uri.host()?, uri.port_u16().unwrap_or(default)))
    }
}

impl GrpcNode {
    async fn open_stream(
        &self,
        outgoing: mpsc::Receiver<ToUpstream>,
    ) -> Result<Incoming, FollowError> {
        let GrpcUpstream { url, credentials, .. } = &self.upstream;
        let endpoint = self.upstream.secured().map_err(FollowError::Lost)?;
        let token = credentials.token().map_err(FollowError::Lost)?;
        let channel = self.connect(&endpoint).await.map_err(|error| {
            FollowError::Lost(format!("it cannot be reached: {}", plain(&innermost(&error))))
        })?;
        match open_on(channel, url, token, outgoing).await {
            Err(FollowError::Lost(_)) if self.speaks_http1().await => Err(no_server(url)),
            opened => opened,
        }
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
        let Some(address) = self.address else { return endpoint.connect().await };
        let connector = service_fn(move |_: Uri| async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            io::Result::Ok(TokioIo::new(stream))
        });
        endpoint.connect_with_connector(connector).await
    }

    /// Whether an HTTP/1 server responds, such as the metrics port of a node. Such a server may
    /// close HTTP/2 connections without a response.
    async fn speaks_http1(&self) -> bool {
        let authority = self.upstream.endpoint.uri().authority();
        let Some((authority, address)) = authority.zip(self.address) else { return false };
        let request = format!("GET / HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
        let response = async {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut start = [0; HTTP1.len()];
            stream.read_exact(&mut start).await?;
            io::Result::Ok(start == *HTTP1)
        };
        response.await.unwrap_or(false)
    }
}

/// Opens a stream on a connection to the node at `url`.
pub async fn open_on(
    channel: Channel,
    url: &str,
    token: Option<AsciiMetadataValue>,
    outgoing: mpsc::Receiver<ToUpstream>,
) -> Result<Incoming, FollowError> {
    let mut client = ReplicationClient::new(channel).max_decoding_message_size(RESPONSE_LENGTH_MAX);
    let requests = unfold(outgoing, async |mut outgoing| {
        let message = outgoing.recv().await?;
        Some((request(message), outgoing))
    });
    let mut stream = Request::new(requests);
    if let Some(token) = token {
        stream.metadata_mut().insert(AUTHORIZATION, token);
    }
    let response = client.follow(stream).await.map_err(|status| follow_error(url, &status))?;
    if !is_grpc(response.metadata()) {
        return Err(no_server(url));
    }
    let url = url.to_owned();
    Ok(response.into_inner().map(move |received| parse(&url, received)).boxed())
}

impl fmt::Debug for GrpcUpstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl fmt::Debug for GrpcNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) if self.upstream.may_change() => {
                write!(f, "{} at {}", self.upstream.url, address.ip())
            }
            _ => f.write_str(&self.upstream.url),
        }
    }
}

#[async_trait]
impl UpstreamName for GrpcUpstream {
    async fn resolve(&self) -> Result<Vec<Arc<dyn Upstream>>, FollowError> {
        let node = |address| Arc::new(self.at(address)) as Arc<dyn Upstream>;
        let Some(host_and_port) = self.host_and_port() else { return Ok(vec![node(None)]) };
        let addresses = lookup_host(host_and_port).await;
        let addresses = addresses.map_err(|error| FollowError::Lost(plain(&error.to_string())))?;
        Ok(addresses.map(|address| node(Some(address))).collect())
    }

    fn may_change(&self) -> bool {
        let host_and_port = self.host_and_port();
        host_and_port.is_some_and(|address| address.parse::<SocketAddr>().is_err())
    }
}

#[async_trait]
impl Upstream for GrpcNode {
    async fn open(&self, outgoing: mpsc::Receiver<ToUpstream>) -> Result<Incoming, FollowError> {
        let silent = |_| Err(FollowError::Lost("it does not respond".into()));
        timeout(OPEN_TIMEOUT, self.open_stream(outgoing)).await.unwrap_or_else(silent)
    }
}

fn parse(
    url: &str,
    received: Result<rpb::FollowResponse, Status>,
) -> Result<ToFollower, FollowError> {
    let message = received.map_err(|status| follow_error(url, &status))?;
    parse_response(message).map_err(|violations| {
        FollowError::Rejected(format!(
            "{url} sent a message that this program does not understand: {}",
            plain(&violations.to_string())
        ))
    })
}

/// The error of a follower whose stream ended with `status`.
fn follow_error(url: &str, status: &Status) -> FollowError {
    let cause = status.source().map(innermost);
    let text = cause.clone().unwrap_or_else(|| status.message().to_owned());
    if NOT_GRPC.iter().any(|error| text.contains(error)) {
        return no_server(url);
    }
    let text = plain(&text);
    match status.code() {
        Code::Unimplemented => no_server(url),
        Code::FailedPrecondition | Code::InvalidArgument => {
            FollowError::Rejected(format!("{url} rejects this node: {text}"))
        }
        _ if cause.is_some() => FollowError::Lost(format!("the connection has failed: {text}")),
        _ => FollowError::Lost(format!("it has ended the stream: {text}")),
    }
}

fn no_server(url: &str) -> FollowError {
    FollowError::Rejected(format!(
        "{url} is not a support-access server that can be followed; correct the upstream"
    ))
}

fn is_grpc(metadata: &MetadataMap) -> bool {
    let content_type = metadata.get("content-type").and_then(|value| value.to_str().ok());
    content_type.is_some_and(|value| value.starts_with("application/grpc"))
}

/// The innermost cause of an error.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let causes = successors(Some(error), |&error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}

/// A text from another node, shortened and in one line.
fn plain(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(MESSAGE_LENGTH_MAX).map(plain).collect()
}
