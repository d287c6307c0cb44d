//! What a sidecar makes of what it is told to follow.

use std::{sync::Arc, time::Duration};

use support_access::{
    api::{
        credentials::ClientCredentials, grpc::upstream::GrpcUpstream,
        proto::v1::RevokeAccessRequest,
    },
    domain::{NodeId, NodeKind, clock::SystemClock},
    node::{
        CheckNode,
        message::{Hello, PROTOCOL, ToFollower, ToUpstream},
        upstream_session::{FollowError, Upstream, run},
    },
    server::Running,
};
use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::StreamExt;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use uuid::Uuid;

use crate::follower::head_revision;
use crate::harness::{a_grant, admin, config, eventually, loopback, start, stop, with_timeout};

fn node() -> Arc<CheckNode> {
    CheckNode::new(NodeId(Uuid::new_v4()), NodeKind::Sidecar, Arc::new(SystemClock))
}

fn url(running: &Running) -> String {
    format!("http://{}", running.grpc[0])
}

/// Follows until `done`.
async fn follow_until(node: &Arc<CheckNode>, url: &str, done: impl Future<Output = ()>) {
    let upstream: Arc<dyn Upstream> =
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

/// Says hello, and what came of it.
async fn answer(url: &str, hello: Hello) -> Result<ToFollower, FollowError> {
    let upstream = GrpcUpstream::new(url, &ClientCredentials::default()).unwrap();
    let (says, said) = mpsc::channel(1);
    says.send(ToUpstream::Hello(hello)).await.unwrap();
    let mut stream = with_timeout(upstream.open(said)).await?;
    with_timeout(stream.next()).await.unwrap()
}

fn hello(node_id: NodeId) -> Hello {
    Hello { protocol: PROTOCOL, node_id, version: "1".to_owned(), held: None, lease_age: None }
}

#[tokio::test]
async fn a_node_is_fed_and_its_word_is_waited_for() {
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
        assert!(enforcement.elapsed.unwrap().seconds == 0, "nobody had to lapse");
        assert_eq!(node.revision(), head_revision(&running).await);
    }))
    .await;
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_node_that_holds_another_history_takes_a_snapshot() {
    let (first, _store) = start(config()).await;
    let (second, _store) = start(config()).await;
    let mut grants = admin(&first).await;
    for _ in 0..3 {
        grants.grant_access(a_grant()).await.unwrap();
    }
    let node = node();
    follow_until(&node, &url(&first), eventually(async || node.read_view().is_fresh())).await;
    let held = node.held().unwrap();
    assert_eq!(held.revision, 3);
    // Less far, and further.
    for revision in [0, 5] {
        for _ in 0..revision {
            admin(&second).await.grant_access(a_grant()).await.unwrap();
        }
        let is_of_second = async || {
            let now = node.held().unwrap();
            now.epoch != held.epoch && now.revision == revision && node.read_view().is_fresh()
        };
        follow_until(&node, &url(&second), eventually(is_of_second)).await;
    }
    stop(first).await.unwrap();
    stop(second).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_followed_is_refused_in_a_sentence() {
    let (running, _store) = start(config()).await;
    let health = TcpListener::bind(loopback()).await.unwrap();
    let other = format!("http://{}", health.local_addr().unwrap());
    let (_, service) = tonic_health::server::health_reporter();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(health);
    let serving = Server::builder().add_service(service).serve_with_incoming(incoming);
    let asking = async {
        // Another gRPC server, and one that speaks HTTP/1: our own, a common mistake.
        for url in [other, format!("http://{}", running.http)] {
            let refusal = answer(&url, hello(node().id())).await.unwrap_err();
            let sentence = format!(
                "{url} is not a support-access server, or not one that can be followed: correct the upstream"
            );
            assert_eq!(refusal, FollowError::Refused(sentence));
        }
    };
    tokio::select! {
        ended = serving => panic!("{ended:?}"),
        () = asking => {}
    }

    let url = url(&running);
    let Ok(ToFollower::Welcome(welcome)) = answer(&url, hello(node().id())).await else {
        panic!("no welcome")
    };
    let sentence = "refuses this node: a check node must not follow itself: correct its upstream";
    let refusal = answer(&url, hello(welcome.node_id)).await.unwrap_err();
    assert_eq!(refusal, FollowError::Refused(format!("{url} {sentence}")));
    let newer = Hello { protocol: 2, ..hello(node().id()) };
    let refusal = answer(&url, newer).await.unwrap_err().to_string();
    let sentence = "this node speaks version 1 of the protocol, but the follower speaks 2: \
        upgrade the older of the two";
    assert_eq!(refusal, format!("{url} refuses this node: {sentence}"));
    stop(running).await.unwrap();
}

#[tokio::test]
async fn who_does_not_answer_may_do_so_later() {
    let silent = TcpListener::bind(loopback()).await.unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let begun = Instant::now();
    let lost = answer(&url, hello(node().id())).await.unwrap_err();
    assert_eq!(lost, FollowError::Lost("it does not answer".to_owned()));
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(silent);
    let lost = answer(&url, hello(node().id())).await.unwrap_err();
    let sentence = "it cannot be reached: Connection refused (os error 111)";
    assert_eq!(lost, FollowError::Lost(sentence.to_owned()));
    let missing = answer("unix:/no/such/socket", hello(node().id())).await.unwrap_err();
    assert!(matches!(missing, FollowError::Lost(_)), "{missing}");
}

#[tokio::test]
async fn a_stream_ends_when_its_server_stops() {
    let (running, _store) = start(config()).await;
    let upstream = GrpcUpstream::new(&url(&running), &ClientCredentials::default()).unwrap();
    let (says, said) = mpsc::channel(1);
    let mut stream = with_timeout(upstream.open(said)).await.unwrap();
    says.send(ToUpstream::Hello(hello(node().id()))).await.unwrap();
    assert!(matches!(with_timeout(stream.next()).await, Some(Ok(ToFollower::Welcome(_)))));
    let ending = async {
        loop {
            if let Err(error) = with_timeout(stream.next()).await.unwrap() {
                return error;
            }
        }
    };
    let (error, ended) =
        timeout(Duration::from_secs(10), async { tokio::join!(ending, stop(running)) })
            .await
            .unwrap();
    ended.unwrap();
    let sentence = "it has ended the stream: the server is shutting down";
    assert_eq!(error, FollowError::Lost(sentence.to_owned()));
}

#[test]
fn upstreams_are_urls_or_sockets_and_tell_no_secrets() {
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
