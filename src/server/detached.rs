//! A layer around a service whose calls must not be dropped half-way.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tokio::sync::Semaphore;
use tonic::{body::Body, server::NamedService};
use tower::Service;

use crate::server::tasks::Tasks;

/// The most calls under way at a time. More wait: they are not counted by their connections if callers hang up.
const CALLS_MAX: usize = 1_024;

/// A call once begun runs to its end, even if its caller hangs up or its deadline passes: a transaction is committed or
/// rolled back because of what was asked, not because of when somebody stopped listening.
#[derive(Debug, Clone)]
pub(super) struct Detached<S> {
    inner: S,
    tasks: Tasks,
    room: Arc<Semaphore>,
}

impl<S> Detached<S> {
    /// Runs the calls of `inner` as `tasks`.
    pub(super) fn new(inner: S, tasks: Tasks) -> Self {
        Self { inner, tasks, room: Arc::new(Semaphore::new(CALLS_MAX)) }
    }
}

impl<S> Service<Request<Body>> for Detached<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let name = request.uri().path().to_owned();
        let call = self.inner.call(request);
        let (tasks, room) = (self.tasks.clone(), Arc::clone(&self.room));
        Box::pin(async move {
            let place = room.acquire_owned().await;
            let in_its_place = async move {
                let _place = place;
                call.await
            };
            tasks.detached(name, in_its_place).await
        })
    }
}

impl<S: NamedService> NamedService for Detached<S> {
    const NAME: &'static str = S::NAME;
}
