//! What is promised of locks.

use chrono::TimeDelta;
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use support_access::{
    domain::{
        Attribution, EventKind, FreeText, Lock, LockId, LockTarget, LockTerms, Party, Time,
        lock::Lifting,
    },
    store::{EventQuery, LockQuery, NewEvent, Store, Transaction},
};
use uuid::Uuid;

use crate::{
    bench::Bench,
    history::{AGENTS, GROUPS, TENANTS, around},
    model::Model,
    samples::{actor, agent, begin, events_of, group, make_grant, tenant},
};

/// A lock that was not made yet: until it is lifted.
pub fn new_lock(target: LockTarget, side: Party, now: Time) -> Lock {
    Lock {
        terms: LockTerms { lock_id: LockId(Uuid::now_v7()), target, side, expire_time: None },
        reason: FreeText::new("stolen\nlaptop").unwrap(),
        create_time: now,
        creator: actor("operator"),
        lifting: None,
        create_revision: 0,
        revision: 0,
    }
}

fn on(tenant_id: &str) -> LockTarget {
    LockTarget::Tenant(tenant(tenant_id))
}

fn entry(lock: Lock, kind: fn(Lock) -> EventKind) -> NewEvent {
    NewEvent {
        tenant_id: lock.tenant_id().cloned(),
        author: Attribution::direct(actor("operator")),
        reason: FreeText::new("because").unwrap(),
        kind: kind(lock),
        request: None,
    }
}

pub fn locked(lock: Lock) -> NewEvent {
    entry(lock, |lock| EventKind::Locked { lock })
}

pub fn unlocked(lock: &Lock, now: Time) -> NewEvent {
    let reason = FreeText::new("found again").unwrap();
    let lifting = Some(Lifting { time: now, actor: actor("other"), reason });
    entry(Lock { lifting, ..lock.clone() }, |lock| EventKind::Unlocked { lock })
}

pub fn lock_expired(lock: &Lock) -> NewEvent {
    entry(lock.clone(), |lock| EventKind::LockExpired { lock })
}

pub fn all_locks(now: Time) -> LockQuery {
    LockQuery { tenant_id: None, include_ended: true, now, before: None, limit: 1_000_000 }
}

async fn append(change: &mut dyn Transaction, entry: NewEvent) -> Lock {
    change.append(entry).await.unwrap().kind.lock().unwrap().clone()
}

/// Sets a lock in a change of its own.
async fn set(store: &dyn Store, target: LockTarget, side: Party) -> Lock {
    let mut change = begin(store).await;
    let lock = new_lock(target, side, change.now());
    let lock = append(change.as_mut(), locked(lock)).await;
    change.commit().await.unwrap();
    lock
}

// === random histories ===

pub fn random_entry(rng: &mut StdRng, model: &Model, now: Time) -> NewEvent {
    let live = model.live_locks();
    match (live.choose(rng), rng.random_range(0..10)) {
        (Some(lock), 0 | 1) => unlocked(lock, now),
        // Also such as have not come to their end by our clock: the database's may be ahead.
        (Some(lock), 2..5) if lock.terms.expire_time.is_some() => lock_expired(lock),
        _ => {
            let target = match rng.random_range(0..6) {
                0 => LockTarget::Everything,
                1 => LockTarget::Agent(agent(AGENTS.choose(rng).unwrap())),
                2 => LockTarget::Group(group(GROUPS.choose(rng).unwrap())),
                _ => on(TENANTS.choose(rng).unwrap()),
            };
            let is_tenants = target.tenant_id().is_some() && rng.random_bool(0.5);
            let side = if is_tenants { Party::Tenant } else { Party::Vendor };
            let mut lock = new_lock(target, side, now);
            lock.terms.expire_time = rng.random_bool(0.7).then(|| around(rng, now));
            locked(lock)
        }
    }
}

/// What a change reads must include what it appended.
pub async fn check_change(change: &mut dyn Transaction, model: &Model, rng: &mut StdRng) {
    let tenant_id = rng.random_bool(0.5).then(|| tenant(TENANTS.choose(rng).unwrap()));
    for side in [Party::Tenant, Party::Vendor] {
        let mut live = model.live_locks();
        live.retain(|lock| lock.terms.side == side);
        live.retain(|lock| tenant_id.is_none() || lock.tenant_id() == tenant_id.as_ref());
        let count = change.count_live_locks(side, tenant_id.as_ref()).await.unwrap();
        assert_eq!(count, live.len(), "{side:?} {tenant_id:?}");
    }
    let (now, limit) = (around(rng, change.now()), rng.random_range(0..20));
    assert_eq!(change.due_locks(now, limit).await.unwrap(), model.due_locks(now, limit));
    if let Some((lock, _)) = model.locks().choose(rng) {
        assert_eq!(change.lock(lock.id()).await.unwrap().as_ref(), Some(lock));
    }
}

pub fn random_lock_query(rng: &mut StdRng, model: &Model, now: Time) -> LockQuery {
    LockQuery {
        tenant_id: rng.random_bool(0.5).then(|| tenant(TENANTS.choose(rng).unwrap())),
        include_ended: rng.random_bool(0.5),
        now: around(rng, now),
        before: rng.random_bool(0.3).then(|| rng.random_range(0..=model.head() + 1)),
        limit: *[0, 1, 5, 1_000, usize::MAX].choose(rng).unwrap(),
    }
}

// === cases ===

pub async fn locks_are_read_as_they_were_written(bench: &Bench) {
    let store = bench.open().await;
    let mut change = begin(store.as_ref()).await;
    let now = change.now();
    let targets = [
        on("Ünïcode & 'co'"),
        LockTarget::Agent(agent("d'arcy")),
        LockTarget::Group(group("支援")),
        LockTarget::Everything,
    ];
    let mut set = Vec::new();
    for target in targets {
        let mut lock = new_lock(target, Party::Vendor, now);
        lock.terms.expire_time = Some(now + TimeDelta::microseconds(1));
        let lock = append(change.as_mut(), locked(lock)).await;
        assert_eq!((lock.create_revision, lock.revision), (lock.revision, change_len(&set) + 1));
        set.push(lock);
    }
    let lifted = append(change.as_mut(), unlocked(&set[0], now)).await;
    assert_eq!((lifted.create_revision, lifted.revision), (1, 5));
    let over = append(change.as_mut(), lock_expired(&set[1])).await;
    assert_eq!(store.queries().locks(&all_locks(now)).await.unwrap(), [], "not committed yet");
    change.commit().await.unwrap();

    let all = store.queries().locks(&all_locks(now)).await.unwrap();
    assert_eq!(all, [set[3].clone(), set[2].clone(), over.clone(), lifted.clone()]);
    let mut loaded = store.log().load(&mut |_, _, _| panic!("a grant")).await.unwrap();
    loaded.locks.sort_by_key(|terms| terms.lock_id);
    assert_eq!(loaded.locks, [set[2].terms.clone(), set[3].terms.clone()]);
    assert_eq!(loaded.position.revision, 6);
    assert_eq!(store.queries().next_expiry().await.unwrap(), set[2].terms.expire_time);

    // Locks on a tenant are in its history, all others in the vendor's own.
    let of = |tenant_id| EventQuery { tenant_id, grant_id: None, before: None, limit: 99 };
    let revisions = async |query: EventQuery| -> Vec<_> {
        let events = events_of(store.queries().events(&query).await.unwrap());
        events.into_iter().map(|event| event.revision).collect()
    };
    assert_eq!(revisions(of(None)).await, [6, 4, 3, 2]);
    assert_eq!(revisions(of(lifted.tenant_id().cloned())).await, [5, 1]);
}

fn change_len(locks: &[Lock]) -> i64 {
    locks.len().try_into().unwrap()
}

pub async fn pages_show_each_lock_once_while_others_are_set(bench: &Bench) {
    let store = bench.open().await;
    let mut expected = Vec::new();
    for number in 0..7 {
        let target = if number % 2 == 0 { on("acme") } else { LockTarget::Everything };
        expected.insert(0, set(store.as_ref(), target, Party::Vendor).await);
    }
    for tenant_id in [None, Some(tenant("acme"))] {
        let mut query = LockQuery { limit: 2, tenant_id, ..all_locks(expected[0].create_time) };
        let mut pages = Vec::new();
        loop {
            let page = store.queries().locks(&query).await.unwrap();
            let Some(last) = page.last() else { break };
            query.before = Some(last.create_revision);
            pages.extend(page);
            set(store.as_ref(), on("acme"), Party::Tenant).await;
        }
        let mut expected = expected.clone();
        expected.retain(|lock| {
            query.tenant_id.is_none() || lock.tenant_id() == query.tenant_id.as_ref()
        });
        pages.retain(|lock| lock.terms.side == Party::Vendor);
        assert_eq!(pages, expected);
    }
}

pub async fn a_lock_must_be_one_that_has_not_ended(bench: &Bench) {
    let store = bench.open().await;
    make_grant(store.as_ref(), "acme", "support").await;
    let lock = set(store.as_ref(), on("acme"), Party::Tenant).await;
    let unknown = new_lock(on("acme"), Party::Tenant, lock.create_time);
    let mut change = begin(store.as_ref()).await;
    assert!(change.append(unlocked(&unknown, lock.create_time)).await.is_err());
    assert!(change.commit().await.is_err(), "a part of an event is never committed");

    let mut change = begin(store.as_ref()).await;
    let now = change.now();
    let lock = append(change.as_mut(), unlocked(&lock, now)).await;
    assert!(change.append(lock_expired(&lock)).await.is_err(), "it has ended");
    drop(change);
    assert_eq!(store.log().head().await.unwrap().revision, 2);
}

pub async fn locks_only_end_and_are_never_deleted(bench: &Bench) {
    let store = bench.open().await;
    let held = set(store.as_ref(), LockTarget::Everything, Party::Vendor).await;
    let lock = set(store.as_ref(), on("acme"), Party::Tenant).await;
    let mut change = begin(store.as_ref()).await;
    let now = change.now();
    let ended = append(change.as_mut(), unlocked(&lock, now)).await;
    change.commit().await.unwrap();
    for sql in [
        "DELETE FROM locks",
        "UPDATE locks SET body = '{}' WHERE ended_revision IS NULL",
        "UPDATE locks SET expire_time = 1, ended_revision = 9 WHERE ended_revision IS NULL",
        "UPDATE locks SET ended_revision = NULL WHERE ended_revision IS NOT NULL",
        "UPDATE locks SET ended_revision = 9 WHERE ended_revision IS NOT NULL",
        "UPDATE locks SET tenant_id = 'other', ended_revision = 9 WHERE ended_revision IS NULL",
    ] {
        let complaint = bench.sql(sql).await.expect_err(sql).to_string();
        assert!(complaint.contains("history is permanent"), "{sql}: {complaint}");
    }
    let only_here = if bench.url.starts_with("postgres") {
        "TRUNCATE locks"
    } else {
        "INSERT OR REPLACE INTO locks SELECT * FROM locks"
    };
    let complaint = bench.sql(only_here).await.expect_err(only_here).to_string();
    assert!(complaint.contains("history is permanent"), "{complaint}");
    store.close().await;
    let store = bench.open().await;
    assert_eq!(store.queries().locks(&all_locks(now)).await.unwrap(), [ended, held]);
}
