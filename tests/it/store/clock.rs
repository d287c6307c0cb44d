//! The acceptance of the clock.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use support_access::{
    domain::{Event, NodeKind, Time},
    node::{CheckNode, replica::Replica},
    store::Store,
};

use crate::store::{
    bench::Bench,
    samples::{
        begin, clock_accepted, extended, grant_of, granted, make_grant, new_grant, new_node,
        revoked, trusted_time,
    },
};

/// Appends an event an hour after the clock, and returns the time of the event.
async fn append_ahead(store: &Store) -> Time {
    let mut change = begin(store).await;
    change.set_now(change.clock() + TimeDelta::hours(1));
    let event = change.append(granted(new_grant("acme", "support", change.now()))).await.unwrap();
    change.commit().await.unwrap();
    event.time
}

/// Accepts the clock, after another event of the same transaction.
async fn accept(store: &Store) -> Event {
    let mut change = begin(store).await;
    let grant = granted(new_grant("acme", "support", change.now()));
    assert_eq!(change.append(grant).await.unwrap().time, change.now());
    let event = change.append(clock_accepted(-3_600_000)).await.unwrap();
    assert_eq!((event.time, change.now()), (change.clock(), change.clock()));
    assert_eq!(change.commit().await.unwrap(), event.revision);
    event
}

pub async fn an_accepted_clock_may_be_earlier_and_begins_an_epoch(bench: &Bench) {
    let store = bench.open().await;
    let (log, membership) = (store.log(), store.membership());
    let ahead = append_ahead(store.as_ref()).await;
    let before = log.load(&mut |_, _, _| {}).await.unwrap();
    let old_epoch = before.position.epoch;
    membership.record_trusted_time(ahead, 0).await.unwrap();

    let accepted = accept(store.as_ref()).await;
    assert!(accepted.time < ahead);
    let after = log.load(&mut |_, _, _| {}).await.unwrap();
    let epoch = after.position.epoch;
    assert_eq!(after.position.time, Some(accepted.time));
    assert_eq!(after.position.revision, accepted.revision);
    assert_ne!(epoch, old_epoch);
    assert_ne!(after.token_key, before.token_key);
    assert_eq!(before.accepted_clocks, []);
    assert_eq!(after.accepted_clocks, [accepted.accepted_clock().unwrap()]);
    assert_eq!(after.trusted_time, Some(accepted.time));

    membership.record_trusted_time(ahead, 0).await.unwrap();
    let recorded = trusted_time(store.as_ref()).await;
    assert_eq!(recorded, Some(accepted.time), "a time from before the event");
    let later = accepted.time + TimeDelta::seconds(1);
    membership.record_trusted_time(later, accepted.revision).await.unwrap();
    assert_eq!(trusted_time(store.as_ref()).await, Some(later));

    let mut change = begin(store.as_ref()).await;
    assert_eq!(change.epoch(), epoch);
    assert_eq!(change.clock_events().await.unwrap(), std::slice::from_ref(&accepted));
    let next = change.append(granted(new_grant("acme", "support", later))).await.unwrap();
    assert!(next.time >= accepted.time && next.time < ahead, "{next:?}");
    change.commit().await.unwrap();
    let new_epoch = log.replace_epoch().await.unwrap();
    let restored = log.load(&mut |_, _, _| {}).await.unwrap();
    assert_eq!(restored.accepted_clocks, after.accepted_clocks, "a restore accepts no clock");
    assert_eq!(restored.trusted_time, Some(later));
    assert_ne!(new_epoch, epoch);
}

pub async fn a_dropped_acceptance_changes_nothing(bench: &Bench) {
    let store = bench.open().await;
    append_ahead(store.as_ref()).await;
    let before = store.log().load(&mut |_, _, _| {}).await.unwrap();
    let mut change = begin(store.as_ref()).await;
    change.append(clock_accepted(-1)).await.unwrap();
    drop(change);
    assert_eq!(store.log().load(&mut |_, _, _| {}).await.unwrap(), before);
}

pub async fn the_last_events_of_live_grants_are_read_in_pages(bench: &Bench) {
    let store = bench.open().await;
    let mut change = begin(store.as_ref()).await;
    let now = change.now();
    let mut events = Vec::new();
    for tenant_id in ["bolt", "acme", "bolt", "acme", "zeta"] {
        events.push(change.append(granted(new_grant(tenant_id, "support", now))).await.unwrap());
    }
    let positions: Vec<_> = events.iter().map(|event| event.revision).collect();
    let end = Some(now + TimeDelta::hours(2));
    events[1] = change.append(extended(&grant_of(&events[1]), end)).await.unwrap();
    change.append(revoked(&grant_of(&events[2]), now)).await.unwrap();
    let mut expected: Vec<_> = positions.into_iter().zip(events).collect();
    expected.remove(2);
    for limit in [1, 2, 100] {
        let (mut after, mut found) = (0, Vec::new());
        loop {
            let page = change.last_events_of_live_grants(after, limit).await.unwrap();
            assert!(page.len() <= limit);
            let Some(last) = page.last() else { break };
            after = last.position;
            found.extend(page.into_iter().map(|listed| (listed.position, listed.item)));
        }
        assert_eq!(found, expected);
    }
}

pub async fn only_an_accepted_clock_decreases_the_time(bench: &Bench) {
    let store = bench.open().await;
    append_ahead(store.as_ref()).await;
    let accepted = accept(store.as_ref()).await;
    let later = accepted.time + TimeDelta::seconds(9);
    store.membership().record_trusted_time(later, accepted.revision).await.unwrap();
    let epoch_and_key = "epoch = '01890a5d-ac96-774b-bcce-b302099a8057', token_key = ";
    let key = if bench.url.starts_with("postgres") {
        "decode('00112233445566778899aabbccddeeff', 'hex')"
    } else {
        "x'00112233445566778899aabbccddeeff'"
    };
    let micros = accepted.time.timestamp_micros();
    for sql in [
        // The event was accepted already.
        format!("UPDATE trusted_time SET time = {micros}"),
        format!("UPDATE trusted_time SET time = {micros}, accepted_clock = accepted_clock + 1"),
        format!("UPDATE head SET time = time - 1, {epoch_and_key}{key}"),
        format!("UPDATE head SET time = time - 1, revision = revision + 1, {epoch_and_key}{key}"),
    ] {
        let error = bench.sql(sql.clone()).await.expect_err(&sql).to_string();
        assert!(error.contains("history is permanent"), "{sql}: {error}");
    }
    // An event of another kind.
    make_grant(store.as_ref(), "acme", "support").await;
    let sql = format!("UPDATE head SET time = time - 1, {epoch_and_key}{key}");
    let error = bench.sql(sql.clone()).await.expect_err(&sql).to_string();
    assert!(error.contains("history is permanent"), "{sql}: {error}");
}

pub async fn the_accepted_time_survives_a_reopening(bench: &Bench) {
    let store = bench.open().await;
    append_ahead(store.as_ref()).await;
    accept(store.as_ref()).await;
    let before = store.log().load(&mut |_, _, _| {}).await.unwrap();
    store.close().await;
    let store = bench.open().await;
    assert_eq!(store.log().load(&mut |_, _, _| {}).await.unwrap(), before);
}

/// A forged earlier time would extend grants, and a forged later one would stop all changes.
pub async fn a_forged_trusted_time_changes_no_running_replica(bench: &Bench) {
    let store = bench.open().await;
    let node = CheckNode::new(new_node(), NodeKind::Replica, bench.clock.clone());
    let replica = Replica::new(Arc::clone(&node), Arc::clone(&store), Duration::from_secs(2));
    replica.join().await.unwrap();
    let latest = || node.read_view().now.unwrap().latest;
    let start = latest();
    for step in [TimeDelta::days(-1), TimeDelta::days(1)] {
        // An embedded database uses the clock of the process.
        bench.clock.set(step);
        let forged = (start + step).timestamp_micros();
        bench.forge(format!("UPDATE trusted_time SET time = {forged}, accepted_clock = 7")).await;
        store.log().replace_epoch().await.unwrap();
        replica.join().await.unwrap();
        assert!(latest() >= start, "{}", latest());
        assert!(latest() < start + TimeDelta::hours(1), "{}", latest());
    }
    assert!(replica.database_clock().is_trusted());
}

pub async fn a_forged_event_accepts_no_clock(bench: &Bench) {
    let store = bench.open().await;
    let mut change = begin(store.as_ref()).await;
    let accepted = change.append(clock_accepted(-1)).await.unwrap();
    change.commit().await.unwrap();
    make_grant(store.as_ref(), "acme", "support").await;
    let set = "kind = 'clock_accepted', grant_id = NULL, tenant_id = '', sequence = 2";
    bench.forge(format!("UPDATE events SET {set} WHERE revision = 2")).await;
    let loaded = store.log().load(&mut |_, _, _| {}).await.unwrap();
    assert_eq!(loaded.accepted_clocks, [accepted.accepted_clock().unwrap()]);
}
