//! A wall clock that is set back does not revive grants.

use support_access::{
    domain::{End, GrantRequest, GrantState, Reason, RevokeRequest, Span},
    service::{EnforcementState, page::PageRequest},
    store::{GrantFilter, QueryScope},
};

use crate::properties::world::{World, admin, mk_check, mk_request, reference, soon, tenant};

#[tokio::test]
async fn an_expired_grant_stays_expired_with_and_without_an_expiry_event() {
    for is_recorded in [false, true] {
        let world = World::new().await;
        let request =
            GrantRequest { end: End::After(Span::hours(1)), ..mk_request(&tenant("acme")) };
        world.grant(request).await;
        assert_eq!(world.check(&mk_check(&tenant("acme"))).await.reason, Reason::GrantActive);
        world.advance(3_600).await;
        assert_eq!(world.check(&mk_check(&tenant("acme"))).await.reason, Reason::Expired);
        if is_recorded {
            assert_eq!(world.service.sweep().await.unwrap(), 1);
        }
        world.set_back(7_200).await;
        assert_eq!(world.check(&mk_check(&tenant("acme"))).await.reason, Reason::Expired);
        let mut filter = GrantFilter::all(QueryScope::Tenant(tenant("acme")));
        filter.states = vec![GrantState::Expired];
        let page = world.service.list_grants(filter, &PageRequest::default()).await.unwrap();
        assert_eq!(page.items[0].state, GrantState::Expired);
    }
}

#[tokio::test]
async fn a_node_that_starts_with_a_clock_that_is_behind_denies_expired_grants() {
    let world = World::new().await;
    let request = GrantRequest { end: End::After(Span::hours(1)), ..mk_request(&tenant("acme")) };
    world.grant(request).await;
    world.advance(3_600).await;
    world.service.sweep().await.unwrap();
    world.set_back(7_200).await;
    let restarted = world.restarted().await;
    assert_eq!(restarted.check(&mk_check(&tenant("acme"))).await.reason, Reason::Expired);
}

#[tokio::test]
async fn a_revocation_ends_a_grant_that_has_expired_by_the_databases_clock_only() {
    for all_at_once in [false, true] {
        let world = World::with_a_node_behind(3_600).await;
        let acme = tenant("acme");
        let request = GrantRequest { end: End::After(Span::hours(1)), ..mk_request(&acme) };
        let granted = world.grant(request).await;
        world.advance(3_600).await;
        if all_at_once {
            let caller = admin();
            let request = RevokeRequest::default();
            let revoked = world.service.revoke_all_access(&caller, &acme, request, soon());
            assert_eq!(revoked.await.unwrap().count, 0, "the grant had expired");
        } else {
            let revoked = world.revoke(&reference(&granted)).await;
            assert_eq!(revoked.grant.state, GrantState::Expired);
            assert_eq!(revoked.enforcement.state, EnforcementState::Complete);
        }
        assert_eq!(world.check(&mk_check(&tenant("acme"))).await.reason, Reason::Expired);
    }
}
