//! The replication stream. A follower that violates the protocol affects no other follower.

use std::time::Duration;

use support_access::{
    api::proto::{
        replication::v1::{
            FollowRequest, FollowResponse, LogPosition,
            follow_request::{Hello, Leave, Message},
            follow_response::{Message as Response, SnapshotBegin},
        },
        v1::{
            CheckNode, EnforcementState, GrantAccessRequest, ListCheckNodesRequest,
            ListEventsRequest, NamedAgents, NodeKind, RevokeAccessRequest, WaitEnforcedRequest,
            check_nodes_client::CheckNodesClient,
        },
    },
    server::config::Config,
};
use tokio::sync::mpsc;
use tonic::{Code, Request, client::Grpc, codegen::http::uri::PathAndQuery, transport::Endpoint};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::server::{
    follower::{Follower, ack, followers, grant, ping, reason},
    harness::{
        a_grant, admin, channel, config, eventually, has_metric, start, start_on, stop,
        wait_for_metric, with_timeout,
    },
    slow_store::SlowStore,
};

fn wait(tenant_id: &str, consistency_token: &str) -> WaitEnforcedRequest {
    let (tenant_id, consistency_token) = (tenant_id.to_owned(), consistency_token.to_owned());
    WaitEnforcedRequest { tenant_id: Some(tenant_id), consistency_token }
}

#[tokio::test]
async fn a_follower_receives_a_snapshot_then_changes_and_leases() {
    let (running, _store) = start(config()).await;
    let (grant_id, _) = grant(&running, a_grant()).await;
    let mut follower = Follower::new(channel(&running).await).await;
    let Some(Response::Welcome(welcome)) = follower.receive().await else { panic!("no welcome") };
    assert_eq!(welcome.protocol_version, 1);
    assert_eq!(follower.receive().await, Some(Response::SnapshotBegin(SnapshotBegin {})));
    let Some(Response::SnapshotGrants(grants)) = follower.receive().await else {
        panic!("no grants")
    };
    assert_eq!(grants.group_ids, ["support"]);
    let grant_in_snapshot = &grants.grants[0];
    let id = Uuid::from_slice(&grant_in_snapshot.grant_id).unwrap().to_string();
    assert_eq!((grant_in_snapshot.tenant_id.as_str(), id.as_str()), ("acme", grant_id.as_str()));
    let Some(Response::SnapshotEnd(end)) = follower.receive().await else { panic!("no end") };
    let held = end.position.unwrap();
    assert_eq!(held.revision, 1);
    follower.send(ack(1)).await;

    let pong = follower.pong(1).await;
    assert_eq!((pong.sequence, pong.path.as_slice()), (1, [welcome.node_id.clone()].as_slice()));
    let lease = pong.lease.unwrap();
    assert_eq!((lease.revision, lease.max_staleness.unwrap().seconds), (1, 2));

    let (_, revision) = grant(&running, a_grant()).await;
    follower.keep_up(revision).await;
    assert_eq!(follower.pong(2).await.lease.unwrap().revision, revision);

    // A follower that reconnects resumes at the same position, and replaces the previous stream.
    let mut again = Follower::silent(channel(&running).await).await;
    again.node_id = follower.node_id;
    let Message::Hello(hello) = again.hello() else { unreachable!() };
    again.send(Message::Hello(Hello { position: Some(held), ..hello })).await;
    assert!(matches!(again.receive().await, Some(Response::Welcome(_))));
    let Some(Response::Changes(changes)) = again.receive().await else { panic!("no changes") };
    assert_eq!(changes.changes[0].revision, revision);
    assert_eq!(follower.end().await, (Code::Aborted, "STREAM_REPLACED".to_owned()));
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_protocol_violation_ends_only_its_stream() {
    let (running, _store) = start(config()).await;
    let mut good = Follower::new(channel(&running).await).await;
    good.pong(1).await;
    let (_, revision) = grant(&running, a_grant()).await;
    good.keep_up(revision).await;

    let hello = |change: fn(&mut Hello)| {
        let mut hello = Hello { protocol_version: 1, node_id: vec![7; 16], ..Hello::default() };
        change(&mut hello);
        Message::Hello(hello)
    };
    let unknown = Some(LogPosition { epoch: vec![7; 3], ..LogPosition::default() });
    let malformed = (Code::InvalidArgument, "INVALID_FIELD");
    let cases: Vec<(Vec<Message>, (Code, &str))> = vec![
        (vec![ping(1)], (Code::InvalidArgument, "HELLO_EXPECTED")),
        (vec![Message::Leave(Leave {})], (Code::InvalidArgument, "HELLO_EXPECTED")),
        (vec![hello(|_| {}), hello(|_| {})], (Code::InvalidArgument, "HELLO_REPEATED")),
        (
            vec![hello(|hello| hello.protocol_version = 2)],
            (Code::FailedPrecondition, "PROTOCOL_MISMATCH"),
        ),
        (vec![hello(|_| {}), ack(9)], (Code::InvalidArgument, "ACK_OUT_OF_RANGE")),
        (vec![hello(|_| {}), ping(2), ping(1)], (Code::InvalidArgument, "PING_OUT_OF_ORDER")),
        (vec![hello(|_| {}), ping(0)], (Code::InvalidArgument, "PING_OUT_OF_ORDER")),
        (vec![hello(|hello| hello.node_id = vec![7; 15])], malformed),
        (vec![hello(|hello| hello.version = "v".repeat(65))], malformed),
        (
            vec![Message::Hello(Hello {
                position: unknown,
                node_id: vec![7; 16],
                ..Default::default()
            })],
            malformed,
        ),
        (vec![hello(|_| {}), ack(-1)], malformed),
        // Longer than the limit of a message.
        (vec![hello(|hello| hello.version = "v".repeat(300_000))], malformed),
    ];
    for (messages, expected) in cases {
        let mut bad = Follower::silent(channel(&running).await).await;
        let shown = format!("{messages:?}").chars().take(200).collect::<String>();
        for message in messages {
            bad.send(message).await;
        }
        let (code, reason) = bad.end().await;
        assert_eq!((code, reason.as_str()), expected, "{shown}");
    }
    let mut empty = Follower::silent(channel(&running).await).await;
    empty.requests.send(FollowRequest { message: None }).await.unwrap();
    assert_eq!(empty.end().await, (malformed.0, malformed.1.to_owned()));

    // The well-behaved follower is not affected.
    wait_for_metric(&running, &followers(1)).await;
    let (_, revision) = grant(&running, a_grant()).await;
    good.keep_up(revision).await;
    assert!(good.pong(2).await.lease.is_some());
    stop(running).await.unwrap();
}

/// Otherwise every change would wait for this follower, which could also return with another id.
#[tokio::test]
async fn a_follower_that_never_acknowledges_loses_its_slot() {
    let max_staleness = Duration::from_millis(200);
    let (running, _store) = start(Config { max_staleness, ..config() }).await;
    let mut silent = Follower::new(channel(&running).await).await;
    let mut good = Follower::new(channel(&running).await).await;
    silent.pong(1).await;
    good.pong(1).await;
    let (_, revision) = grant(&running, a_grant()).await;
    good.keep_up(revision).await;
    // The ping interval of followers: a tenth of a lease.
    let mut pace = tokio::time::interval(max_staleness / 10);
    let (mut responses, mut last) = (0, 1);
    let end = loop {
        pace.tick().await;
        last += 1;
        silent.send(ping(last)).await;
        match with_timeout(silent.responses.message()).await {
            Ok(response) => responses += usize::from(response.is_some()),
            Err(end) => break end,
        }
    };
    assert_eq!((end.code(), reason(&end).as_str()), (Code::Aborted, "CHANGES_NOT_ACKNOWLEDGED"));
    assert!(responses > 1, "the stream was open until then");
    let mut again = Follower::new(channel(&running).await).await;
    assert_eq!(again.end().await, (Code::ResourceExhausted, "FOLLOWERS_EXCLUDED".to_owned()));
    // The other stream stays open. The server itself may be without a lease for a moment.
    let mut sequence = 1;
    eventually(async || {
        sequence += 1;
        good.pong(sequence).await.lease.is_some()
    })
    .await;
    stop(running).await.unwrap();
}

#[tokio::test]
async fn an_acknowledgement_may_neither_go_back_nor_ahead() {
    let (running, _store) = start(config()).await;
    grant(&running, a_grant()).await;
    for (first, second) in [(1, 0), (1, 2)] {
        let mut bad = Follower::new(channel(&running).await).await;
        bad.pong(1).await;
        bad.send(ack(first)).await;
        bad.send(ack(second)).await;
        assert_eq!(bad.end().await, (Code::InvalidArgument, "ACK_OUT_OF_RANGE".to_owned()));
    }
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_messages_ends_only_its_stream() {
    let (running, _store) = start(config()).await;
    let mut good = Follower::new(channel(&running).await).await;
    good.pong(1).await;
    let mut bad = Follower::new(channel(&running).await).await;
    for sequence in 1..=5_000 {
        bad.send(ping(sequence)).await;
    }
    assert_eq!(bad.end().await, (Code::ResourceExhausted, "TOO_MANY_MESSAGES".to_owned()));
    assert!(good.pong(2).await.lease.is_some());
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_malformed_message_ends_the_stream() {
    let (running, _store) = start(config()).await;
    let mut grpc = Grpc::new(channel(&running).await);
    grpc.ready().await.unwrap();
    // A message whose first field is a number, where the request has a message.
    let codec = ProstCodec::<prost_types::Timestamp, FollowResponse>::default();
    let garbage = futures::stream::iter([prost_types::Timestamp { seconds: 7, nanos: 7 }]);
    let path = PathAndQuery::from_static("/supportaccess.replication.v1.Replication/Follow");
    let response = grpc.streaming(Request::new(garbage), path, codec).await.unwrap();
    let error = with_timeout(response.into_inner().message()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument, "{error}");
    assert_eq!(error.get_details_bad_request().unwrap().field_violations[0].field, "message");
    stop(running).await.unwrap();
}

#[tokio::test]
async fn revocations_wait_for_crashed_followers_but_not_for_followers_that_left() {
    let (running, _store) = start(config()).await;
    let revoke = async |follower: &mut Follower, leaves: bool| {
        let (grant_id, revision) = grant(&running, a_grant()).await;
        follower.keep_up(revision).await;
        assert!(follower.pong(revision).await.lease.is_some());
        wait_for_metric(&running, &followers(1)).await;
        if leaves {
            follower.send(Message::Leave(Leave {})).await;
            assert_eq!(follower.end().await, (Code::Ok, String::new()));
        } else {
            // Resets the stream without a leave, as when a client crashes.
            let (requests, _) = mpsc::channel(1);
            let gone = Follower::silent(channel(&running).await).await;
            *follower = Follower { requests, ..gone };
        }
        wait_for_metric(&running, &followers(0)).await;
        let tenant_id = "acme".to_owned();
        let request = RevokeAccessRequest { tenant_id, grant_id, ..Default::default() };
        let response = admin(&running).await.revoke_access(request).await.unwrap().into_inner();
        let enforcement = response.enforcement.unwrap();
        assert_eq!(enforcement.state(), EnforcementState::Complete);
        let request = wait("acme", &enforcement.consistency_token);
        let again = admin(&running).await.wait_enforced(request).await.unwrap().into_inner();
        assert_eq!(again.enforcement.unwrap().state(), EnforcementState::Complete);
        (enforcement.nodes_acknowledged, enforcement.nodes_lapsed)
    };
    let mut leaving = Follower::new(channel(&running).await).await;
    assert_eq!(revoke(&mut leaving, true).await, (1, 0), "no lease has to expire");

    let mut crashing = Follower::new(channel(&running).await).await;
    assert_eq!(revoke(&mut crashing, false).await, (1, 1), "the follower's lease has to expire");

    let none = admin(&running).await.wait_enforced(wait("acme", "")).await;
    assert_eq!(none.unwrap_err().code(), Code::InvalidArgument);
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_revocation_waits_for_the_acknowledgement_of_a_follower() {
    // Leases outlast the deadline below, and the time until the follower acknowledges.
    let max_staleness = Duration::from_secs(30);
    let (running, _store) = start(Config { max_staleness, ..config() }).await;
    let (grant_id, revision) = grant(&running, a_grant()).await;
    let mut follower = Follower::new(channel(&running).await).await;
    follower.pong(1).await;
    follower.send(ack(revision)).await;
    let mut admin = admin(&running).await;
    let request = RevokeAccessRequest {
        tenant_id: "acme".to_owned(),
        grant_id: grant_id.clone(),
        ..Default::default()
    };
    let mut with_deadline = Request::new(request.clone());
    with_deadline.set_timeout(Duration::from_secs(1));
    let pending =
        admin.revoke_access(with_deadline).await.unwrap().into_inner().enforcement.unwrap();
    assert_eq!(pending.state(), EnforcementState::Pending);
    let counts = (pending.nodes_acknowledged, pending.nodes_lapsed, pending.nodes_pending);
    assert_eq!(counts, (0, 0, 2), "a node counts together with its followers");
    follower.keep_up(revision + 1).await;
    let request = wait("acme", &pending.consistency_token);
    let complete = admin.wait_enforced(request).await.unwrap().into_inner().enforcement.unwrap();
    assert_eq!(complete.state(), EnforcementState::Complete);
    assert_eq!((complete.nodes_acknowledged, complete.nodes_lapsed), (2, 0));

    let request = ListEventsRequest { tenant_id: "acme".to_owned(), ..Default::default() };
    eventually(async || {
        let events = admin.list_events(request.clone()).await.unwrap().into_inner().events;
        let Some(enforcement) = &events[0].enforcement else { return false };
        assert_eq!(enforcement.consistency_token, pending.consistency_token);
        assert_eq!((enforcement.nodes_acknowledged, enforcement.nodes_pending), (2, 0));
        true
    })
    .await;
    stop(running).await.unwrap();
}

/// Each grant is longer than 50,000 bytes. A node keeps 16 MiB for a follower.
const GRANTS: usize = 350;

#[tokio::test]
async fn a_follower_that_does_not_read_is_disconnected_and_may_reconnect() {
    let (running, _store) = start(config()).await;
    let endpoint = Endpoint::try_from(format!("http://{}", running.grpc[0])).unwrap();
    let narrow = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let mut slow = Follower::new(narrow.connect().await.unwrap()).await;
    slow.pong(1).await;
    let mut good = Follower::new(channel(&running).await).await;
    good.pong(1).await;

    let agent = |number: usize| format!("{number:03}{}", "\u{1f600}".repeat(125));
    let mut last = 0;
    for number in 0..GRANTS {
        let request = GrantAccessRequest {
            tenant_id: format!("tenant {number}"),
            named_agents: Some(NamedAgents { agent_ids: (0..100).map(agent).collect() }),
            ..a_grant()
        };
        (_, last) = grant(&running, request).await;
        good.keep_up(last).await;
    }
    assert_eq!(last, i64::try_from(GRANTS).unwrap());
    assert!(
        has_metric(&running, &followers(2)).await,
        "the slow follower has violated nothing yet"
    );

    let mut received = 0;
    let end = loop {
        match with_timeout(slow.responses.message()).await {
            Ok(Some(response)) => {
                let Some(Response::Changes(changes)) = response.message else {
                    panic!("{response:?}")
                };
                received += changes.changes.len();
            }
            Ok(None) => panic!("the stream ended without an error"),
            Err(status) => break status,
        }
    };
    assert_eq!((end.code(), reason(&end).as_str()), (Code::ResourceExhausted, "FOLLOWER_TOO_SLOW"));
    assert!(received < 10, "{received} changes were buffered");
    assert!(good.pong(2).await.lease.is_some());

    let mut again = Follower::new(channel(&running).await).await;
    assert_eq!(again.pong(1).await.lease.unwrap().revision, last);
    stop(running).await.unwrap();
}

#[tokio::test]
async fn check_nodes_are_listed_with_their_followers() {
    let (running, _store) = start(config()).await;
    let (_, revision) = grant(&running, a_grant()).await;
    let mut follower = Follower::new(channel(&running).await).await;
    follower.pong(1).await;
    let mut client = CheckNodesClient::new(channel(&running).await);
    let listed = client.list_check_nodes(ListCheckNodesRequest {}).await.unwrap().into_inner();
    assert_eq!((listed.head_revision, listed.max_staleness.unwrap().seconds), (revision, 2));
    let [replica, sidecar] = &listed.check_nodes[..] else { panic!("{listed:?}") };
    assert_eq!((replica.kind(), replica.upstream_node_id.as_str()), (NodeKind::Replica, ""));
    assert_eq!(replica.version, env!("CARGO_PKG_VERSION"));
    assert!(replica.lease_age.unwrap().seconds < 2);
    assert_eq!((sidecar.kind(), sidecar.version.as_str()), (NodeKind::Sidecar, "9.9"));
    assert_eq!(sidecar.node_id, follower.node_id.to_string());
    assert_eq!(sidecar.upstream_node_id, replica.node_id);
    assert_eq!((sidecar.revision, sidecar.lag), (0, revision), "no acknowledgement was sent");
    stop(running).await.unwrap();
}

/// A follower that uses the id of the replica appears beside the replica, as a sidecar.
#[tokio::test]
async fn a_follower_hides_no_node() {
    let store = SlowStore::new();
    let (first, second) = (start_on(config(), &store).await, start_on(config(), &store).await);
    let (first, second) = (first.unwrap(), second.unwrap());
    let mut client = CheckNodesClient::new(channel(&first).await);
    let mut list = async || {
        let listed = client.list_check_nodes(ListCheckNodesRequest {}).await.unwrap();
        listed.into_inner().check_nodes
    };
    let replicas = list().await;
    assert_eq!(replicas.len(), 2);
    let mut rogue = Follower::silent(channel(&first).await).await;
    let path = Follower::new(channel(&first).await).await.pong(1).await.path;
    let own = Uuid::from_slice(&path[0]).unwrap().to_string();
    let other = replicas.iter().find(|node| node.node_id != own).unwrap();
    rogue.node_id = other.node_id.parse().unwrap();
    rogue.send(rogue.hello()).await;
    rogue.pong(1).await;
    let listed = list().await;
    let with_id = listed.iter().filter(|node| node.node_id == other.node_id);
    let kinds: Vec<_> = with_id.map(CheckNode::kind).collect();
    assert_eq!(kinds, [NodeKind::Replica, NodeKind::Sidecar]);
    stop(second).await.unwrap();
    stop(first).await.unwrap();
}
