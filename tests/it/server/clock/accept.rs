//! An operator accepts the clock after a step.

use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;
use support_access::{
    domain::{
        AcceptClockRequest, Attribution, Event, EventKind, GrantState, RequestId, UnlockRequest,
        lock::LockState,
    },
    service::{clock::AcceptClockOutcome, locks::LockRef},
    store::{NewEvent, StoreError, Transaction, Transactions},
};

use super::*;

pub(super) const HOUR: TimeDelta = TimeDelta::hours(1);
/// Ends move back by this much more than the step.
const MARGIN: TimeDelta = TimeDelta::seconds(2);

impl Bench {
    pub(super) async fn accept(&self) -> Result<AcceptClockOutcome, ServiceError> {
        let reason = FreeText::new("NTP is right").unwrap();
        let request = AcceptClockRequest { request_id: None, reason };
        let deadline = Instant::now() + Duration::from_secs(10);
        self.service.accept_clock(&caller(), request, deadline).await
    }

    async fn current(&self, grant: &GrantView) -> GrantView {
        self.service.get_grant(&named(grant)).await.unwrap()
    }

    async fn end(&self, grant: &GrantView) -> Time {
        self.current(grant).await.grant.terms.expire_time.unwrap()
    }

    /// The state of a grant, by which the node decides checks.
    fn state_at_node(&self, grant: &GrantView) -> Option<GrantState> {
        let read_view = self.replica.node().read_view();
        let mut grants = read_view.view.snapshot().grants(&grant.grant.tenant_id);
        let terms = grants.find(|terms| terms.grant_id == grant.grant.id())?;
        Some(terms.state(read_view.now.unwrap()))
    }

    async fn events(&self) -> Vec<Event> {
        self.store.log().events_after(0, usize::MAX).await.unwrap()
    }
}

fn end_of(grant: &GrantView) -> Time {
    grant.grant.terms.expire_time.unwrap()
}

/// A fault or a change of others, at the begin of a transaction.
#[derive(Debug)]
enum Interruption {
    /// The transaction fails.
    Failure,
    /// Another replica, which has not noticed the step, moves the end of this grant by a day.
    Extension(GrantView),
    /// Another call revokes this grant.
    Revocation(GrantView),
}

/// The transactions of a store, one of which is interrupted.
struct Interrupted {
    inner: Arc<Store>,
    begins: AtomicUsize,
    /// The number of the transaction, from now on.
    interruption: Mutex<Option<(usize, Interruption)>>,
}

impl Interrupted {
    fn interrupt(&self, number: usize, interruption: Interruption) {
        self.begins.store(0, Ordering::SeqCst);
        *self.interruption.lock() = Some((number, interruption));
    }

    async fn append(&self, kind: impl FnOnce(Time) -> EventKind) {
        let mut transaction = self.inner.begin().await.unwrap();
        let now = transaction.now();
        let new = NewEvent {
            tenant_id: Some(TenantId::new("acme").unwrap()),
            author: Attribution::system(),
            reason: FreeText::default(),
            kind: kind(now),
        };
        transaction.append(new).await.unwrap();
        transaction.commit().await.unwrap();
    }
}

#[async_trait]
impl Transactions for Interrupted {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        let number = self.begins.fetch_add(1, Ordering::SeqCst);
        let due = self.interruption.lock().take_if(|(at, _)| *at == number);
        match due.map(|(_, interruption)| interruption) {
            None => {}
            Some(Interruption::Failure) => {
                return Err(StoreError::Unavailable("interrupted".into()));
            }
            Some(Interruption::Extension(view)) => {
                let current = self.inner.queries().grant(&view.grant.tenant_id, view.grant.id());
                let mut grant = current.await.unwrap().unwrap();
                let previous_expire_time = grant.terms.expire_time;
                grant.terms.expire_time = Some(end_of(&view) + TimeDelta::days(1));
                let clock_step_ms = None;
                self.append(|_| EventKind::Extended { grant, previous_expire_time, clock_step_ms })
                    .await;
            }
            Some(Interruption::Revocation(view)) => {
                let current = self.inner.queries().grant(&view.grant.tenant_id, view.grant.id());
                let grant = current.await.unwrap().unwrap();
                self.append(|_| EventKind::Expired { grant }).await;
            }
        }
        self.inner.begin().await
    }
}

/// A replica with 450 grants, whose transactions can be interrupted. One pass takes three.
async fn interrupted() -> (Bench, Arc<Interrupted>, Vec<GrantView>) {
    let clock = Arc::new(ManualClock::at(from_micros(1_700_000_000_000_000).unwrap()));
    let inner = Store::new(Arc::new(MemoryStore::new(clock.clone())));
    let (begins, interruption) = (AtomicUsize::new(0), Mutex::new(None));
    let transactions = Arc::new(Interrupted { inner: Arc::clone(&inner), begins, interruption });
    let bench = Bench::start(clock, inner.with_transactions(transactions.clone())).await;
    let mut grants = Vec::new();
    for _ in 0..450 {
        grants.push(bench.grant(10).await.unwrap());
    }
    (bench, transactions, grants)
}

#[tokio::test]
async fn a_trusted_clock_needs_no_acceptance() {
    let bench = Bench::new().await;
    bench.grant(10).await.unwrap();
    let before = bench.events().await;
    let accepted = bench.accept().await.unwrap();
    assert_eq!((accepted.step, accepted.moved_count), (TimeDelta::zero(), 0));
    assert_eq!(bench.events().await, before);
}

#[tokio::test]
async fn after_an_accepted_step_back_ended_grants_and_locks_stay_ended() {
    let bench = Bench::new().await;
    let ended = bench.grant(1).await.unwrap();
    let lock = LockRequest {
        request_id: None,
        tenant_id: None,
        target: LockTarget::Group(GroupId::new("other").unwrap()),
        reason: FreeText::default(),
        end: Some(End::After(Span::hours(1))),
    };
    let lock = bench.service.lock_access(&caller(), lock, Instant::now()).await.unwrap();
    bench.clock.pass(Duration::from_mins(90));
    bench.renew().await;
    assert_eq!(bench.service.sweep().await.unwrap(), 2);
    bench.step(-HOUR).await;
    bench.accept().await.unwrap();
    bench.renew().await;
    assert_eq!(bench.current(&ended).await.state, GrantState::Expired);
    assert_eq!(bench.state_at_node(&ended), Some(GrantState::Expired));
    let named = LockRef { tenant_id: None, text: lock.lock.lock.id().to_string() };
    let request = UnlockRequest { request_id: None, etag: None, reason: FreeText::default() };
    let unlocked =
        bench.service.unlock_access(&caller(), &named, request, Instant::now()).await.unwrap();
    assert_eq!(unlocked.lock.state, LockState::Expired);
}

#[tokio::test]
async fn after_an_accepted_step_back_no_grant_lasts_longer() {
    let bench = Bench::new().await;
    let ended = bench.grant(1).await.unwrap();
    bench.clock.pass(Duration::from_mins(90));
    bench.renew().await;
    let (short, long) = (bench.grant(1).await.unwrap(), bench.grant(10).await.unwrap());
    let trusted = bench.clock.now();
    bench.step(-HOUR).await;
    assert_unreliable(&bench.grant(1).await);

    let accepted = bench.accept().await.unwrap();
    assert_eq!((accepted.step, accepted.moved_count), (-HOUR, 2));
    let (end, now) = (bench.end(&long).await, bench.clock.now());
    assert_eq!(end, end_of(&long) - HOUR - MARGIN);
    assert_eq!(bench.current(&short).await.state, GrantState::Revoked, "ends before its start");
    assert_eq!(bench.current(&ended).await.state, GrantState::Expired, "revives no grant");

    let events = bench.events().await;
    let last = events.last().unwrap();
    assert_eq!((last.time, last.tenant_id.as_ref()), (now, None));
    let expected = EventKind::ClockAccepted { step_ms: -3_600_000, moved_count: 2 };
    assert_eq!(last.kind, expected);
    let moves = events.iter().filter(|event| match &event.kind {
        EventKind::Extended { clock_step_ms, .. } => clock_step_ms.is_some(),
        _ => false,
    });
    for event in moves {
        assert_eq!((event.time, event.reason.as_str()), (trusted, "NTP is right"));
    }

    bench.renew().await;
    assert!(bench.replica.database_clock().is_trusted());
    assert_eq!(bench.latest(), now, "checks follow the accepted clock");
    assert_ne!(bench.state_at_node(&ended), Some(GrantState::Active));
    let new = bench.grant(1).await.unwrap();
    assert_eq!(new.grant.terms.start_time, now);
    bench.clock.pass(Duration::from_mins(9 * 60 + 59));
    bench.renew().await;
    assert!(bench.latest() < end);
    bench.clock.pass(Duration::from_mins(1));
    bench.renew().await;
    assert!(bench.latest() >= end, "the grant has ended after ten hours");
}

#[tokio::test]
async fn an_accepted_step_forward_moves_no_end() {
    let bench = Bench::new().await;
    let (short, long) = (bench.grant(1).await.unwrap(), bench.grant(10).await.unwrap());
    bench.step(HOUR * 2).await;
    let accepted = bench.accept().await.unwrap();
    assert_eq!((accepted.step, accepted.moved_count), (HOUR * 2, 0));
    assert_eq!(bench.end(&long).await, end_of(&long));
    bench.renew().await;
    assert_eq!(bench.latest(), bench.clock.now());
    assert_eq!(bench.service.sweep().await.unwrap(), 1);
    assert_eq!(bench.current(&short).await.state, GrantState::Expired);
    let new = bench.grant(1).await.unwrap();
    assert_eq!(new.grant.terms.start_time, bench.clock.now());
}

#[tokio::test]
async fn a_step_back_spares_grants_from_before_the_step_forward_that_it_undoes() {
    for (hours_back, moved) in [(1, TimeDelta::zero()), (2, MARGIN), (3, HOUR + MARGIN)] {
        let bench = Bench::new().await;
        let before = bench.grant(10).await.unwrap();
        bench.step(HOUR * 2).await;
        bench.accept().await.unwrap();
        bench.renew().await;
        let between = bench.grant(10).await.unwrap();
        bench.step(-HOUR * hours_back).await;
        bench.accept().await.unwrap();
        let expected = end_of(&before) - moved;
        assert_eq!(bench.end(&before).await, expected, "{hours_back}");
        let expected = end_of(&between) - HOUR * hours_back - MARGIN;
        assert_eq!(bench.end(&between).await, expected, "{hours_back}");
    }
}

#[tokio::test]
async fn repeated_steps_back_add_up() {
    let bench = Bench::new().await;
    let grant = bench.grant(10).await.unwrap();
    for _ in 0..3 {
        bench.step(-HOUR).await;
        bench.accept().await.unwrap();
        bench.renew().await;
    }
    let moved = end_of(&grant) - bench.end(&grant).await;
    assert!(moved >= HOUR * 3 && moved <= HOUR * 3 + MARGIN, "{moved}");
}

#[tokio::test]
async fn an_interrupted_acceptance_continues_without_moving_an_end_twice() {
    for later_step in [TimeDelta::zero(), -HOUR, HOUR / 2] {
        let (bench, transactions, grants) = interrupted().await;
        bench.step(-HOUR).await;
        transactions.interrupt(1, Interruption::Failure);
        let result = bench.accept().await;
        assert!(matches!(result, Err(ServiceError::Store(_))), "{result:?}");
        let moved = -HOUR - MARGIN;
        assert_eq!(bench.end(&grants[0]).await, end_of(&grants[0]) + moved);
        assert_eq!(bench.end(&grants[200]).await, end_of(&grants[200]));

        bench.step(later_step).await;
        let accepted = bench.accept().await.unwrap();
        assert_eq!(accepted.step, later_step - HOUR);
        for (index, grant) in grants.iter().enumerate() {
            let needed = later_step - HOUR - MARGIN;
            // An end that was moved too far stays there.
            let expected = if index < 200 { needed.min(moved) } else { needed };
            assert_eq!(bench.end(grant).await, end_of(grant) + expected, "{index}");
        }
        assert_eq!(accepted.moved_count, if later_step < TimeDelta::zero() { 450 } else { 250 });
    }
}

#[tokio::test]
async fn an_end_that_was_set_meanwhile_moves_too() {
    let (bench, transactions, grants) = interrupted().await;
    bench.step(-HOUR).await;
    transactions.interrupt(2, Interruption::Extension(grants[0].clone()));
    bench.accept().await.unwrap();
    let expected = end_of(&grants[0]) + TimeDelta::days(1) - HOUR - MARGIN;
    assert_eq!(bench.end(&grants[0]).await, expected);
}

#[tokio::test]
async fn a_grant_that_was_ended_meanwhile_stays_ended() {
    for (index, number) in [(0, 2), (449, 1)] {
        let (bench, transactions, grants) = interrupted().await;
        bench.step(-HOUR).await;
        transactions.interrupt(number, Interruption::Revocation(grants[index].clone()));
        bench.accept().await.unwrap();
        let id = grants[index].grant.id();
        let events = bench.events().await;
        let last = events.iter().rfind(|event| event.grant_id() == Some(id)).unwrap();
        assert_eq!(last.kind.name(), "expired");
    }
}

#[tokio::test]
async fn a_repeated_request_returns_the_first_acceptance() {
    let bench = Bench::new().await;
    bench.grant(10).await.unwrap();
    bench.step(-HOUR).await;
    let accept = async |reason: &str| {
        let request_id = Some(RequestId::new("a").unwrap());
        let request = AcceptClockRequest { request_id, reason: FreeText::new(reason).unwrap() };
        let deadline = Instant::now() + Duration::from_secs(10);
        bench.service.accept_clock(&caller(), request, deadline).await
    };
    let first = accept("x").await.unwrap();
    assert_eq!(first.moved_count, 1);
    let events = bench.events().await;
    assert_eq!(accept("x").await.unwrap(), first);
    assert_eq!(bench.events().await, events);
    assert!(matches!(accept("y").await, Err(ServiceError::RequestIdReused)));
}

#[tokio::test]
async fn every_replica_follows_an_accepted_clock() {
    for step in [-HOUR, HOUR] {
        let first = Bench::new().await;
        let grant = first.grant(10).await.unwrap();
        let second = Bench::start(Arc::clone(&first.clock), Arc::clone(&first.store)).await;
        let ahead = second.clock.now() + HOUR;
        first.step(step).await;
        second.renew().await;
        assert_unreliable(&second.grant(1).await);
        first.accept().await.unwrap();

        // A record from before must not return as the trusted time.
        record(&second.store, ahead).await;
        let new = second.grant(1).await.unwrap();
        assert_eq!(new.grant.terms.start_time, second.clock.now(), "a change waits for the epoch");
        let revoke = RevokeRequest::default();
        let revoked =
            second.service.revoke_access(&caller(), &named(&grant), revoke, Instant::now()).await;
        let revoke_time = revoked.unwrap().grant.grant.terms.revoke_time;
        assert_eq!(revoke_time, Some(second.clock.now()));
        second.renew().await;
        assert_eq!(second.latest(), second.clock.now());

        let third = Bench::start(Arc::clone(&first.clock), Arc::clone(&first.store)).await;
        assert!(third.grant(1).await.is_ok(), "a replica that starts later");
    }
}

#[tokio::test]
async fn the_verification_accepts_a_history_whose_time_went_back() {
    let bench = Bench::new().await;
    bench.grant(10).await.unwrap();
    bench.step(-HOUR).await;
    bench.accept().await.unwrap();
    bench.grant(10).await.unwrap();
    let Bench { service, clock, store, replica, _stop } = bench;
    let service = Arc::new(service);
    support_access::service::verification::Verification::new(Arc::clone(&service)).run_pass().await;
    assert_eq!(service.verification().unwrap().breaks, Some(0));
    drop((clock, store, replica));
}
