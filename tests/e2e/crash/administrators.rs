//! Administrators who change the same grants concurrently. No call blocks forever, and no change is
//! lost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use support_access::api::proto::v1::{
    Event, ExtendAccessRequest, Grant, ListEventsRequest, RevokeAccessRequest, event::Payload,
};
use tokio::time::timeout;
use tonic::Code;

use crate::crash::{
    backend::Backend, expected_state::Admin, requests::grant_request, server::Server,
};

const ADMINISTRATORS: usize = 4;
const GRANTS: usize = 6;
const CHANGES_EACH: usize = 60;

#[test]
fn concurrent_changes_are_not_lost_on_sqlite() {
    change_concurrently(&Backend::sqlite(), 1);
}

#[test]
fn concurrent_changes_are_not_lost_on_postgres() {
    change_concurrently(&Backend::postgres(), 2);
}

/// The acknowledged changes of one administrator: the event's kind and the grant after the event,
/// by the grant's etag, which identifies the event.
type Changes = BTreeMap<String, (&'static str, Grant)>;

#[tokio::main]
async fn change_concurrently(backend: &Backend, servers: usize) {
    let seed: u64 =
        std::env::var("CRASH_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("CRASH_SEED={seed}");
    let servers: Vec<Server> =
        (0..servers).map(|_| Server::start(&backend.database_url())).collect();
    let mut admins = Vec::new();
    for number in 0..ADMINISTRATORS {
        admins.push(servers[number % servers.len()].admin().await);
    }
    let mut grants = Vec::new();
    for _ in 0..GRANTS {
        grants.push(grant(&mut admins[0]).await);
    }
    assert_one_change_per_etag(&admins, &grants[0]).await;
    let ids: Arc<Vec<String>> = Arc::new(grants.into_iter().map(|grant| grant.grant_id).collect());
    let tasks = admins.iter().enumerate().map(|(number, admin)| {
        let random = StdRng::seed_from_u64(seed + number as u64);
        tokio::spawn(change(admin.clone(), Arc::clone(&ids), random))
    });
    let changes =
        timeout(Duration::from_mins(2), join_all(tasks)).await.expect("every call returns");
    let mut all = Changes::new();
    for task in changes {
        for (etag, change) in task.unwrap() {
            assert!(
                all.insert(etag.clone(), change).is_none(),
                "each etag identifies one change: {etag}"
            );
        }
    }
    assert_history_contains(&mut admins[0], &all).await;
}

async fn grant(admin: &mut Admin) -> Grant {
    admin.grant_access(grant_request("acme")).await.unwrap().into_inner().grant.unwrap()
}

fn extension(grant_id: &str, etag: &str, hours: i64) -> ExtendAccessRequest {
    let duration = prost_types::Duration { seconds: hours * 3_600, nanos: 0 };
    ExtendAccessRequest {
        tenant_id: "acme".into(),
        grant_id: grant_id.into(),
        etag: etag.into(),
        duration: Some(duration),
        ..Default::default()
    }
}

/// All administrators send the same etag. One change succeeds, and the others must read the grant
/// again.
async fn assert_one_change_per_etag(admins: &[Admin], grant: &Grant) {
    let extend = admins.iter().enumerate().map(|(number, admin)| {
        let hours = i64::try_from(number).unwrap() + 1;
        let request = extension(&grant.grant_id, &grant.etag, hours);
        let mut admin = admin.clone();
        async move { admin.extend_access(request).await }
    });
    let responses = join_all(extend).await;
    assert_eq!(responses.iter().filter(|response| response.is_ok()).count(), 1, "{responses:?}");
    for error in responses.iter().filter_map(|response| response.as_ref().err()) {
        assert_eq!(error.code(), Code::Aborted, "{error:?}");
    }
}

/// Grants, extends and revokes at random. Other administrators change the same grants.
async fn change(mut admin: Admin, ids: Arc<Vec<String>>, mut random: StdRng) -> Changes {
    let mut changes = Changes::new();
    let mut ids = ids.to_vec();
    for _ in 0..CHANGES_EACH {
        let index = random.random_range(0..ids.len());
        let (kind, grant) = match random.random_range(0..4) {
            0 => ("granted", grant(&mut admin).await),
            1 | 2 => {
                let request = extension(&ids[index], "", random.random_range(1..2_000));
                match admin.extend_access(request).await {
                    Ok(extended) => ("extended", extended.into_inner().grant.unwrap()),
                    Err(status) => {
                        // Another administrator has revoked the grant.
                        assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
                        continue;
                    }
                }
            }
            _ => {
                let request = RevokeAccessRequest {
                    tenant_id: "acme".into(),
                    grant_id: ids[index].clone(),
                    reason: random.random::<u64>().to_string(),
                    ..Default::default()
                };
                let reason = request.reason.clone();
                let revoked = admin.revoke_access(request).await.unwrap().into_inner();
                let grant = revoked.grant.unwrap();
                if grant.revoke_reason != reason {
                    continue; // another revocation was first, and this call returns that one
                }
                ("revoked", grant)
            }
        };
        if kind == "granted" {
            ids.push(grant.grant_id.clone());
        }
        changes.insert(grant.etag.clone(), (kind, grant));
    }
    changes
}

async fn assert_history_contains(admin: &mut Admin, changes: &Changes) {
    let mut events: Vec<Event> = Vec::new();
    let mut page_token = String::new();
    loop {
        let tenant_id = "acme".into();
        let request = ListEventsRequest { tenant_id, page_token, ..Default::default() };
        let page = admin.list_events(request).await.unwrap().into_inner();
        events.extend(page.events);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    events.reverse();
    let count = i64::try_from(events.len()).unwrap();
    let sequences: Vec<i64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, (1..=count).collect::<Vec<_>>(), "sequences are contiguous");
    // The initial grants, and the successful extension.
    assert_eq!(events.len(), changes.len() + GRANTS + 1, "every event was acknowledged");
    let found: BTreeMap<String, (&str, Grant)> = events
        .into_iter()
        .map(|event| {
            let (kind, grant) = match event.payload.unwrap() {
                Payload::Granted(granted) => ("granted", granted.grant),
                Payload::Extended(extended) => ("extended", extended.grant),
                Payload::Revoked(revoked) => ("revoked", revoked.grant),
                other => panic!("{other:?}"),
            };
            let grant = grant.unwrap();
            (grant.etag.clone(), (kind, grant))
        })
        .collect();
    for (etag, (kind, grant)) in changes {
        let (found_kind, found_grant) = &found[etag];
        assert_eq!((found_kind, &found_grant.grant_id), (kind, &grant.grant_id));
        assert_eq!(found_grant.expire_time, grant.expire_time);
    }
}
