//! Locks on their way, and what is not one.

use follow_response::{Change as ChangeMessage, Changes, Message as Told};
use proptest::{option, prelude::*};

use super::*;
use crate::{
    domain::{BootTime, LockId, LockTarget, LockTerms, Party},
    node::snapshot_transfer::SnapshotTransfer,
};

pub(super) fn terms() -> impl Strategy<Value = LockTerms> {
    let name = "[!-~é]{1,128}";
    let targets = prop_oneof![
        Just(LockTarget::Everything),
        name.prop_map(|name| LockTarget::Tenant(TenantId::new(&name).unwrap())),
        name.prop_map(|name| LockTarget::Agent(AgentId::new(&name).unwrap())),
        name.prop_map(|name| LockTarget::Group(GroupId::new(&name).unwrap())),
    ];
    let sides = prop_oneof![Just(Party::Tenant), Just(Party::Vendor)];
    (uuids(), targets, sides, option::of(times())).prop_map(
        |(lock_id, target, side, expire_time)| LockTerms {
            lock_id: LockId(lock_id),
            target,
            side,
            expire_time,
        },
    )
}

fn lock(target: LockTarget) -> LockTerms {
    let expire_time = from_micros(1_800_000_000_000_000);
    LockTerms { lock_id: LockId(Uuid::max()), target, side: Party::Vendor, expire_time }
}

/// A change that makes a lock wrong, and the field that then is.
type Wrong = (fn(&mut pb::FedLock), &'static str);

#[test]
fn what_is_no_lock_is_refused_by_its_field() {
    use pb::fed_lock::Target;
    let acme = LockTarget::Tenant(TenantId::new("acme").unwrap());
    let told = response(ToFollower::SnapshotLocks(vec![lock(acme); 2]));
    let Some(Told::SnapshotLocks(good)) = told.message else { panic!("something else") };
    let long = "é".repeat(129);
    let cases: [Wrong; 12] = [
        (|it| it.lock_id.clear(), "lock_id"),
        (|it| it.lock_id = vec![7; 17], "lock_id"),
        (|it| it.target = None, "target"),
        (|it| it.target = Some(Target::Everything(false)), "everything"),
        (|it| it.target = Some(Target::TenantId(String::new())), "tenant_id"),
        (|it| it.target = Some(Target::AgentId(" ".into())), "agent_id"),
        (|it| it.target = Some(Target::GroupId("a\u{0}".into())), "group_id"),
        (|it| it.target = Some(Target::GroupId("x".repeat(100_000))), "group_id"),
        (|it| it.side = 0, "side"),
        (|it| it.side = 3, "side"),
        (|it| it.expire_time_us = Some(i64::MIN), "expire_time_us"),
        (|it| it.expire_time_us = Some(i64::MAX), "expire_time_us"),
    ];
    for (change, field) in cases {
        let mut message = good.clone();
        change(&mut message.locks[1]);
        let wrong = message.locks[1].clone();
        refused(told_by(Told::SnapshotLocks(message)), &format!("snapshot_locks.locks[1].{field}"));
        let changes = vec![ChangeMessage { lock: Some(wrong), ..ChangeMessage::default() }];
        let changes = Told::Changes(Changes { changes, ..Changes::default() });
        refused(told_by(changes), &format!("changes.changes[0].lock.{field}"));
    }
    let mut ended = good.clone();
    ended.locks[0].ended = true;
    refused(told_by(Told::SnapshotLocks(ended)), "snapshot_locks.locks[0].ended");
    let mut too_long = good;
    too_long.locks[0].target = Some(Target::AgentId(long));
    refused(told_by(Told::SnapshotLocks(too_long)), "snapshot_locks.locks[0].agent_id");
}

fn told_by(message: Told) -> Parsed<ToFollower> {
    down(pb::FollowResponse { message: Some(message) })
}

#[test]
fn a_part_of_the_largest_locks_makes_a_message_that_is_read() {
    let long = "\u{1f512}".repeat(128);
    let mut snapshot = crate::node::Snapshot::default();
    for number in 0..3_000_u128 {
        let lock_id = LockId(Uuid::from_u128(number));
        let terms = lock(LockTarget::Agent(AgentId::new(&long).unwrap()));
        snapshot.insert_lock(LockTerms { lock_id, ..terms });
    }
    let mut transfer = SnapshotTransfer::start(snapshot, BootTime(0));
    let mut count = 0;
    while let Some(message) = transfer.next_message(BootTime(0)) {
        let ToFollower::SnapshotLocks(locks) = &message else { panic!("{message:?}") };
        count += locks.len();
        let bytes = response(message).encoded_len();
        assert!(bytes < RESPONSE_LENGTH_MAX / 2, "{bytes}");
    }
    assert_eq!(count, 3_000);
}

#[test]
fn two_hundred_changes_of_the_largest_locks_make_a_message_that_is_read() {
    let long = "\u{1f512}".repeat(128);
    let terms = lock(LockTarget::Agent(AgentId::new(&long).unwrap()));
    let change = |revision| Change {
        revision,
        time: from_micros(7).unwrap(),
        grant: None,
        lock: Some(LockChange { terms: terms.clone(), is_ended: false }),
    };
    let deltas = (0..200).map(|revision| Arc::new(change(revision))).collect();
    let bytes = response(ToFollower::Changes(deltas)).encoded_len();
    assert!(bytes < RESPONSE_LENGTH_MAX / 2, "{bytes}");
}
