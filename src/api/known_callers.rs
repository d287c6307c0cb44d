//! The authenticated callers of a connection.
//!
//! Bindings, keys and the clock decide who a caller is. So a caller is known for a second, and is
//! then authenticated again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt;
use http::Response;
use parking_lot::Mutex;
use tonic::body::Body;

use crate::{
    api::{
        grpc::{reject_name, reject_unauthenticated, reject_unauthenticated_call},
        head::Head,
        limit::{CallerUsage, Limits},
    },
    auth::{AuthError, Authenticator, ConnectionInfo},
    domain::Caller,
};

/// How long a caller is known.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// Maximum number of known callers of a connection.
const KNOWN_MAX: usize = 4;
/// Maximum length of a remembered token, in bytes.
const TOKEN_LENGTH_MAX: usize = 4 * 1_024;

/// An authenticated caller.
#[derive(Debug, Clone)]
pub(super) struct KnownCaller {
    pub(super) caller: Arc<Caller>,
    /// Shared with the other connections of the caller.
    pub(super) usage: Arc<CallerUsage>,
}

/// The callers of a connection that were authenticated within the last second.
#[derive(Debug, Default)]
pub(super) struct KnownCallers(Mutex<Vec<Entry>>);

#[derive(Debug)]
struct Entry {
    /// `None`: the connection proves the identity.
    token: Option<Box<str>>,
    known: KnownCaller,
    until: Instant,
}

impl KnownCallers {
    /// The caller of a request with this head that arrived at `now`, if known.
    pub(super) fn find(&self, head: &Head<'_>, now: Instant) -> Option<KnownCaller> {
        if is_asserted(head.token, head.actor) {
            return None;
        }
        let entries = self.0.lock();
        let entry = entries.iter().find(|entry| entry.token.as_deref() == head.token)?;
        (now < entry.until).then(|| entry.known.clone())
    }

    /// Authenticates the caller of a request that arrived at `now`. Waits only if an issuer's keys
    /// must be fetched.
    pub(super) async fn authenticate(
        &self,
        authenticator: &Authenticator,
        limits: &Limits,
        connection: &Arc<ConnectionInfo>,
        (token, actor): (Option<String>, Option<String>),
        now: Instant,
    ) -> Result<KnownCaller, Response<Body>> {
        let is_asserted = is_asserted(token.as_deref(), actor.as_deref());
        let caller = match &token {
            None => authenticator.by_connection(&connection.peer, actor.as_deref()),
            Some(token) => {
                let mut verifying = Box::pin(authenticator.by_token(&connection.peer, token));
                // Only a token of an unknown key waits. So an honest burst on a new connection is
                // not counted as unauthenticated.
                if let Some(verified) = (&mut verifying).now_or_never() {
                    verified
                } else {
                    let _unauthenticated = connection
                        .try_start_unauthenticated_call()
                        .ok_or_else(reject_unauthenticated_call)?;
                    verifying.await
                }
            }
        };
        let caller = caller.map_err(|error| match error {
            AuthError::Name(problem) if is_asserted => reject_name(&problem.to_string()),
            error => reject_unauthenticated(&error, connection),
        })?;
        connection.mark_authenticated();
        let known =
            KnownCaller { usage: limits.usage_of(&caller.identity), caller: Arc::new(caller) };
        if !is_asserted {
            self.remember(token.as_deref(), &known, now);
        }
        Ok(known)
    }

    fn remember(&self, token: Option<&str>, known: &KnownCaller, now: Instant) {
        if token.is_some_and(|token| token.len() > TOKEN_LENGTH_MAX) {
            return;
        }
        let known_for = known.caller.valid_for.map_or(KNOWN_FOR, |left| left.min(KNOWN_FOR));
        let mut entries = self.0.lock();
        entries.retain(|entry| entry.token.as_deref() != token && now < entry.until);
        if entries.len() == KNOWN_MAX {
            entries.remove(0);
        }
        let token = token.map(Box::from);
        entries.push(Entry { token, known: known.clone(), until: now + known_for });
    }
}

/// Whether the caller asserts a name, which may change with each call. A caller with a token cannot
/// assert one.
fn is_asserted(token: Option<&str>, actor: Option<&str>) -> bool {
    actor.is_some() && token.is_none()
}
