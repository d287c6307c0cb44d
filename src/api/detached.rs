//! Completes calls even if callers disconnect.

use std::{
    convert::Infallible,
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tokio::sync::Semaphore;
use tonic::{body::Body, server::NamedService};
use tower::Service;

use crate::api::limit::CallPermit;

/// Maximum number of concurrent calls. Further calls wait. The limit of a connection does not count
/// calls whose callers have disconnected.
const CALLS_MAX: usize = 1_024;

/// Runs futures as tasks.
pub trait Spawn: Clone + Send + Sync + 'static {
    /// Runs `future` to completion, even if the returned future is dropped.
    fn spawn_detached<T: Send + 'static>(
        &self,
        name: String,
        future: impl Future<Output = T> + Send + 'static,
    ) -> BoxFuture<'static, T>;
}

/// Runs each call to completion, even if the caller disconnects or the deadline passes. So the
/// outcome of a transaction depends on the request, and not on when the caller stops waiting.
///
/// The whole message must have arrived: a caller that disconnects earlier has changed nothing.
#[derive(Debug, Clone)]
pub struct Detached<S, T> {
    inner: S,
    spawner: T,
    permits: Arc<Semaphore>,
}

impl<S, T> Detached<S, T> {
    /// Runs the calls of `inner` on `spawner`.
    pub fn new(inner: S, spawner: T) -> Self {
        Self { inner, spawner, permits: Arc::new(Semaphore::new(CALLS_MAX)) }
    }
}

impl<S, T> Service<Request<Body>> for Detached<S, T>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
    T: Spawn,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let name = request.uri().path().to_owned();
        // Held until the call ends, so that a caller cannot exceed the limit by disconnecting.
        let call_permit = request.extensions().get::<Arc<CallPermit>>().cloned();
        // `self.inner` was polled ready; the clone was not.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let (spawner, permits) = (self.spawner.clone(), Arc::clone(&self.permits));
        Box::pin(async move {
            let permit = permits.acquire_owned().await;
            let call = async move {
                let _permits = (permit, call_permit);
                inner.call(request).await
            };
            spawner.spawn_detached(name, call).await
        })
    }
}

impl<S: NamedService, T> NamedService for Detached<S, T> {
    const NAME: &'static str = S::NAME;
}
