//! tonic over the simulated network.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures::{future::BoxFuture, stream::BoxStream};
use http::Uri;
use hyper_util::rt::TokioIo;
use support_access::{
    api::grpc::upstream::open_on,
    node::{
        following::{FollowError, Upstream},
        message::{Down, Up},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
    time::timeout,
};
use tonic::transport::{Channel, Endpoint, server::Connected};
use tower::service_fn;
use turmoil::net::{TcpListener, TcpStream};

pub(crate) const PORT: u16 = 50_051;

/// How long a connection may take, by the clock of the simulation.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection, as tonic wants it.
#[derive(Debug)]
pub(crate) struct Connection(TcpStream);

impl Connected for Connection {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Connections to this host.
pub(crate) async fn incoming() -> BoxStream<'static, io::Result<Connection>> {
    let listener = TcpListener::bind(("0.0.0.0", PORT)).await.unwrap();
    Box::pin(futures::stream::unfold(listener, async |listener| {
        let connection = listener.accept().await.map(|(stream, _)| Connection(stream));
        Some((connection, listener))
    }))
}

/// A connection to `host`.
pub(crate) async fn connect(host: &str) -> Option<Channel> {
    let connector = service_fn(|uri: Uri| -> BoxFuture<'static, io::Result<_>> {
        Box::pin(async move {
            let address = (uri.host().unwrap().to_owned(), PORT);
            Ok(TokioIo::new(TcpStream::connect(address).await?))
        })
    });
    let endpoint = Endpoint::from_shared(format!("http://{host}:{PORT}")).unwrap();
    timeout(CONNECT_TIMEOUT, endpoint.connect_with_connector(connector)).await.ok()?.ok()
}

/// A host that can be followed.
#[derive(Debug)]
pub(crate) struct Host(pub(crate) String);

impl Host {
    pub(crate) fn upstreams(names: &[&str]) -> Vec<Arc<dyn Upstream>> {
        names.iter().map(|name| Arc::new(Self((*name).into())) as Arc<dyn Upstream>).collect()
    }
}

#[async_trait]
impl Upstream for Host {
    async fn open(
        &self,
        outgoing: mpsc::Receiver<Up>,
    ) -> Result<BoxStream<'static, Result<Down, FollowError>>, FollowError> {
        let lost = || FollowError::Lost("it cannot be reached".into());
        let channel = connect(&self.0).await.ok_or_else(lost)?;
        let opening = timeout(CONNECT_TIMEOUT, open_on(channel, &self.0, None, outgoing));
        opening.await.map_err(|_| lost())?
    }
}
