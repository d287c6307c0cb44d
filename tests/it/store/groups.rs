//! Changes that share a transaction: each is as if alone, and all are committed or none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{
    FutureExt,
    future::{BoxFuture, Either, join, join_all, select},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use support_access::{
    domain::{
        AccessLevel, Caller, End, Event, FreeText, GrantRequest, Revision, Ticket,
        clock::ManualClock, time::from_micros,
    },
    service::ServiceError,
    store::{RequestPart, Store, StoreError, Transaction, Transactions, memory::MemoryStore},
};
use tokio::time::{Instant, advance, timeout};

use crate::store::{
    bench::Bench,
    faults::{own_cluster, recovers},
    forged_events::Running,
    history::seeded,
    samples::{begin, granted, group, key, make_grant, new_grant, tenant},
};

/// Counts the transactions of the database.
struct Counted {
    inner: Arc<Store>,
    begins: AtomicUsize,
}

#[async_trait]
impl Transactions for Counted {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        self.begins.fetch_add(1, Ordering::SeqCst);
        self.inner.begin().await
    }
}

/// A store in memory that commits in groups, and the number of its transactions.
fn counted() -> (Arc<Store>, Arc<Counted>) {
    let clock = Arc::new(ManualClock::at(from_micros(1_700_000_000_000_000).unwrap()));
    let inner = Store::new(Arc::new(MemoryStore::new(clock)));
    let counted = Arc::new(Counted { inner: inner.clone(), begins: AtomicUsize::new(0) });
    (inner.with_transactions(counted.clone()).with_groups(), counted)
}

/// Polls a future once.
fn is_waiting(future: &mut (impl Future + Unpin)) -> bool {
    future.now_or_never().is_none()
}

pub async fn append_grant(
    change: &mut dyn Transaction,
    tenant_id: &str,
) -> Result<Event, StoreError> {
    let now = change.now();
    change.append(granted(new_grant(tenant_id, "support", now))).await
}

/// A change of one event, and the revision that the commit returned.
async fn change(store: &Store, tenant_id: &str) -> Result<(Event, Revision), StoreError> {
    let mut change = store.begin().await?;
    let event = append_grant(change.as_mut(), tenant_id).await?;
    Ok((event, change.commit().await?))
}

#[tokio::test(start_paused = true)]
async fn changes_that_wait_are_committed_together() {
    let (store, counted) = counted();
    let mut first = begin(&store).await;
    let event = append_grant(first.as_mut(), "acme").await.unwrap();
    let mut others = join_all((0..10).map(|_| change(&store, "acme"))).boxed();
    assert!(is_waiting(&mut others), "the others wait");
    let (committed, others) = tokio::join!(first.commit(), others);
    assert_eq!((event.revision, committed.unwrap()), (1, 1));
    for (other, revision) in others.into_iter().zip(2..) {
        let (event, committed) = other.unwrap();
        assert_eq!((event.revision, event.sequence, committed), (revision, revision, revision));
    }
    assert_eq!(counted.begins.load(Ordering::SeqCst), 1, "one transaction");
    assert_eq!(store.log().head().await.unwrap().revision, 11);
}

#[tokio::test(start_paused = true)]
async fn a_group_is_bounded_in_changes_and_in_time() {
    let (store, counted) = counted();
    let first = begin(&store).await;
    let mut others = join_all((0..100).map(|_| change(&store, "acme"))).boxed();
    assert!(is_waiting(&mut others), "the others wait");
    let (_, others) = tokio::join!(first.commit(), others);
    assert!(others.iter().all(Result::is_ok));
    assert_eq!(counted.begins.load(Ordering::SeqCst), 2, "at most 64 changes in a group");

    let first = begin(&store).await;
    let mut other = change(&store, "acme").boxed();
    assert!(is_waiting(&mut other), "the other waits");
    advance(Duration::from_millis(50)).await;
    let (_, other) = tokio::join!(first.commit(), other);
    assert!(other.is_ok());
    assert_eq!(counted.begins.load(Ordering::SeqCst), 4, "no change joins after 20 ms");
}

#[tokio::test(start_paused = true)]
async fn a_change_that_asks_for_it_is_alone() {
    let (store, counted) = counted();
    let mut first = begin(&store).await;
    append_grant(first.as_mut(), "acme").await.unwrap();
    let mut alone = async {
        let change = store.begin_alone().await.unwrap();
        assert_eq!(store.log().head().await.unwrap().revision, 1, "the first is committed");
        change.commit().await
    }
    .boxed();
    assert!(is_waiting(&mut alone), "the change waits");
    let mut last = change(&store, "acme").boxed();
    assert!(is_waiting(&mut last), "the last change waits");
    let (first, alone, last) = tokio::join!(first.commit(), alone, last);
    assert_eq!((first.unwrap(), alone.unwrap(), last.unwrap().1), (1, 1, 2));
    assert_eq!(counted.begins.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_caller_does_not_hold_up_the_others() {
    let (store, _) = counted();
    let first = begin(&store).await;
    let mut cancelled = change(&store, "acme").boxed();
    let mut other = change(&store, "bolt").boxed();
    assert!(is_waiting(&mut cancelled) && is_waiting(&mut other));
    // The turn of the cancelled change comes, and the change is not polled again.
    let mut committing = first.commit();
    assert!(is_waiting(&mut committing));
    drop(cancelled);
    let (first, other) = tokio::join!(committing, other);
    assert_eq!((first.unwrap(), other.unwrap().1), (0, 1));
    assert_eq!(store.log().events_after(0, 9).await.unwrap().len(), 1);
}

/// Two changes in one group: the first waits for its commit, and the second is open.
pub struct Pair {
    pub first: BoxFuture<'static, Result<Revision, StoreError>>,
    pub second: Box<dyn Transaction>,
}

impl Pair {
    /// Tries again if the machine was so slow that the second change did not join.
    pub async fn begin(store: &Store) -> Self {
        loop {
            let mut first = begin(store).await;
            append_grant(first.as_mut(), "acme").await.unwrap();
            let mut second = store.begin().boxed();
            assert!(is_waiting(&mut second), "the second waits");
            let Either::Left((second, first)) = select(second, first.commit()).await else {
                continue;
            };
            let mut second = second.unwrap();
            if store.log().head().await.unwrap().revision < second.head() {
                append_grant(second.as_mut(), "bolt").await.unwrap();
                return Self { first, second };
            }
        }
    }
}

pub async fn a_change_that_fails_after_a_write_is_rolled_back_with_its_group(bench: &Bench) {
    let store = bench.open().await;
    let Pair { first, second } = Pair::begin(&store).await;
    let mut third = change(&store, "cobalt").boxed();
    assert!(is_waiting(&mut third), "the third waits");
    let head = store.log().head().await.unwrap().revision;
    drop(second);
    let (first, third) = tokio::join!(first, third);
    assert!(first.unwrap_err().is_rolled_back());
    assert_eq!(third.unwrap().1, head + 1, "the third begins a transaction");
    let mut alone = store.begin_alone().await.unwrap();
    assert_eq!(append_grant(alone.as_mut(), "acme").await.unwrap().revision, head + 2);
    assert_eq!(alone.commit().await.unwrap(), head + 2);
}

pub async fn a_change_sees_the_earlier_ones_of_its_group(bench: &Bench) {
    let store = bench.open().await;
    let Pair { first, mut second } = Pair::begin(&store).await;
    let head = second.head();
    let seen = second.live_grants(&tenant("acme"), None, 1).await.unwrap();
    assert_eq!(seen[0].create_sequence, head, "the grant of the first change");
    let event = append_grant(second.as_mut(), "acme").await.unwrap();
    assert_eq!((event.sequence, event.revision), (head + 1, head + 2));
    let key = key(Some("acme"), "r", 1);
    second.record_request(&key, 0).await.unwrap();
    let (first, second) = tokio::join!(first, second.commit());
    assert_eq!((first.unwrap(), second.unwrap()), (head, head + 2));
    let mut later = begin(&store).await;
    let parts = later.request(Some(&tenant("acme")), &key.request_id).await.unwrap();
    let part = |part: &RequestPart| (part.first_revision, part.last_revision);
    assert_eq!(parts.iter().map(part).collect::<Vec<_>>(), [(head + 1, head + 2)]);
}

/// Makes random changes, some of which are dropped or cancelled. Returns the events of each
/// confirmed change, and the number of changes that were cancelled.
async fn random_changes(store: &Store, mut rng: StdRng) -> (Vec<Event>, usize) {
    let (mut confirmed, mut cancelled) = (Vec::new(), 0);
    let mut is_alone = false;
    for _ in 0..25 {
        let limit = Duration::from_micros(rng.random_range(0..60_000));
        let (events, is_dropped) = (rng.random_range(0..3), rng.random_bool(0.1));
        let work = async {
            let mut change =
                if is_alone { store.begin_alone().await? } else { store.begin().await? };
            let (head, mut written) = (change.head(), Vec::new());
            for _ in 0..events {
                let event = append_grant(change.as_mut(), ["acme", "bolt"][events % 2]).await?;
                written.push(event);
            }
            if is_dropped {
                return Ok::<_, StoreError>(Vec::new());
            }
            let last = change.commit().await?;
            assert_eq!(last, written.last().map_or(head, |event| event.revision));
            assert!(written.iter().map(|event| event.revision).eq(head + 1..=last));
            Ok(written)
        };
        match timeout(limit, work).await {
            Ok(Ok(written)) => {
                confirmed.extend(written);
                is_alone = false;
            }
            Ok(Err(error)) => {
                assert!(error.is_rolled_back() && !is_alone, "{error:?}");
                is_alone = true;
            }
            Err(_) => cancelled += 1,
        }
    }
    (confirmed, cancelled)
}

pub async fn random_changes_are_as_if_each_were_alone(bench: &Bench) {
    let store = bench.open().await;
    let mut rng = seeded();
    let tasks = (0..8).map(|_| random_changes(&store, StdRng::seed_from_u64(rng.random())));
    let done = join_all(tasks).await;
    let cancelled: usize = done.iter().map(|(_, cancelled)| cancelled).sum();
    let confirmed: Vec<_> = done.into_iter().flat_map(|(confirmed, _)| confirmed).collect();
    println!("{} events of confirmed changes, {cancelled} changes cancelled", confirmed.len());
    make_grant(&store, "acme", "support").await;
    let events = store.log().events_after(0, 10_000).await.unwrap();
    let revisions = events.iter().map(|event| event.revision);
    assert!(revisions.eq(1..=store.log().head().await.unwrap().revision), "without a gap");
    assert!(events.is_sorted_by_key(|event| event.time));
    assert!(confirmed.iter().all(|event| events.contains(event)), "no confirmed event is lost");
    assert!(events.len() <= confirmed.len() + 2 * cancelled + 1, "and none appears twice");
    // The histories are chained without a gap.
    for tenant_id in ["acme", "bolt"] {
        let of_tenant = events.iter().filter(|event| event.tenant_id == Some(tenant(tenant_id)));
        assert!(of_tenant.zip(1..).all(|(event, sequence)| event.sequence == sequence));
    }
}

pub fn grant_request(tenant_id: &str) -> GrantRequest {
    GrantRequest {
        request_id: None,
        tenant_id: tenant(tenant_id),
        group_id: group("support"),
        agent_ids: [].into(),
        access_level: AccessLevel::ReadOnly,
        agent_kinds: None,
        start_time: None,
        end: End::UntilRevoked,
        reason: FreeText::default(),
        ticket: Ticket::default(),
    }
}

/// The database rejects the events of one tenant.
pub async fn changes_succeed_although_another_change_of_their_group_fails(bench: &Bench) {
    let store = bench.open().await;
    let running = Running::start(bench, &store).await;
    let reject = if bench.url.starts_with("postgres") {
        "ALTER TABLE events ADD CONSTRAINT reject CHECK (tenant_id <> 'broken')"
    } else {
        "CREATE TRIGGER reject BEFORE INSERT ON events WHEN NEW.tenant_id = 'broken' \
         BEGIN SELECT RAISE(ABORT, 'rejected'); END"
    };
    bench.sql(reject).await.unwrap();
    let caller = Caller::local(None).unwrap();
    let grant =
        |tenant_id| running.service.grant_access(&caller, grant_request(tenant_id), Instant::now());
    // Also as the last change of a group.
    let tenants = ["acme", "bolt", "acme", "broken"].repeat(16);
    let results = join_all(tenants.iter().copied().map(grant)).await;
    for (tenant_id, result) in tenants.iter().zip(&results) {
        let is_rejected =
            matches!(result, Err(ServiceError::Store(error)) if !error.is_rolled_back());
        assert_eq!(is_rejected, *tenant_id == "broken", "{result:?}");
    }
    assert_eq!(store.log().head().await.unwrap().revision, 48);
}

/// The database is killed before the `COMMIT` of a group, or while it is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_of_the_database_loses_a_group_as_a_whole_and_no_confirmed_change() {
    let (cluster, bench) = own_cluster();
    let store = bench.open().await;
    let mut rng = seeded();
    for round in 0..6 {
        let before = recovers(&store).await;
        let Pair { first, second } = Pair::begin(&store).await;
        let head = second.head() - 1;
        let mut both = join(first, second.commit()).boxed();
        let mut done = None;
        if round > 0 {
            let limit = Duration::from_micros(rng.random_range(0..5_000));
            done = timeout(limit, &mut both).await.ok();
        }
        cluster.kill();
        let (first, second) = match done {
            Some(done) => done,
            None => both.await,
        };
        cluster.start();
        let after = recovers(&store).await - 1;
        let is_kept = after == head + 2;
        println!("round {round}: before {before}, kept: {is_kept}, {first:?}, {second:?}");
        assert!(is_kept || after == head, "the group is kept or lost as a whole: {after}");
        assert!(is_kept || (first.is_err() && second.is_err()), "a confirmed change is kept");
        assert!(round > 0 || !is_kept, "without a COMMIT, nothing is kept");
    }
}
