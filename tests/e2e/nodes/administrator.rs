//! An administrator who retries every change, and the record of the acknowledged changes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::{RngExt, rngs::StdRng};
use support_access::api::proto::v1::{
    Event, ExtendAccessRequest, Grant, GrantAccessRequest, event::Payload,
    support_access_admin_client::SupportAccessAdminClient,
};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, transport::Endpoint};

use crate::nodes::{fleet::Admin, history::History, requests::grant_request};

/// The timeout of one call. Afterwards the administrator retries at another server.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// The maximum number of live grants per tenant.
const LIVE_MAX: usize = 3;

/// The only writer of one tenant. Makes one change at a time and retries failed calls at a random
/// server.
#[derive(Debug)]
pub struct Administrator {
    tenant_id: String,
    admins: Vec<Admin>,
    history: Arc<History>,
    random: StdRng,
    live: Vec<Grant>,
    requests: usize,
    /// The acknowledged changes, by the kind of their event.
    acknowledged: Vec<(&'static str, Grant)>,
    /// The number of failed calls, by error.
    failures: BTreeMap<String, usize>,
    /// The longest time from a revocation to its enforcement on all nodes.
    slowest: Duration,
}

impl Administrator {
    /// Creates an administrator who can reach the servers at `urls`.
    pub fn new(tenant_id: &str, urls: Vec<String>, history: Arc<History>, random: StdRng) -> Self {
        let channel = |url| Endpoint::from_shared(url).unwrap().connect_lazy();
        let admins = urls.into_iter().map(|url| SupportAccessAdminClient::new(channel(url)));
        Self {
            tenant_id: tenant_id.into(),
            admins: admins.collect(),
            history,
            random,
            live: vec![],
            requests: 0,
            acknowledged: vec![],
            failures: BTreeMap::new(),
            slowest: Duration::ZERO,
        }
    }

    pub fn tenant_id(&self) -> &str {
        &self.tenant_id
    }

    /// Makes changes until `is_over` is true, and completes the last change.
    pub async fn run<W>(mut self, world: Arc<W>, is_over: impl Fn(&W) -> bool) -> Self {
        while !is_over(&world) {
            if self.live.is_empty() || self.live.len() < LIVE_MAX && self.random.random() {
                self.grant().await;
            } else if self.random.random_ratio(1, 4) {
                self.extend().await;
            } else {
                self.revoke().await;
            }
        }
        self
    }

    async fn grant(&mut self) {
        self.requests += 1;
        let request_id = format!("{}-{}", self.tenant_id, self.requests);
        let request = GrantAccessRequest {
            request_id: request_id.clone(),
            reason: request_id,
            ..grant_request(&self.tenant_id)
        };
        let granted = self
            .retry(|mut admin| {
                let request = request.clone();
                async move { Ok(admin.grant_access(request).await?.into_inner()) }
            })
            .await;
        let grant = granted.grant.unwrap();
        self.live.push(grant.clone());
        self.record("granted", grant);
    }

    async fn extend(&mut self) {
        let index = self.random.random_range(0..self.live.len());
        let seconds = 3_600 * self.random.random_range(1..1_000);
        let duration = prost_types::Duration { seconds, nanos: 0 };
        let request = ExtendAccessRequest {
            tenant_id: self.tenant_id.clone(),
            grant_id: self.live[index].grant_id.clone(),
            duration: Some(duration),
            ..Default::default()
        };
        let extended = self
            .retry(|mut admin| {
                let request = request.clone();
                async move { Ok(admin.extend_access(request).await?.into_inner()) }
            })
            .await;
        self.record("extended", extended.grant.unwrap());
    }

    async fn revoke(&mut self) {
        let index = self.random.random_range(0..self.live.len());
        let grant = self.live.swap_remove(index);
        let history = Arc::clone(&self.history);
        let revoked = self
            .retry(|mut admin| {
                let (grant, history) = (grant.clone(), Arc::clone(&history));
                async move { history.revoke(&mut admin, &grant).await }
            })
            .await;
        self.slowest = self.slowest.max(revoked.elapsed());
        self.record("revoked", revoked.grant);
    }

    fn record(&mut self, kind: &'static str, grant: Grant) {
        self.history.record_change();
        self.acknowledged.push((kind, grant));
    }

    /// Retries at random servers until a call succeeds.
    async fn retry<T, F: Future<Output = Result<T, Status>>>(
        &mut self,
        call: impl Fn(Admin) -> F,
    ) -> T {
        loop {
            let admin = self.admins[self.random.random_range(0..self.admins.len())].clone();
            let error = match timeout(CALL_TIMEOUT, call(admin)).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(status)) => {
                    assert_transient(&status);
                    format!("{:?}: {}", status.code(), status.message())
                }
                Err(_) => "timeout".into(),
            };
            *self.failures.entry(error).or_default() += 1;
            sleep(Duration::from_millis(20)).await; // limits the retry rate
        }
    }

    /// Returns the number of failed calls, by error.
    pub const fn failures(&self) -> &BTreeMap<String, usize> {
        &self.failures
    }

    /// Returns the longest time from a revocation to its enforcement on all nodes.
    pub const fn slowest(&self) -> Duration {
        self.slowest
    }

    /// Asserts that the history contains every acknowledged change, and each grant only once.
    /// Returns the number of acknowledged changes.
    pub fn verify(&self, events: &[Event]) -> usize {
        for (kind, grant) in &self.acknowledged {
            // The etag identifies the event.
            let is_same = |event: &&Event| {
                event_grant(event).is_some_and(|(found, changed)| {
                    (found, &changed.grant_id, &changed.etag)
                        == (*kind, &grant.grant_id, &grant.etag)
                })
            };
            assert!(events.iter().any(|event| is_same(&event)), "{kind} is lost: {grant:?}");
        }
        let granted = events
            .iter()
            .filter(|event| event_grant(event).is_some_and(|(kind, _)| kind == "granted"));
        let created = granted.filter(|event| event.reason.starts_with(&self.tenant_id)).count();
        assert_eq!(created, self.requests, "each request creates one grant");
        self.acknowledged.len()
    }
}

/// The kind of an event about a grant, and the grant after the event.
fn event_grant(event: &Event) -> Option<(&'static str, &Grant)> {
    let (kind, grant) = match event.payload.as_ref()? {
        Payload::Granted(granted) => ("granted", &granted.grant),
        Payload::Extended(extended) => ("extended", &extended.grant),
        Payload::Revoked(revoked) => ("revoked", &revoked.grant),
        Payload::Expired(expired) => ("expired", &expired.grant),
        _ => return None,
    };
    Some((kind, grant.as_ref()?))
}

/// Asserts that the injected faults can cause this failure.
fn assert_transient(status: &Status) {
    // Only errors from the transport have a source. Errors from the server have none.
    let is_transport = std::error::Error::source(status).is_some();
    let is_transient = matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
    );
    assert!(is_transport || is_transient, "the failure must be transient: {status:?}");
}
