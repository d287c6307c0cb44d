//! A minimal HTTP/1.1 client: one GET per connection. It follows no redirects and uses no proxy.

use std::{error::Error, fmt, iter, pin::pin, sync::Arc};

use http::{
    Method, Request, StatusCode, Uri,
    header::{HOST, USER_AGENT},
};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::http1,
    rt::{Read, Write},
};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, RootCertStore, pki_types::ServerName},
};
use tokio_util::bytes::Bytes;
use tower::ServiceExt;

const AGENT: &str = concat!("support-access/", env!("CARGO_PKG_VERSION"));

/// A client for URLs of one scheme. Has no timeout of its own.
#[derive(Clone)]
pub struct HttpClient {
    /// `None`: plain HTTP.
    tls: Option<TlsConnector>,
}

/// The response to a GET.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body, up to the limit.
    pub body: Vec<u8>,
    /// Whether the body is longer than the limit.
    pub is_truncated: bool,
}

// === impl HttpClient ===

impl HttpClient {
    /// A client for `http` URLs.
    pub fn plain() -> Self {
        Self { tls: None }
    }

    /// A client for `https` URLs. Trusts the authorities that this machine trusts.
    pub fn secure() -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err("this machine trusts no authority; install ca-certificates".into());
        }
        Ok(Self::with_roots(roots))
    }

    /// A client for `https` URLs. Trusts these authorities.
    pub fn with_roots(roots: RootCertStore) -> Self {
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self { tls: Some(Arc::new(config).into()) }
    }

    /// Sends a GET for `url`, and reads at most `length_max` bytes of the body. The error is the
    /// root cause in words.
    pub async fn get(&self, url: &Uri, length_max: usize) -> Result<Answer, String> {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        let stream = connector.oneshot(url.clone()).await.map_err(|error| root_cause(&error))?;
        let Some(tls) = &self.tls else { return get_over(stream, url, length_max).await };
        let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
        let stream = tls.connect(name, stream.into_inner()).await;
        let stream = stream.map_err(|error| root_cause(&error))?;
        get_over(TokioIo::new(stream), url, length_max).await
    }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("has_tls", &self.tls.is_some()).finish()
    }
}

async fn get_over<IO>(io: IO, url: &Uri, length_max: usize) -> Result<Answer, String>
where
    IO: Read + Write + Unpin,
{
    let failed = |error: hyper::Error| root_cause(&error);
    let (mut sender, connection) = http1::handshake(io).await.map_err(failed)?;
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let host = url.authority().map_or("", |authority| authority.as_str());
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
        .header(HOST, host)
        .header(USER_AGENT, AGENT)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let (body, is_truncated) = read(response.into_body(), length_max).await.map_err(failed)?;
        Ok(Answer { status, body, is_truncated })
    };
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        response = &mut exchange => response,
        // The connection may end before the last bytes of the body are taken from it.
        _ = &mut connection => exchange.await,
    }
}

async fn read(mut body: Incoming, length_max: usize) -> Result<(Vec<u8>, bool), hyper::Error> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await.transpose()? {
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if bytes.len() > length_max {
            bytes.truncate(length_max);
            return Ok((bytes, true));
        }
    }
    Ok((bytes, false))
}

/// The text of the innermost error.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let causes = iter::successors(Some(error), |&error| error.source());
    causes.last().map(ToString::to_string).unwrap_or_default()
}
