use std::{collections::BTreeSet, sync::Arc};

use proptest::{collection::vec, option, prelude::*};
use prost::Message;

use super::*;
use crate::{
    api::{grpc::nodes::RESPONSE_LENGTH_MAX, proto::v1::follow_response},
    domain::{
        AccessLevel, Ack, AgentId, GrantId, GrantTerms, GroupId, Now, TenantId,
        time::{SECONDS_MAX, SECONDS_MIN},
    },
    node::message::{
        self, Change, Hello, LeaseGrant, LockChange, Pong, ToFollower, ToUpstream, Welcome,
    },
    store::Retained,
};

mod locks;

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
    (0..=DURATION_SECONDS_MAX.unsigned_abs(), 0..1_000_000_000_u32)
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

fn infos() -> impl Strategy<Value = NodeInfo> {
    let kinds = prop_oneof![Just(NodeKind::Replica), Just(NodeKind::Sidecar)];
    let ids = (node_ids(), option::of(node_ids()));
    (ids, kinds, versions(), revisions(), option::of(spans()), spans()).prop_map(
        |((node_id, upstream), kind, version, revision, lease_age, silent_for)| NodeInfo {
            node_id,
            kind,
            version,
            upstream,
            revision,
            lease_age,
            silent_for,
        },
    )
}

fn ups() -> impl Strategy<Value = ToUpstream> {
    let hello =
        (any::<u32>(), node_ids(), versions(), option::of(positions()), option::of(spans()))
            .prop_map(|(protocol, node_id, version, held, lease_age)| Hello {
                protocol,
                node_id,
                version,
                held,
                lease_age,
            });
    let ack = (revisions(), 1..=100_000_u32, 0..=100_000_u32)
        .prop_map(|(revision, nodes, nodes_lapsed)| Ack { revision, nodes, nodes_lapsed });
    prop_oneof![
        hello.prop_map(ToUpstream::Hello),
        any::<i64>().prop_map(|seq| ToUpstream::Ping { seq }),
        ack.prop_map(ToUpstream::Ack),
        vec(infos(), 0..20).prop_map(ToUpstream::Report),
        Just(ToUpstream::Leave),
    ]
}

fn grants() -> impl Strategy<Value = (TenantId, Retained, GrantTerms)> {
    // Few tenants and groups, so that some stand together.
    let names = ("[abc]", "[xyz]|[!-~]{1,128}", vec("[!-~]{1,20}", 0..5));
    let levels = prop::sample::select(AccessLevel::ALL.to_vec());
    let helds = prop_oneof![Just(Retained::Live), Just(Retained::LastEnded)];
    let ends = (times(), option::of(times()), option::of(times()));
    (names, uuids(), levels, helds, ends).prop_map(
        |((tenant, group, agents), grant_id, access_level, held, ends)| {
            let agents = agents.iter().map(|agent| AgentId::new(agent).unwrap());
            let terms = GrantTerms {
                grant_id: GrantId(grant_id),
                group_id: GroupId::new(&group).unwrap(),
                agent_ids: agents.collect::<BTreeSet<_>>(),
                access_level,
                start_time: ends.0,
                expire_time: ends.1,
                revoke_time: ends.2,
            };
            (TenantId::new(&tenant).unwrap(), held, terms)
        },
    )
}

fn downs() -> impl Strategy<Value = ToFollower> {
    let welcome = (any::<u32>(), node_ids(), versions())
        .prop_map(|(protocol, node_id, version)| Welcome { protocol, node_id, version });
    let lock = (locks::terms(), any::<bool>())
        .prop_map(|(terms, is_ended)| LockChange { terms, is_ended });
    let change = (revisions(), times(), option::of(grants()), option::of(lock))
        .prop_map(|(revision, time, grant, lock)| Arc::new(Change { revision, time, grant, lock }));
    let nanos = |range: std::ops::RangeInclusive<u64>| range.prop_map(Duration::from_nanos);
    let leases = nanos(10_000_000..=3_600_000_000_000);
    let lease = (revisions(), nanos(0..=10_000_000), leases, times(), times()).prop_map(
        |(revision, age, max_staleness, one, other)| {
            let now = Now { earliest: one.min(other), latest: one.max(other) };
            LeaseGrant { revision, age, max_staleness, now }
        },
    );
    let pong = (any::<i64>(), vec(node_ids(), 0..16), option::of(lease))
        .prop_map(|(seq, path, lease)| Pong { seq, path, lease });
    prop_oneof![
        welcome.prop_map(ToFollower::Welcome),
        Just(ToFollower::SnapshotBegin),
        vec(grants(), 0..20).prop_map(ToFollower::SnapshotGrants),
        vec(locks::terms(), 0..20).prop_map(ToFollower::SnapshotLocks),
        positions().prop_map(ToFollower::SnapshotEnd),
        vec(change, 0..20).prop_map(ToFollower::Changes),
        pong.prop_map(ToFollower::Pong),
    ]
}

proptest! {
    #[test]
    fn what_a_follower_says_arrives_as_it_was_said(said in ups()) {
        let bytes = request(said.clone()).encode_to_vec();
        let message = pb::FollowRequest::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(up(message), Ok(said));
    }

    #[test]
    fn what_a_follower_is_told_arrives_as_it_was_told(told in downs()) {
        let bytes = response(told.clone()).encode_to_vec();
        let message = pb::FollowResponse::decode(bytes.as_slice()).unwrap();
        prop_assert_eq!(down(message), Ok(told));
    }

    /// Bytes that were changed on purpose are refused, or say something else; nothing panics.
    #[test]
    fn no_bytes_do_harm(
        said in ups(),
        told in downs(),
        places in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut bytes = [request(said).encode_to_vec(), response(told).encode_to_vec()];
        for bytes in bytes.iter_mut().filter(|bytes| !bytes.is_empty()) {
            for (place, value) in &places {
                let place = place.index(bytes.len());
                bytes[place] = *value;
            }
        }
        if let Ok(Ok(said)) = pb::FollowRequest::decode(bytes[0].as_slice()).map(up) {
            prop_assert_eq!(up(request(said.clone())), Ok(said));
        }
        if let Ok(Ok(told)) = pb::FollowResponse::decode(bytes[1].as_slice()).map(down) {
            prop_assert_eq!(down(response(told.clone())), Ok(told));
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
        start_time: time,
        expire_time: Some(time),
        revoke_time: None,
    };
    (TenantId::new(tenant).unwrap(), Retained::Live, terms)
}

#[test]
fn grants_share_the_names_of_groups_and_tenants() {
    let long = "g".repeat(128);
    let grants = vec![grant("acme", &long), grant("acme", "other"), grant("beta", &long)];
    let message = response(ToFollower::SnapshotGrants(grants));
    let Some(follow_response::Message::SnapshotGrants(grants)) = &message.message else {
        panic!("{message:?}")
    };
    assert_eq!(grants.group_ids, [long.as_str(), "other"]);
    let tenants: Vec<_> = grants.grants.iter().map(|it| it.tenant_id.as_str()).collect();
    assert_eq!(tenants, ["acme", "", "beta"]);
    let Ok(ToFollower::SnapshotGrants(words)) = down(message) else { panic!("it was refused") };
    let shared = [&words[0], &words[2]].map(|(.., terms)| terms.group_id.as_str().as_ptr());
    assert_eq!(shared[0], shared[1], "in memory, too");

    let thousand = vec![grant("acme", "support"); 1_000];
    let bytes = response(ToFollower::SnapshotGrants(thousand)).encoded_len();
    assert!(bytes <= 42 * 1_000, "{bytes}");
}

#[test]
fn the_largest_changes_make_a_message_that_is_read() {
    let agent = |number: usize| AgentId::new(&format!("{number:03}{}", "é".repeat(125))).unwrap();
    let long = "é".repeat(128);
    let (tenant_id, held, terms) = grant(&long, &long);
    let terms = GrantTerms { agent_ids: (0..100).map(agent).collect(), ..terms };
    let time = terms.start_time;
    let grant_of = |grant| Change { revision: 1, time, grant: Some(grant), lock: None };
    let mut deltas = vec![grant_of((tenant_id, held, terms))];
    // As many as one message has, if they are small, and each of another tenant and group.
    for number in 0..500 {
        let name = format!("{number:03}{}", "é".repeat(125));
        deltas.push(grant_of(grant(&name, &name)));
    }
    let bytes =
        response(ToFollower::Changes(deltas.into_iter().map(Arc::new).collect())).encoded_len();
    assert!(bytes < RESPONSE_LENGTH_MAX / 2, "{bytes}");
}

#[test]
fn the_database_s_clock_is_never_told_too_early() {
    let time = from_micros(7).unwrap() + Duration::from_nanos(1);
    let max_staleness = Duration::from_secs(2);
    let lease_grant =
        LeaseGrant { revision: 1, age: Duration::ZERO, max_staleness, now: time.into() };
    let told = ToFollower::Pong(Pong { seq: 1, path: Vec::new(), lease: Some(lease_grant) });
    let Ok(ToFollower::Pong(pong)) = down(response(told)) else { panic!("it was refused") };
    let now = Now { earliest: from_micros(7).unwrap(), latest: from_micros(8).unwrap() };
    assert_eq!(pong.lease.unwrap().now, now);
}

#[track_caller]
fn refused<T: std::fmt::Debug>(parsed: Parsed<T>, field: &str) {
    let violations = parsed.unwrap_err();
    let fields: Vec<_> = violations.as_slice().iter().map(|it| it.field.as_str()).collect();
    assert_eq!(fields, [field]);
}

#[test]
fn what_a_follower_may_not_say_is_refused_by_its_field() {
    use pb::follow_request::{Ack, Hello, Message, Report};
    let up = |message| up(pb::FollowRequest { message: Some(message) });
    refused(super::up(pb::FollowRequest::default()), "message");

    let hello = Hello { protocol: message::PROTOCOL, node_id: vec![7; 16], ..Hello::default() };
    assert!(up(Message::Hello(hello.clone())).is_ok());
    let node_id = vec![7; 17];
    refused(up(Message::Hello(Hello { node_id, ..hello.clone() })), "hello.node_id");
    let version = "x".repeat(65);
    refused(up(Message::Hello(Hello { version, ..hello.clone() })), "hello.version");
    let position = |revision, time_us| pb::LogPosition { epoch: vec![7; 16], revision, time_us };
    for (held, field) in [
        (pb::LogPosition::default(), "hello.held.epoch"),
        (position(-1, None), "hello.held.revision"),
        (position(i64::MAX, None), "hello.held.revision"),
        (position(1, Some(i64::MAX)), "hello.held.time_us"),
    ] {
        refused(up(Message::Hello(Hello { held: Some(held), ..hello.clone() })), field);
    }

    let ack = Ack { revision: 1, nodes: 1, nodes_lapsed: 0 };
    for (ack, field) in [
        (Ack { revision: -1, ..ack }, "ack.revision"),
        (Ack { nodes: 0, ..ack }, "ack.nodes"),
        (Ack { nodes: u32::MAX, ..ack }, "ack.nodes"),
        (Ack { nodes_lapsed: u32::MAX, ..ack }, "ack.nodes_lapsed"),
    ] {
        refused(up(Message::Ack(ack)), field);
    }

    let node =
        pb::CheckNode { node_id: Uuid::max().to_string(), kind: 2, ..pb::CheckNode::default() };
    let report = |nodes| up(Message::Report(Report { nodes }));
    assert!(report(vec![node.clone(); 1_000]).is_ok());
    refused(report(vec![node.clone(); 1_001]), "report.nodes");
    let negative = ProtoDuration { seconds: -1, nanos: 0 };
    for (wrong, field) in [
        (pb::CheckNode::default(), "report.nodes[1].kind"),
        (pb::CheckNode { node_id: "x".into(), ..node.clone() }, "report.nodes[1].node_id"),
        (
            pb::CheckNode { upstream_node_id: "x".into(), ..node.clone() },
            "report.nodes[1].upstream_node_id",
        ),
        (pb::CheckNode { lease_age: Some(negative), ..node.clone() }, "report.nodes[1].lease_age"),
    ] {
        refused(report(vec![node.clone(), wrong]), field);
    }
}

/// A change that makes a message wrong, and the field that then is.
type Wrong = (fn(&mut follow_response::SnapshotGrants), &'static str);

#[test]
fn what_a_follower_may_not_be_told_is_refused_by_its_field() {
    use follow_response::{Changes, Lease, Message, Pong, SnapshotEnd, SnapshotGrants};
    let down = |message| super::down(pb::FollowResponse { message: Some(message) });
    refused(super::down(pb::FollowResponse::default()), "message");
    let end = SnapshotEnd { position: None };
    refused(down(Message::SnapshotEnd(end)), "snapshot_end.position");

    let Some(Message::SnapshotGrants(good)) =
        response(ToFollower::SnapshotGrants(vec![grant("acme", "support"); 2])).message
    else {
        panic!("something else")
    };
    let snapshot = |change: fn(&mut SnapshotGrants)| {
        let mut message = good.clone();
        change(&mut message);
        down(Message::SnapshotGrants(message))
    };
    assert!(snapshot(|_| {}).is_ok());
    let cases: [Wrong; 7] = [
        (|it| it.group_ids[0] = " ".into(), "group_ids[0]"),
        (|it| it.grants[1].group_index = 1, "grants[1].group_index"),
        (|it| it.grants[0].tenant_id.clear(), "grants[0].tenant_id"),
        (|it| it.grants[1].grant_id.clear(), "grants[1].grant_id"),
        (|it| it.grants[1].access_level = 0, "grants[1].access_level"),
        (|it| it.grants[1].agent_ids = vec!["a".into(); 101], "grants[1].agent_ids"),
        (|it| it.grants[1].expire_time_us = Some(i64::MIN), "grants[1].expire_time_us"),
    ];
    for (change, field) in cases {
        refused(snapshot(change), &format!("snapshot_grants.{field}"));
    }
    let change = follow_response::Change { revision: -1, ..follow_response::Change::default() };
    let changes = Changes { changes: vec![change], ..Changes::default() };
    refused(down(Message::Changes(changes)), "changes.changes[0].revision");

    let span = |millis| Some(responses::duration(Duration::from_millis(millis)));
    let lease = Lease {
        revision: 1,
        age: span(1),
        max_staleness: span(2_000),
        time_us: 0,
        earliest_time_us: 0,
    };
    let pong = |lease| down(Message::Pong(Pong { lease: Some(lease), ..Pong::default() }));
    assert!(pong(lease).is_ok());
    for (wrong, field) in [
        (Lease { age: None, ..lease }, "age"),
        (Lease { age: span(2_001), ..lease }, "age"),
        (Lease { max_staleness: span(0), ..lease }, "max_staleness"),
        (Lease { max_staleness: span(3_600_001), ..lease }, "max_staleness"),
        (Lease { time_us: i64::MIN, ..lease }, "time_us"),
    ] {
        refused(pong(wrong), &format!("pong.lease.{field}"));
    }
    let path = vec![vec![7; 16]; 17];
    refused(down(Message::Pong(Pong { path, ..Pong::default() })), "pong.path");
}
