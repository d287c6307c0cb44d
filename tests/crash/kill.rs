//! SIGKILL under concurrent grants, extensions and revocations, again and again.

use std::{collections::HashSet, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use support_access::{
    domain::{GrantTerms, NodeId, NodeKind, TenantId, TokenKey, clock::SystemClock},
    node::{CheckNode, Snapshot, message::Change, replica::Replica},
    store::{self, Retained},
};
use tokio::{sync::watch, time::timeout};
use uuid::Uuid;

use crate::{backend::Backend, expected_state::ExpectedState, server::Server};

const ROUNDS: usize = 8;
const ADMINISTRATORS: usize = 4;

#[test]
fn sqlite_keeps_what_was_acknowledged() {
    kill_again_and_again(&Backend::sqlite());
}

#[test]
fn postgres_keeps_what_was_acknowledged() {
    kill_again_and_again(&Backend::postgres());
}

#[tokio::main]
async fn kill_again_and_again(backend: &Backend) {
    let seed = std::env::var("CRASH_SEED").map_or_else(|_| rand::random(), |s| s.parse().unwrap());
    println!("CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut ledgers: Vec<ExpectedState> =
        (0..ADMINISTRATORS).map(|number| ExpectedState::new(&format!("tenant-{number}"))).collect();
    for _ in 0..ROUNDS {
        let mut server = Server::start(&backend.database_url());
        let mut admin = server.admin().await;
        for ledger in &mut ledgers {
            ledger.audit(&mut admin).await;
        }
        ledgers = one_life(&mut server, ledgers, &mut random).await;
    }
    let server = Server::start(&backend.database_url());
    let mut admin = server.admin().await;
    for ledger in &mut ledgers {
        ledger.audit(&mut admin).await;
    }
    drop(server);
    let acknowledged: usize = ledgers.iter().map(ExpectedState::acknowledged).sum();
    println!("{acknowledged} changes were acknowledged in {ROUNDS} lives");
    assert!(acknowledged > ROUNDS * ADMINISTRATORS, "the lives were too short to prove anything");
    the_log_is_whole(backend, &ledgers).await;
}

/// Lets every administrator work, and kills the server after a random number of changes.
async fn one_life(
    server: &mut Server,
    ledgers: Vec<ExpectedState>,
    random: &mut StdRng,
) -> Vec<ExpectedState> {
    let before: usize = ledgers.iter().map(ExpectedState::acknowledged).sum();
    let target = random.random_range(5..60);
    let (progress, mut made) = watch::channel(0);
    let progress = Arc::new(progress);
    let mut workers = Vec::new();
    for mut ledger in ledgers {
        let mut admin = server.admin().await;
        let mut random = StdRng::seed_from_u64(random.random());
        let progress = Arc::clone(&progress);
        workers.push(tokio::spawn(async move {
            ledger.work(&mut admin, &mut random, &progress).await;
            ledger
        }));
    }
    let enough = made.wait_for(|made| *made >= target);
    timeout(Duration::from_mins(1), enough).await.expect("changes are being made").unwrap();
    server.kill();
    let mut ledgers = Vec::new();
    for worker in workers {
        ledgers.push(worker.await.unwrap());
    }
    let after: usize = ledgers.iter().map(ExpectedState::acknowledged).sum();
    assert!(after >= before + target);
    ledgers
}

/// No revision is missing or doubled, and memory holds what the history replays to.
async fn the_log_is_whole(backend: &Backend, ledgers: &[ExpectedState]) {
    let store = store::open(&backend.database_url(), Arc::new(SystemClock)).await.unwrap();
    let events = store.log().events_after(0, usize::MAX >> 1).await.unwrap();
    let revisions: Vec<i64> = events.iter().map(|event| event.revision).collect();
    let head = store.log().head().await.unwrap().revision;
    assert_eq!(revisions, (1..=head).collect::<Vec<_>>());
    let grants = events.iter().filter_map(|event| event.kind.grant());
    let written: HashSet<_> =
        grants.map(|grant| (grant.tenant_id.to_string(), grant.etag())).collect();
    let mut acknowledged = HashSet::new();
    for change in ledgers.iter().flat_map(ExpectedState::etags) {
        assert!(written.contains(&change), "{change:?} is lost");
        assert!(acknowledged.insert(change.clone()), "{change:?} was given twice");
    }
    let mut replayed =
        Snapshot::beginning(store.log().head().await.unwrap().epoch, TokenKey([0; 16]));
    for event in &events {
        replayed.apply(&Change::from(event));
    }
    let node = CheckNode::new(NodeId(Uuid::new_v4()), NodeKind::Replica, Arc::new(SystemClock));
    Replica::new(node.clone(), store.clone(), Duration::from_secs(2)).join().await.unwrap();
    let view = node.view();
    assert_eq!(sorted(view.snapshot()), sorted(&replayed));
    assert_eq!(view.snapshot().gauges(), replayed.gauges());
    store.close().await;
}

fn sorted(snapshot: &Snapshot) -> Vec<(TenantId, Retained, GrantTerms)> {
    let held = snapshot.iter().map(|(owner, held, terms)| (owner.clone(), held, terms.clone()));
    let mut held: Vec<_> = held.collect();
    held.sort_by_key(|(_, _, terms)| terms.grant_id);
    held
}
