//! The messages of replication between check nodes.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use proptest::{collection::vec, option, prelude::*};
use prost::Message;

use support_access::{
    api::{
        grpc::replication::{
            RESPONSE_LENGTH_MAX, parse_request, parse_response, request, response,
        },
        proto::replication::v1::{self as rpb, follow_request, follow_response},
    },
    domain::{
        AcceptedClock, AccessLevel, AdmittedKinds, AgentId, Epoch, GrantId, GrantTerms, GroupId,
        NodeId, NodeKind, Now, Position, Revision, TenantId, Time, TokenKey, Violations,
        clock::ManualClock,
        time::{SECONDS_MAX, SECONDS_MIN, from_micros},
    },
    node::{
        CheckNode, Snapshot,
        follower_session::FollowerSession,
        message::{
            Change, Hello, LeaseGrant, LockChange, PROTOCOL, Pong, SnapshotEnd, ToFollower,
            ToUpstream, Welcome,
        },
    },
    store::Retained,
};
use uuid::Uuid;

use crate::properties::decisions::kinds;

mod locks;

type Parsed<T> = Result<T, Violations>;

const DURATION_SECONDS_MAX: u64 = 315_576_000_000;
const REVISION_MAX: Revision = 1 << 62;

fn uuids() -> impl Strategy<Value = Uuid> {
    any::<[u8; 16]>().prop_map(Uuid::from_bytes)
}

fn node_ids() -> impl Strategy<Value = NodeId> {
    uuids().prop_map(NodeId)
}

fn times() -> impl Strategy<Value = Time> {
    let micros = SECONDS_MIN * 1_000_000..=SECONDS_MAX * 1_000_000 + 999_999;
    micros.prop_map(|micros| from_micros(micros).unwrap())
}

fn revisions() -> impl Strategy<Value = Revision> {
    prop_oneof![0..=REVISION_MAX, 0..3_i64, Just(REVISION_MAX)]
}

fn spans() -> impl Strategy<Value = Duration> {
    (0..=DURATION_SECONDS_MAX, 0..1_000_000_000_u32)
        .prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
}

fn versions() -> impl Strategy<Value = String> {
    "[ -~é]{0,64}"
}

fn positions() -> impl Strategy<Value = Position> {
    (uuids(), revisions(), option::of(times())).prop_map(|(epoch, revision, time)| Position {
        epoch: Epoch(epoch),
        revision,
        time,
    })
}

fn requests() -> impl Strategy<Value = ToUpstream> {
    let hello =
        (any::<u32>(), node_ids(), versions(), option::of(positions()), option::of(spans()))
            .prop_map(|(protocol, node_id, version, position, lease_age)| Hello {
                protocol,
                node_id,
                version,
                position,
                lease_age,
            });
    prop_oneof![
        hello.prop_map(ToUpstream::Hello),
        any::<i64>().prop_map(|seq| ToUpstream::Ping { seq }),
        revisions().prop_map(ToUpstream::Ack),
        Just(ToUpstream::Leave),
    ]
}

fn grants() -> impl Strategy<Value = (TenantId, Retained, GrantTerms)> {
    // Few tenants and groups, so that some are adjacent.
    let names = ("[abc]", "[xyz]|[!-~]{1,128}", vec("[!-~]{1,20}", 0..5));
    let levels = prop::sample::select(AccessLevel::ALL.to_vec());
    let retained = prop_oneof![Just(Retained::Live), Just(Retained::LastEnded)];
    let ends = (times(), option::of(times()), option::of(times()));
    (names, uuids(), (levels, kinds()), retained, ends).prop_map(
        |((tenant, group, agents), grant_id, (access_level, agent_kinds), retained, ends)| {
            let agents = agents.iter().map(|agent| AgentId::new(agent).unwrap());
            let terms = GrantTerms {
                grant_id: GrantId(grant_id),
                group_id: GroupId::new(&group).unwrap(),
                agent_ids: agents.collect::<BTreeSet<_>>(),
                access_level,
                agent_kinds,
                start_time: ends.0,
                expire_time: ends.1,
                revoke_time: ends.2,
                is_expired: retained == Retained::LastEnded && ends.2.is_none(),
            };
            (TenantId::new(&tenant).unwrap(), retained, terms)
        },
    )
}

fn responses() -> impl Strategy<Value = ToFollower> {
    let welcome = (any::<u32>(), node_ids(), versions())
        .prop_map(|(protocol, node_id, version)| Welcome { protocol, node_id, version });
    let lock = (locks::terms(), any::<bool>())
        .prop_map(|(terms, is_ended)| LockChange { terms, is_ended });
    let change = (revisions(), times(), option::of(grants()), option::of(lock))
        .prop_map(|(revision, time, grant, lock)| Arc::new(Change { revision, time, grant, lock }));
    let nanos = |range: std::ops::RangeInclusive<u64>| range.prop_map(Duration::from_nanos);
    let leases = nanos(10_000_000..=3_600_000_000_000);
    let lease = (revisions(), nanos(0..=10_000_000), leases, times(), times(), any::<bool>());
    let lease =
        lease.prop_map(|(revision, age, max_staleness, first, second, is_clock_trusted)| {
            let now = Now { earliest: first.min(second), latest: first.max(second) };
            LeaseGrant { revision, age, max_staleness, now, is_clock_trusted }
        });
    let clocks = (revisions(), times(), any::<i64>())
        .prop_map(|(revision, time, step_ms)| AcceptedClock { revision, time, step_ms });
    let pong = (any::<i64>(), vec(node_ids(), 0..16), option::of(lease))
        .prop_map(|(seq, path, lease)| Pong { seq, path, lease });
    prop_oneof![
        welcome.prop_map(ToFollower::Welcome),
        Just(ToFollower::SnapshotBegin),
        vec(grants(), 0..20).prop_map(ToFollower::SnapshotGrants),
        vec(locks::terms(), 0..20).prop_map(ToFollower::SnapshotLocks),
        (positions(), any::<[u8; 16]>(), vec(clocks, 0..4)).prop_map(|(position, key, clocks)| {
            let (token_key, accepted_clocks) = (TokenKey(key), clocks.into());
            let has_forged_rows = key[0] == 0;
            let end = SnapshotEnd { position, token_key, accepted_clocks, has_forged_rows };
            ToFollower::SnapshotEnd(end)
        }),
        vec(change, 0..20).prop_map(ToFollower::Changes),
        pong.prop_map(ToFollower::Pong),
    ]
}

proptest! {
    #[test]
    fn requests_are_parsed_as_they_were_written(message in requests()) {
        let bytes = request(message.clone()).encode_to_vec();
        let decoded = rpb::FollowRequest::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(parse_request(decoded), Ok(message));
    }

    #[test]
    fn responses_are_parsed_as_they_were_written(message in responses()) {
        let bytes = response(message.clone()).encode_to_vec();
        let decoded = rpb::FollowResponse::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(parse_response(decoded), Ok(message));
    }

    /// Changed bytes are rejected or parsed as another message. Nothing panics.
    #[test]
    fn corrupted_messages_do_not_panic(
        sent in requests(),
        received in responses(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut messages = [request(sent).encode_to_vec(), response(received).encode_to_vec()];
        for bytes in messages.iter_mut().filter(|bytes| !bytes.is_empty()) {
            for (index, value) in &changes {
                let index = index.index(bytes.len());
                bytes[index] = *value;
            }
        }
        let [sent, received] = &messages;
        if let Ok(Ok(message)) = rpb::FollowRequest::decode(sent.as_slice()).map(parse_request) {
            prop_assert_eq!(parse_request(request(message.clone())), Ok(message));
        }
        let received = rpb::FollowResponse::decode(received.as_slice());
        if let Ok(Ok(message)) = received.map(parse_response) {
            prop_assert_eq!(parse_response(response(message.clone())), Ok(message));
        }
    }
}

fn grant(tenant: &str, group: &str) -> (TenantId, Retained, GrantTerms) {
    let time = from_micros(1_800_000_000_000_000).unwrap();
    let terms = GrantTerms {
        grant_id: GrantId(Uuid::max()),
        group_id: GroupId::new(group).unwrap(),
        agent_ids: BTreeSet::new(),
        access_level: AccessLevel::Admin,
        agent_kinds: AdmittedKinds::HUMAN,
        start_time: time,
        expire_time: Some(time),
        revoke_time: None,
        is_expired: false,
    };
    (TenantId::new(tenant).unwrap(), Retained::Live, terms)
}

#[test]
fn messages_contain_group_and_tenant_ids_once() {
    let long = "g".repeat(128);
    let grants = vec![grant("acme", &long), grant("acme", "other"), grant("beta", &long)];
    let message = response(ToFollower::SnapshotGrants(grants));
    let Some(follow_response::Message::SnapshotGrants(grants)) = &message.message else {
        panic!("{message:?}")
    };
    assert_eq!(grants.group_ids, [long.as_str(), "other"]);
    let tenants: Vec<_> = grants.grants.iter().map(|grant| grant.tenant_id.as_str()).collect();
    assert_eq!(tenants, ["acme", "", "beta"]);
    let Ok(ToFollower::SnapshotGrants(parsed)) = parse_response(message) else {
        panic!("the message must be accepted")
    };
    let shared = [&parsed[0], &parsed[2]].map(|(.., terms)| terms.group_id.as_str().as_ptr());
    assert_eq!(shared[0], shared[1], "grants must share their group ids in memory, too");

    let thousand = vec![grant("acme", "support"); 1_000];
    let bytes = response(ToFollower::SnapshotGrants(thousand)).encoded_len();
    assert!(bytes <= 46 * 1_000, "{bytes}");
}

/// The messages in which a node sends these changes to a follower.
fn sent(changes: impl Iterator<Item = Change>) -> Vec<ToFollower> {
    let clock = Arc::new(ManualClock::at(from_micros(0).unwrap()));
    let node = CheckNode::new(NodeId(Uuid::nil()), NodeKind::Replica, clock);
    node.replace_snapshot(Snapshot::beginning(Epoch(Uuid::nil()), TokenKey([0; 16])));
    let numbered = (1..).zip(changes).map(|(revision, change)| Change { revision, ..change });
    let changes: Vec<_> = numbered.map(Arc::new).collect();
    let hello = Hello {
        protocol: PROTOCOL,
        node_id: NodeId(Uuid::max()),
        version: String::new(),
        position: node.position(),
        lease_age: None,
    };
    node.apply(&changes).unwrap();
    let mut session = FollowerSession::new(node, "sidecar".into());
    session.receive(ToUpstream::Hello(hello)).unwrap();
    std::iter::from_fn(|| session.next_message().unwrap()).collect()
}

/// Checks that all changes are sent, in messages that a follower accepts.
fn assert_short_enough(changes: Vec<Change>) {
    let mut left = changes.len();
    for message in sent(changes.into_iter()) {
        if let ToFollower::Changes(changes) = &message {
            left -= changes.len();
        }
        let bytes = response(message).encoded_len();
        assert!(bytes < RESPONSE_LENGTH_MAX / 2, "{bytes}");
    }
    assert_eq!(left, 0);
}

#[test]
fn a_message_of_the_largest_changes_is_short_enough() {
    let name = |number: usize| format!("{number:03}{}", "\u{1f512}".repeat(125));
    let agent = |number: usize| AgentId::new(&name(number)).unwrap();
    let (tenant_id, retained, terms) = grant(&name(0), &name(0));
    let terms = GrantTerms { agent_ids: (0..100).map(agent).collect(), ..terms };
    let time = terms.start_time;
    let grant_of = |grant| Change { revision: 0, time, grant: Some(grant), lock: None };
    let mut changes = vec![grant_of((tenant_id, retained, terms))];
    // Small changes, each of another tenant and group.
    changes.extend((0..500).map(|number| grant_of(grant(&name(number), &name(number)))));
    assert_short_enough(changes);
}

#[test]
fn the_upper_bound_of_the_database_clock_is_rounded_up() {
    let time = from_micros(7).unwrap() + Duration::from_nanos(1);
    let max_staleness = Duration::from_secs(2);
    let (age, now) = (Duration::ZERO, time.into());
    let lease_grant = LeaseGrant { revision: 1, age, max_staleness, now, is_clock_trusted: true };
    let pong = ToFollower::Pong(Pong { seq: 1, path: Vec::new(), lease: Some(lease_grant) });
    let Ok(ToFollower::Pong(pong)) = parse_response(response(pong)) else {
        panic!("the message must be accepted")
    };
    let now = Now { earliest: from_micros(7).unwrap(), latest: from_micros(8).unwrap() };
    assert_eq!(pong.lease.unwrap().now, now);
}

#[track_caller]
fn assert_invalid<T: std::fmt::Debug>(parsed: Parsed<T>, field: &str) {
    let violations = parsed.unwrap_err();
    let violations = violations.as_slice().iter();
    let fields: Vec<_> = violations.map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, [field]);
}

#[test]
fn invalid_requests_are_rejected_by_field() {
    use follow_request::{Acknowledge, Hello, Message};
    let parse = |message| parse_request(rpb::FollowRequest { message: Some(message) });
    assert_invalid(parse_request(rpb::FollowRequest::default()), "message");

    let hello = Hello { protocol_version: 1, node_id: vec![7; 16], ..Hello::default() };
    assert!(parse(Message::Hello(hello.clone())).is_ok());
    let node_id = vec![7; 17];
    assert_invalid(parse(Message::Hello(Hello { node_id, ..hello.clone() })), "hello.node_id");
    let version = "x".repeat(65);
    assert_invalid(parse(Message::Hello(Hello { version, ..hello.clone() })), "hello.version");
    let position = |revision, time_us| rpb::LogPosition { epoch: vec![7; 16], revision, time_us };
    for (position, field) in [
        (rpb::LogPosition::default(), "hello.position.epoch"),
        (position(-1, None), "hello.position.revision"),
        (position(i64::MAX, None), "hello.position.revision"),
        (position(1, Some(i64::MAX)), "hello.position.time_us"),
    ] {
        let hello = Hello { position: Some(position), ..hello.clone() };
        assert_invalid(parse(Message::Hello(hello)), field);
    }

    for revision in [-1, i64::MAX] {
        let acknowledge = Message::Acknowledge(Acknowledge { revision });
        assert_invalid(parse(acknowledge), "acknowledge.revision");
    }
}

/// A change that makes a message invalid, and the field that is then invalid.
type Invalid = (fn(&mut follow_response::SnapshotGrants), &'static str);

#[test]
fn invalid_responses_are_rejected_by_field() {
    use follow_response::{Changes, Lease, Message, Pong, SnapshotEnd, SnapshotGrants};
    let parse = |message| parse_response(rpb::FollowResponse { message: Some(message) });
    assert_invalid(parse_response(rpb::FollowResponse::default()), "message");
    let end = SnapshotEnd::default();
    assert_invalid(parse(Message::SnapshotEnd(end)), "snapshot_end.position");
    let position = Some(rpb::LogPosition { epoch: vec![7; 16], ..Default::default() });
    let end = SnapshotEnd { position, token_key: vec![7; 17], ..SnapshotEnd::default() };
    assert_invalid(parse(Message::SnapshotEnd(end.clone())), "snapshot_end.token_key");
    let clock = follow_response::AcceptedClock { revision: -1, ..Default::default() };
    let end = SnapshotEnd { token_key: vec![7; 16], accepted_clocks: vec![clock], ..end };
    let field = "snapshot_end.accepted_clocks[0].revision";
    assert_invalid(parse(Message::SnapshotEnd(end)), field);

    let valid = response(ToFollower::SnapshotGrants(vec![grant("acme", "support"); 2]));
    let Some(Message::SnapshotGrants(valid)) = valid.message else { panic!("must be grants") };
    let snapshot = |change: fn(&mut SnapshotGrants)| {
        let mut message = valid.clone();
        change(&mut message);
        parse(Message::SnapshotGrants(message))
    };
    assert!(snapshot(|_| {}).is_ok());
    let cases: [Invalid; 11] = [
        (|message| message.group_ids[0] = " ".into(), "group_ids[0]"),
        (|message| message.grants[1].group_index = 1, "grants[1].group_index"),
        (|message| message.grants[0].tenant_id.clear(), "grants[0].tenant_id"),
        (|message| message.grants[1].grant_id.clear(), "grants[1].grant_id"),
        (|message| message.grants[1].access_level = 0, "grants[1].access_level"),
        (|message| message.grants[1].agent_ids = vec!["a".into(); 101], "grants[1].agent_ids"),
        // An empty list must not admit every kind.
        (|message| message.grants[1].agent_kinds.clear(), "grants[1].agent_kinds"),
        (|message| message.grants[1].agent_kinds[0].agent_kind = 0, "grants[1].agent_kinds"),
        (|message| message.grants[1].agent_kinds[0].max_access_level = 9, "grants[1].agent_kinds"),
        (|message| message.grants[1].agent_kinds.extend_from_within(..), "grants[1].agent_kinds"),
        (|message| message.grants[1].expire_time_us = Some(i64::MIN), "grants[1].expire_time_us"),
    ];
    for (change, field) in cases {
        assert_invalid(snapshot(change), &format!("snapshot_grants.{field}"));
    }
    let change = follow_response::Change { revision: -1, ..follow_response::Change::default() };
    let changes = Changes { changes: vec![change], ..Changes::default() };
    assert_invalid(parse(Message::Changes(changes)), "changes.changes[0].revision");

    let span = |millis| Some(Duration::from_millis(millis).try_into().unwrap());
    let lease = Lease {
        revision: 1,
        age: span(1),
        max_staleness: span(2_000),
        latest_time_us: 0,
        earliest_time_us: 0,
        clock_trusted: true,
    };
    let pong = |lease| parse(Message::Pong(Pong { lease: Some(lease), ..Pong::default() }));
    assert!(pong(lease).is_ok());
    for (invalid, field) in [
        (Lease { age: None, ..lease }, "age"),
        (Lease { age: span(2_001), ..lease }, "age"),
        (Lease { max_staleness: span(0), ..lease }, "max_staleness"),
        (Lease { max_staleness: span(3_600_001), ..lease }, "max_staleness"),
        (Lease { latest_time_us: i64::MIN, ..lease }, "latest_time_us"),
    ] {
        assert_invalid(pong(invalid), &format!("pong.lease.{field}"));
    }
    let path = vec![vec![7; 16]; 17];
    assert_invalid(parse(Message::Pong(Pong { path, ..Pong::default() })), "pong.path");
}
