//! Memory and permits that callers can make the server hold.

use futures::{StreamExt, stream::FuturesUnordered};
use support_access::{
    api::proto::v1::{
        ListEventsRequest, support_access_admin_client::SupportAccessAdminClient,
        support_access_client::SupportAccessClient,
    },
    server::config::CallLimits,
};
use tokio_util::bytes::Bytes;
use tonic::{Code, Status, transport::Channel};
use tonic_types::StatusExt;

use super::{
    BackgroundClient, MEGABYTE, assert_healthy, connect,
    frames::{Attacker, DATA, END_HEADERS, END_STREAM, HEADERS, LIST_EVENTS, call, frame, message},
    limited, named, raw, resident, tcp,
};
use crate::server::harness::{a_check, a_grant, admin, eventually, rpcs, wait_for_metric};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_message_bytes_of_a_caller_are_limited() {
    const CALLS: usize = 300;
    let running = limited(CallLimits::default()).await;
    let address = tcp(&running);
    let gateway = BackgroundClient::connect(&running).await;
    for path in ["SupportAccess/BatchCheckAccess", "SupportAccessAdmin/GrantAccess"] {
        let path = format!("/supportaccess.v1.{path}");
        let before = resident();
        let channel = connect(address).await;
        // Shared by all calls, so that the client holds the bytes once.
        let bytes = Bytes::from(message(4_000_000, &vec![0; 3_900_000]));
        let calls: FuturesUnordered<_> = (0..CALLS)
            .map(|_| raw::request(&path, "mallory", raw::unfinished(bytes.clone())))
            .map(|request| raw::outcome(&channel, request))
            .collect();
        let codes: Vec<Option<Code>> =
            calls.map(|status| status.map(|status| status.code())).collect().await;
        let rejected = codes.iter().filter(|code| **code == Some(Code::ResourceExhausted)).count();
        let late = codes.iter().filter(|code| **code == Some(Code::DeadlineExceeded)).count();
        let growth = resident().saturating_sub(before);
        println!("{path}: {rejected} rejected, {late} late, +{growth} B");
        assert_eq!(rejected + late, CALLS, "{codes:?}");
        assert!(rejected > CALLS / 2 && growth < 96 * MEGABYTE, "{rejected} rejected, +{growth} B");
        drop(channel);
    }
    println!("meanwhile {} checks were answered", gateway.stop().await);
    assert_healthy(&running, connect(address).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_responses_count_as_calls() {
    const CALLS: u32 = 50;
    const ATTEMPTS: u32 = 200;
    let running =
        limited(CallLimits { calls_per_caller: CALLS as usize, ..CallLimits::default() }).await;
    let address = tcp(&running);
    let mut tenant = admin(&running).await;
    for _ in 0..20 {
        tenant.grant_access(a_grant()).await.unwrap();
    }
    let gateway = BackgroundClient::connect(&running).await;
    let mut attacker = Attacker::silent(address).await.unwrap();
    // SETTINGS_INITIAL_WINDOW_SIZE of zero: the server may not send data.
    attacker.start(&[0, 4, 0, 0, 0, 0]).await.unwrap();
    let list = raw::framed(&prost::Message::encode_to_vec(&ListEventsRequest {
        tenant_id: "acme".to_owned(),
        ..ListEventsRequest::default()
    }));
    for number in 0..ATTEMPTS {
        let open = frame(HEADERS, END_HEADERS, 2 * number + 1, &call(LIST_EVENTS, "mallory"));
        let rest = frame(DATA, END_STREAM, 2 * number + 1, &list);
        attacker.send(&[open, rest].concat()).await.unwrap();
    }
    let channel = connect(address).await;
    let check = async |name: &str| -> Result<(), Status> {
        let mut client = SupportAccessClient::new(channel.clone());
        client.check_access(named(a_check(), name)).await.map(drop)
    };
    // Counted by the server: a call of mallory that observes the limit could take its last permit.
    let admin = "supportaccess.v1.SupportAccessAdmin";
    let rejected = rpcs(admin, "ListEvents", "RESOURCE_EXHAUSTED", ATTEMPTS - CALLS);
    wait_for_metric(&running, &rejected).await;
    let rejected = check("mallory").await.unwrap_err();
    assert_eq!(rejected.code(), Code::ResourceExhausted);
    assert_eq!(rejected.get_details_error_info().unwrap().reason, "TOO_MANY_CALLS");
    check("trudy").await.unwrap();
    drop(attacker);
    eventually(async || check("mallory").await.is_ok()).await;
    gateway.stop().await;
    assert_healthy(&running, channel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_count_as_calls_after_their_callers_disconnect() {
    const CALLS: usize = 20;
    let limits = CallLimits { calls_per_caller: CALLS, ..CallLimits::default() };
    let mut config = crate::server::harness::config();
    config.common.limits = limits;
    let (running, store) = crate::server::harness::start(config).await;
    let gateway = BackgroundClient::connect(&running).await;
    store.are_changes_held.send_replace(true);
    let channel = connect(tcp(&running)).await;
    let grant = async |channel: &Channel, name: &str| {
        let mut client = SupportAccessAdminClient::new(channel.clone());
        client.grant_access(named(a_grant(), name)).await
    };
    for started in 1..=CALLS {
        tokio::select! {
            _ = grant(&channel, "mallory") => panic!("changes are held"),
            () = eventually(async || store.waiting() >= started) => {}
        }
    }
    let rejected = grant(&channel, "mallory").await.unwrap_err();
    assert_eq!(rejected.get_details_error_info().unwrap().reason, "TOO_MANY_CALLS");
    store.are_changes_held.send_replace(false);
    grant(&channel, "trudy").await.unwrap();
    eventually(async || grant(&channel, "mallory").await.is_ok()).await;
    gateway.stop().await;
    assert_healthy(&running, channel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_callers_are_evicted() {
    const NAMES: usize = 100_000;
    let running = limited(CallLimits::default()).await;
    let address = tcp(&running);
    let gateway = BackgroundClient::connect(&running).await;
    let channel = connect(address).await;
    let before = resident();
    let checks = futures::stream::iter(0..NAMES).map(|number| {
        let mut client = SupportAccessClient::new(channel.clone());
        let name = format!("mallory-{number}-{}", "x".repeat(100));
        async move { client.check_access(named(a_check(), &name)).await.map(drop) }
    });
    let answered = checks.buffer_unordered(200).filter(|it| std::future::ready(it.is_ok()));
    assert_eq!(answered.count().await, NAMES);
    let growth = resident().saturating_sub(before);
    println!("{NAMES} names, +{growth} B; {} checks were answered", gateway.stop().await);
    assert!(growth < 64 * MEGABYTE, "+{growth} B");
    assert_healthy(&running, channel).await;
}
