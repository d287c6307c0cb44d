//! Sidecars, whole: what they answer, whom they feed, and what is known of them.

use std::sync::Arc;

use support_access::{
    api::{
        credentials::ClientCredentials,
        proto::v1::{
            CheckAccessRequest, CheckNode, Decision, ExplainAccessRequest, ListCheckNodesRequest,
            NodeKind, RevokeAccessRequest, check_nodes_client::CheckNodesClient,
        },
    },
    domain::clock::SystemClock,
    server::{Listeners, Running, config::SidecarConfig, start_sidecar},
};
use tonic::Code;

use crate::{
    follower::{Follower, ack, grant, reason},
    harness::{
        a_check, a_grant, access, admin, channel, common, config, eventually, start, start_on, stop,
    },
    slow_store::SlowStore,
};

pub(crate) async fn sidecar(upstream: &Running) -> Running {
    let upstreams = vec![format!("http://{}", upstream.grpc[0])];
    let config = SidecarConfig {
        common: common(),
        upstreams,
        upstream_credentials: ClientCredentials::default(),
    };
    let listeners = Listeners::bind(&config.common).await.unwrap();
    start_sidecar(config, listeners, Arc::new(SystemClock)).await.unwrap()
}

async fn decision(running: &Running) -> Decision {
    access(running).await.check_access(a_check()).await.unwrap().into_inner().decision()
}

#[tokio::test]
async fn a_sidecar_answers_checks_and_feeds_others() {
    let (replica, _store) = start(config()).await;
    let sidecar = sidecar(&replica).await;
    let (grant_id, revision) = grant(&replica, a_grant()).await;
    eventually(async || decision(&sidecar).await == Decision::Allowed).await;

    let CheckAccessRequest { check, consistency_token } = a_check();
    let request = ExplainAccessRequest { check, consistency_token };
    let explained = access(&sidecar).await.explain_access(request).await.unwrap().into_inner();
    assert_eq!(explained.candidates.len(), 1);
    assert!(explained.candidates_truncated, "older ones are in the history, which it has not");

    let mut below = Follower::new(channel(&sidecar).await).await;
    let pong = below.pong(1).await;
    assert_eq!(pong.path.len(), 2, "the sidecar, and the replica");
    assert_eq!(pong.lease.unwrap().revision, revision);
    below.say(ack(revision)).await;

    let revoking = async {
        let tenant_id = "acme".to_owned();
        let request = RevokeAccessRequest { tenant_id, grant_id, ..Default::default() };
        let revoked = admin(&replica).await.revoke_access(request).await.unwrap().into_inner();
        let enforcement = revoked.enforcement.unwrap();
        assert_eq!((enforcement.nodes_acknowledged, enforcement.nodes_lapsed), (3, 0));
        assert!(enforcement.elapsed.unwrap().seconds == 0, "nobody had to lapse");
    };
    tokio::join!(revoking, below.keep_up(revision + 1));
    assert_eq!(decision(&sidecar).await, Decision::Denied);
    stop(sidecar).await.unwrap();
    stop(replica).await.unwrap();
}

#[tokio::test]
async fn a_sidecar_says_what_only_a_replica_knows() {
    let (replica, _store) = start(config()).await;
    let sidecar = sidecar(&replica).await;
    let mut client = CheckNodesClient::new(channel(&sidecar).await);
    let refusal = client.list_check_nodes(ListCheckNodesRequest {}).await.unwrap_err();
    assert_eq!(
        (refusal.code(), reason(&refusal).as_str()),
        (Code::Unimplemented, "REPLICA_REQUIRED")
    );
    let refusal = admin(&sidecar).await.grant_access(a_grant()).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Unimplemented);
    stop(sidecar).await.unwrap();
    stop(replica).await.unwrap();
}

#[tokio::test]
async fn any_replica_knows_whom_the_others_feed() {
    let store = SlowStore::new();
    let first = start_on(config(), &store).await.unwrap();
    let second = start_on(config(), &store).await.unwrap();
    let sidecar = sidecar(&first).await;
    let mut client = CheckNodesClient::new(channel(&second).await);
    // It is written down every 5 seconds.
    eventually(async || {
        let listed = client.list_check_nodes(ListCheckNodesRequest {}).await.unwrap().into_inner();
        let kinds: Vec<_> = listed.check_nodes.iter().map(CheckNode::kind).collect();
        let feeds = |node: &str| listed.check_nodes.iter().any(|it| it.upstream_node_id == node);
        kinds == [NodeKind::Replica, NodeKind::Replica, NodeKind::Sidecar]
            && listed.check_nodes.iter().filter(|it| feeds(&it.node_id)).count() == 1
    })
    .await;
    stop(sidecar).await.unwrap();
    // And once more when there is nobody any more.
    eventually(async || {
        let listed = client.list_check_nodes(ListCheckNodesRequest {}).await.unwrap().into_inner();
        listed.check_nodes.len() == 2
    })
    .await;
    stop(second).await.unwrap();
    stop(first).await.unwrap();
}
