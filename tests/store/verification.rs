//! That a server finds out by itself that its history was changed.

use std::{sync::Arc, time::Duration};

use support_access::{
    domain::{NodeId, NodeKind, SupportPolicy, clock::ManualClock, time::from_parts},
    node::{CheckNode, replica::Replica},
    service::{
        Limits, Service,
        verification::{History, Verified},
    },
    store::{Store, memory::MemoryStore},
};

use crate::{bench::Bench, samples::make_grant};

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

fn disarm(bench: &Bench) -> &'static str {
    if bench.url.starts_with("postgres") {
        "ALTER TABLE events DISABLE TRIGGER ALL; ALTER TABLE chain DISABLE TRIGGER ALL"
    } else {
        "DROP TRIGGER events_are_never_updated; DROP TRIGGER chain_is_never_updated; \
         DROP TRIGGER chain_is_never_deleted; DROP TRIGGER events_are_never_deleted"
    }
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

    bench.sql(disarm(bench)).await.unwrap();
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
            "UPDATE chain SET sequence = 9 WHERE revision = 5",
            "UPDATE chain SET sequence = 3 WHERE revision = 5",
        ),
        (
            "UPDATE chain SET tenant_id = 'cask' WHERE revision = 2",
            "UPDATE chain SET tenant_id = 'bolt' WHERE revision = 2",
        ),
    ] {
        bench.sql(change).await.unwrap();
        assert_eq!(breaks(&mut History::new(work.clone()), &work).await, 1, "{change}");
        bench.sql(undo).await.unwrap();
        assert_eq!(breaks(&mut History::new(work.clone()), &work).await, 0, "{undo}");
    }
    bench.sql("UPDATE events SET actor = 'nobody' WHERE revision < 3").await.unwrap();
    assert_eq!(breaks(&mut History::new(work.clone()), &work).await, 2, "two chains");
}

/// What is left fits together: only the log lacks something.
pub async fn a_history_that_was_cut_short_is_noticed(bench: &Bench) {
    let store = bench.open().await;
    let work = work(&bench.clock, &store).await;
    for tenant_id in ["acme", "bolt", "acme", "bolt"] {
        make_grant(store.as_ref(), tenant_id, "support").await;
    }
    bench.sql(disarm(bench)).await.unwrap();
    bench.sql("DELETE FROM chain WHERE revision = 3").await.unwrap();
    assert_eq!(breaks(&mut History::new(work.clone()), &work).await, 1, "the end of a chain");
    bench.sql("DELETE FROM chain WHERE revision = 1").await.unwrap();
    assert_eq!(breaks(&mut History::new(work.clone()), &work).await, 1, "a whole chain");
}

/// Whoever has the database can make new hashes, and need not even do so: what lacks its link is taken for an older version's.
/// Everything fits together then, and only who has seen it before can tell.
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
    bench.sql(disarm(bench)).await.unwrap();
    bench.sql("UPDATE events SET actor = 'mallory' WHERE revision >= 3").await.unwrap();
    bench.sql("DELETE FROM chain WHERE revision >= 3").await.unwrap();
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
    bench.sql(disarm(bench)).await.unwrap();
    let rename = "UPDATE chain SET tenant_id = 'b  ' WHERE revision = 2";
    bench.sql(rename).await.unwrap();
    assert_eq!(breaks(&mut History::new(work.clone()), &work).await, 1);
    bench.sql("UPDATE events SET actor = 'mallory' WHERE revision = 3").await.unwrap();
    assert_eq!(breaks(&mut History::new(work.clone()), &work).await, 2);
}

pub async fn tenants_with_a_history_are_told_in_order(bench: &Bench) {
    let store = bench.open().await;
    assert_eq!(store.history().tenant_after("").await.unwrap(), None);
    for tenant_id in ["bolt", "acme", "Zoë & söhne", "bolt", "_"] {
        make_grant(store.as_ref(), tenant_id, "support").await;
    }
    let mut told: Vec<String> = Vec::new();
    while let Some(next) =
        store.history().tenant_after(told.last().map_or("", |it| it)).await.unwrap()
    {
        told.push(next);
    }
    assert_eq!(told, ["Zoë & söhne", "_", "acme", "bolt"]);
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
