//! Upstreams as a sidecar follows them.

use std::sync::Arc;

use support_access::{
    api::{
        credentials::ClientCredentials, grpc::upstream::GrpcUpstream,
        proto::v1::RevokeAccessRequest,
    },
    domain::{NodeId, NodeKind},
    node::{
        CheckNode,
        message::{Hello, PROTOCOL, ToFollower, ToUpstream},
        upstream_session::FollowError,
        upstreams::{Upstream, UpstreamName, run},
    },
    server::{Running, SystemClock},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::mpsc,
};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use uuid::Uuid;

use crate::server::follower::head_revision;
use crate::server::harness::{
    a_grant, admin, config, eventually, loopback, start, stop, with_timeout,
};

fn node() -> Arc<CheckNode> {
    CheckNode::new(NodeId(Uuid::new_v4()), NodeKind::Sidecar, Arc::new(SystemClock))
}

fn url(running: &Running) -> String {
    format!("http://{}", running.grpc[0])
}

/// Follows the upstream until `done`.
async fn follow_until(node: &Arc<CheckNode>, url: &str, done: impl Future<Output = ()>) {
    let upstream: Arc<dyn UpstreamName> =
        Arc::new(GrpcUpstream::new(url, &ClientCredentials::default()).unwrap());
    let stop = CancellationToken::new();
    let following = Box::pin(run(Arc::clone(node), vec![upstream], stop.clone()));
    let done = async {
        done.await;
        stop.cancel();
    };
    let (followed, ()) = with_timeout(async { tokio::join!(following, done) }).await;
    followed.unwrap();
}

/// The upstream at a URL with one address.
async fn only_address(url: &str) -> Arc<dyn Upstream> {
    let upstream = GrpcUpstream::new(url, &ClientCredentials::default()).unwrap();
    let mut addresses = upstream.resolve().await.unwrap();
    assert_eq!(addresses.len(), 1);
    addresses.remove(0)
}

/// Sends a hello, and returns the first response.
async fn connect(url: &str, hello: Hello) -> Result<ToFollower, FollowError> {
    let upstream = only_address(url).await;
    let (requests, receiver) = mpsc::channel(1);
    requests.send(ToUpstream::Hello(hello)).await.unwrap();
    let mut stream = with_timeout(upstream.open(receiver)).await?;
    with_timeout(stream.next()).await.unwrap()
}

fn hello(node_id: NodeId) -> Hello {
    Hello { protocol: PROTOCOL, node_id, version: "1".to_owned(), position: None, lease_age: None }
}

#[tokio::test]
async fn a_node_follows_and_its_acknowledgement_is_waited_for() {
    let (running, _store) = start(config()).await;
    let granted = admin(&running).await.grant_access(a_grant()).await.unwrap().into_inner();
    let grant = granted.grant.unwrap();
    let node = node();
    Box::pin(follow_until(&node, &url(&running), async {
        eventually(async || node.read_view().is_fresh()).await;
        assert_eq!(node.revision(), head_revision(&running).await);
        let request = RevokeAccessRequest {
            tenant_id: grant.tenant_id,
            grant_id: grant.grant_id,
            ..RevokeAccessRequest::default()
        };
        let revoked = admin(&running).await.revoke_access(request).await.unwrap().into_inner();
        let enforcement = revoked.enforcement.unwrap();
        assert_eq!((enforcement.nodes_acknowledged, enforcement.nodes_lapsed), (2, 0));
        assert!(enforcement.elapsed.unwrap().seconds == 0, "no lease had to expire");
        assert_eq!(node.revision(), head_revision(&running).await);
    }))
    .await;
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_node_with_another_log_installs_a_snapshot() {
    let (first, _store) = start(config()).await;
    let (second, _store) = start(config()).await;
    let mut grants = admin(&first).await;
    for _ in 0..3 {
        grants.grant_access(a_grant()).await.unwrap();
    }
    let node = node();
    follow_until(&node, &url(&first), eventually(async || node.read_view().is_fresh())).await;
    let held = node.position().unwrap();
    assert_eq!(held.revision, 3);
    // Behind the position of the node, and ahead of it.
    for revision in [0, 5] {
        for _ in 0..revision {
            admin(&second).await.grant_access(a_grant()).await.unwrap();
        }
        let is_of_second = async || {
            let now = node.position().unwrap();
            now.epoch != held.epoch && now.revision == revision && node.read_view().is_fresh()
        };
        follow_until(&node, &url(&second), eventually(is_of_second)).await;
    }
    stop(first).await.unwrap();
    stop(second).await.unwrap();
}

#[tokio::test]
async fn invalid_upstreams_are_reported() {
    let (running, _store) = start(config()).await;
    let health = TcpListener::bind(loopback()).await.unwrap();
    let other = format!("http://{}", health.local_addr().unwrap());
    let (_, service) = tonic_health::server::health_reporter();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(health);
    let serving = Server::builder().add_service(service).serve_with_incoming(incoming);
    let connecting = async {
        // Another gRPC server, and the metrics endpoint, a common mistake.
        for url in [other, format!("http://{}", running.metrics)] {
            let error = connect(&url, hello(node().id())).await.unwrap_err();
            let expected = format!(
                "{url} is not a support-access server that can be followed; correct the upstream"
            );
            assert_eq!(error, FollowError::Rejected(expected));
        }
    };
    tokio::select! {
        ended = serving => panic!("{ended:?}"),
        () = connecting => {}
    }

    let url = url(&running);
    let Ok(ToFollower::Welcome(welcome)) = connect(&url, hello(node().id())).await else {
        panic!("no welcome")
    };
    let expected = "rejects this node: a check node must not follow itself; correct the upstream";
    let error = connect(&url, hello(welcome.node_id)).await.unwrap_err();
    assert_eq!(error, FollowError::Rejected(format!("{url} {expected}")));
    let newer = Hello { protocol: 2, ..hello(node().id()) };
    let error = connect(&url, newer).await.unwrap_err().to_string();
    let expected = "this node speaks version 1 of the protocol, but the follower speaks 2; \
        upgrade the older of the two";
    assert_eq!(error, format!("{url} rejects this node: {expected}"));
    stop(running).await.unwrap();
}

#[tokio::test]
async fn unavailable_upstreams_are_retried() {
    let silent = TcpListener::bind(loopback()).await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let lost = connect(&url, hello(node().id())).await.unwrap_err();
    assert_eq!(lost, FollowError::Lost("it does not respond".to_owned()));
    // Bound, so that no other process listens there, but not listening.
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind(loopback()).unwrap();
    let url = format!("http://{}", closed.local_addr().unwrap());
    let lost = connect(&url, hello(node().id())).await.unwrap_err();
    let expected = "it cannot be reached: Connection refused (os error 111)";
    assert_eq!(lost, FollowError::Lost(expected.to_owned()));
    let missing = connect("unix:/no/such/socket", hello(node().id())).await.unwrap_err();
    assert!(matches!(missing, FollowError::Lost(_)), "{missing}");
}

#[tokio::test]
async fn a_stream_ends_when_the_upstream_shuts_down() {
    let (running, _store) = start(config()).await;
    let upstream = only_address(&url(&running)).await;
    let (requests, receiver) = mpsc::channel(1);
    let mut stream = with_timeout(upstream.open(receiver)).await.unwrap();
    requests.send(ToUpstream::Hello(hello(node().id()))).await.unwrap();
    assert!(matches!(with_timeout(stream.next()).await, Some(Ok(ToFollower::Welcome(_)))));
    let ending = async {
        loop {
            if let Err(error) = with_timeout(stream.next()).await.unwrap() {
                return error;
            }
        }
    };
    let (error, ended) = with_timeout(async { tokio::join!(ending, stop(running)) }).await;
    ended.unwrap();
    let expected = "it has ended the stream: the server is shutting down";
    assert_eq!(error, FollowError::Lost(expected.to_owned()));
}

#[test]
fn upstreams_are_urls_or_sockets_without_credentials() {
    for url in ["http://127.0.0.1:50051", "http://[::1]:1/", "https://host", "unix:/a@b", "unix:a"]
    {
        assert_eq!(
            format!("{:?}", GrpcUpstream::new(url, &ClientCredentials::default()).unwrap()),
            url
        );
    }
    for url in ["", "unix:", "127.0.0.1:50051", "http://", "http://a/b", "https://a/b", "ftp://a"] {
        let error = GrpcUpstream::new(url, &ClientCredentials::default()).unwrap_err();
        assert!(error.contains("write it like https://replica:50051 or unix:"), "{error}");
    }
    let error =
        GrpcUpstream::new("http://user:secret@host:1", &ClientCredentials::default()).unwrap_err();
    assert!(!error.contains("secret"), "{error}");
}
