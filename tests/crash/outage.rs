//! The database goes away under a running server, and comes back.

use std::time::{Duration, Instant};

use support_access::api::proto::v1::{
    AccessCheck, AccessLevel, AgentKind, CheckAccessRequest, Decision, DecisionReason, Grant,
    GrantAccessRequest, ListEventsRequest, ListGrantsRequest, RevokeAccessRequest,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{backend::Backend, expected_state::Admin, postgres::Cluster, server::Server};

fn request(request_id: &str) -> GrantAccessRequest {
    GrantAccessRequest {
        request_id: request_id.into(),
        tenant_id: "acme".into(),
        group_id: "support".into(),
        access_level: AccessLevel::ReadOnly.into(),
        until_revoked: true,
        ..Default::default()
    }
}

/// The only answer while the database is away: unavailable, and when to try again.
fn assert_unavailable(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let details = status.get_error_details();
    assert!(details.retry_info().is_some_and(|retry| retry.retry_delay.is_some()));
    assert_eq!(details.error_info().unwrap().reason, "DATABASE_UNAVAILABLE");
}

/// Sends the same request until it is answered, as a client that heeds `RetryInfo` does.
async fn grant_until_answered(admin: &mut Admin, request: GrantAccessRequest) -> Grant {
    let began = Instant::now();
    loop {
        match admin.grant_access(request.clone()).await {
            Ok(granted) => return granted.into_inner().grant.unwrap(),
            Err(status) => {
                assert_unavailable(&status);
                assert!(began.elapsed() < Duration::from_mins(1), "it does not recover by itself");
            }
        }
    }
}

#[tokio::main]
async fn outage(take_away: impl Fn(&Cluster), bring_back: impl Fn(&Cluster)) {
    let backend = Backend::postgres();
    let Backend::Postgres(cluster, _) = &backend else { unreachable!("it was asked for") };
    let server = Server::start(&backend.database_url());
    let mut admin = server.admin().await;
    let first = grant_until_answered(&mut admin, request("first")).await;

    take_away(cluster);
    assert_unavailable(&admin.grant_access(request("second")).await.unwrap_err());
    let revoke = RevokeAccessRequest {
        tenant_id: "acme".into(),
        grant_id: first.grant_id.clone(),
        ..Default::default()
    };
    assert_unavailable(&admin.revoke_access(revoke.clone()).await.unwrap_err());
    let list = ListGrantsRequest { tenant_id: "acme".into(), ..Default::default() };
    assert_unavailable(&admin.list_grants(list.clone()).await.unwrap_err());
    bring_back(cluster);

    // Nothing was half-written: the same requests give what they would have given.
    let second = grant_until_answered(&mut admin, request("second")).await;
    assert_eq!(grant_until_answered(&mut admin, request("second")).await, second);
    assert_eq!(grant_until_answered(&mut admin, request("first")).await, first);
    let revoked = admin.revoke_access(revoke).await.unwrap().into_inner();
    let check = AccessCheck {
        tenant_id: "acme".into(),
        agent_id: "ada".into(),
        group_ids: vec!["support".into()],
        required_level: AccessLevel::ReadOnly.into(),
        agent_kind: AgentKind::Human.into(),
        on_behalf_of: String::new(),
    };
    let consistency_token = revoked.enforcement.unwrap().consistency_token;
    let question = CheckAccessRequest { check: Some(check), consistency_token };
    // Until the server has proven again that it is current, it denies.
    let mut access = server.access().await;
    let answer = loop {
        let answer = access.check_access(question.clone()).await.unwrap().into_inner();
        if answer.reason() != DecisionReason::Stale {
            break answer;
        }
    };
    assert_eq!(answer.decision, i32::from(Decision::Allowed), "by the second grant: {answer:?}");
    assert_eq!(answer.grant_id, second.grant_id);
    assert_eq!(admin.list_grants(list).await.unwrap().into_inner().grants.len(), 2);
    let events = ListEventsRequest { tenant_id: "acme".into(), ..Default::default() };
    let events = admin.list_events(events).await.unwrap().into_inner().events;
    let sequences: Vec<i64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, [3, 2, 1], "each change once");
}

#[test]
fn a_database_that_stops_and_starts() {
    outage(Cluster::stop, Cluster::start);
}

#[test]
fn a_database_that_is_killed_and_recovers() {
    outage(Cluster::kill, Cluster::start);
}

#[test]
fn a_database_that_does_not_answer() {
    outage(Cluster::pause, Cluster::resume);
}
