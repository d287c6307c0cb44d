//! The round trips of changes to PostgreSQL: one for each message in the log of the server.

use futures::future::join_all;
use support_access::{
    domain::{Caller, FreeText, RevokeRequest},
    service::GrantRef,
};
use tokio::time::Instant;

use crate::store::{
    bench::Bench, forged_events::Running, groups::grant_request, postgres::Cluster, samples::tenant,
};

/// A service whose server logs each message.
async fn running() -> (Bench, Running) {
    let mut bench = Bench::postgres();
    bench.url += "&options=-c%20log_statement=all";
    let store = bench.open().await;
    let running = Running::start(&bench, &store).await;
    (bench, running)
}

/// The messages of each transaction that `changes` makes.
async fn transactions(changes: impl Future<Output = ()>) -> Vec<Vec<String>> {
    let logged = Cluster::shared().log().len();
    changes.await;
    let log = Cluster::shared().log().split_off(logged);
    let mut open: Vec<(&str, Vec<String>)> = Vec::new();
    let mut committed = Vec::new();
    for line in log.lines() {
        let Some((session, message)) = line.split_once("LOG:  ") else { continue };
        let session = session.split(['[', ']']).nth(1).expect("the line names the session");
        if message.contains("BEGIN ISOLATION LEVEL READ COMMITTED") {
            open.push((session, Vec::new()));
        }
        let is_message = message.starts_with("statement: ") || message.starts_with("execute ");
        let position = open.iter().position(|(of, _)| *of == session);
        let Some(position) = position.filter(|_| is_message) else { continue };
        open[position].1.push(message.to_owned());
        if message.ends_with("COMMIT") {
            committed.push(open.swap_remove(position).1);
        }
    }
    committed
}

fn assert_trips(transactions: &[Vec<String>], expected: usize) {
    let trips: Vec<_> = transactions.iter().map(Vec::len).collect();
    assert_eq!(trips, [expected], "{transactions:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_takes_four_round_trips_and_a_revocation_five() {
    let (_bench, running) = running().await;
    let caller = Caller::local(None).unwrap();
    let (service, now) = (&running.service, Instant::now());
    for _ in 0..2 {
        let mut granted = None;
        let grant = async {
            let request = grant_request("acme");
            granted = Some(service.grant_access(&caller, request, now).await.unwrap().grant.grant);
        };
        assert_trips(&transactions(grant).await, 4);
        let grant = GrantRef {
            tenant_id: tenant("acme"),
            text: granted.expect("the grant exists").id().to_string(),
        };
        let revoke = async {
            let request =
                RevokeRequest { request_id: None, etag: None, reason: FreeText::default() };
            service.revoke_access(&caller, &grant, request, now).await.unwrap();
        };
        assert_trips(&transactions(revoke).await, 5);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_in_a_group_takes_two_more_round_trips() {
    const GRANTS: usize = 30;
    let (_bench, running) = running().await;
    let caller = Caller::local(None).unwrap();
    let grants = async {
        let grant = || running.service.grant_access(&caller, grant_request("acme"), Instant::now());
        let granted = join_all((0..GRANTS).map(|_| grant())).await;
        assert!(granted.iter().all(Result::is_ok), "{granted:?}");
    };
    let transactions = transactions(grants).await;
    let trips: usize = transactions.iter().map(Vec::len).sum();
    assert_eq!(trips, 2 * transactions.len() + 2 * GRANTS, "{transactions:#?}");
}
