//! The database fails under a running server and recovers.

use std::time::{Duration, Instant};

use support_access::api::proto::v1::{
    Decision, DecisionReason, Grant, GrantAccessRequest, ListEventsRequest, ListGrantsRequest,
    RevokeAccessRequest,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::crash::{
    backend::Backend,
    expected_state::Admin,
    postgres::Cluster,
    requests::{check_request, grant_request},
    server::Server,
};

fn named(request_id: &str) -> GrantAccessRequest {
    GrantAccessRequest { request_id: request_id.into(), ..grant_request("acme") }
}

/// Asserts the response during a database outage: `UNAVAILABLE` with a retry delay.
fn assert_unavailable(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let details = status.get_error_details();
    assert!(details.retry_info().is_some_and(|retry| retry.retry_delay.is_some()));
    assert_eq!(details.error_info().unwrap().reason, "DATABASE_UNAVAILABLE");
}

/// Retries the same request until it succeeds, as a client that respects `RetryInfo` does.
async fn grant_until_answered(admin: &mut Admin, request: GrantAccessRequest) -> Grant {
    let started = Instant::now();
    loop {
        match admin.grant_access(request.clone()).await {
            Ok(granted) => return granted.into_inner().grant.unwrap(),
            Err(status) => {
                assert_unavailable(&status);
                assert!(
                    started.elapsed() < Duration::from_mins(1),
                    "the server must recover without a restart"
                );
            }
        }
    }
}

#[tokio::main]
async fn database_outage(fail: impl Fn(&Cluster), recover: impl Fn(&Cluster)) {
    let backend = Backend::postgres();
    let Backend::Postgres(cluster, _) = &backend else {
        unreachable!("the test started PostgreSQL")
    };
    let server = Server::start(&backend.database_url());
    let mut admin = server.admin().await;
    let first = grant_until_answered(&mut admin, named("first")).await;

    fail(cluster);
    assert_unavailable(&admin.grant_access(named("second")).await.unwrap_err());
    let revoke = RevokeAccessRequest {
        tenant_id: "acme".into(),
        grant_id: first.grant_id.clone(),
        ..Default::default()
    };
    assert_unavailable(&admin.revoke_access(revoke.clone()).await.unwrap_err());
    let list = ListGrantsRequest { tenant_id: "acme".into(), ..Default::default() };
    assert_unavailable(&admin.list_grants(list.clone()).await.unwrap_err());
    recover(cluster);

    // No change was half-written: the retries return the same grants.
    let second = grant_until_answered(&mut admin, named("second")).await;
    assert_eq!(grant_until_answered(&mut admin, named("second")).await, second);
    assert_eq!(grant_until_answered(&mut admin, named("first")).await, first);
    let revoked = admin.revoke_access(revoke).await.unwrap().into_inner();
    let request = check_request("acme", &revoked.enforcement.unwrap().consistency_token);
    // Until the server's lease is renewed, checks are denied as stale.
    let mut access = server.access().await;
    let response = loop {
        let response = access.check_access(request.clone()).await.unwrap().into_inner();
        if response.reason() != DecisionReason::Stale {
            break response;
        }
    };
    assert_eq!(
        response.decision,
        i32::from(Decision::Allowed),
        "the second grant must allow access: {response:?}"
    );
    assert_eq!(response.grant_id, second.grant_id);
    assert_eq!(admin.list_grants(list).await.unwrap().into_inner().grants.len(), 2);
    let events = ListEventsRequest { tenant_id: "acme".into(), ..Default::default() };
    let events = admin.list_events(events).await.unwrap().into_inner().events;
    let sequences: Vec<i64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, [3, 2, 1], "each change has one event");
}

#[test]
fn the_server_recovers_after_the_database_restarts() {
    database_outage(Cluster::stop, Cluster::start);
}

#[test]
fn the_server_recovers_after_the_database_is_killed() {
    database_outage(Cluster::kill, Cluster::start);
}

#[test]
fn the_server_recovers_after_the_database_hangs() {
    database_outage(Cluster::pause, Cluster::resume);
}
