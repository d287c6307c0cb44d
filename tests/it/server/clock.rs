//! A database clock that steps.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chrono::TimeDelta;
use support_access::{
    domain::{
        AccessLevel, Caller, Clock, End, ExtendRequest, FreeText, GrantRequest, GroupId,
        LockRequest, LockTarget, NodeId, NodeKind, RevokeRequest, Span, SupportPolicy, TenantId,
        Ticket, Time, clock::ManualClock, time::from_micros,
    },
    node::{CheckNode, replica::Replica},
    service::{GrantRef, GrantView, Limits, Service, ServiceError},
    store::{Store, memory::MemoryStore},
};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

mod accept;
mod restore;

const MAX_STALENESS: Duration = Duration::from_hours(10);

/// A replica. The wall clock of its machine is the clock of the database.
struct Bench {
    clock: Arc<ManualClock>,
    store: Arc<Store>,
    replica: Arc<Replica>,
    service: Service,
    /// Stops the replica.
    _stop: DropGuard,
}

impl Bench {
    async fn new() -> Self {
        Self::with_database().await.0
    }

    async fn with_database() -> (Self, Arc<MemoryStore>) {
        let clock = Arc::new(ManualClock::at(from_micros(1_700_000_000_000_000).unwrap()));
        let database = Arc::new(MemoryStore::new(clock.clone()));
        (Self::start(clock, Store::new(database.clone())).await, database)
    }

    async fn start(clock: Arc<ManualClock>, store: Arc<Store>) -> Self {
        let id = NodeId(uuid::Uuid::new_v4());
        let node = CheckNode::new(id, NodeKind::Replica, clock.clone());
        let replica = Replica::new(node, Arc::clone(&store), MAX_STALENESS);
        replica.join().await.unwrap();
        let stop = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "ended by the token")]
        tokio::spawn(Arc::clone(&replica).run(stop.clone()));
        let limits = Limits {
            live_grants_per_tenant: 1_000,
            live_grants_per_group: 1_000,
            max_staleness: MAX_STALENESS,
        };
        let service = Service::new(Arc::clone(&replica), SupportPolicy::default(), limits);
        Self { clock, store, replica, service, _stop: stop.drop_guard() }
    }

    async fn step(&self, by: TimeDelta) {
        self.clock.set(by);
        self.renew().await;
    }

    /// Renews the lease, which carries the time of the database.
    async fn renew(&self) {
        let head = self.store.log().head().await.unwrap().revision;
        let deadline = Instant::now() + Duration::from_secs(10);
        assert!(self.replica.node().wait_for(head, deadline).await);
        self.replica.renew_lease().await.unwrap();
    }

    fn latest(&self) -> Time {
        self.replica.node().read_view().now.unwrap().latest
    }

    async fn grant(&self, hours: u64) -> Result<GrantView, ServiceError> {
        let request = GrantRequest {
            request_id: None,
            tenant_id: TenantId::new("acme").unwrap(),
            group_id: GroupId::new("support").unwrap(),
            agent_ids: BTreeSet::new(),
            access_level: AccessLevel::ReadOnly,
            agent_kinds: None,
            start_time: None,
            end: End::After(Span::hours(hours)),
            reason: FreeText::default(),
            ticket: Ticket::default(),
        };
        let granted = self.service.grant_access(&caller(), request, Instant::now()).await?;
        Ok(granted.grant)
    }

    async fn extend(&self, grant: &GrantView, hours: u64) -> Result<GrantView, ServiceError> {
        let end = End::After(Span::hours(hours));
        let request =
            ExtendRequest { request_id: None, etag: None, end, reason: FreeText::default() };
        let extended =
            self.service.extend_access(&caller(), &named(grant), request, Instant::now()).await?;
        Ok(extended.grant)
    }
}

fn caller() -> Caller {
    Caller::local(None).unwrap()
}

fn named(grant: &GrantView) -> GrantRef {
    let (tenant_id, text) = (grant.grant.tenant_id.clone(), grant.grant.id().to_string());
    GrantRef { tenant_id, text }
}

/// Records the trusted time before any clock was accepted.
async fn record(store: &Store, time: Time) {
    store.membership().record_trusted_time(time, 0).await.unwrap();
}

#[track_caller]
fn assert_unreliable<T: std::fmt::Debug>(result: &Result<T, ServiceError>) {
    assert!(matches!(result, Err(ServiceError::ClockUnreliable { .. })), "{result:?}");
}

#[tokio::test]
async fn while_the_clock_is_not_trusted_access_can_only_be_reduced() {
    for hours in [-1, 1] {
        let bench = Bench::new().await;
        let (first, second) = (bench.grant(10).await.unwrap(), bench.grant(10).await.unwrap());
        bench.step(TimeDelta::hours(hours)).await;
        assert_eq!(bench.service.clock_distance(), TimeDelta::hours(hours));
        assert_unreliable(&bench.grant(1).await);
        assert_unreliable(&bench.extend(&first, 12).await);
        assert!(bench.extend(&first, 9).await.is_ok(), "a shorter end");
        let (revoke, now) = (RevokeRequest::default(), Instant::now());
        assert!(bench.service.revoke_access(&caller(), &named(&second), revoke, now).await.is_ok());
        let lock = LockRequest {
            request_id: None,
            tenant_id: None,
            target: LockTarget::Everything,
            reason: FreeText::default(),
            end: None,
        };
        assert!(bench.service.lock_access(&caller(), lock, Instant::now()).await.is_ok());
        bench.step(TimeDelta::hours(-hours)).await;
        assert!(bench.grant(1).await.is_ok(), "the clock is right again");
    }
}

#[tokio::test]
async fn a_clock_that_was_ahead_freezes_no_time() {
    let bench = Bench::new().await;
    let start = bench.clock.now();
    let revoked = bench.grant(10).await.unwrap();
    bench.step(TimeDelta::days(3)).await;
    let (revoke, now) = (RevokeRequest::default(), Instant::now());
    let revoked = bench.service.revoke_access(&caller(), &named(&revoked), revoke, now).await;
    let revoked = revoked.unwrap().grant.grant.terms.revoke_time;
    assert_eq!(revoked, Some(start), "at the trusted time");
    bench.step(TimeDelta::days(-3)).await;
    assert_eq!(bench.latest(), start);
    assert_eq!(bench.grant(1).await.unwrap().grant.terms.start_time, start);
}

#[tokio::test]
async fn after_an_event_that_is_ahead_time_goes_on() {
    let bench = Bench::new().await;
    let ahead = bench.clock.now() + TimeDelta::hours(1);
    bench.clock.set(TimeDelta::hours(1));
    let other = Bench::start(Arc::clone(&bench.clock), Arc::clone(&bench.store)).await;
    assert_eq!(other.grant(10).await.unwrap().grant.terms.start_time, ahead, "the first reading");
    bench.step(TimeDelta::hours(-1)).await;
    bench.clock.pass(Duration::from_secs(100));
    bench.renew().await;
    let grant = bench.grant(1).await.unwrap().grant;
    let least = ahead + TimeDelta::seconds(99);
    assert!(grant.terms.start_time >= least, "{} is before {least}", grant.terms.start_time);
    bench.clock.pass(Duration::from_mins(61));
    bench.renew().await;
    assert!(grant.terms.expire_time.unwrap() <= bench.latest(), "the grant has ended");
}

#[tokio::test]
async fn the_sweep_records_no_expiry_by_a_clock_that_is_ahead() {
    let bench = Bench::new().await;
    let grant = bench.grant(1).await.unwrap();
    bench.step(TimeDelta::hours(2)).await;
    assert!(bench.latest() >= grant.grant.terms.expire_time.unwrap(), "checks deny access");
    assert_eq!(bench.service.sweep().await.unwrap(), 0);
    bench.step(TimeDelta::hours(-2)).await;
    bench.clock.pass(Duration::from_mins(61));
    bench.renew().await;
    assert_eq!(bench.service.sweep().await.unwrap(), 1);
}

#[tokio::test]
async fn a_restarted_replica_does_not_trust_a_clock_before_the_recorded_time() {
    let bench = Bench::new().await;
    let start = bench.clock.now();
    record(&bench.store, start).await;
    // The row of the first process is old.
    bench.clock.pass(MAX_STALENESS * 2);
    bench.clock.set(TimeDelta::days(-1));
    let bench = Bench::start(Arc::clone(&bench.clock), Arc::clone(&bench.store)).await;
    assert_unreliable(&bench.grant(1).await);
    assert!(bench.latest() >= start, "grants end by the recorded time");
    bench.step(TimeDelta::days(2)).await;
    assert_unreliable(&bench.grant(1).await);
    bench.clock.pass(MAX_STALENESS * 2);
    let bench = Bench::start(Arc::clone(&bench.clock), Arc::clone(&bench.store)).await;
    assert!(bench.grant(1).await.is_ok(), "any later time is possible");
}

#[tokio::test]
async fn a_replica_that_joins_others_trusts_only_their_time() {
    let first = Bench::new().await;
    record(&first.store, first.clock.now()).await;
    first.step(TimeDelta::hours(2)).await;
    let second = Bench::start(Arc::clone(&first.clock), Arc::clone(&first.store)).await;
    assert_unreliable(&second.grant(1).await);
}
