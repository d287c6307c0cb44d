//! Repeated SIGKILL during concurrent grants, extensions and revocations.

use std::{collections::HashSet, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use support_access::{
    domain::{GrantTerms, NodeId, NodeKind, TenantId, TokenKey},
    node::{CheckNode, Snapshot, message::Change, replica::Replica},
    server::SystemClock,
    store::{self, Retained},
};
use tokio::{sync::watch, time::timeout};
use uuid::Uuid;

use crate::{
    common::event_key::event_key_file,
    crash::{backend::Backend, expected_state::ExpectedState, server::Server},
};

const ROUNDS: usize = 8;
const ADMINISTRATORS: usize = 4;

#[test]
fn acknowledged_changes_survive_sigkill_on_sqlite() {
    kill_repeatedly(&Backend::sqlite());
}

#[test]
fn acknowledged_changes_survive_sigkill_on_postgres() {
    kill_repeatedly(&Backend::postgres());
}

#[tokio::main]
async fn kill_repeatedly(backend: &Backend) {
    let seed =
        std::env::var("CRASH_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut states: Vec<ExpectedState> =
        (0..ADMINISTRATORS).map(|number| ExpectedState::new(&format!("tenant-{number}"))).collect();
    for _ in 0..ROUNDS {
        let mut server =
            Server::start_with(&backend.database_url(), &["--max-live-grants-per-group", "10000"]);
        let mut admin = server.admin().await;
        for state in &mut states {
            state.verify(&mut admin).await;
        }
        states = change_and_kill(&mut server, states, &mut random).await;
    }
    let server =
        Server::start_with(&backend.database_url(), &["--max-live-grants-per-group", "10000"]);
    let mut admin = server.admin().await;
    for state in &mut states {
        state.verify(&mut admin).await;
    }
    drop(server);
    let acknowledged: usize = states.iter().map(ExpectedState::acknowledged).sum();
    println!("{acknowledged} changes were acknowledged in {ROUNDS} rounds");
    assert!(acknowledged > ROUNDS * ADMINISTRATORS, "the rounds must include enough changes");
    assert_log_is_complete(backend, &states).await;
}

/// Makes changes as every administrator, and kills the server after a random number of changes.
async fn change_and_kill(
    server: &mut Server,
    states: Vec<ExpectedState>,
    random: &mut StdRng,
) -> Vec<ExpectedState> {
    let before: usize = states.iter().map(ExpectedState::acknowledged).sum();
    let target = random.random_range(5..60);
    let (progress, mut count) = watch::channel(0);
    let progress = Arc::new(progress);
    let mut workers = Vec::new();
    for mut state in states {
        let mut admin = server.admin().await;
        let mut random = StdRng::seed_from_u64(random.random());
        let progress = Arc::clone(&progress);
        workers.push(tokio::spawn(async move {
            state.make_changes(&mut admin, &mut random, &progress).await;
            state
        }));
    }
    let enough = count.wait_for(|count| *count >= target);
    timeout(Duration::from_mins(1), enough).await.expect("changes succeed").unwrap();
    server.kill();
    let mut states = Vec::new();
    for worker in workers {
        states.push(worker.await.unwrap());
    }
    let after: usize = states.iter().map(ExpectedState::acknowledged).sum();
    assert!(after >= before + target);
    states
}

/// Asserts that revisions are contiguous, and that a new replica's state equals the replayed log.
async fn assert_log_is_complete(backend: &Backend, states: &[ExpectedState]) {
    let url = backend.database_url();
    let store = store::open(&url, Arc::new(SystemClock), event_key_file(&url)).await.unwrap();
    let events = store.log().events_after(0, usize::MAX >> 1).await.unwrap();
    let revisions: Vec<i64> = events.iter().map(|event| event.revision).collect();
    let head = store.log().head().await.unwrap().revision;
    assert_eq!(revisions, (1..=head).collect::<Vec<_>>());
    let grants = events.iter().filter_map(|event| event.kind.grant());
    let written: HashSet<_> =
        grants.map(|grant| (grant.tenant_id.to_string(), grant.etag())).collect();
    let mut acknowledged = HashSet::new();
    for change in states.iter().flat_map(ExpectedState::etags) {
        assert!(written.contains(&change), "the log must contain {change:?}");
        assert!(acknowledged.insert(change.clone()), "each etag identifies one change: {change:?}");
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
    let grants =
        snapshot.iter().map(|(owner, grants, terms)| (owner.clone(), grants, terms.clone()));
    let mut grants: Vec<_> = grants.collect();
    grants.sort_by_key(|(_, _, terms)| terms.grant_id);
    grants
}
