//! Consistency tokens at several nodes.

use std::time::Instant;

use support_access::{
    api::proto::v1::{
        CheckAccessRequest, CheckAccessResponse, DecisionReason, ExplainAccessRequest,
        WaitEnforcedRequest,
    },
    domain::token::TokenEvent,
    server::Running,
};
use tonic::{Code, Status};

use crate::server::{
    follower::reason,
    harness::{a_check, a_grant, access, admin, config, eventually, start, start_on, stop},
    sidecars::sidecar,
    slow_store::SlowStore,
};

async fn check(running: &Running, token: &str) -> Result<CheckAccessResponse, Status> {
    let request = CheckAccessRequest { consistency_token: token.into(), ..a_check() };
    Ok(access(running).await.check_access(request).await?.into_inner())
}

async fn explain(running: &Running, token: &str) -> Result<(), Status> {
    let CheckAccessRequest { check, .. } = a_check();
    let request = ExplainAccessRequest { check, consistency_token: token.into() };
    access(running).await.explain_access(request).await.map(drop)
}

async fn wait(running: &Running, token: &str) -> Result<(), Status> {
    let tenant_id = Some("acme".to_owned());
    let request = WaitEnforcedRequest { tenant_id, consistency_token: token.into() };
    admin(running).await.wait_enforced(request).await.map(drop)
}

fn assert_invalid<T: std::fmt::Debug>(result: Result<T, Status>) {
    let status = result.unwrap_err();
    let expected = (Code::FailedPrecondition, "CONSISTENCY_TOKEN_INVALID");
    assert_eq!((status.code(), reason(&status).as_str()), expected);
}

#[tokio::test]
async fn every_node_of_an_epoch_accepts_the_token_of_every_other() {
    let store = SlowStore::new();
    let first = start_on(config(), &store).await.unwrap();
    let second = start_on(config(), &store).await.unwrap();
    let sidecar = sidecar(&first).await;
    for replica in [&first, &second] {
        for _ in 0..5 {
            let granted = admin(replica).await.grant_access(a_grant()).await.unwrap().into_inner();
            let grant_id = granted.grant.unwrap().grant_id;
            for node in [&first, &second, &sidecar] {
                let allowed = async || {
                    let result = check(node, &granted.consistency_token).await.unwrap();
                    // A sidecar may have no lease yet. Any other result must know the new grant.
                    match result.reason() {
                        DecisionReason::Stale => false,
                        _ => result.grant_id == grant_id,
                    }
                };
                eventually(allowed).await;
                explain(node, &granted.consistency_token).await.unwrap();
            }
        }
    }
    stop(sidecar).await.unwrap();
    stop(second).await.unwrap();
    stop(first).await.unwrap();
}

#[tokio::test]
async fn tokens_of_another_log_or_epoch_are_invalid() {
    let (running, store) = start(config()).await;
    let (foreign, _store) = start(config()).await;
    let sidecar = sidecar(&running).await;
    let granted = admin(&running).await.grant_access(a_grant()).await.unwrap().into_inner();
    let token = granted.consistency_token;
    wait(&running, &token).await.unwrap();
    for forged in [token.to_uppercase(), format!("{token}A"), "A".repeat(22)] {
        assert_invalid(check(&running, &forged).await);
        assert_invalid(explain(&running, &forged).await);
        assert_invalid(wait(&running, &forged).await);
    }
    assert_invalid(check(&foreign, &token).await);
    assert_invalid(wait(&foreign, &token).await);

    store.store().log().replace_epoch().await.unwrap();
    for node in [&running, &sidecar] {
        eventually(async || check(node, &token).await.is_err()).await;
        assert_invalid(check(node, &token).await);
        assert_invalid(explain(node, &token).await);
    }
    assert_invalid(wait(&running, &token).await);
    let granted = admin(&running).await.grant_access(a_grant()).await.unwrap().into_inner();
    for node in [&running, &sidecar] {
        let is_allowed = async || {
            let result = check(node, &granted.consistency_token).await.unwrap();
            result.reason() == DecisionReason::GrantActive
        };
        eventually(is_allowed).await;
    }
    stop(sidecar).await.unwrap();
    stop(foreign).await.unwrap();
    stop(running).await.unwrap();
}

#[tokio::test]
async fn tokens_that_contradict_the_log_are_invalid_and_later_ones_are_waited_for() {
    let (running, store) = start(config()).await;
    for _ in 0..3 {
        admin(&running).await.grant_access(a_grant()).await.unwrap();
    }
    let loaded = store.store().log().load(&mut |_, _, _| {}).await.unwrap();
    let (revision, time) = (loaded.position.revision, loaded.position.time.unwrap());
    let token = |revision, seconds| {
        let time = time + chrono::TimeDelta::seconds(seconds);
        let event = TokenEvent::new(revision, Some(time));
        loaded.token_key.encrypt(event).unwrap().to_string()
    };
    // As after a restore: another event has the revision, or the time.
    for (revision, seconds) in
        [(revision, 1), (revision, -1), (revision - 1, 1), (revision + 1, -1)]
    {
        assert_invalid(check(&running, &token(revision, seconds)).await);
    }
    let began = Instant::now();
    let missing = check(&running, &token(revision + 1, 1)).await.unwrap();
    assert_eq!(missing.reason(), DecisionReason::Stale);
    let waited = began.elapsed().as_millis();
    assert!((900..5_000).contains(&waited), "checks wait for about a second: {waited} ms");
    let status = wait(&running, &token(revision + 1, 1)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "EVENT_NOT_FOUND"));
    assert_invalid(wait(&running, &token(revision, 1)).await);
    stop(running).await.unwrap();
}
