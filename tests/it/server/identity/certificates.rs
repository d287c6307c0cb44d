//! Client certificates: which are accepted, and which roles the names have.

use support_access::api::proto::v1::{
    ListGrantsRequest, support_access_client::SupportAccessClient,
};
use tonic::Code;

use super::{
    AUDITOR, GATEWAY, OPERATOR, PORTAL, World,
    authority::{Authority, expired, not_yet_valid},
    reason,
};
use crate::server::harness::{a_check, eventually, get};

fn list() -> ListGrantsRequest {
    ListGrantsRequest { tenant_id: "acme".to_owned(), ..ListGrantsRequest::default() }
}

#[tokio::test]
async fn a_certificate_identifies_by_uri_or_dns_name() {
    let world = World::new().await;
    assert!(world.checks(Some(GATEWAY)).await.check_access(a_check()).await.is_ok());
    assert!(world.admin(Some(AUDITOR)).await.list_grants(list()).await.is_ok());
    assert!(world.admin(Some(OPERATOR)).await.list_grants(list()).await.is_ok());
}

#[tokio::test]
async fn a_certificate_without_a_binding_has_no_permissions() {
    let world = World::new().await;
    for name in ["spiffe://vendor.example/gateway/2", "spiffe://other.example/gateway", "localhost"]
    {
        let rejected = world.checks(Some(name)).await.check_access(a_check()).await.unwrap_err();
        assert_eq!(
            (rejected.code(), &*reason(&rejected)),
            (Code::PermissionDenied, "ROLE_MISSING")
        );
    }
    let rejected = world.checks(None).await.check_access(a_check()).await.unwrap_err();
    assert_eq!(
        (rejected.code(), &*reason(&rejected)),
        (Code::Unauthenticated, "CREDENTIALS_MISSING")
    );
}

#[tokio::test]
async fn the_common_name_is_ignored() {
    let world = World::new().await;
    let identity = world.authority.client_with(&[], |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, GATEWAY);
    });
    let channel = world.connect(Some(identity)).await.unwrap();
    let mut client = SupportAccessClient::new(channel);
    let rejected = client.check_access(a_check()).await.unwrap_err();
    assert_eq!(
        (rejected.code(), &*reason(&rejected)),
        (Code::Unauthenticated, "CERTIFICATE_REJECTED")
    );
}

/// Checks that the server rejects a client in the handshake, and counts the rejection. The client
/// may connect again.
async fn assert_rejected(world: &World, identity: (String, String), description: &str) {
    let failed = async || {
        let metrics = get(world.running.metrics, "/metrics").await.2;
        let count = metrics.lines().find_map(|line| {
            line.strip_prefix("support_access_handshakes_failed_total ")?.parse::<u64>().ok()
        });
        count.unwrap()
    };
    let before = failed().await;
    assert!(!is_accepted(world, identity).await, "{description}");
    eventually(async || failed().await > before).await;
}

/// Whether a call succeeds. With TLS 1.3, a client may connect before the server has rejected the
/// connection.
async fn is_accepted(world: &World, identity: (String, String)) -> bool {
    match world.connect(Some(identity)).await {
        Ok(channel) => {
            let mut client = SupportAccessClient::new(channel);
            client.check_access(a_check()).await.is_ok()
        }
        Err(_) => false,
    }
}

#[tokio::test]
async fn invalid_certificates_are_rejected_in_the_handshake() {
    let world = World::new().await;
    assert!(is_accepted(&world, world.authority.client(GATEWAY)).await);
    let unknown = Authority::new("another authority");
    let namesake = Authority::new("clients and servers");
    let for_servers = world.authority.client_with(&[GATEWAY], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    for (identity, description) in [
        (unknown.client(GATEWAY), "another authority"),
        (namesake.client(GATEWAY), "another authority of the same name"),
        (world.authority.client_with(&[GATEWAY], expired), "expired"),
        (world.authority.client_with(&[GATEWAY], not_yet_valid), "not yet valid"),
        (for_servers, "a certificate for servers"),
    ] {
        assert_rejected(&world, identity, description).await;
    }
}

#[tokio::test]
async fn conflicting_roles_of_several_names_are_rejected() {
    let world = World::new().await;
    for names in [[PORTAL, OPERATOR], [GATEWAY, PORTAL]] {
        let identity = world.authority.client_with(&names, |_| {});
        let channel = world.connect(Some(identity)).await.unwrap();
        let mut client = SupportAccessClient::new(channel);
        let rejected = client.check_access(a_check()).await.unwrap_err();
        let expected = (Code::PermissionDenied, "SEPARATION_OF_DUTIES");
        assert_eq!((rejected.code(), &*reason(&rejected)), expected);
    }
}

#[tokio::test]
async fn plain_connections_to_a_tls_listener_are_rejected() {
    let world = World::new().await;
    let plain = world.url().replace("https://", "http://");
    let connected = tonic::transport::Endpoint::from_shared(plain).unwrap().connect().await;
    if let Ok(channel) = connected {
        let mut client = SupportAccessClient::new(channel);
        assert!(client.check_access(a_check()).await.is_err());
    }
}
