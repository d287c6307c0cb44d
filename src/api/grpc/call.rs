//! The caller, the permission and the deadline of a request.

use std::{
    sync::Arc,
    time::{Duration, Instant as StdInstant},
};

use http::HeaderValue;
use tokio::time::Instant;
use tonic::{Extensions, Request, Status};
use tracing::warn;

use crate::{
    api::{
        call_id::CallId,
        grpc::{
            guard::Guarded,
            status::{Failure, unknown_caller},
        },
    },
    auth::ConnectionInfo,
    domain::{Action, Attribution, Caller, Scope, ids::ID_LENGTH_MAX, violation::Violations},
    service::ServiceError,
};

/// The metadata key of the gRPC deadline.
const TIMEOUT_KEY: &str = "grpc-timeout";
/// Timeout of a response, and the default and longest deadline of a call.
pub(in crate::api) const TIMEOUT: Duration = Duration::from_secs(10);
/// The same for a call that waits for enforcement. Longer than the longest `max_staleness`.
pub(in crate::api) const ENFORCEMENT_TIMEOUT: Duration = Duration::from_mins(6);
/// [`TIMEOUT`] as a gRPC header.
const TIMEOUT_HEADER: HeaderValue = HeaderValue::from_static("10S");
/// [`ENFORCEMENT_TIMEOUT`] as a gRPC header.
const ENFORCEMENT_TIMEOUT_HEADER: HeaderValue = HeaderValue::from_static("6M");
/// The maximum time that is reserved for the response to reach the caller.
const RETURN_TIME_MAX: Duration = Duration::from_millis(50);

/// A call that is permitted.
#[derive(Debug)]
pub(super) struct Call<M> {
    /// The caller.
    pub(super) caller: Arc<Caller>,
    /// The request.
    pub(super) message: M,
    /// When the response must be sent: a little before the caller's deadline.
    pub(super) deadline: Instant,
}

/// The caller of a check, at [`Calls`](crate::api::calls::Calls).
#[derive(Debug)]
pub(in crate::api) struct CheckCall<'a> {
    pub(in crate::api) caller: &'a Caller,
    pub(in crate::api) connection: &'a ConnectionInfo,
    /// The id of the call. `None`: the span of the call has it, or there is none.
    pub(in crate::api) id: Option<&'a CallId>,
    /// When the response must be sent: a little before the caller's deadline.
    pub(in crate::api) deadline: Instant,
}

/// Admits a call if the caller has the permission. No other function returns the message of a
/// request. Each rejection is logged as an audit line.
pub(super) fn admit<M: Guarded>(request: Request<M>) -> Result<Call<M>, Failure> {
    let (metadata, extensions, message) = request.into_parts();
    let caller = admit_to(M::ACTION, message.scope(), &extensions)?;
    let timeout_max = if M::ACTION.waits_for_enforcement() { ENFORCEMENT_TIMEOUT } else { TIMEOUT };
    let timeout = metadata.get(TIMEOUT_KEY).and_then(|value| parse_timeout(value.to_str().ok()?));
    let deadline = deadline_within(Instant::now(), timeout, timeout_max);
    Ok(Call { caller, message, deadline })
}

/// As [`admit`], for a stream of messages.
pub(super) fn admit_to(
    action: Action,
    scope: Scope<'_>,
    extensions: &Extensions,
) -> Result<Arc<Caller>, Failure> {
    let Some(caller) = extensions.get::<Arc<Caller>>() else { return Err(unknown_caller()) };
    let connection = extensions.get::<Arc<ConnectionInfo>>();
    check_permission(caller, connection.map(Arc::as_ref), action, scope)?;
    Ok(Arc::clone(caller))
}

impl CheckCall<'_> {
    /// As [`admit`], for a check.
    pub(super) fn admit<M: Guarded>(&self, message: M) -> Result<M, Failure> {
        check_permission(self.caller, Some(self.connection), M::ACTION, message.scope())?;
        Ok(message)
    }
}

fn check_permission(
    caller: &Caller,
    connection: Option<&ConnectionInfo>,
    action: Action,
    scope: Scope<'_>,
) -> Result<(), Failure> {
    if let Err(denied) = caller.may(action, scope) {
        let Attribution { actor, via, is_asserted } = &caller.author;
        let tenant_id = match scope {
            // Not validated yet, so cut to the length of an id.
            Scope::Tenant(tenant_id) => {
                Some(tenant_id.chars().take(ID_LENGTH_MAX).collect::<String>())
            }
            Scope::Vendor | Scope::Global => None,
        };
        let address = connection.and_then(|connection| connection.address);
        warn!(
            target: "support_access::audit",
            action = action.name(),
            tenant_id,
            %actor,
            via = via.as_ref().map(display),
            is_asserted,
            address = address.map(display),
            reason = %denied,
            "a call was rejected"
        );
        return Err(denied.into());
    }
    Ok(())
}

impl From<Violations> for Status {
    fn from(violations: Violations) -> Self {
        Failure::from(violations).into()
    }
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        Failure::from(error).into()
    }
}

/// The timeout until a response starts, and the default `grpc-timeout`. `Follow` has none.
pub(in crate::api) fn timeout_of(action: Option<Action>) -> (Duration, Option<HeaderValue>) {
    match action {
        None | Some(Action::Follow) => (TIMEOUT, None),
        Some(action) if action.waits_for_enforcement() => {
            (ENFORCEMENT_TIMEOUT, Some(ENFORCEMENT_TIMEOUT_HEADER))
        }
        Some(_) => (TIMEOUT, Some(TIMEOUT_HEADER)),
    }
}

/// When the response to a check that arrived at `started` must be sent.
pub(in crate::api) fn deadline_of(started: StdInstant, timeout: Option<Duration>) -> Instant {
    deadline_within(Instant::from_std(started), timeout, TIMEOUT)
}

fn deadline_within(started: Instant, timeout: Option<Duration>, most: Duration) -> Instant {
    let timeout = timeout.unwrap_or(most).min(most);
    started + timeout.saturating_sub((timeout / 10).min(RETURN_TIME_MAX))
}

/// A `Timeout` of the gRPC protocol: up to eight digits and a unit.
pub fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = digits.len() <= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}
