//! A layer around a service whose calls must not be dropped half-way.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use http::{Request, Response};
use tonic::{body::Body, server::NamedService};
use tower::Service;

use crate::server::tasks::Tasks;

/// A call once begun runs to its end, even if its caller hangs up or its deadline passes: a transaction is committed or
/// rolled back because of what was asked, not because of when somebody stopped to listen.
#[derive(Debug, Clone)]
pub(super) struct Detached<S> {
    inner: S,
    tasks: Tasks,
}

impl<S> Detached<S> {
    /// Runs the calls of `inner` as `tasks`.
    pub(super) fn new(inner: S, tasks: Tasks) -> Self {
        Self { inner, tasks }
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
        self.tasks.detached(name, self.inner.call(request))
    }
}

impl<S: NamedService> NamedService for Detached<S> {
    const NAME: &'static str = S::NAME;
}
