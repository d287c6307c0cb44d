//! The contract of locks.

use chrono::TimeDelta;
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use support_access::{
    domain::{
        AgentKind, EventKind, FreeText, Lock, LockId, LockTarget, LockTerms, Party, Time,
        lock::Lifting,
    },
    store::{LockFilter, LockQuery, NewEvent, QueryScope, Store, Transaction},
};
use uuid::Uuid;

use crate::store::{
    bench::Bench,
    history::{AGENTS, GROUPS, TENANTS, around, random_page, random_scope},
    model::Model,
    samples::{
        EVERYTHING, actor, agent, begin, events_in, events_of, group, items, make_grant, new_event,
        tenant,
    },
};

/// A new lock without an end time.
pub fn new_lock(tenant_id: Option<&str>, target: LockTarget, party: Party, now: Time) -> Lock {
    let (lock_id, tenant_id) = (LockId(Uuid::now_v7()), tenant_id.map(tenant));
    Lock {
        terms: LockTerms { lock_id, tenant_id, target, party, expire_time: None },
        reason: FreeText::new("stolen\nlaptop").unwrap(),
        create_time: now,
        creator: actor("operator"),
        lifting: None,
        is_expired: false,
        create_sequence: 0,
        sequence: 0,
    }
}

fn lock_event(lock: &Lock, kind: EventKind) -> NewEvent {
    new_event(lock.tenant_id().cloned(), kind)
}

pub fn locked(lock: Lock) -> NewEvent {
    lock_event(&lock.clone(), EventKind::Locked { lock })
}

pub fn unlocked(lock: &Lock, now: Time) -> NewEvent {
    let reason = FreeText::new("found again").unwrap();
    let lifting = Some(Lifting { time: now, actor: actor("other"), reason });
    let lock = Lock { lifting, ..lock.clone() };
    lock_event(&lock.clone(), EventKind::Unlocked { lock })
}

pub fn lock_expired(lock: &Lock) -> NewEvent {
    lock_event(lock, EventKind::LockExpired { lock: lock.clone() })
}

pub fn all_locks(now: Time) -> LockQuery {
    let filter = LockFilter { scope: QueryScope::All, include_ended: true };
    LockQuery { filter, now, page: EVERYTHING }
}

async fn append(change: &mut dyn Transaction, entry: NewEvent) -> Lock {
    change.append(entry).await.unwrap().kind.lock().unwrap().clone()
}

/// Creates a lock on everything in a separate transaction.
async fn create(store: &Store, tenant_id: Option<&str>, party: Party) -> Lock {
    let mut change = begin(store).await;
    let lock = new_lock(tenant_id, LockTarget::Everything, party, change.now());
    let lock = append(change.as_mut(), locked(lock)).await;
    change.commit().await.unwrap();
    lock
}

// === random histories ===

pub fn random_entry(rng: &mut StdRng, model: &Model, now: Time) -> NewEvent {
    let live = model.live_locks();
    match (live.choose(rng), rng.random_range(0..10)) {
        (Some(lock), 0 | 1) => unlocked(lock, now),
        // The clock of the database may be ahead of the test's, so that later ends are included.
        (Some(lock), 2..5) if lock.terms.expire_time.is_some() => lock_expired(lock),
        _ => {
            let target = match rng.random_range(0..6) {
                0 => LockTarget::AgentKind(*AgentKind::ALL.choose(rng).unwrap()),
                1 => LockTarget::Agent(agent(AGENTS.choose(rng).unwrap())),
                2 => LockTarget::Group(group(GROUPS.choose(rng).unwrap())),
                _ => LockTarget::Everything,
            };
            let tenant_id = rng.random_bool(0.5).then(|| *TENANTS.choose(rng).unwrap());
            let is_tenants = tenant_id.is_some() && rng.random_bool(0.5);
            let party = if is_tenants { Party::Tenant } else { Party::Vendor };
            let mut lock = new_lock(tenant_id, target, party, now);
            lock.terms.expire_time = rng.random_bool(0.7).then(|| around(rng, now));
            locked(lock)
        }
    }
}

/// The reads of a transaction must include its own events.
pub async fn check_change(change: &mut dyn Transaction, model: &Model, rng: &mut StdRng) {
    let tenant_id = rng.random_bool(0.5).then(|| tenant(TENANTS.choose(rng).unwrap()));
    for party in [Party::Tenant, Party::Vendor] {
        let mut live = model.live_locks();
        live.retain(|lock| lock.terms.party == party);
        live.retain(|lock| tenant_id.is_none() || lock.tenant_id() == tenant_id.as_ref());
        let count = change.count_live_locks(party, tenant_id.as_ref()).await.unwrap();
        assert_eq!(count, live.len(), "{party:?} {tenant_id:?}");
    }
    let (now, limit) = (around(rng, change.now()), rng.random_range(0..20));
    assert_eq!(change.due_locks(now, limit).await.unwrap(), model.due_locks(now, limit));
    if let Some(known) = model.locks().choose(rng) {
        assert_eq!(change.lock(known.item.id()).await.unwrap().as_ref(), Some(&known.item));
    }
}

pub fn random_lock_query(rng: &mut StdRng, model: &Model, now: Time) -> LockQuery {
    let filter = LockFilter { scope: random_scope(rng), include_ended: rng.random_bool(0.5) };
    LockQuery { filter, now: around(rng, now), page: random_page(rng, model) }
}

// === cases ===

pub async fn locks_are_read_as_written(bench: &Bench) {
    let store = bench.open().await;
    let mut change = begin(store.as_ref()).await;
    let now = change.now();
    let acme = Some("Ünïcode & 'co'");
    let targets = [
        (acme, LockTarget::Agent(agent("d'arcy"))),
        (None, LockTarget::Group(group("支援"))),
        (acme, LockTarget::AgentKind(AgentKind::Service)),
        (None, LockTarget::Everything),
    ];
    let mut locks = Vec::new();
    for ((tenant_id, target), sequence) in targets.into_iter().zip([1, 1, 2, 2]) {
        let mut lock = new_lock(tenant_id, target, Party::Vendor, now);
        lock.terms.expire_time = Some(now + TimeDelta::microseconds(1));
        let lock = append(change.as_mut(), locked(lock)).await;
        assert_eq!((lock.create_sequence, lock.sequence), (sequence, sequence));
        locks.push(lock);
    }
    let lifted = append(change.as_mut(), unlocked(&locks[0], now)).await;
    assert_eq!((lifted.create_sequence, lifted.sequence), (1, 3));
    let over = append(change.as_mut(), lock_expired(&locks[1])).await;
    assert_eq!(store.queries().locks(&all_locks(now)).await.unwrap(), [], "not committed yet");
    change.commit().await.unwrap();

    let all = items(store.queries().locks(&all_locks(now)).await.unwrap());
    assert_eq!(all, [locks[3].clone(), locks[2].clone(), over.clone(), lifted.clone()]);
    let mut loaded = store.log().load(&mut |_, _, _| panic!("a grant")).await.unwrap();
    loaded.locks.sort_by_key(|terms| terms.lock_id);
    assert_eq!(loaded.locks, [locks[2].terms.clone(), locks[3].terms.clone()]);
    assert_eq!(loaded.position.revision, 6);
    assert_eq!(store.queries().next_expiry().await.unwrap(), locks[2].terms.expire_time);

    // A lock with a tenant is in the tenant's history, any other lock in the vendor's.
    let revisions = async |scope| -> Vec<_> {
        let events = events_of(store.queries().events(&events_in(scope)).await.unwrap());
        events.into_iter().map(|event| event.revision).collect()
    };
    assert_eq!(revisions(QueryScope::Vendor).await, [6, 4, 2]);
    assert_eq!(revisions(QueryScope::of(lifted.tenant_id().cloned())).await, [5, 3, 1]);
    assert_eq!(revisions(QueryScope::All).await, [6, 5, 4, 3, 2, 1]);
}

pub async fn pages_show_each_lock_once_while_others_are_created(bench: &Bench) {
    let store = bench.open().await;
    let mut expected = Vec::new();
    for number in 0..7 {
        let tenant_id = (number % 2 == 0).then_some("acme");
        expected.insert(0, create(store.as_ref(), tenant_id, Party::Vendor).await);
    }
    let mut scopes = vec![QueryScope::All, QueryScope::Vendor];
    scopes.push(QueryScope::Tenant(tenant("acme")));
    for scope in scopes {
        let mut query = all_locks(expected[0].create_time);
        query.filter.scope = scope.clone();
        query.page.limit = 2;
        let mut pages = Vec::new();
        loop {
            let page = store.queries().locks(&query).await.unwrap();
            let Some(last) = page.last() else { break };
            query.page.after = Some(last.position);
            pages.extend(items(page));
            create(store.as_ref(), Some("acme"), Party::Tenant).await;
        }
        let mut expected = expected.clone();
        expected.retain(|lock| scope.includes(lock.tenant_id()));
        pages.retain(|lock| lock.terms.party == Party::Vendor);
        assert_eq!(pages, expected);
    }
}

pub async fn a_lock_event_must_be_about_a_live_lock(bench: &Bench) {
    let store = bench.open().await;
    make_grant(store.as_ref(), "acme", "support").await;
    let lock = create(store.as_ref(), Some("acme"), Party::Tenant).await;
    let now = lock.create_time;
    let unknown = new_lock(Some("acme"), LockTarget::Everything, Party::Tenant, now);
    let mut change = begin(store.as_ref()).await;
    assert!(change.append(unlocked(&unknown, now)).await.is_err());
    assert!(change.commit().await.is_err(), "a part of an event is never committed");

    let mut change = begin(store.as_ref()).await;
    let now = change.now();
    let lock = append(change.as_mut(), unlocked(&lock, now)).await;
    assert!(change.append(lock_expired(&lock)).await.is_err(), "the lock has ended");
    drop(change);
    assert_eq!(store.log().head().await.unwrap().revision, 2);
}
