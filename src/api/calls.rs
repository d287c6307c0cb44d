//! Handles each call of gRPC in one pass: its head, its caller, its limits, its message, its
//! response.

use std::{
    convert::Infallible,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, Request, Response, request::Parts};
use prost::Message;
use tokio_util::{bytes::Bytes, sync::CancellationToken};
use tonic::{body::Body, service::Routes};
use tower::Service;

use crate::{
    api::{
        body::{CallBody, Holder, hold_in_header},
        call_id::CallId,
        denial::deny_refusal,
        detached::Spawn,
        format::Format,
        grpc::{
            CheckCall, Failure, MESSAGE_LENGTH_MAX, TIMEOUT, Unread, access::Access, deadline_of,
            envoy, explain_refusal, reject, reject_excess, reject_late,
            reject_unauthenticated_call, timeout_of,
        },
        head::{GRPC_TIMEOUT, Head, head_of_handlers, headers_of_handlers},
        known_callers::{KnownCaller, KnownCallers},
        limit::{CallPermit, CallerUsage, Limits},
        message::{BoxError, CountedBody, count_fields, read_message, whole, within},
        metrics::{ConnectionMetrics, Metrics},
        observe::{ObservedBody, RpcObserver},
        unary::{decode, hold, respond},
    },
    auth::{Authenticator, ConnectionInfo, UnauthenticatedCall},
    domain::{Action, Caller},
};

/// `Health/Check` needs no authentication; `Health/Watch` does.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
/// Maximum length of the message of a single check, in bytes. The longest has 500 ids of 128
/// characters of up to four bytes.
const CHECK_LENGTH_MAX: usize = 320 * 1_024;
/// The tag of the checks in a batch.
const CHECKS_TAG: u32 = 1;
/// Timeout of unauthenticated calls. Their messages are tiny.
const UNAUTHENTICATED_TIMEOUT: Duration = Duration::from_secs(1);

/// The state that all connections share.
#[derive(Debug)]
pub struct Calls<T> {
    /// Counts each call.
    pub metrics: Arc<Metrics>,
    /// Authenticates callers.
    pub authenticator: Arc<Authenticator>,
    /// Limits callers.
    pub limits: Limits,
    /// Answers checks.
    pub access: Access,
    /// Every other service.
    pub routes: Routes,
    /// Runs calls that read the database.
    pub spawner: T,
    /// Ends streams.
    pub stop: CancellationToken,
}

/// The calls of one connection.
#[derive(Debug)]
pub struct ConnectionCalls<T> {
    shared: Arc<Calls<T>>,
    connection: Arc<ConnectionInfo>,
    metrics: Arc<ConnectionMetrics>,
    known_callers: KnownCallers,
}

/// The error is the response to a call that is rejected before its handler.
type Handled = Result<Response<CallBody>, Response<Body>>;

/// The facts about a call that [`RpcObserver`] has read.
struct Arrival {
    action: Option<Action>,
    /// Whether Envoy calls the method.
    is_envoy: bool,
    /// The id for log lines outside a span.
    id: Option<CallId>,
    at: Instant,
    /// The timeout that the caller sent. `None`: absent or malformed.
    timeout: Option<Duration>,
    format: Format,
}

/// A call that is admitted.
struct Admitted {
    arrival: Arrival,
    caller: Arc<Caller>,
    usage: Arc<CallerUsage>,
    permit: CallPermit,
}

impl<T: Spawn> ConnectionCalls<T> {
    /// The calls of `connection`.
    pub fn new(shared: Arc<Calls<T>>, connection: Arc<ConnectionInfo>) -> Self {
        let metrics = ConnectionMetrics::new(&shared.metrics);
        Self { shared, connection, metrics, known_callers: KnownCallers::default() }
    }

    /// Whether every program of this host that reaches the port has all roles.
    pub(super) fn accepts_every_program(&self) -> bool {
        self.shared.authenticator.is_disabled() && self.connection.address.is_some()
    }

    /// Admits a request that is no call of gRPC.
    pub(super) async fn admit(&self, mut headers: HeaderMap) -> Result<CallPermit, Response<Body>> {
        let known = self.identify(&mut headers, Instant::now()).await?;
        known.usage.admit(None).map_err(reject_excess)
    }

    /// The bytes of a response to an admitted request. They hold the permit until the transport has
    /// written them.
    pub(super) fn hold(&self, bytes: Bytes, permit: CallPermit) -> Bytes {
        hold(bytes, permit, &self.connection.unsent)
    }

    /// Handles a call of gRPC, whose messages have this form.
    pub async fn serve<B>(
        self: Arc<Self>,
        request: Request<B>,
        format: Format,
    ) -> Result<Response<ObservedBody<CallBody>>, Infallible>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let observer = RpcObserver::start(&self.metrics, &request);
        let is_envoy = observer.is_envoy();
        let arrival = Arrival {
            action: observer.action(),
            is_envoy,
            id: observer.id_without_span(),
            at: observer.started(),
            timeout: observer.timeout(),
            format,
        };
        let (parts, body) = request.into_parts();
        let handled = pin!(async {
            let handled = self.handle(parts, body, arrival).await;
            handled.unwrap_or_else(|rejection| rejection.map(CallBody::Rejected))
        });
        let response = observer.observe(handled).await;
        Ok(if is_envoy { deny_refusal(response, &self.connection.unsent) } else { response })
    }

    async fn handle<B>(&self, mut parts: Parts, body: B, arrival: Arrival) -> Handled
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        if parts.uri.path() == HEALTH_CHECK {
            Head::read(&parts.headers)?;
            let unauthenticated = self
                .connection
                .try_start_unauthenticated_call()
                .ok_or_else(reject_unauthenticated_call)?;
            let head = head_of_handlers(parts);
            return Box::pin(self.check_health(head, body, unauthenticated)).await;
        }
        let KnownCaller { caller, usage } = self.identify(&mut parts.headers, arrival.at).await?;
        let permit = usage.admit(arrival.action).map_err(reject_excess)?;
        let call = Admitted { arrival, caller, usage, permit };
        let action = call.arrival.action;
        let is_answered_here = |action| {
            matches!(action, Action::CheckAccess | Action::BatchCheckAccess | Action::ExplainAccess)
        };
        if !action.is_some_and(is_answered_here) {
            return Box::pin(self.route(head_of_handlers(parts), body, call)).await;
        }
        // Freed before any wait.
        drop(parts);
        match action {
            Some(Action::BatchCheckAccess) => Box::pin(self.check_batch(body, call)).await,
            Some(Action::ExplainAccess) => Box::pin(self.explain(body, call)).await,
            _ if call.arrival.is_envoy => Box::pin(self.check_for_envoy(body, call)).await,
            _ => self.check(body, call).await,
        }
    }

    /// The caller of a request that arrived at `at`. Frees headers that no handler reads if the
    /// caller must be authenticated.
    async fn identify(
        &self,
        headers: &mut HeaderMap,
        at: Instant,
    ) -> Result<KnownCaller, Response<Body>> {
        let head = Head::read(headers)?;
        if let Some(known) = self.known_callers.find(&head, at) {
            return Ok(known);
        }
        let claimed = (head.token.map(str::to_owned), head.actor.map(str::to_owned));
        // Freed before any wait.
        *headers = headers_of_handlers(headers);
        Box::pin(self.authenticate(claimed, at)).await
    }

    async fn authenticate(
        &self,
        claimed: (Option<String>, Option<String>),
        at: Instant,
    ) -> Result<KnownCaller, Response<Body>> {
        let Calls { authenticator, limits, .. } = &*self.shared;
        let known = &self.known_callers;
        known.authenticate(authenticator, limits, &self.connection, claimed, at).await
    }

    async fn check<B>(&self, body: B, call: Admitted) -> Handled
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let Admitted { arrival, caller, permit, .. } = call;
        let answer = {
            let answering = pin!(async {
                let message =
                    read_message(body, CHECK_LENGTH_MAX, &arrival.format, &permit).await?;
                let call = self.check_call(&arrival, &caller);
                self.shared.access.check_access(&call, decode(&message)?).await
            });
            within(TIMEOUT, answering).await
        };
        self.respond(answer, &arrival.format, permit)
    }

    async fn check_for_envoy<B>(&self, body: B, call: Admitted) -> Handled
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let Admitted { arrival, caller, permit, .. } = call;
        let answer = {
            let answering = pin!(async {
                let message =
                    read_message(body, CHECK_LENGTH_MAX, &arrival.format, &permit).await?;
                if !permit.try_count(message.len() * envoy::DECODED) {
                    return Err(Unread::Excess.into());
                }
                let call = self.check_call(&arrival, &caller);
                self.shared.access.check_for_envoy(&call, decode(&message)?).await
            });
            within(TIMEOUT, answering).await
        };
        self.respond(answer, &arrival.format, permit)
    }

    /// Reads the whole batch before it is decoded, because each of its checks counts.
    async fn check_batch<B>(&self, body: B, call: Admitted) -> Handled
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let Admitted { arrival, caller, usage, permit } = call;
        let answer = {
            let answering = pin!(async {
                let message =
                    read_message(body, MESSAGE_LENGTH_MAX, &arrival.format, &permit).await?;
                usage.take_checks(count_fields(&message, CHECKS_TAG))?;
                let call = self.check_call(&arrival, &caller);
                self.shared.access.batch_check_access(&call, decode(&message)?).await
            });
            within(TIMEOUT, answering).await
        };
        self.respond(answer, &arrival.format, permit)
    }

    async fn explain<B>(&self, body: B, call: Admitted) -> Handled
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let Admitted { arrival, caller, permit, .. } = call;
        let format = arrival.format.clone();
        let answered = {
            let answering = pin!(async move {
                let message = read_message(body, CHECK_LENGTH_MAX, &arrival.format, &permit).await;
                let message = match message.and_then(|message| decode(&message)) {
                    Ok(message) => message,
                    Err(unread) => return (Err(unread.into()), permit),
                };
                let (access, connection) =
                    (self.shared.access.clone(), Arc::clone(&self.connection));
                // The task goes on after a reset of the call, and so it owns the permit.
                let explaining = async move {
                    let deadline = deadline_of(arrival.at, arrival.timeout);
                    let id = arrival.id.as_ref();
                    let call = CheckCall { caller: &caller, connection: &connection, id, deadline };
                    let answer = access.explain_access(&call, message).await;
                    (answer, permit)
                };
                self.shared.spawner.spawn_detached("ExplainAccess".to_owned(), explaining).await
            });
            within(TIMEOUT, answering).await
        };
        match answered {
            Some((answer, permit)) => self.respond(Some(answer), &format, permit),
            None => Err(reject_late()),
        }
    }

    fn check_call<'a>(&'a self, arrival: &'a Arrival, caller: &'a Caller) -> CheckCall<'a> {
        let deadline = deadline_of(arrival.at, arrival.timeout);
        CheckCall { caller, connection: &self.connection, id: arrival.id.as_ref(), deadline }
    }

    /// `None`: the answer is late.
    fn respond<M: Message>(
        &self,
        answer: Option<Result<M, Failure>>,
        format: &Format,
        permit: CallPermit,
    ) -> Handled {
        let unsent = &self.connection.unsent;
        let rejection = match answer {
            Some(Ok(answer)) => {
                let response = respond(&answer, format, permit, unsent).map_err(reject)?;
                return Ok(response.map(CallBody::Unary));
            }
            Some(Err(failure)) => reject(failure),
            None => reject_late(),
        };
        Err(hold_in_header(rejection, Some(Holder::Caller(Arc::new(permit))), unsent))
    }

    /// A call of another service.
    async fn route<B>(&self, mut head: Request<()>, body: B, call: Admitted) -> Handled
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let Admitted { arrival, caller, permit, .. } = call;
        let Arrival { action, timeout, format, .. } = arrival;
        let permit = Arc::new(permit);
        let (timeout_max, default) = timeout_of(action);
        if let (None, Some(default)) = (timeout, default) {
            head.headers_mut().insert(GRPC_TIMEOUT, default);
        }
        head.extensions_mut().insert(Arc::clone(&self.connection));
        head.extensions_mut().insert(caller);
        // Streams of followers do not end. `ReplicationService` limits their number.
        let kept = (action != Some(Action::Follow)).then(|| Arc::clone(&permit));
        if let Some(permit) = &kept {
            head.extensions_mut().insert(Arc::clone(permit));
        }
        let timeout = timeout.map_or(timeout_max, |timeout| timeout.min(timeout_max));
        let response = {
            let calling = pin!(async {
                let body = match action {
                    // Health, reflection, and streams.
                    None | Some(Action::Follow) => Body::new(CountedBody::new(body, kept.clone())),
                    Some(_) => {
                        whole(read_message(body, MESSAGE_LENGTH_MAX, &format, &permit).await?)
                    }
                };
                self.call_route(head.map(|()| body)).await
            });
            within(timeout, calling).await.unwrap_or_else(|| Ok(reject_late()))
        };
        let response = response.unwrap_or_else(reject).map(|body| format.wrap(body, &permit));
        Ok(self.routed(response, kept.map(Holder::Caller)))
    }

    /// An unauthenticated call.
    async fn check_health<B>(
        &self,
        head: Request<()>,
        body: B,
        unauthenticated: UnauthenticatedCall,
    ) -> Handled
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let body = Body::new(CountedBody::new(body, None));
        let call = pin!(self.call_route(head.map(|()| body)));
        let response = within(UNAUTHENTICATED_TIMEOUT, call).await;
        let response = response.unwrap_or_else(|| Ok(reject_late()));
        let holder = Some(Holder::Unauthenticated(Arc::new(unauthenticated)));
        Ok(self.routed(response.unwrap_or_else(reject), holder))
    }

    async fn call_route(&self, request: Request<Body>) -> Result<Response<Body>, Failure> {
        let Ok(response) = self.shared.routes.clone().call(request).await;
        Ok(explain_refusal(response))
    }

    /// The response of a route. `holder` is held until the response is written.
    fn routed(&self, response: Response<Body>, holder: Option<Holder>) -> Response<CallBody> {
        CallBody::routed(response, holder, &self.connection.unsent, &self.shared.stop)
    }
}
