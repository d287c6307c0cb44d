//! The contract of the membership.

use std::time::Duration;

use chrono::TimeDelta;
use support_access::{
    domain::{Ack, Epoch, NodeId, NodeInfo, NodeKind, Position, time::from_micros},
    store::{HeartbeatResponse, Member, Registration, Store},
};
use tokio::time::timeout;
use uuid::Uuid;

use crate::store::{
    bench::Bench,
    samples::{ack, begin, make_grant, member, new_node, trusted_time},
};

/// Registers a node, and returns the id.
pub async fn registered(store: &Store) -> NodeId {
    let id = new_node();
    store.membership().register(&member(id)).await.unwrap();
    id
}

/// The row of a node.
pub async fn row(store: &Store, id: NodeId) -> Option<Member> {
    let members = store.membership().members().await.unwrap().members;
    members.into_iter().find(|member| member.node_id == id)
}

async fn followers_of(store: &Store, id: NodeId) -> Vec<NodeInfo> {
    let rows = store.membership().read_followers().await.unwrap();
    rows.into_iter().find(|(node_id, _)| *node_id == id).expect("the node is a member").1
}

async fn heartbeat(store: &Store, id: NodeId, held: Option<Position>) -> HeartbeatResponse {
    store.membership().heartbeat(id, 0, held).await.unwrap().expect("the node has a row")
}

pub async fn a_node_is_a_member_until_its_eviction(bench: &Bench) {
    let store = bench.open().await;
    assert_eq!(store.membership().members().await.unwrap().members, []);
    let id = registered(store.as_ref()).await;
    let other = registered(store.as_ref()).await;
    let new = row(store.as_ref(), id).await.unwrap();
    let nothing = Ack { revision: 0, nodes: 0, nodes_lapsed: 0 };
    assert_eq!((new.heartbeat_seq, new.ack, new.version.as_str()), (0, nothing, "1.2.3"));
    assert_eq!(followers_of(store.as_ref(), id).await, []);
    assert!(new.heartbeat_age < Duration::from_secs(10), "{new:?}");

    heartbeat(store.as_ref(), id, None).await;
    assert!(!store.membership().evict(id, 0).await.unwrap(), "the heartbeat number has changed");
    assert_eq!(row(store.as_ref(), id).await.unwrap().heartbeat_seq, 1);
    assert!(store.membership().evict(id, 1).await.unwrap());
    assert!(!store.membership().evict(id, 1).await.unwrap(), "the row is already deleted");
    assert_eq!(row(store.as_ref(), id).await, None);

    // After the eviction, the node must register again.
    let held = store.log().head().await.unwrap();
    assert_eq!(store.membership().heartbeat(id, 0, Some(held)).await.unwrap(), None);
    assert!(!store.membership().acknowledge(id, held, ack(0)).await.unwrap());
    store.membership().write_followers(id, &[]).await.unwrap();
    assert_eq!(row(store.as_ref(), id).await, None, "only a registration adds a row");
    store.membership().register(&member(id)).await.unwrap();
    assert_eq!(row(store.as_ref(), id).await.unwrap().heartbeat_seq, 0);
    assert_eq!(
        row(store.as_ref(), other).await.unwrap().heartbeat_seq,
        0,
        "the other row is unchanged"
    );
}

/// As if the response to the first registration was lost.
pub async fn a_second_registration_keeps_the_heartbeat_seq(bench: &Bench) {
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    let held = grant_and_head(store.as_ref()).await;
    heartbeat(store.as_ref(), id, None).await;
    assert!(store.membership().acknowledge(id, held, ack(1)).await.unwrap());
    store.membership().write_followers(id, &[follower(id)]).await.unwrap();
    let again = Registration {
        version: "1.2.4".into(),
        max_staleness: Duration::from_mins(1),
        ..member(id)
    };
    store.membership().register(&again).await.unwrap();
    let row = row(store.as_ref(), id).await.unwrap();
    assert_eq!(row.heartbeat_seq, 1, "other nodes watch this value");
    assert_eq!(row.ack, Ack { revision: 0, nodes: 0, nodes_lapsed: 0 });
    assert_eq!(row.version, "1.2.4");
    assert_eq!(followers_of(store.as_ref(), id).await, []);
    assert_eq!(store.membership().members().await.unwrap().max_staleness, Duration::from_mins(1));
}

async fn grant_and_head(store: &Store) -> Position {
    make_grant(store, "acme", "support").await;
    store.log().head().await.unwrap()
}

/// Positions that are not in the log that ends at `head`, each with the difference.
pub fn foreign_positions(head: Position) -> [(Position, &'static str); 5] {
    let later = head.time.map(|time| time + TimeDelta::microseconds(1));
    let epoch = Epoch(Uuid::new_v4());
    [
        (Position { time: later, ..head }, "another event of the same revision"),
        (Position { time: None, ..head }, "no time"),
        (Position { epoch, ..head }, "another log"),
        (Position { epoch, revision: 0, time: None }, "the beginning of another log"),
        (Position { revision: head.revision + 1, ..head }, "an event after the head"),
    ]
}

pub async fn a_heartbeat_returns_the_head_and_whether_the_position_is_in_the_log(bench: &Bench) {
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    let beginning = store.log().head().await.unwrap();
    assert_eq!((beginning.revision, beginning.time), (0, None));
    let first = heartbeat(store.as_ref(), id, None).await;
    assert_eq!((first.head, first.is_in_log), (beginning, false));
    assert!(heartbeat(store.as_ref(), id, Some(beginning)).await.is_in_log);

    let position = grant_and_head(store.as_ref()).await;
    let events = store.log().events_after(0, 9).await.unwrap();
    assert_eq!((position.revision, position.time), (1, Some(events[0].time)));
    assert_eq!(position.epoch, beginning.epoch, "the epoch is kept");
    assert_eq!(store.log().load(&mut |_, _, _| {}).await.unwrap().position, position);
    let last = grant_and_head(store.as_ref()).await;
    for held in [beginning, position, last] {
        let response = heartbeat(store.as_ref(), id, Some(held)).await;
        assert_eq!((response.head, response.is_in_log), (last, true), "{held:?}");
        assert!(Some(response.now) >= last.time && response.now >= first.now);
    }
    for (held, difference) in foreign_positions(last) {
        let response = heartbeat(store.as_ref(), id, Some(held)).await;
        assert_eq!((response.head, response.is_in_log), (last, false), "{difference}");
    }
    assert_eq!(
        row(store.as_ref(), id).await.unwrap().heartbeat_seq,
        10,
        "each call was a heartbeat"
    );
    assert_eq!(store.membership().members().await.unwrap().head, last);
}

pub async fn acknowledgements_never_decrease_and_are_of_this_log(bench: &Bench) {
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    let beginning = store.log().head().await.unwrap();
    let first = grant_and_head(store.as_ref()).await;
    let last = grant_and_head(store.as_ref()).await;
    assert!(store.membership().acknowledge(id, beginning, ack(0)).await.unwrap());
    assert!(store.membership().acknowledge(id, first, ack(1)).await.unwrap());
    for (held, difference) in foreign_positions(last) {
        assert!(
            !store.membership().acknowledge(id, held, ack(held.revision)).await.unwrap(),
            "{difference}"
        );
    }
    assert!(
        !store.membership().acknowledge(id, first, ack(2)).await.unwrap(),
        "the acknowledgement exceeds the held position"
    );
    assert_eq!(row(store.as_ref(), id).await.unwrap().ack, ack(1));
    assert!(store.membership().acknowledge(id, last, ack(2)).await.unwrap());
    assert!(
        !store.membership().acknowledge(id, first, ack(1)).await.unwrap(),
        "the row has a later acknowledgement"
    );
    assert!(!store.membership().acknowledge(id, beginning, ack(0)).await.unwrap());
    let fewer = Ack { nodes: 1, ..ack(2) };
    assert!(
        store.membership().acknowledge(id, last, fewer).await.unwrap(),
        "the same revision, for fewer nodes"
    );
    let row = row(store.as_ref(), id).await.unwrap();
    assert_eq!((row.ack, row.heartbeat_seq), (fewer, 0), "an acknowledgement is no heartbeat");
    assert!(
        !store.membership().acknowledge(new_node(), last, ack(2)).await.unwrap(),
        "the node is no member"
    );
}

/// The `max_staleness` of the next transaction, in seconds.
async fn longest_staleness(store: &Store) -> u64 {
    begin(store).await.max_staleness().as_secs()
}

async fn register_for(store: &Store, seconds: u64) -> NodeId {
    let id = new_node();
    let max_staleness = Duration::from_secs(seconds);
    store.membership().register(&Registration { max_staleness, ..member(id) }).await.unwrap();
    id
}

pub async fn a_transaction_knows_the_longest_max_staleness_of_the_members(bench: &Bench) {
    let store = bench.open().await;
    assert_eq!(longest_staleness(store.as_ref()).await, 0);
    let short = register_for(store.as_ref(), 2).await;
    assert_eq!(longest_staleness(store.as_ref()).await, 2);
    let open = begin(store.as_ref()).await;
    let long = {
        let registering = register_for(store.as_ref(), 30);
        tokio::pin!(registering);
        let early = timeout(Duration::from_millis(300), &mut registering).await;
        assert!(early.is_err(), "a registration waits for an open transaction");
        assert_eq!(open.max_staleness(), Duration::from_secs(2));
        drop(open);
        registering.await
    };
    assert_eq!(longest_staleness(store.as_ref()).await, 30);
    register_for(store.as_ref(), 3).await;
    assert_eq!(longest_staleness(store.as_ref()).await, 30);
    for id in [short, long] {
        assert!(store.membership().evict(id, 0).await.unwrap());
    }
    assert_eq!(longest_staleness(store.as_ref()).await, 3, "the longest of the remaining members");
    register_for(store.as_ref(), 1).await;
    assert_eq!(longest_staleness(store.as_ref()).await, 3);
    assert_eq!(store.membership().members().await.unwrap().max_staleness, Duration::from_secs(3));
    make_grant(store.as_ref(), "acme", "support").await;
    assert_eq!(longest_staleness(store.as_ref()).await, 3, "a transaction keeps the value");
}

/// An operator replaces the epoch after a restore.
pub async fn a_new_epoch_is_noticed_by_the_next_heartbeat(bench: &Bench) {
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    let old = grant_and_head(store.as_ref()).await;
    let loaded = store.log().load(&mut |_, _, _| {}).await.unwrap();
    assert_eq!(loaded.position, old);
    let log = store.history().chain_head(None).await.unwrap().log;

    let epoch = store.log().replace_epoch().await.unwrap();
    assert_ne!(epoch, old.epoch);
    let new = Position { epoch, ..old };
    assert_eq!(store.log().head().await.unwrap(), new);
    let response = heartbeat(store.as_ref(), id, Some(old)).await;
    assert_eq!((response.head, response.is_in_log), (new, false));
    assert!(!store.membership().acknowledge(id, old, ack(1)).await.unwrap());
    let reloaded = store.log().load(&mut |_, _, _| {}).await.unwrap();
    assert_eq!(reloaded.position, new);
    assert_ne!(reloaded.token_key, loaded.token_key);
    assert!(heartbeat(store.as_ref(), id, Some(new)).await.is_in_log);
    assert!(store.membership().acknowledge(id, new, ack(1)).await.unwrap());

    let head = store.history().chain_head(None).await.unwrap();
    assert_eq!(head.log, log, "the name of the log is permanent");
    assert_eq!(grant_and_head(store.as_ref()).await.epoch, epoch);
}

fn follower(upstream: NodeId) -> NodeInfo {
    NodeInfo {
        node_id: new_node(),
        kind: NodeKind::Sidecar,
        version: "1.2.3-ünïcode \"'".into(),
        upstream: Some(upstream),
        revision: 7,
        lease_age: Some(Duration::from_micros(1_234_567)),
        silent_for: Duration::ZERO,
    }
}

pub async fn followers_are_kept_until_the_next_write(bench: &Bench) {
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    let other = registered(store.as_ref()).await;
    let followers = [follower(id), NodeInfo { lease_age: None, ..follower(id) }];
    store.membership().write_followers(id, &followers).await.unwrap();
    heartbeat(store.as_ref(), id, None).await;
    assert_eq!(followers_of(store.as_ref(), id).await, followers);
    assert_eq!(
        row(store.as_ref(), id).await.unwrap().heartbeat_seq,
        1,
        "a write of followers is no heartbeat"
    );
    store.membership().write_followers(id, &followers[1..]).await.unwrap();
    assert_eq!(followers_of(store.as_ref(), id).await, followers[1..]);
    assert_eq!(followers_of(store.as_ref(), other).await, []);
}

/// An open transaction does not lock the rows of nodes.
pub async fn nodes_send_heartbeats_while_a_transaction_is_open(bench: &Bench) {
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    let held = store.log().head().await.unwrap();
    if bench.url.starts_with("sqlite") {
        return; // SQLite has one writer, so that nodes wait for the commit
    }
    let change = begin(store.as_ref()).await;
    assert!(heartbeat(store.as_ref(), id, Some(held)).await.is_in_log);
    assert!(store.membership().acknowledge(id, held, ack(0)).await.unwrap());
    change.commit().await.unwrap();
    let row = row(store.as_ref(), id).await.unwrap();
    assert_eq!((row.heartbeat_seq, row.ack), (1, ack(0)), "the commit keeps the concurrent writes");
}

pub async fn the_age_of_a_heartbeat_is_measured_by_one_clock(bench: &Bench) {
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    let age = async || row(store.as_ref(), id).await.unwrap().heartbeat_age;
    if bench.url.starts_with("postgres") {
        let set = "UPDATE members SET heartbeat_time = heartbeat_time - 7000000";
        bench.sql(set).await.unwrap();
    } else {
        bench.clock.pass(Duration::from_secs(7));
    }
    let seconds = age().await.as_secs();
    assert!((7..17).contains(&seconds), "{seconds}");
    heartbeat(store.as_ref(), id, None).await;
    assert!(age().await < Duration::from_secs(5));
    bench.clock.set(TimeDelta::seconds(-3_600));
    assert!(age().await < Duration::from_secs(5), "an age is never negative");
}

pub async fn the_trusted_time_never_decreases(bench: &Bench) {
    let store = bench.open().await;
    let id = registered(store.as_ref()).await;
    let membership = store.membership();
    assert_eq!(trusted_time(store.as_ref()).await, None);
    let at = |micros| from_micros(micros).unwrap();
    for (recorded, expected) in [(5, 5), (3, 5), (5, 5), (9, 9)] {
        membership.record_trusted_time(at(recorded), 0).await.unwrap();
        assert_eq!(trusted_time(store.as_ref()).await, Some(at(expected)));
    }
    assert!(membership.evict(id, 0).await.unwrap());
    assert_eq!(trusted_time(store.as_ref()).await, Some(at(9)), "outlives all members");
}
