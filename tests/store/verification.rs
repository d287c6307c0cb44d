//! That a server finds out by itself that its history was changed.

use std::{sync::Arc, time::Duration};

use support_access::{
    domain::{
        NodeId, NodeKind, SupportPolicy,
        chain::{Hash, to_canonical},
        clock::ManualClock,
        time::from_parts,
    },
    node::{CheckNode, replica::Replica},
    service::{
        Limits, Service,
        verification::{History, Verified},
    },
    store::{Store, memory::MemoryStore},
};

use crate::{
    bench::Bench,
    samples::{make_grant, tenant},
};

/// What a server with this store does. It takes part in nothing else.
async fn work(clock: &Arc<ManualClock>, store: &Arc<dyn Store>) -> Arc<Service> {
    let max_staleness = Duration::from_mins(5);
    let node =
        CheckNode::new(NodeId(uuid::Uuid::new_v4()), NodeKind::Replica, Arc::clone(clock) as _);
    let replica = Replica::new(node, Arc::clone(store), max_staleness);
    replica.join().await.unwrap();
    let limits = Limits { live_grants_per_tenant: 10, max_staleness };
    Arc::new(Service::new(replica, SupportPolicy::default(), limits))
}

/// As a process sees it that has just begun, or has seen the history before.
async fn breaks(history: &mut History, work: &Service) -> u64 {
    history.verify().await;
    work.verified().breaks.expect("it has looked at all")
}

pub async fn a_changed_history_is_noticed_and_a_mended_one_too(bench: &Bench) {
    let store = bench.open().await;
    let work = work(&bench.clock, &store).await;
    assert_eq!(work.verified(), Verified::default());
    assert_eq!(breaks(&mut History::new(work.clone()), &work).await, 0, "nothing has happened yet");
    assert!(work.verified().at.is_some());
    for tenant_id in ["acme", "bolt", "acme", "Zoë & söhne", "acme"] {
        make_grant(store.as_ref(), tenant_id, "support").await;
    }
    assert_eq!(breaks(&mut History::new(work.clone()), &work).await, 0);
    assert_eq!(work.verified().events, 5);

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
        assert_eq!(breaks(&mut History::new(work.clone()), &work).await, 1, "{change}");
        bench.forge(undo).await;
        assert_eq!(breaks(&mut History::new(work.clone()), &work).await, 0, "{undo}");
    }
    bench.forge("UPDATE events SET actor = 'nobody' WHERE revision < 3").await;
    assert_eq!(breaks(&mut History::new(work.clone()), &work).await, 2, "two chains");
}

/// What is left fits together: only the log lacks something.
pub async fn a_history_that_was_cut_short_is_noticed(bench: &Bench) {
    let store = bench.open().await;
    let work = work(&bench.clock, &store).await;
    for tenant_id in ["acme", "bolt", "acme", "bolt"] {
        make_grant(store.as_ref(), tenant_id, "support").await;
    }
    bench.forge("DELETE FROM events WHERE revision = 3").await;
    assert_eq!(breaks(&mut History::new(work.clone()), &work).await, 1, "the end of a chain");
    bench.forge("DELETE FROM events WHERE revision = 1").await;
    assert_eq!(breaks(&mut History::new(work.clone()), &work).await, 1, "a whole chain");
}

/// New hashes for all records of a history, so that they verify.
async fn rehash(bench: &Bench, store: &dyn Store, tenant_id: &str) {
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
/// process that has verified the old one notices.
pub async fn a_history_that_was_written_anew_is_noticed_by_who_has_seen_it(bench: &Bench) {
    let store = bench.open().await;
    let work = work(&bench.clock, &store).await;
    for tenant_id in ["acme", "bolt", "acme", "bolt"] {
        make_grant(store.as_ref(), tenant_id, "support").await;
    }
    let mut history = History::new(work.clone());
    assert_eq!(breaks(&mut history, &work).await, 0);
    make_grant(store.as_ref(), "acme", "support").await;
    assert_eq!(breaks(&mut history, &work).await, 0, "it has grown");
    bench.forge("UPDATE events SET actor = 'mallory' WHERE revision >= 3").await;
    for tenant_id in ["acme", "bolt"] {
        rehash(bench, store.as_ref(), tenant_id).await;
    }
    assert_eq!(breaks(&mut history, &work).await, 1);
    make_grant(store.as_ref(), "bolt", "support").await;
    assert_eq!(breaks(&mut history, &work).await, 1, "it stays so");
    let mut stranger = History::new(work.clone());
    assert_eq!(breaks(&mut stranger, &work).await, 0, "it fits together");
}

/// What nobody can be called hides nobody who comes later.
pub async fn a_chain_of_nobody_is_one_break_and_no_more(bench: &Bench) {
    let store = bench.open().await;
    let work = work(&bench.clock, &store).await;
    for tenant_id in ["acme", "bolt", "cask"] {
        make_grant(store.as_ref(), tenant_id, "support").await;
    }
    bench.forge("UPDATE events SET tenant_id = 'b  ' WHERE revision = 2").await;
    assert_eq!(breaks(&mut History::new(work.clone()), &work).await, 1);
    bench.forge("UPDATE events SET actor = 'mallory' WHERE revision = 3").await;
    assert_eq!(breaks(&mut History::new(work.clone()), &work).await, 2);
}

/// What was read before and after does not fit together, and nobody has changed anything.
#[tokio::test(start_paused = true)]
async fn a_restore_in_the_middle_is_not_taken_for_a_change() {
    let clock = Arc::new(ManualClock::at(from_parts(1_800_000_000, 0).unwrap()));
    let memory = Arc::new(MemoryStore::new(clock.clone()));
    let store: Arc<dyn Store> = memory.clone();
    let work = work(&clock, &store).await;
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
        while work.verified().events == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await; // virtual, between two looks
        }
        assert!(work.verified().at.is_none(), "it is in the middle");
        memory.restore(backup);
        // Others take the places of those that were lost.
        clock.pass(Duration::from_hours(1));
        grants(200).await;
    };
    let mut history = History::new(work.clone());
    tokio::join!(history.verify(), restore);
    let verified = work.verified();
    assert!(verified.at.is_some());
    assert_eq!(
        (verified.breaks, verified.events),
        (Some(0), 50 + 225),
        "a page of what is lost, and all that there is"
    );
}
