//! An administrator who does not give up, and the books that they keep.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand::{RngExt, rngs::StdRng};
use support_access::api::proto::v1::{
    AccessLevel, Event, ExtendAccessRequest, Grant, GrantAccessRequest, event::Payload,
    support_access_admin_client::SupportAccessAdminClient,
};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status, transport::Endpoint};

use crate::{fleet::Admin, history::History};

/// How long an answer may take before another server is asked.
const CALL_TIMEOUT: Duration = Duration::from_secs(4);
/// The most grants that the tenant has at a time.
const LIVE_MAX: usize = 3;

/// The only one who makes changes for their tenant, one after the other. Whatever is not answered is asked again, anywhere.
#[derive(Debug)]
pub struct Administrator {
    tenant_id: String,
    admins: Vec<Admin>,
    history: Arc<History>,
    random: StdRng,
    live: Vec<Grant>,
    requests: usize,
    /// The changes that were acknowledged, by the kind of their event.
    told: Vec<(&'static str, Grant)>,
    /// What was not, and was asked again.
    refused: BTreeMap<String, usize>,
    /// The longest that a revocation has waited until it was in force everywhere.
    slowest: Duration,
}

impl Administrator {
    /// One who can reach the servers at those URLs.
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
            told: vec![],
            refused: BTreeMap::new(),
            slowest: Duration::ZERO,
        }
    }

    pub fn tenant_id(&self) -> &str {
        &self.tenant_id
    }

    /// Makes changes until it is over, and sees the last one through.
    pub async fn work<W>(mut self, world: Arc<W>, is_over: impl Fn(&W) -> bool) -> Self {
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
            tenant_id: self.tenant_id.clone(),
            group_id: "support".into(),
            access_level: AccessLevel::ReadOnly.into(),
            until_revoked: true,
            ..Default::default()
        };
        let granted = self
            .insist(|mut admin| {
                let request = request.clone();
                async move { Ok(admin.grant_access(request).await?.into_inner()) }
            })
            .await;
        let grant = granted.grant.unwrap();
        self.live.push(grant.clone());
        self.acknowledged("granted", grant);
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
            .insist(|mut admin| {
                let request = request.clone();
                async move { Ok(admin.extend_access(request).await?.into_inner()) }
            })
            .await;
        self.acknowledged("extended", extended.grant.unwrap());
    }

    async fn revoke(&mut self) {
        let index = self.random.random_range(0..self.live.len());
        let grant = self.live.swap_remove(index);
        let history = Arc::clone(&self.history);
        let revoked = self
            .insist(|mut admin| {
                let (grant, history) = (grant.clone(), Arc::clone(&history));
                async move { history.revoke(&mut admin, &grant).await }
            })
            .await;
        self.slowest = self.slowest.max(revoked.elapsed());
        self.acknowledged("revoked", revoked.grant);
    }

    fn acknowledged(&mut self, kind: &'static str, grant: Grant) {
        self.history.changed();
        self.told.push((kind, grant));
    }

    /// Asks one server after the other until one answers.
    async fn insist<T, F: Future<Output = Result<T, Status>>>(
        &mut self,
        ask: impl Fn(Admin) -> F,
    ) -> T {
        loop {
            let admin = self.admins[self.random.random_range(0..self.admins.len())].clone();
            let why = match timeout(CALL_TIMEOUT, ask(admin)).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(status)) => {
                    assert_passing(&status);
                    format!("{:?}: {}", status.code(), status.message())
                }
                Err(_) => "no answer".into(),
            };
            *self.refused.entry(why).or_default() += 1;
            sleep(Duration::from_millis(20)).await; // so that nobody is overrun
        }
    }

    /// How often each refusal was met.
    pub const fn refused(&self) -> &BTreeMap<String, usize> {
        &self.refused
    }

    /// The longest that a revocation has waited until it was in force everywhere.
    pub const fn slowest(&self) -> Duration {
        self.slowest
    }

    /// Everything that was acknowledged is in the history, and nothing was made twice. Returns how much that was.
    pub fn audit(&self, events: &[Event]) -> usize {
        for (kind, grant) in &self.told {
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
        let ours = granted.filter(|event| event.reason.starts_with(&self.tenant_id)).count();
        assert_eq!(ours, self.requests, "each request was granted, and once");
        self.told.len()
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

/// The only failures that may be caused by what fails.
fn assert_passing(status: &Status) {
    // What the connection says has its cause behind it; what the server says does not.
    let is_transport = std::error::Error::source(status).is_some();
    let is_passing = matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded
    );
    assert!(is_transport || is_passing, "not a failure that passes: {status:?}");
}
