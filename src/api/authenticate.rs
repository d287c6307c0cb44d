//! A layer of the gRPC door: who is calling. Nobody gets further who has not said so.

use std::{
    convert::Infallible,
    mem,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::{BoxFuture, Either, Ready, ready};
use http::{HeaderMap, HeaderName, Request, Response, header::AUTHORIZATION};
use tonic::body::Body;
use tower::{Layer, Service};

use crate::{
    api::grpc::{refuse_name, refuse_unauthenticated},
    auth::{AuthError, Authenticator, ConnectionInfo, Peer},
    domain::Caller,
};

/// By which a caller names who acts: where callers are not told apart, or where a portal is trusted to say so.
pub const ACTOR: HeaderName = HeaderName::from_static("support-access-actor");
/// The scheme of bearer tokens (RFC 6750, 2.1); schemes have no case.
const BEARER: &str = "bearer ";
/// What anybody may ask who can reach the server: whether it serves. Who wants to go on being told must say who it is.
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// Makes [`Authenticate`]s.
#[derive(Debug, Clone)]
pub struct AuthenticateLayer {
    authenticator: Arc<Authenticator>,
}

/// Tells who calls, and leaves it with the request as `Arc<Caller>`; refuses everybody else with `UNAUTHENTICATED`.
#[derive(Debug, Clone)]
pub struct Authenticate<S> {
    inner: S,
    authenticator: Arc<Authenticator>,
}

type Answer = Result<Response<Body>, Infallible>;

// === impl AuthenticateLayer ===

impl AuthenticateLayer {
    /// Asks `authenticator`.
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
    type Future = Either<Either<S::Future, Ready<Answer>>, BoxFuture<'static, Answer>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Q>) -> Self::Future {
        if request.uri().path() == HEALTH {
            return Either::Left(Either::Left(self.inner.call(request)));
        }
        let visitor = request.extensions().get::<Arc<ConnectionInfo>>().cloned();
        let visitor = visitor.unwrap_or_else(|| Arc::new(ConnectionInfo::new(Peer::Unknown, None)));
        let Some(token) = bearer(request.headers()).map(str::to_owned) else {
            return Either::Left(match self.by_connection(&visitor, request.headers()) {
                Ok(caller) => {
                    visitor.introduce();
                    request.extensions_mut().insert(Arc::new(caller));
                    Either::Left(self.inner.call(request))
                }
                Err(refusal) => Either::Right(ready(Ok(*refusal))),
            });
        };
        // Nobody further inside has a use for it, and so nobody can let it slip.
        request.headers_mut().remove(AUTHORIZATION);
        // The one that is ready.
        let next = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, next);
        let authenticator = Arc::clone(&self.authenticator);
        Either::Right(Box::pin(async move {
            match authenticator.by_token(&visitor.peer, &token).await {
                Ok(caller) => {
                    visitor.introduce();
                    request.extensions_mut().insert(Arc::new(caller));
                    inner.call(request).await
                }
                Err(error) => Ok(refuse_unauthenticated(&error, &visitor)),
            }
        }))
    }
}

impl<S> Authenticate<S> {
    fn by_connection(
        &self,
        visitor: &ConnectionInfo,
        headers: &HeaderMap,
    ) -> Result<Caller, Box<Response<Body>>> {
        let name = headers.get(ACTOR).map(|name| name.to_str()).transpose();
        let name = name.map_err(|_| Box::new(refuse_name("must be visible ASCII characters")))?;
        self.authenticator.by_connection(&visitor.peer, name).map_err(|error| {
            Box::new(match error {
                AuthError::Name(found) => refuse_name(&found.to_string()),
                other => refuse_unauthenticated(&other, visitor),
            })
        })
    }
}

/// The token of a request, if it has one.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?;
    // What is not text is no token, and is refused as such.
    let text = value.to_str().unwrap_or("");
    let (scheme, token) = text.split_at_checked(BEARER.len()).unwrap_or(("", ""));
    Some(if scheme.eq_ignore_ascii_case(BEARER) { token.trim_start() } else { "" })
}
