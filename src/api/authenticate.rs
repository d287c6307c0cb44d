//! A layer that authenticates callers.

use std::{
    convert::Infallible,
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::{BoxFuture, Either, Ready, ready};
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::{
    api::{
        credentials::ACTOR,
        grpc::{reject_name, reject_unauthenticated},
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
        if request.uri().path() == HEALTH_CHECK {
            return Either::Left(Either::Left(self.inner.call(request)));
        }
        let connection = request.extensions().get::<Arc<ConnectionInfo>>().cloned();
        let connection =
            connection.unwrap_or_else(|| Arc::new(ConnectionInfo::new(Peer::Unknown, None)));
        let Some(token) = bearer_token(request.headers()).map(str::to_owned) else {
            return Either::Left(match self.by_connection(&connection, request.headers()) {
                Ok(caller) => {
                    connection.mark_authenticated();
                    request.extensions_mut().insert(Arc::new(caller));
                    Either::Left(self.inner.call(request))
                }
                Err(rejection) => Either::Right(ready(Ok(*rejection))),
            });
        };
        // No inner service needs the token. Without the token, no inner service can leak it.
        request.headers_mut().remove(AUTHORIZATION);
        // `self.inner` was polled ready; the clone was not.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let authenticator = Arc::clone(&self.authenticator);
        Either::Right(Box::pin(async move {
            match authenticator.by_token(&connection.peer, &token).await {
                Ok(caller) => {
                    connection.mark_authenticated();
                    request.extensions_mut().insert(Arc::new(caller));
                    inner.call(request).await
                }
                Err(error) => Ok(reject_unauthenticated(&error, &connection)),
            }
        }))
    }
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
