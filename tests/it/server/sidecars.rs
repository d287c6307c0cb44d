//! Sidecars in this process, with a replica as their upstream.

use std::sync::Arc;

use support_access::{
    api::proto::v1::{
        CheckAccessRequest, CheckNode, Decision, ExplainAccessRequest, ListCheckNodesRequest,
        NodeKind, RevokeAccessRequest, check_nodes_client::CheckNodesClient,
    },
    server::{
        Listeners, Running, SystemClock,
        config::{Common, SidecarConfig},
        start_sidecar,
    },
};
use tonic::Code;

use crate::server::{
    follower::{Follower, ack, grant, reason},
    harness::{
        a_check, a_grant, access, admin, channel, common, config, eventually, start, start_on, stop,
    },
    slow_store::SlowStore,
};

pub(crate) async fn sidecar(upstream: &Running) -> Running {
    sidecar_with(upstream, common()).await
}

pub(crate) async fn sidecar_with(upstream: &Running, common: Common) -> Running {
    let upstream = vec![format!("http://{}", upstream.grpc[0])];
    let config = SidecarConfig { upstream, common, ..SidecarConfig::default() };
    let listeners = Listeners::bind(&config.common, config.web_listen.as_ref()).unwrap();
    start_sidecar(config, listeners, Arc::new(SystemClock)).await.unwrap()
}

async fn decision(running: &Running) -> Decision {
    access(running).await.check_access(a_check()).await.unwrap().into_inner().decision()
}

#[tokio::test]
async fn a_sidecar_answers_checks_and_has_followers() {
    let (replica, _store) = start(config()).await;
    let sidecar = sidecar(&replica).await;
    let (grant_id, revision) = grant(&replica, a_grant()).await;
    eventually(async || decision(&sidecar).await == Decision::Allowed).await;

    let CheckAccessRequest { check, consistency_token } = a_check();
    let request = ExplainAccessRequest { check, consistency_token };
    let explained = access(&sidecar).await.explain_access(request).await.unwrap().into_inner();
    assert_eq!(explained.candidates.len(), 1);
    assert!(
        explained.candidates_truncated,
        "older grants are in the history, which a sidecar does not have"
    );

    let mut below = Follower::new(channel(&sidecar).await).await;
    let pong = below.pong(1).await;
    assert_eq!(pong.path.len(), 2, "the sidecar and the replica");
    assert_eq!(pong.lease.unwrap().revision, revision);
    below.send(ack(revision)).await;

    let revoking = async {
        let tenant_id = "acme".to_owned();
        let request = RevokeAccessRequest { tenant_id, grant_id, ..Default::default() };
        let revoked = admin(&replica).await.revoke_access(request).await.unwrap().into_inner();
        let enforcement = revoked.enforcement.unwrap();
        // The sidecar counts as one node, together with its follower.
        assert_eq!((enforcement.nodes_acknowledged, enforcement.nodes_lapsed), (2, 0));
        assert!(enforcement.elapsed.unwrap().seconds == 0, "no lease had to expire");
    };
    tokio::join!(revoking, below.keep_up(revision + 1));
    assert_eq!(decision(&sidecar).await, Decision::Denied);
    stop(sidecar).await.unwrap();
    stop(replica).await.unwrap();
}

#[tokio::test]
async fn a_sidecar_rejects_rpcs_of_replicas() {
    let (replica, _store) = start(config()).await;
    let sidecar = sidecar(&replica).await;
    let mut client = CheckNodesClient::new(channel(&sidecar).await);
    let error = client.list_check_nodes(ListCheckNodesRequest {}).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Unimplemented, "REPLICA_REQUIRED"));
    let error = admin(&sidecar).await.grant_access(a_grant()).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::Unimplemented, "REPLICA_REQUIRED"));
    stop(sidecar).await.unwrap();
    stop(replica).await.unwrap();
}

#[tokio::test]
async fn every_replica_lists_the_followers_of_all() {
    let store = SlowStore::new();
    let first = start_on(config(), &store).await.unwrap();
    let second = start_on(config(), &store).await.unwrap();
    let sidecar = sidecar(&first).await;
    let mut client = CheckNodesClient::new(channel(&second).await);
    // Replicas write their followers every five seconds.
    eventually(async || {
        let listed = client.list_check_nodes(ListCheckNodesRequest {}).await.unwrap().into_inner();
        let kinds: Vec<_> = listed.check_nodes.iter().map(CheckNode::kind).collect();
        let has_followers =
            |id: &str| listed.check_nodes.iter().any(|node| node.upstream_node_id == id);
        kinds == [NodeKind::Replica, NodeKind::Replica, NodeKind::Sidecar]
            && listed.check_nodes.iter().filter(|node| has_followers(&node.node_id)).count() == 1
    })
    .await;
    stop(sidecar).await.unwrap();
    eventually(async || {
        let listed = client.list_check_nodes(ListCheckNodesRequest {}).await.unwrap().into_inner();
        listed.check_nodes.len() == 2
    })
    .await;
    stop(second).await.unwrap();
    stop(first).await.unwrap();
}
