//! What one caller may ask for: more is refused, with when to try again, and is nobody else's trouble.

use std::time::Duration;

use futures::future::join_all;
use support_access::{
    api::proto::{
        replication::v1::{FollowRequest, replication_client::ReplicationClient},
        v1::{
            ListGrantsRequest, support_access_admin_client::SupportAccessAdminClient,
            support_access_client::SupportAccessClient,
        },
    },
    server::config::CallLimits,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;

use super::{Bystander, assert_well, connect, limited, raw, tcp};
use crate::harness::{a_check, eventually};

fn named<M>(message: M, name: &str) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("support-access-actor", name.parse().unwrap());
    request
}

async fn check(channel: &Channel, name: &str) -> Result<(), Status> {
    SupportAccessClient::new(channel.clone()).check_access(named(a_check(), name)).await.map(drop)
}

async fn list(channel: &Channel, name: &str) -> Result<(), Status> {
    let request = ListGrantsRequest { tenant_id: "acme".to_owned(), ..Default::default() };
    let mut client = SupportAccessAdminClient::new(channel.clone());
    client.list_grants(named(request, name)).await.map(drop)
}

#[track_caller]
fn assert_excess(refused: &Status, reason: &str) {
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert_eq!(refused.get_details_error_info().unwrap().reason, reason);
    let delay = refused.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(delay > Duration::ZERO && delay < Duration::from_secs(2), "{delay:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_requests_a_second_than_agreed_are_refused_to_whoever_makes_them() {
    let limits = CallLimits {
        checks_per_second: 1_000,
        requests_per_second: 10,
        // However slow the machine, it is not for this that they are refused.
        calls_per_caller: 5_000,
        ..CallLimits::default()
    };
    let running = limited(limits).await;
    let gateway = Bystander::at(&running).await;
    let channel = connect(tcp(&running)).await;
    let lists = join_all((0..100).map(|_| list(&channel, "mallory"))).await;
    let refused: Vec<&Status> = lists.iter().filter_map(|it| it.as_ref().err()).collect();
    assert!((70..=80).contains(&refused.len()), "{} of 100", refused.len());
    for status in refused {
        assert_excess(status, "TOO_MANY_REQUESTS");
    }
    list(&channel, "trudy").await.unwrap();
    check(&channel, "mallory").await.unwrap();
    let checks = join_all((0..5_000).map(|_| check(&channel, "mallory"))).await;
    let refused: Vec<&Status> = checks.iter().filter_map(|it| it.as_ref().err()).collect();
    assert!(refused.len() > 100, "{} of 5000", refused.len());
    for status in refused {
        assert_excess(status, "TOO_MANY_REQUESTS");
    }
    eventually(async || list(&channel, "mallory").await.is_ok()).await;
    gateway.end().await;
    assert_well(&running, channel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_calls_at_a_time_than_agreed_are_refused_to_whoever_makes_them() {
    let running = limited(CallLimits { calls_per_caller: 20, ..CallLimits::default() }).await;
    let gateway = Bystander::at(&running).await;
    let channel = connect(tcp(&running)).await;
    let path = "/supportaccess.v1.SupportAccess/CheckAccess";
    // Some are refused: the check below may be in one of the places.
    let waiting: Vec<_> = (0..40)
        .map(|_| {
            let body = raw::unfinished(super::frames::message(100, &[]).into());
            let (channel, request) = (channel.clone(), raw::request(path, "mallory", body));
            tokio::spawn(async move { raw::outcome(&channel, request).await })
        })
        .collect();
    eventually(async || check(&channel, "mallory").await.is_err()).await;
    assert_excess(&check(&channel, "mallory").await.unwrap_err(), "TOO_MANY_CALLS");
    check(&channel, "trudy").await.unwrap();
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    eventually(async || check(&channel, "mallory").await.is_ok()).await;
    gateway.end().await;
    assert_well(&running, channel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_followers_than_agreed_are_refused_to_whoever_has_them() {
    let running = limited(CallLimits { followers_per_caller: 3, ..CallLimits::default() }).await;
    let gateway = Bystander::at(&running).await;
    let channel = connect(tcp(&running)).await;
    let follow = async |name: &str| {
        let (says, said) = tokio::sync::mpsc::channel::<FollowRequest>(1);
        let mut client = ReplicationClient::new(channel.clone());
        let heard = client.follow(named(ReceiverStream::new(said), name)).await?;
        Ok::<_, Status>((says, heard))
    };
    let mut followers = Vec::new();
    for _ in 0..3 {
        followers.push(follow("mallory").await.unwrap());
    }
    let refused = follow("mallory").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "TOO_MANY_FOLLOWERS");
    follow("trudy").await.unwrap();
    followers.pop();
    eventually(async || follow("mallory").await.is_ok()).await;
    gateway.end().await;
    assert_well(&running, channel).await;
}
