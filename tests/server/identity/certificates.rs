//! Mutual TLS: whose certificates are taken, and what their names may do.

use support_access::api::proto::v1::{
    ListGrantsRequest, support_access_client::SupportAccessClient,
};
use tonic::Code;

use super::{
    AUDITOR, GATEWAY, OPERATOR, PORTAL, World,
    authority::{Authority, expired, not_yet_valid},
    reason,
};
use crate::harness::{a_check, wait_for_metric};

fn list() -> ListGrantsRequest {
    ListGrantsRequest { tenant_id: "acme".to_owned(), ..ListGrantsRequest::default() }
}

#[tokio::test]
async fn a_certificate_says_who_calls_by_its_uri_or_its_dns_name() {
    let world = World::new().await;
    assert!(world.checks(Some(GATEWAY)).await.check_access(a_check()).await.is_ok());
    assert!(world.admin(Some(AUDITOR)).await.list_grants(list()).await.is_ok());
    assert!(world.admin(Some(OPERATOR)).await.list_grants(list()).await.is_ok());
}

#[tokio::test]
async fn who_is_certified_but_bound_to_nothing_is_nobody() {
    let world = World::new().await;
    for name in ["spiffe://vendor.example/gateway/2", "spiffe://other.example/gateway", "localhost"]
    {
        let refused = world.checks(Some(name)).await.check_access(a_check()).await.unwrap_err();
        assert_eq!((refused.code(), &*reason(&refused)), (Code::PermissionDenied, "ROLE_MISSING"));
    }
    let refused = world.checks(None).await.check_access(a_check()).await.unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::Unauthenticated, "CREDENTIALS_MISSING")
    );
}

#[tokio::test]
async fn a_common_name_is_no_name() {
    let world = World::new().await;
    let shown = world.authority.client_with(&[], |params| {
        params.distinguished_name.push(rcgen::DnType::CommonName, GATEWAY);
    });
    let channel = world.connect(Some(shown)).await.unwrap();
    let mut client = SupportAccessClient::new(channel);
    let refused = client.check_access(a_check()).await.unwrap_err();
    assert_eq!(
        (refused.code(), &*reason(&refused)),
        (Code::Unauthenticated, "CERTIFICATE_REJECTED")
    );
}

/// A connection may seem to be there until the server's verdict arrives: the first call tells.
async fn is_let_in(world: &World, shown: (String, String)) -> bool {
    match world.connect(Some(shown)).await {
        Ok(channel) => {
            let mut client = SupportAccessClient::new(channel);
            client.check_access(a_check()).await.is_ok()
        }
        Err(_) => false,
    }
}

#[tokio::test]
async fn certificates_that_do_not_hold_are_refused_in_the_handshake() {
    let world = World::new().await;
    assert!(is_let_in(&world, world.authority.client(GATEWAY)).await);
    let stranger = Authority::new("somebody else");
    assert!(!is_let_in(&world, stranger.client(GATEWAY)).await, "of another authority");
    let namesake = Authority::new("clients and servers");
    assert!(!is_let_in(&world, namesake.client(GATEWAY)).await, "of its namesake");
    assert!(!is_let_in(&world, world.authority.client_with(&[GATEWAY], expired)).await);
    assert!(!is_let_in(&world, world.authority.client_with(&[GATEWAY], not_yet_valid)).await);
    let for_servers = world.authority.client_with(&[GATEWAY], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    assert!(!is_let_in(&world, for_servers).await, "for servers only");
    // Who is locked out so has no call that could be counted.
    wait_for_metric(&world.running, "support_access_handshakes_failed_total 5").await;
}

#[tokio::test]
async fn several_names_may_not_add_up_to_what_nobody_may_be() {
    let world = World::new().await;
    for names in [[PORTAL, OPERATOR], [GATEWAY, PORTAL]] {
        let shown = world.authority.client_with(&names, |_| {});
        let channel = world.connect(Some(shown)).await.unwrap();
        let mut client = SupportAccessClient::new(channel);
        let refused = client.check_access(a_check()).await.unwrap_err();
        let expected = (Code::PermissionDenied, "SEPARATION_OF_DUTIES");
        assert_eq!((refused.code(), &*reason(&refused)), expected);
    }
}

#[tokio::test]
async fn without_tls_nobody_is_served_where_there_is_tls() {
    let world = World::new().await;
    let plain = world.url().replace("https://", "http://");
    let connected = tonic::transport::Endpoint::from_shared(plain).unwrap().connect().await;
    if let Ok(channel) = connected {
        let mut client = SupportAccessClient::new(channel);
        assert!(client.check_access(a_check()).await.is_err());
    }
}
