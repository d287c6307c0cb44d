//! Limits of one caller. Further calls are rejected with a retry delay, and affect no other caller.

use std::time::{Duration, Instant};

use futures::future::join_all;
use support_access::{
    api::proto::{
        replication::v1::{FollowRequest, replication_client::ReplicationClient},
        v1::{
            BatchCheckAccessRequest, ListGrantsRequest,
            support_access_admin_client::SupportAccessAdminClient,
            support_access_client::SupportAccessClient,
        },
    },
    server::config::CallLimits,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use super::{BackgroundClient, assert_healthy, connect, frames::message, limited, named, raw, tcp};
use crate::server::harness::{a_check, an_access_check, eventually, rpcs, wait_for_metric};

async fn check(channel: &Channel, name: &str) -> Result<(), Status> {
    SupportAccessClient::new(channel.clone()).check_access(named(a_check(), name)).await.map(drop)
}

async fn list(channel: &Channel, name: &str) -> Result<(), Status> {
    let request = ListGrantsRequest { tenant_id: "acme".to_owned(), ..Default::default() };
    let mut client = SupportAccessAdminClient::new(channel.clone());
    client.list_grants(named(request, name)).await.map(drop)
}

#[track_caller]
fn assert_exhausted(rejected: &Status, reason: &str) {
    assert_eq!(rejected.code(), Code::ResourceExhausted, "{rejected:?}");
    assert_eq!(rejected.get_details_error_info().unwrap().reason, reason);
    let delay = rejected.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(delay > Duration::ZERO && delay < Duration::from_secs(2), "{delay:?}");
}

/// Makes 100 calls under a limit of 10 per second, with bursts of 20.
async fn assert_rate_limit(call: impl AsyncFn() -> Result<(), Status>) {
    let started = Instant::now();
    let results = join_all((0..100).map(|_| call())).await;
    // Every second since the start has permitted ten further calls.
    let accepted_max = 20 + 10 * (started.elapsed().as_secs() + 1);
    let (accepted, rejected): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    let count = accepted.len() as u64;
    assert!((20..=accepted_max).contains(&count), "{count} of 100, at most {accepted_max}");
    for status in rejected {
        assert_exhausted(&status.unwrap_err(), "TOO_MANY_REQUESTS");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_request_rate_of_a_caller_is_limited() {
    let running = limited(CallLimits { requests_per_second: 10, ..CallLimits::default() }).await;
    let gateway = BackgroundClient::connect(&running).await;
    let channel = connect(tcp(&running)).await;
    assert_rate_limit(async || list(&channel, "mallory").await).await;
    list(&channel, "trudy").await.unwrap();
    check(&channel, "mallory").await.expect("checks have their own limit");
    eventually(async || list(&channel, "mallory").await.is_ok()).await;
    gateway.stop().await;
    assert_healthy(&running, channel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_rate_of_a_caller_is_limited() {
    let running = limited(CallLimits { checks_per_second: 10, ..CallLimits::default() }).await;
    let channel = connect(tcp(&running)).await;
    assert_rate_limit(async || check(&channel, "mallory").await).await;
    check(&channel, "trudy").await.unwrap();
    list(&channel, "mallory").await.expect("other requests have their own limit");
    assert_healthy(&running, channel).await;
}

#[tokio::test]
async fn each_check_of_a_batch_counts() {
    let running = limited(CallLimits { checks_per_second: 10, ..CallLimits::default() }).await;
    let channel = connect(tcp(&running)).await;
    let batch = async |name: &str, count| {
        let checks = vec![an_access_check(); count];
        let request = BatchCheckAccessRequest { checks, consistency_token: String::new() };
        let mut client = SupportAccessClient::new(channel.clone());
        client.batch_check_access(named(request, name)).await.map(drop)
    };
    batch("mallory", 15).await.unwrap();
    assert_exhausted(&batch("mallory", 15).await.unwrap_err(), "TOO_MANY_REQUESTS");
    batch("trudy", 1).await.unwrap();
    eventually(async || batch("mallory", 15).await.is_ok()).await;
    // A batch that is larger than a burst takes a whole burst.
    eventually(async || batch("mallory", 30).await.is_ok()).await;
    assert_exhausted(&batch("mallory", 15).await.unwrap_err(), "TOO_MANY_REQUESTS");
    assert_healthy(&running, channel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_concurrent_calls_of_a_caller_are_limited() {
    let running = limited(CallLimits { calls_per_caller: 20, ..CallLimits::default() }).await;
    let gateway = BackgroundClient::connect(&running).await;
    let channel = connect(tcp(&running)).await;
    let path = "/supportaccess.v1.SupportAccess/CheckAccess";
    let waiting: Vec<_> = (0..40)
        .map(|_| {
            let body = raw::unfinished(message(100, &[]).into());
            let (channel, request) = (channel.clone(), raw::request(path, "mallory", body));
            tokio::spawn(async move { raw::outcome(&channel, request).await })
        })
        .collect();
    // Counted by the server: a call of mallory that observes the limit could take its last permit.
    let rejected = rpcs("supportaccess.v1.SupportAccess", "CheckAccess", "RESOURCE_EXHAUSTED", 20);
    wait_for_metric(&running, &rejected).await;
    assert_exhausted(&check(&channel, "mallory").await.unwrap_err(), "TOO_MANY_CALLS");
    check(&channel, "trudy").await.unwrap();
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    eventually(async || check(&channel, "mallory").await.is_ok()).await;
    gateway.stop().await;
    assert_healthy(&running, channel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_followers_of_a_caller_are_limited() {
    let running = limited(CallLimits { followers_per_caller: 3, ..CallLimits::default() }).await;
    let gateway = BackgroundClient::connect(&running).await;
    let channel = connect(tcp(&running)).await;
    let follow = async |name: &str| {
        let (sender, requests) = tokio::sync::mpsc::channel::<FollowRequest>(1);
        let mut client = ReplicationClient::new(channel.clone());
        let responses = client.follow(named(ReceiverStream::new(requests), name)).await?;
        Ok::<_, Status>((sender, responses))
    };
    let mut followers = Vec::new();
    for _ in 0..3 {
        followers.push(follow("mallory").await.unwrap());
    }
    let rejected = follow("mallory").await.unwrap_err();
    assert_eq!(rejected.code(), Code::ResourceExhausted);
    assert_eq!(rejected.get_details_error_info().unwrap().reason, "TOO_MANY_FOLLOWERS");
    follow("trudy").await.unwrap();
    followers.pop();
    eventually(async || follow("mallory").await.is_ok()).await;
    gateway.stop().await;
    assert_healthy(&running, channel).await;
}
