//! Replicated locks.

use follow_response::{Change as ChangeMessage, Changes, Message};
use proptest::{option, prelude::*};
use prost::Message as _;

use support_access::{
    api::proto::replication::v1::replicated_lock::Target,
    domain::{AgentKind, BootTime, LockId, LockTarget, LockTerms, Party},
    node::snapshot_transfer::SnapshotTransfer,
};

use super::*;

pub(super) fn terms() -> impl Strategy<Value = LockTerms> {
    let id = "[!-~é]{1,128}";
    let kinds = prop::sample::select(vec![AgentKind::Human, AgentKind::Ai, AgentKind::Service]);
    let targets = prop_oneof![
        Just(LockTarget::Everything),
        id.prop_map(|id| LockTarget::Agent(AgentId::new(&id).unwrap())),
        id.prop_map(|id| LockTarget::Group(GroupId::new(&id).unwrap())),
        kinds.prop_map(LockTarget::AgentKind),
    ];
    let tenant_ids = option::of(id.prop_map(|id| TenantId::new(&id).unwrap()));
    let parties = prop_oneof![Just(Party::Tenant), Just(Party::Vendor)];
    (uuids(), tenant_ids, targets, parties, option::of(times())).prop_map(
        |(lock_id, tenant_id, target, party, expire_time)| LockTerms {
            lock_id: LockId(lock_id),
            tenant_id,
            target,
            party,
            expire_time,
        },
    )
}

fn lock(target: LockTarget) -> LockTerms {
    let expire_time = from_micros(1_800_000_000_000_000);
    let (lock_id, party) = (LockId(Uuid::from_u128(7)), Party::Vendor);
    LockTerms { lock_id, tenant_id: None, target, party, expire_time }
}

/// A change that makes a lock invalid, and the field that is then invalid.
type Invalid = (fn(&mut rpb::ReplicatedLock), &'static str);

#[test]
fn invalid_locks_are_rejected_by_field() {
    let acme = Some(TenantId::new("acme").unwrap());
    let acme = LockTerms { tenant_id: acme, ..lock(LockTarget::Everything) };
    let valid = response(ToFollower::SnapshotLocks(vec![acme; 2]));
    let Some(Message::SnapshotLocks(valid)) = valid.message else { panic!("must be locks") };
    let cases: [Invalid; 14] = [
        (|lock| lock.lock_id.clear(), "lock_id"),
        (|lock| lock.lock_id = vec![7; 17], "lock_id"),
        (|lock| lock.tenant_id = Some(String::new()), "tenant_id"),
        (|lock| lock.target = None, "target"),
        (|lock| lock.target = Some(Target::Everything(false)), "everything"),
        (|lock| lock.target = Some(Target::AgentKind(0)), "agent_kind"),
        (|lock| lock.target = Some(Target::AgentId(" ".into())), "agent_id"),
        (|lock| lock.target = Some(Target::AgentId("é".repeat(129))), "agent_id"),
        (|lock| lock.target = Some(Target::GroupId("a\u{0}".into())), "group_id"),
        (|lock| lock.target = Some(Target::GroupId("x".repeat(100_000))), "group_id"),
        (|lock| lock.party = 0, "party"),
        (|lock| lock.party = 3, "party"),
        (|lock| lock.expire_time_us = Some(i64::MIN), "expire_time_us"),
        (|lock| lock.expire_time_us = Some(i64::MAX), "expire_time_us"),
    ];
    for (change, field) in cases {
        let mut message = valid.clone();
        change(&mut message.locks[1]);
        let invalid = message.locks[1].clone();
        let snapshot = parse(Message::SnapshotLocks(message));
        assert_invalid(snapshot, &format!("snapshot_locks.locks[1].{field}"));
        let changes = vec![ChangeMessage { lock: Some(invalid), ..ChangeMessage::default() }];
        let changes = parse(Message::Changes(Changes { changes, ..Changes::default() }));
        assert_invalid(changes, &format!("changes.changes[0].lock.{field}"));
    }
    let mut ended = valid;
    ended.locks[0].ended = true;
    assert_invalid(parse(Message::SnapshotLocks(ended)), "snapshot_locks.locks[0].ended");
}

fn parse(message: Message) -> Parsed<ToFollower> {
    parse_response(rpb::FollowResponse { message: Some(message) })
}

#[test]
fn a_message_of_the_largest_locks_is_short_enough() {
    let long = "\u{1f512}".repeat(128);
    let mut snapshot = Snapshot::default();
    for number in 0..3_000_u128 {
        let lock_id = LockId(Uuid::from_u128(number));
        let terms = lock(LockTarget::Agent(AgentId::new(&long).unwrap()));
        snapshot.insert_lock(LockTerms { lock_id, ..terms });
    }
    let mut count = 0;
    let mut transfer = SnapshotTransfer::start(snapshot, BootTime(0));
    while let Some(message) = transfer.next_message(BootTime(0)) {
        let ToFollower::SnapshotLocks(locks) = &message else { panic!("must be locks") };
        count += locks.len();
        let bytes = response(message).encoded_len();
        assert!(bytes < RESPONSE_LENGTH_MAX / 2, "{bytes}");
    }
    assert_eq!(count, 3_000);
}

#[test]
fn messages_of_changes_of_the_largest_locks_are_short_enough() {
    let long = "\u{1f512}".repeat(128);
    let terms = lock(LockTarget::Agent(AgentId::new(&long).unwrap()));
    let change = Change {
        revision: 0,
        time: from_micros(7).unwrap(),
        grant: None,
        lock: Some(LockChange { terms, is_ended: false }),
    };
    assert_short_enough(vec![change; 200]);
}
