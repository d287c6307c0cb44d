//! A layer that authenticates callers.

use std::{
    convert::Infallible,
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Either, Ready, ready},
};
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::{
    api::{
        credentials::ACTOR,
        grpc::{reject_excess, reject_name, reject_unauthenticated},
        limit::RETRY_DELAY,
        proto::v1::ErrorReason,
    },
    auth::{AuthError, Authenticator, ConnectionInfo, Peer},
    domain::Caller,
};

/// The scheme of bearer tokens (RFC 6750, section 2.1). Schemes are case-insensitive.
const BEARER: &str = "bearer ";
/// `Health/Check` needs no authentication; `Health/Watch` does.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Creates [`Authenticate`] services.
#[derive(Debug, Clone)]
pub struct AuthenticateLayer {
    authenticator: Arc<Authenticator>,
}

/// Adds the caller to the extensions of the request as `Arc<Caller>`. Rejects calls that are not
/// authenticated.
#[derive(Debug, Clone)]
pub struct Authenticate<S> {
    inner: S,
    authenticator: Arc<Authenticator>,
}

type CallResult = Result<Response<Body>, Infallible>;

// === impl AuthenticateLayer ===

impl AuthenticateLayer {
    /// Authenticates with `authenticator`.
    pub fn new(authenticator: Arc<Authenticator>) -> Self {
        Self { authenticator }
    }
}

impl<S> Layer<S> for AuthenticateLayer {
    type Service = Authenticate<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Authenticate { inner, authenticator: Arc::clone(&self.authenticator) }
    }
}

// === impl Authenticate ===

impl<S, Q> Service<Request<Q>> for Authenticate<S>
where
    S: Service<Request<Q>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    Q: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Either<S::Future, Ready<CallResult>>, BoxFuture<'static, CallResult>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        let connection = request.extensions().get::<Arc<ConnectionInfo>>().cloned();
        let connection =
            connection.unwrap_or_else(|| Arc::new(ConnectionInfo::new(Peer::Unknown, None)));
        if request.uri().path() == HEALTH_CHECK {
            return Either::Left(match connection.try_start_unauthenticated_call() {
                Some(call) => {
                    // A call that waits keeps no long header.
                    request.headers_mut().remove(AUTHORIZATION);
                    request.extensions_mut().insert(Arc::new(call));
                    Either::Left(self.inner.call(request))
                }
                None => Either::Right(ready(Ok(reject_unauthenticated_call()))),
            });
        }
        let Some(token) = bearer_token(request.headers()).map(str::to_owned) else {
            return Either::Left(match self.by_connection(&connection, request.headers()) {
                Ok(caller) => Either::Left(self.inner.call(with_caller(request, caller))),
                Err(rejection) => Either::Right(ready(Ok(*rejection))),
            });
        };
        // No inner service needs the token. Without the token, no inner service can leak it.
        request.headers_mut().remove(AUTHORIZATION);
        let (authenticator, info) = (Arc::clone(&self.authenticator), Arc::clone(&connection));
        let mut verifying =
            Box::pin(async move { authenticator.by_token(&info.peer, &token).await });
        // Only a token of an unknown key waits. So an honest burst on a new connection is not
        // counted as unauthenticated.
        if let Some(verified) = (&mut verifying).now_or_never() {
            return Either::Left(match verified {
                Ok(caller) => Either::Left(self.inner.call(with_caller(request, caller))),
                Err(error) => Either::Right(ready(Ok(reject_unauthenticated(&error, &connection)))),
            });
        }
        let Some(unauthenticated) = connection.try_start_unauthenticated_call() else {
            return Either::Left(Either::Right(ready(Ok(reject_unauthenticated_call()))));
        };
        // `self.inner` was polled ready; the clone was not.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        Either::Right(Box::pin(async move {
            match verifying.await {
                Ok(caller) => {
                    drop(unauthenticated);
                    inner.call(with_caller(request, caller)).await
                }
                Err(error) => Ok(reject_unauthenticated(&error, &connection)),
            }
        }))
    }
}

/// Adds the authenticated caller, and records the authentication in the connection.
fn with_caller<Q>(mut request: Request<Q>, caller: Caller) -> Request<Q> {
    if let Some(connection) = request.extensions().get::<Arc<ConnectionInfo>>() {
        connection.mark_authenticated();
    }
    request.extensions_mut().insert(Arc::new(caller));
    request
}

/// Rejects a call without a caller, on a connection with too many of these.
fn reject_unauthenticated_call() -> Response<Body> {
    reject_excess(ErrorReason::TooManyCalls, RETRY_DELAY)
}

impl<S> Authenticate<S> {
    fn by_connection(
        &self,
        connection: &ConnectionInfo,
        headers: &HeaderMap,
    ) -> Result<Caller, Box<Response<Body>>> {
        let name = headers.get(ACTOR).map(|name| name.to_str()).transpose();
        let name = name.map_err(|_| Box::new(reject_name("must be visible ASCII characters")))?;
        self.authenticator.by_connection(&connection.peer, name).map_err(|error| {
            Box::new(match error {
                AuthError::Name(problem) => reject_name(&problem.to_string()),
                other => reject_unauthenticated(&other, connection),
            })
        })
    }
}

/// The bearer token of a request. An `authorization` header of another form is an empty token,
/// which is rejected.
fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?;
    let text = value.to_str().unwrap_or("");
    let (scheme, token) = text.split_at_checked(BEARER.len()).unwrap_or(("", ""));
    Some(if scheme.eq_ignore_ascii_case(BEARER) { token.trim_start() } else { "" })
}
