//! Credentials of sidecars for their upstreams.

use std::{fs, net::SocketAddr};

use support_access::{
    api::{
        credentials::ClientCredentials,
        grpc::upstream::GrpcUpstream,
        proto::replication::v1::{
            FollowRequest,
            follow_request::{Hello, Message},
            replication_client::ReplicationClient,
        },
    },
    domain::Clock,
    node::upstreams::Upstream,
    server::{Listeners, Running, SystemClock, config::SidecarConfig, start_sidecar},
};
use tempfile::TempDir;
use tonic::Code;

use super::{GATEWAY, NODE, OPERATOR, World, bearing};
use crate::server::harness::{a_check, a_grant, access, common, eventually, with_timeout};

pub(super) struct Sidecar {
    pub(super) running: Running,
    _dir: TempDir,
}

pub(super) async fn sidecar(world: &World, name: Option<&str>, token: Option<&str>) -> Sidecar {
    let dir = TempDir::new().unwrap();
    let at = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let certificate = name.map(|name| world.authority.client(name));
    let (certificate, key) = certificate.unzip();
    let config = SidecarConfig {
        web_listen: None,
        upstream: vec![world.url()],
        upstream_ca: Some(at("ca.pem", world.authority.pem())),
        upstream_certificate: certificate.map(|pem| at("own.pem", &pem)),
        upstream_key: key.map(|pem| at("own.key", &pem)),
        upstream_token_file: token.map(|token| at("token", token)),
        common: common(),
    };
    let listeners = Listeners::bind(&config.common, config.web_listen.as_ref()).unwrap();
    let running = start_sidecar(config, listeners, std::sync::Arc::new(SystemClock)).await.unwrap();
    Sidecar { running, _dir: dir }
}

async fn is_allowed(sidecar: &Sidecar) -> bool {
    let response = access(&sidecar.running).await.check_access(a_check()).await.unwrap();
    response.into_inner().decision() == support_access::api::proto::v1::Decision::Allowed
}

#[tokio::test]
async fn a_sidecar_follows_with_a_certificate_or_with_a_token() {
    let world = World::new().await;
    let token = world.issuer.token("alice@acme.example", "access-admin", &["acme"]);
    world.admin(None).await.grant_access(bearing(a_grant(), &token)).await.unwrap();
    let certified = sidecar(&world, Some(NODE), None).await;
    eventually(async || is_allowed(&certified).await).await;
    let node = world.issuer.token("sidecar-7", "vendor-node", &[]);
    let bearer = sidecar(&world, None, Some(&node)).await;
    eventually(async || is_allowed(&bearer).await).await;
}

#[tokio::test]
async fn tls_verifies_the_name_of_an_upstream_at_every_address() {
    let world = World::new().await;
    let dir = TempDir::new().unwrap();
    let (ca, token_file) = (dir.path().join("ca.pem"), dir.path().join("token"));
    fs::write(&ca, world.authority.pem()).unwrap();
    fs::write(&token_file, world.issuer.token("sidecar-7", "vendor-node", &[])).unwrap();
    let credentials =
        ClientCredentials { ca: Some(ca), identity: None, token_file: Some(token_file) };
    let port = world.url().rsplit_once(':').unwrap().1.parse().unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    // The certificate is that of `localhost`.
    for (url, is_right) in [("https://localhost", true), ("https://access.test", false)] {
        let upstream = GrpcUpstream::new(url, &credentials).unwrap().at(Some(address));
        let (_requests, receiver) = tokio::sync::mpsc::channel(1);
        let opened = with_timeout(upstream.open(receiver)).await;
        match opened {
            Ok(_) => assert!(is_right, "{url}"),
            Err(error) => {
                let error = error.to_string();
                assert!(!is_right && error.contains("certificate"), "{url}: {error}");
            }
        }
    }
}

#[tokio::test]
async fn callers_without_the_role_node_cannot_follow() {
    let world = World::new().await;
    let gateway = world.issuer.token("gw", "vendor-gateway", &[]);
    let rejected = [
        sidecar(&world, Some(GATEWAY), None).await,
        sidecar(&world, Some(OPERATOR), None).await,
        sidecar(&world, None, None).await,
        sidecar(&world, None, Some(&gateway)).await,
    ];
    // This node starts last. Once it follows, the other nodes had enough time to follow.
    let node = sidecar(&world, Some(NODE), None).await;
    eventually(async || !is_stale(&node).await).await;
    for sidecar in rejected {
        assert!(is_stale(&sidecar).await);
    }
}

#[tokio::test]
async fn a_stream_ends_when_the_token_of_the_follower_expires() {
    let world = World::new().await;
    let mut claims = super::issuer::claims("sidecar-7", "vendor-node", &[]);
    // The leeway is 30 seconds, so that five seconds are left to open the stream.
    claims["exp"] = (SystemClock.now().timestamp() - 25).into();
    let token = world.issuer.signer.sign(&claims);
    let mut nodes = ReplicationClient::new(world.channel(None).await);
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let hello = FollowRequest {
        message: Some(Message::Hello(Hello {
            protocol_version: support_access::node::message::PROTOCOL,
            node_id: vec![7; 16],
            version: "1".to_owned(),
            ..Hello::default()
        })),
    };
    requests.send(hello).await.unwrap();
    let receiver = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut responses = nodes.follow(bearing(receiver, &token)).await.unwrap().into_inner();
    let ended = with_timeout(async {
        loop {
            match responses.message().await {
                Ok(message) => assert!(message.is_some(), "the stream ended without an error"),
                Err(status) => break status,
            }
        }
    })
    .await;
    let expected = (Code::Unauthenticated, "CREDENTIALS_EXPIRED");
    assert_eq!((ended.code(), &*super::reason(&ended)), expected);
    let again = nodes.follow(bearing(futures::stream::empty(), &token)).await.unwrap_err();
    assert_eq!((again.code(), &*super::reason(&again)), (Code::Unauthenticated, "TOKEN_REJECTED"));
}

async fn is_stale(sidecar: &Sidecar) -> bool {
    let response = access(&sidecar.running).await.check_access(a_check()).await.unwrap();
    response.into_inner().reason() == support_access::api::proto::v1::DecisionReason::Stale
}
