//! What callers make the server keep.

use std::time::Duration;

use futures::{StreamExt, stream::FuturesUnordered};
use support_access::{
    api::proto::v1::{
        ListEventsRequest, support_access_admin_client::SupportAccessAdminClient,
        support_access_client::SupportAccessClient,
    },
    server::config::CallLimits,
};
use tokio_util::bytes::Bytes;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;

use super::{
    Bystander, MEGABYTE, assert_well, connect,
    frames::{Attacker, DATA, END_HEADERS, END_STREAM, HEADERS, LIST_EVENTS, call, frame, message},
    limited, places_return, raw, resident, tcp,
};
use crate::harness::{a_check, a_grant, admin, eventually};

fn named<M>(message: M, name: &str) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("support-access-actor", name.parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_messages_that_never_end_are_few() {
    const CALLS: usize = 300;
    let running = limited(CallLimits::default()).await;
    let address = tcp(&running);
    let gateway = Bystander::at(&running).await;
    for path in ["SupportAccess/BatchCheckAccess", "SupportAccessAdmin/GrantAccess"] {
        let path = format!("/supportaccess.v1.{path}");
        let before = resident();
        let channel = connect(address).await;
        // One and the same for all, so that this side keeps it once.
        let most = Bytes::from(message(4_000_000, &vec![0; 3_900_000]));
        let calls: FuturesUnordered<_> = (0..CALLS)
            .map(|_| raw::request(&path, "mallory", raw::unfinished(most.clone())))
            .map(|request| raw::outcome(&channel, request))
            .collect();
        let codes: Vec<Option<Code>> = calls.map(|it| it.map(|it| it.code())).collect().await;
        let refused = codes.iter().filter(|it| **it == Some(Code::ResourceExhausted)).count();
        let late = codes.iter().filter(|it| **it == Some(Code::DeadlineExceeded)).count();
        let grown = resident().saturating_sub(before);
        println!("{path}: {refused} refused, {late} late, {grown} bytes more");
        assert_eq!(refused + late, CALLS, "{codes:?}");
        assert!(refused > CALLS / 2 && grown < 96 * MEGABYTE, "{refused} refused, {grown} bytes");
        drop(channel);
    }
    println!("meanwhile {} checks were answered", gateway.end().await);
    assert_well(&running, connect(address).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_takes_count_as_calls() {
    const CALLS: usize = 50;
    let running = limited(CallLimits { calls_per_caller: CALLS, ..CallLimits::default() }).await;
    let address = tcp(&running);
    let mut tenant = admin(&running).await;
    for _ in 0..20 {
        tenant.grant_access(a_grant()).await.unwrap();
    }
    let gateway = Bystander::at(&running).await;
    let mut attacker = Attacker::silent(address).await.unwrap();
    // SETTINGS_INITIAL_WINDOW_SIZE: nothing may be sent to it.
    attacker.begin(&[0, 4, 0, 0, 0, 0]).await.unwrap();
    let list = raw::framed(&prost::Message::encode_to_vec(&ListEventsRequest {
        tenant_id: "acme".to_owned(),
        ..ListEventsRequest::default()
    }));
    for number in 0..200 {
        let open = frame(HEADERS, END_HEADERS, 2 * number + 1, &call(LIST_EVENTS, "mallory"));
        let rest = frame(DATA, END_STREAM, 2 * number + 1, &list);
        attacker.send(&[open, rest].concat()).await.unwrap();
    }
    let channel = connect(address).await;
    let ask = async |name: &str| -> Result<(), Status> {
        let mut client = SupportAccessClient::new(channel.clone());
        client.check_access(named(a_check(), name)).await.map(drop)
    };
    eventually(async || ask("mallory").await.is_err()).await;
    let refused = ask("mallory").await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "TOO_MANY_CALLS");
    ask("trudy").await.unwrap();
    drop(attacker);
    eventually(async || ask("mallory").await.is_ok()).await;
    gateway.end().await;
    assert_well(&running, channel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_whose_callers_hang_up_count_as_theirs_until_they_are_done() {
    const CALLS: usize = 20;
    let limits = CallLimits { calls_per_caller: CALLS, ..CallLimits::default() };
    let mut config = crate::harness::config();
    config.common.limits = limits;
    let (running, store) = crate::harness::start(config).await;
    let gateway = Bystander::at(&running).await;
    store.are_changes_held.send_replace(true);
    let channel = connect(tcp(&running)).await;
    let grant = async |channel: &Channel, name: &str| {
        let mut client = SupportAccessAdminClient::new(channel.clone());
        client.grant_access(named(a_grant(), name)).await
    };
    for number in 0..10 {
        let hurried = (0..10)
            .map(|_| tokio::time::timeout(Duration::from_millis(200), grant(&channel, "mallory")));
        futures::future::join_all(hurried).await;
        let waiting = store.waiting();
        assert!(waiting <= CALLS + 2, "{waiting} changes after {number} rounds");
    }
    let refused = grant(&channel, "mallory").await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().reason, "TOO_MANY_CALLS");
    store.are_changes_held.send_replace(false);
    grant(&channel, "trudy").await.unwrap();
    eventually(async || grant(&channel, "mallory").await.is_ok()).await;
    gateway.end().await;
    assert_well(&running, channel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_names_are_forgotten_again() {
    const NAMES: usize = 100_000;
    let running = limited(CallLimits::default()).await;
    let address = tcp(&running);
    let gateway = Bystander::at(&running).await;
    let channel = connect(address).await;
    let before = resident();
    let asked = futures::stream::iter(0..NAMES).map(|number| {
        let mut client = SupportAccessClient::new(channel.clone());
        let name = format!("mallory-{number}-{}", "x".repeat(100));
        async move { client.check_access(named(a_check(), &name)).await.map(drop) }
    });
    let answered = asked.buffer_unordered(200).filter(|it| std::future::ready(it.is_ok())).count();
    assert_eq!(answered.await, NAMES);
    let grown = resident().saturating_sub(before);
    println!("{NAMES} names, {grown} bytes more; {} checks were answered", gateway.end().await);
    assert!(grown < 64 * MEGABYTE, "{grown} bytes");
    places_return(address, 10).await;
    assert_well(&running, channel).await;
}
