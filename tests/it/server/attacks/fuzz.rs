//! Random bytes as the message of every RPC. A message that fails is printed whole, and not shrunk.

use proptest::{
    collection::vec,
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config as RunnerConfig, TestRunner},
};
use prost::Message;
use support_access::{
    api::proto::v1::{
        BatchCheckAccessRequest, ExtendAccessRequest, ListEventsRequest, ListGrantsRequest,
        RevokeAccessRequest, RevokeAllAccessRequest, WaitEnforcedRequest,
    },
    server::config::CallLimits,
};
use tonic::transport::Channel;

use super::{BackgroundClient, assert_healthy, connect, limited, raw, tcp};
use crate::server::harness::{a_check, a_grant, an_access_check};

/// Number of messages.
const CASES: usize = 20_000;
/// Number of concurrent messages.
const CONCURRENT: usize = 40;

/// Valid messages.
fn valid() -> Vec<Vec<u8>> {
    let tenant_id = "acme".to_owned();
    let grant_id = "0190a3b4-0000-7000-8000-000000000000".to_owned();
    let reason = "fuzz".to_owned();
    vec![
        a_check().encode_to_vec(),
        BatchCheckAccessRequest {
            checks: vec![an_access_check(); 3],
            consistency_token: String::new(),
        }
        .encode_to_vec(),
        a_grant().encode_to_vec(),
        ExtendAccessRequest {
            tenant_id: tenant_id.clone(),
            grant_id: grant_id.clone(),
            ..ExtendAccessRequest::default()
        }
        .encode_to_vec(),
        RevokeAccessRequest {
            tenant_id: tenant_id.clone(),
            grant_id,
            reason: reason.clone(),
            ..RevokeAccessRequest::default()
        }
        .encode_to_vec(),
        RevokeAllAccessRequest { tenant_id: tenant_id.clone(), reason, ..Default::default() }
            .encode_to_vec(),
        ListGrantsRequest { tenant_id: tenant_id.clone(), page_size: 3, ..Default::default() }
            .encode_to_vec(),
        ListEventsRequest { tenant_id: tenant_id.clone(), page_size: 3, ..Default::default() }
            .encode_to_vec(),
        WaitEnforcedRequest { tenant_id: Some(tenant_id), consistency_token: "c".repeat(22) }
            .encode_to_vec(),
    ]
}

/// A mutation of bytes.
#[derive(Debug, Clone)]
enum Mutation {
    Replace(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Cut(prop::sample::Index),
    Repeat,
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), any::<u8>())
            .prop_map(|(at, to)| Mutation::Replace(at, to)),
        2 => (any::<prop::sample::Index>(), any::<u8>())
            .prop_map(|(at, to)| Mutation::Insert(at, to)),
        1 => any::<prop::sample::Index>().prop_map(Mutation::Remove),
        1 => any::<prop::sample::Index>().prop_map(Mutation::Cut),
        1 => Just(Mutation::Repeat),
    ]
}

/// Valid bytes with a few mutations.
pub(super) fn mutated(valid: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(valid), vec(mutation(), 1..6)).prop_map(|(mut bytes, mutations)| {
        for mutation in mutations {
            let length = bytes.len();
            match mutation {
                Mutation::Repeat => bytes.extend_from_within(..),
                Mutation::Insert(at, byte) => bytes.insert(at.index(length + 1), byte),
                _ if length == 0 => {}
                Mutation::Replace(at, byte) => bytes[at.index(length)] = byte,
                Mutation::Remove(at) => drop(bytes.remove(at.index(length))),
                Mutation::Cut(at) => bytes.truncate(at.index(length)),
            }
        }
        bytes
    })
}

/// A path, and a message with its prefix.
fn cases() -> impl Strategy<Value = (String, Vec<u8>)> {
    let message = prop_oneof![2 => vec(any::<u8>(), 0..300), 3 => mutated(valid())];
    let framed = prop_oneof![
        9 => message.clone().prop_map(|message| raw::framed(&message)),
        1 => mutated(valid().iter().map(|message| raw::framed(message)).collect()),
    ];
    let paths = raw::paths().into_iter().filter(|path| !path.ends_with("Follow"));
    (prop::sample::select(paths.collect::<Vec<_>>()), framed)
}

async fn send(channel: &Channel, (path, body): (String, Vec<u8>)) {
    let mut request = raw::request(&path, "mallory", raw::whole(body.clone()));
    // Changes must not wait for enforcement.
    request.headers_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let status = raw::outcome(channel, request).await.expect("a status");
    assert!(!raw::is_server_fault(&status), "{path} with {body:?}: {status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_causes_a_server_fault() {
    let running =
        limited(CallLimits { requests_per_second: 1_000_000, ..CallLimits::default() }).await;
    let gateway = BackgroundClient::connect(&running).await;
    let channel = connect(tcp(&running)).await;
    let mut runner = TestRunner::new(RunnerConfig::default());
    println!("the seed: {:?}", runner.rng());
    let cases = cases();
    let mut sent = 0;
    while sent < CASES {
        let batch: Vec<_> =
            (0..CONCURRENT).map(|_| cases.new_tree(&mut runner).unwrap().current()).collect();
        futures::future::join_all(batch.into_iter().map(|case| send(&channel, case))).await;
        sent += CONCURRENT;
    }
    println!("{sent} messages; meanwhile {} checks were answered", gateway.stop().await);
    assert_healthy(&running, channel).await;
}
