//! A portal acts for the administrator whose token it forwards.

use support_access::api::proto::v1::{Event, GrantAccessRequest, ListEventsRequest};
use tonic::{Code, Request};

use super::{OPERATOR, PORTAL, World, bearing, reason};
use crate::server::harness::a_grant;

async fn last_event(world: &World) -> Event {
    let request =
        ListEventsRequest { tenant_id: "acme".to_owned(), ..ListEventsRequest::default() };
    let response = world.admin(Some(OPERATOR)).await.list_events(request).await.unwrap();
    response.into_inner().events.remove(0)
}

fn named(message: GrantAccessRequest, name: &str) -> Request<GrantAccessRequest> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("support-access-actor", name.parse().unwrap());
    request
}

#[tokio::test]
async fn portal_and_administrator_are_verified_and_recorded() {
    let world = World::new().await;
    let token = world.issuer.token("alice@acme.example", "access-admin", &["acme"]);
    let mut portal = world.admin(Some(PORTAL)).await;
    let grant = portal.grant_access(bearing(a_grant(), &token)).await.unwrap();
    assert_eq!(grant.into_inner().grant.unwrap().creator, "alice@acme.example");
    let event = last_event(&world).await;
    assert_eq!((&*event.actor, &*event.via), ("alice@acme.example", PORTAL));
    assert!(!event.actor_asserted);

    let other = GrantAccessRequest { tenant_id: "other".to_owned(), ..a_grant() };
    let rejected = portal.grant_access(bearing(other, &token)).await.unwrap_err();
    assert_eq!((rejected.code(), &*reason(&rejected)), (Code::PermissionDenied, "NOT_OWN_TENANT"));
}

#[tokio::test]
async fn an_administrator_needs_no_portal() {
    let world = World::new().await;
    let token = world.issuer.token("alice@acme.example", "access-admin", &["acme"]);
    world.admin(None).await.grant_access(bearing(a_grant(), &token)).await.unwrap();
    let event = last_event(&world).await;
    assert_eq!((&*event.actor, &*event.via), ("alice@acme.example", ""));
}

#[tokio::test]
async fn a_portal_has_no_permissions_of_its_own() {
    let world = World::new().await;
    let mut portal = world.admin(Some(PORTAL)).await;
    for request in [Request::new(a_grant()), named(a_grant(), "alice@acme.example")] {
        let rejected = portal.grant_access(request).await.unwrap_err();
        assert_eq!(
            (rejected.code(), &*reason(&rejected)),
            (Code::PermissionDenied, "ROLE_MISSING")
        );
    }
}

#[tokio::test]
async fn a_trusted_portal_may_name_the_administrator_and_the_history_marks_it() {
    let world = World::with("trust_portal_assertion = true").await;
    let mut portal = world.admin(Some(PORTAL)).await;
    portal.grant_access(named(a_grant(), "alice@acme.example")).await.unwrap();
    let event = last_event(&world).await;
    assert_eq!((&*event.actor, &*event.via), ("alice@acme.example", PORTAL));
    assert!(event.actor_asserted);
    for name in ["system", ""] {
        let rejected = portal.grant_access(named(a_grant(), name)).await.unwrap_err();
        assert_eq!(rejected.code(), Code::InvalidArgument, "{name:?}");
    }
    // Other callers are not trusted.
    let mut operator = world.admin(Some(OPERATOR)).await;
    let rejected = operator.grant_access(named(a_grant(), "alice@acme.example")).await.unwrap_err();
    assert_eq!((rejected.code(), &*reason(&rejected)), (Code::PermissionDenied, "ROLE_MISSING"));
}

#[tokio::test]
async fn roles_of_certificate_and_token_are_not_combined() {
    let world = World::with("trust_portal_assertion = true").await;
    let admin = world.issuer.token("alice@acme.example", "access-admin", &["acme"]);
    let operator = world.issuer.token("olga", "vendor-operator", &[]);
    for (certificate, token) in [(OPERATOR, &admin), (super::GATEWAY, &admin), (PORTAL, &operator)]
    {
        let mut client = world.admin(Some(certificate)).await;
        let rejected = client.grant_access(bearing(a_grant(), token)).await.unwrap_err();
        let expected = (Code::PermissionDenied, "SEPARATION_OF_DUTIES");
        assert_eq!((rejected.code(), &*reason(&rejected)), expected, "{certificate}");
    }
}

#[tokio::test]
async fn a_token_cannot_have_roles_of_both_parties() {
    let world = World::new().await;
    let mut claims = super::issuer::claims("mallory", "access-admin", &["acme"]);
    claims["roles"] = serde_json::json!(["access-admin", "vendor-operator"]);
    let token = world.issuer.signer.sign(&claims);
    let rejected = world.admin(None).await.grant_access(bearing(a_grant(), &token)).await;
    let rejected = rejected.unwrap_err();
    let expected = (Code::PermissionDenied, "SEPARATION_OF_DUTIES");
    assert_eq!((rejected.code(), &*reason(&rejected)), expected);
}
