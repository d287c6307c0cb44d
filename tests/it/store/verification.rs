//! The verifying replica detects changes of the history.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::FutureExt;
use support_access::{
    domain::{
        LockTarget, NodeId, NodeKind, Party, SupportPolicy,
        chain::{Hash, to_canonical},
        clock::ManualClock,
        time::from_parts,
    },
    node::{CheckNode, replica::Replica},
    service::{
        Limits, Service,
        verification::{self, Verification, VerificationStatus},
    },
    store::{Store, memory::MemoryStore},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::store::{
    bench::Bench,
    locks::{locked, new_lock, unlocked},
    samples::{begin, extended, grant_of, granted, make_grant, new_grant, revoked, tenant},
};

/// The service of a registered node that runs no background task.
async fn service(clock: &Arc<ManualClock>, store: &Arc<Store>, id: Uuid) -> Arc<Service> {
    let max_staleness = Duration::from_mins(5);
    let node = CheckNode::new(NodeId(id), NodeKind::Replica, Arc::clone(clock) as _);
    let replica = Replica::new(node, Arc::clone(store), max_staleness);
    replica.join().await.unwrap();
    let limits = Limits { live_grants_per_tenant: 10, live_grants_per_group: 10, max_staleness };
    Arc::new(Service::new(replica, SupportPolicy::default(), limits))
}

async fn service_of(bench: &Bench, store: &Arc<Store>) -> Arc<Service> {
    service(&bench.clock, store, Uuid::new_v4()).await
}

fn status(service: &Service) -> VerificationStatus {
    service.verification().expect("this replica verifies")
}

async fn breaks(verification: &mut Verification, service: &Service) -> u64 {
    verification.run_pass().await;
    status(service).breaks.expect("a pass has ended")
}

/// The breaks that a process finds in its first pass.
async fn first_breaks(service: &Arc<Service>) -> u64 {
    breaks(&mut Verification::new(Arc::clone(service)), service).await
}

pub async fn a_changed_history_is_detected_until_it_is_restored(bench: &Bench) {
    let store = bench.open().await;
    let service = service_of(bench, &store).await;
    assert_eq!(service.verification(), None);
    assert_eq!(first_breaks(&service).await, 0, "an empty history verifies");
    assert!(status(&service).completed_at.is_some());
    for tenant_id in ["acme", "bolt", "acme", "Zoë & söhne", "acme"] {
        make_grant(store.as_ref(), tenant_id, "support").await;
    }
    assert_eq!(first_breaks(&service).await, 0);
    assert_eq!(status(&service).events, 5);

    for (change, undo) in [
        (
            "UPDATE events SET reason = 'x' || reason WHERE revision = 3",
            "UPDATE events SET reason = substr(reason, 2) WHERE revision = 3",
        ),
        (
            "UPDATE events SET body = replace(body, 'support', 'others') WHERE revision = 2",
            "UPDATE events SET body = replace(body, 'others', 'support') WHERE revision = 2",
        ),
        (
            "UPDATE events SET sequence = 9 WHERE revision = 5",
            "UPDATE events SET sequence = 3 WHERE revision = 5",
        ),
        (
            "UPDATE events SET tenant_id = 'cask' WHERE revision = 2",
            "UPDATE events SET tenant_id = 'bolt' WHERE revision = 2",
        ),
    ] {
        bench.forge(change).await;
        assert_eq!(first_breaks(&service).await, 1, "{change}");
        bench.forge(undo).await;
        assert_eq!(first_breaks(&service).await, 0, "{undo}");
    }
    bench.forge("UPDATE events SET actor = 'mallory' WHERE revision < 3").await;
    assert_eq!(first_breaks(&service).await, 2, "two chains are broken");
}

/// The remaining records match their hashes. Only the count of events differs.
pub async fn a_truncated_history_is_detected(bench: &Bench) {
    let store = bench.open().await;
    let service = service_of(bench, &store).await;
    for tenant_id in ["acme", "bolt", "acme", "bolt"] {
        make_grant(store.as_ref(), tenant_id, "support").await;
    }
    bench.forge("DELETE FROM events WHERE revision = 3").await;
    assert_eq!(first_breaks(&service).await, 1, "the end of a chain is missing");
    bench.forge("DELETE FROM events WHERE revision = 1").await;
    assert_eq!(first_breaks(&service).await, 1, "a whole chain is missing");
}

/// Computes new hashes for all records of a history, so that the history verifies.
async fn rehash(bench: &Bench, store: &Store, tenant_id: &str) {
    let mut previous = Hash::ZERO;
    for record in store.history().records(Some(&tenant(tenant_id)), 0, 99).await.unwrap() {
        let mut line: serde_json::Value = serde_json::from_str(&record.line).unwrap();
        line["previous_hash"] = previous.to_string().into();
        line.as_object_mut().unwrap().remove("hash");
        previous = Hash::of(&to_canonical(&line).unwrap());
        let is_postgres = bench.url.starts_with("postgres");
        let hash = if is_postgres {
            format!("decode('{previous}', 'hex')")
        } else {
            format!("x'{previous}'")
        };
        let revision = record.revision;
        bench.forge(format!("UPDATE events SET hash = {hash} WHERE revision = {revision}")).await;
    }
}

/// An attacker who owns the database can compute new hashes. The history then verifies, and only a
/// process that has verified the earlier history notices.
pub async fn a_rewritten_history_is_detected_by_the_process_that_verified_it_before(bench: &Bench) {
    let store = bench.open().await;
    let service = service_of(bench, &store).await;
    for tenant_id in ["acme", "bolt", "acme", "bolt"] {
        make_grant(store.as_ref(), tenant_id, "support").await;
    }
    let mut verification = Verification::new(Arc::clone(&service));
    assert_eq!(breaks(&mut verification, &service).await, 0);
    make_grant(store.as_ref(), "acme", "support").await;
    assert_eq!(breaks(&mut verification, &service).await, 0, "new events are no rewrite");
    bench.forge("UPDATE events SET actor = 'mallory' WHERE revision = 3").await;
    rehash(bench, store.as_ref(), "acme").await;
    assert_eq!(breaks(&mut verification, &service).await, 1);
    make_grant(store.as_ref(), "bolt", "support").await;
    assert_eq!(breaks(&mut verification, &service).await, 1, "later passes report the break");
    assert_eq!(first_breaks(&service).await, 0, "a new process finds matching hashes");
}

/// The pass continues after a chain with an invalid id.
pub async fn a_chain_with_an_invalid_tenant_id_is_one_break(bench: &Bench) {
    let store = bench.open().await;
    let service = service_of(bench, &store).await;
    for tenant_id in ["acme", "bolt", "cask"] {
        make_grant(store.as_ref(), tenant_id, "support").await;
    }
    bench.forge("UPDATE events SET tenant_id = 'b  ' WHERE revision = 2").await;
    assert_eq!(first_breaks(&service).await, 1);
    bench.forge("UPDATE events SET actor = 'mallory' WHERE revision = 3").await;
    assert_eq!(first_breaks(&service).await, 2);
}

async fn differences(service: &Arc<Service>) -> u64 {
    Verification::new(Arc::clone(service)).run_pass().await;
    let status = status(service);
    assert_eq!(status.breaks, Some(0), "all chains verify");
    status.differences.expect("a pass has ended")
}

/// Changes, deletions and insertions by the owner of the tables.
pub async fn a_row_that_differs_from_the_history_is_detected_until_it_is_restored(bench: &Bench) {
    let store = bench.open().await;
    let service = service_of(bench, &store).await;
    let mut change = begin(store.as_ref()).await;
    let now = change.now();
    for _ in 0..2 {
        let grant = change.append(granted(new_grant("acme", "support", now))).await.unwrap();
        change.append(extended(&grant_of(&grant), None)).await.unwrap();
    }
    let ended = change.append(granted(new_grant("acme", "support", now))).await.unwrap();
    change.append(revoked(&grant_of(&ended), now)).await.unwrap();
    for tenant_id in [None, Some("acme")] {
        let lock = new_lock(tenant_id, LockTarget::Everything, Party::Vendor, now);
        let lock = change.append(locked(lock)).await.unwrap();
        if tenant_id.is_some() {
            change.append(unlocked(lock.kind.lock().unwrap(), now)).await.unwrap();
        }
    }
    change.commit().await.unwrap();
    assert_eq!(differences(&service).await, 0);

    for table in ["grants", "locks", "events"] {
        bench.forge(format!("CREATE TABLE saved_{table} AS SELECT * FROM {table}")).await;
    }
    for (table, forgery, expected) in [
        (
            "grants",
            "UPDATE grants SET revoke_time = NULL, revoker = NULL, revoke_reason = NULL, \
             ended_sequence = NULL WHERE create_sequence = 5",
            1,
        ),
        ("grants", "UPDATE grants SET access_level = 3 WHERE create_sequence < 5", 2),
        ("grants", "UPDATE grants SET expire_time = 1, ended_sequence = sequence", 3),
        ("grants", "UPDATE grants SET sequence = sequence - 1 WHERE create_sequence = 1", 1),
        ("grants", "UPDATE grants SET reason = 'x' WHERE create_sequence = 1", 1),
        ("grants", "UPDATE grants SET agent_ids = '[3]' WHERE create_sequence = 1", 1),
        (
            "grants",
            r#"UPDATE grants SET agent_kinds = '[{"agent_kind":"AI"}]' WHERE create_sequence = 1"#,
            1,
        ),
        ("grants", "UPDATE grants SET create_revision = 99 WHERE create_sequence = 1", 1),
        ("grants", "DELETE FROM grants WHERE create_sequence = 1", 1),
        // The grant of the tenant is missing, and the other tenant has one too many.
        ("grants", "UPDATE grants SET tenant_id = 'bolt' WHERE create_sequence = 1", 2),
        ("locks", "DELETE FROM locks", 2),
        ("locks", "UPDATE locks SET expire_time = 1 WHERE ended_sequence IS NULL", 1),
        (
            "locks",
            "UPDATE locks SET unlock_time = NULL, unlocker = NULL, unlock_reason = NULL, \
             ended_sequence = NULL WHERE ended_sequence IS NOT NULL",
            1,
        ),
        ("locks", "UPDATE locks SET target = 'group_id', target_id = 'x' WHERE tenant_id = ''", 1),
        // These columns are not part of the chain, but find the last event about a row.
        ("events", "UPDATE events SET kind = 'extended' WHERE sequence = 1 AND tenant_id <> ''", 1),
        ("events", "UPDATE events SET grant_id = 'x' WHERE sequence = 6", 2),
    ] {
        bench.forge(forgery).await;
        assert_eq!(differences(&service).await, expected, "{forgery}");
        let restore =
            format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM saved_{table}");
        bench.forge(restore).await;
        assert_eq!(differences(&service).await, 0, "after {forgery}");
    }
}

/// The records before and after the restore do not match, although no record was changed.
#[tokio::test(start_paused = true)]
async fn a_restore_during_a_pass_is_no_break() {
    let clock = Arc::new(ManualClock::at(from_parts(1_800_000_000, 0).unwrap()));
    let memory = Arc::new(MemoryStore::new(clock.clone()));
    let store = Store::new(memory.clone());
    let service = service(&clock, &store, Uuid::new_v4()).await;
    let grants = async |count: usize| {
        for _ in 0..count {
            clock.pass(Duration::from_millis(1));
            make_grant(store.as_ref(), "acme", "support").await;
        }
    };
    grants(25).await;
    let backup = memory.backup().unwrap();
    grants(425).await;
    let restore = async {
        while service.verification().is_none_or(|status| status.events == 0) {
            tokio::time::sleep(Duration::from_millis(1)).await; // virtual time
        }
        assert!(status(&service).completed_at.is_none(), "the pass has not ended");
        memory.restore(backup);
        // Later events take the revisions of the lost ones.
        clock.pass(Duration::from_hours(1));
        grants(200).await;
    };
    let mut verification = Verification::new(service.clone());
    tokio::join!(verification.run_pass(), restore);
    let status = status(&service);
    assert!(status.completed_at.is_some());
    assert_eq!(
        (status.breaks, status.events),
        (Some(0), 50 + 225),
        "the pass reads one page before the restore, and all events after it"
    );
}

/// The member with the smallest node id verifies.
#[tokio::test(start_paused = true)]
async fn one_replica_verifies_and_another_takes_over() {
    let clock = Arc::new(ManualClock::at(from_parts(1_800_000_000, 0).unwrap()));
    let store = Store::new(Arc::new(MemoryStore::new(clock.clone())));
    make_grant(store.as_ref(), "acme", "support").await;
    let [first, second, third] = [1, 2, 3].map(Uuid::from_u128);
    let replicas = [service(&clock, &store, third).await, service(&clock, &store, second).await];
    let stop = CancellationToken::new();
    let run = |service: &Arc<Service>| {
        verification::run(Arc::clone(service), Duration::from_hours(1), stop.clone())
    };
    let mut running = pin!(futures::future::join_all(replicas.iter().map(run)).fuse());
    let mut verifying = async |replicas: &[Arc<Service>]| {
        tokio::select! {
            _ = &mut running => panic!("the verification runs until it is stopped"),
            // Longer than the interval between two reads of the membership.
            () = tokio::time::sleep(Duration::from_secs(90)) => {} // virtual time
        }
        let breaks = |service: &Arc<Service>| service.verification().map(|status| status.breaks);
        replicas.iter().map(breaks).collect::<Vec<_>>()
    };
    assert_eq!(verifying(&replicas).await, [None, Some(Some(0))], "the smallest id verifies");

    evict(&store, second).await;
    assert_eq!(verifying(&replicas).await, [Some(Some(0)), None], "the other takes over");

    let _smaller = service(&clock, &store, first).await;
    assert_eq!(verifying(&replicas).await, [None, None], "a new replica has a smaller id");

    evict(&store, first).await;
    assert_eq!(
        verifying(&replicas).await,
        [Some(Some(0)), None],
        "the smallest remaining id verifies again"
    );
}

async fn evict(store: &Arc<Store>, id: Uuid) {
    let list = store.membership().members().await.unwrap();
    let member = list.members.iter().find(|member| member.node_id == NodeId(id)).unwrap();
    assert!(store.membership().evict(NodeId(id), member.heartbeat_seq).await.unwrap());
}
