//! Changes whose commit the database does not confirm.

use std::{net::SocketAddr, sync::Arc};

use support_access::{
    domain::{Caller, FreeText, GrantRequest, GrantState, RequestId, RevokeRequest},
    service::GrantRef,
    store::Store,
};
use tokio::time::Instant;

use crate::store::{
    bench::Bench,
    forged_events::Running,
    groups::{Pair, append_grant, grant_request},
    postgres::Cluster,
    proxy::{CommitFault, Proxy, Target},
    samples::{begin, make_grant, tenant},
};

/// A store whose connections pass a proxy.
async fn proxied() -> (Proxy, Bench, Arc<Store>) {
    let direct = Cluster::shared().fresh_database();
    let proxy = Proxy::start(Target::Unix(Cluster::shared().socket())).await;
    let bench = Bench::of_url(through(proxy.address, &direct));
    let store = bench.open().await;
    (proxy, bench, store)
}

fn through(address: SocketAddr, url: &str) -> String {
    let database = url.split(['/', '?']).nth(3).expect("the URL names a database");
    format!("postgres://postgres@{address}/{database}?sslmode=disable")
}

async fn head(store: &Store) -> i64 {
    store.log().head().await.unwrap().revision
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_commit_is_not_confirmed_happens_once() {
    let (proxy, bench, store) = proxied().await;
    let running = Running::start(&bench, &store).await;
    let caller = Caller::local(None).unwrap();
    for fault in [CommitFault::Lost, CommitFault::Unanswered] {
        for request_id in [None, Some(RequestId::random())] {
            let before = head(&store).await;
            proxy.fail_commit(fault);
            let request = GrantRequest { request_id: request_id.clone(), ..grant_request("acme") };
            let deadline = Instant::now();
            let granted = running.service.grant_access(&caller, request, deadline).await.unwrap();
            assert!(proxy.has_failed_commit());
            assert_eq!(head(&store).await, before + 1, "{fault:?}, {request_id:?}");
            assert_eq!(granted.grant.state, GrantState::Active);

            proxy.fail_commit(fault);
            let text = granted.grant.grant.id().to_string();
            let grant = GrantRef { tenant_id: tenant("acme"), text };
            let request_id = request_id.map(|_| RequestId::random());
            let request = RevokeRequest { request_id, etag: None, reason: FreeText::default() };
            let revoke = running.service.revoke_access(&caller, &grant, request, deadline);
            let revoked = revoke.await.unwrap();
            assert!(proxy.has_failed_commit());
            assert_eq!(head(&store).await, before + 2, "{fault:?}");
            assert_eq!(revoked.grant.state, GrantState::Revoked);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_grants_are_revoked_once_although_a_commit_is_not_confirmed() {
    let (proxy, bench, store) = proxied().await;
    let running = Running::start(&bench, &store).await;
    let caller = Caller::local(None).unwrap();
    for fault in [CommitFault::Lost, CommitFault::Unanswered] {
        for _ in 0..3 {
            make_grant(&store, "acme", "support").await;
        }
        let before = head(&store).await;
        proxy.fail_commit(fault);
        let request = RevokeRequest { request_id: None, etag: None, reason: FreeText::default() };
        let (tenant_id, deadline) = (tenant("acme"), Instant::now());
        let revoke = running.service.revoke_all_access(&caller, &tenant_id, request, deadline);
        let revoked = revoke.await.unwrap();
        assert!(proxy.has_failed_commit());
        assert_eq!((revoked.count, head(&store).await), (3, before + 3), "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_of_a_group_learns_that_the_outcome_is_unknown() {
    let (proxy, _bench, store) = proxied().await;
    for (fault, committed) in [(CommitFault::Lost, 0), (CommitFault::Unanswered, 2)] {
        let Pair { first, second } = Pair::begin(&store).await;
        let before = second.head() - 1;
        proxy.fail_commit(fault);
        let (first, second) = tokio::join!(first, second.commit());
        assert!(first.unwrap_err().is_outcome_unknown());
        assert!(second.unwrap_err().is_outcome_unknown());
        let mut next = begin(&store).await;
        assert_eq!(next.head(), before + committed, "{fault:?}");
        append_grant(next.as_mut(), "acme").await.unwrap();
        next.commit().await.unwrap();
    }
}
