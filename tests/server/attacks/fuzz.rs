//! Any bytes as any request's message, through the real doors. A message that fails is printed whole; it is not lower_bound.

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

use super::{Bystander, assert_well, connect, limited, raw, tcp};
use crate::harness::{a_check, a_grant, an_access_check};

/// How many messages are sent.
const CASES: usize = 20_000;
/// How many at a time.
const AT_A_TIME: usize = 40;

/// Messages that are as they should be.
fn good() -> Vec<Vec<u8>> {
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

/// What becomes of bytes.
#[derive(Debug, Clone)]
enum Change {
    Replace(prop::sample::Index, u8),
    Insert(prop::sample::Index, u8),
    Remove(prop::sample::Index),
    Cut(prop::sample::Index),
    Repeat,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, to)| Change::Replace(at, to)),
        2 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, to)| Change::Insert(at, to)),
        1 => any::<prop::sample::Index>().prop_map(Change::Remove),
        1 => any::<prop::sample::Index>().prop_map(Change::Cut),
        1 => Just(Change::Repeat),
    ]
}

/// Bytes that were good, with a few changes.
pub(super) fn mutated(good: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    (prop::sample::select(good), vec(change(), 1..6)).prop_map(|(mut bytes, changes)| {
        for change in changes {
            let length = bytes.len();
            match change {
                Change::Repeat => bytes.extend_from_within(..),
                Change::Insert(at, byte) => bytes.insert(at.index(length + 1), byte),
                _ if length == 0 => {}
                Change::Replace(at, byte) => bytes[at.index(length)] = byte,
                Change::Remove(at) => drop(bytes.remove(at.index(length))),
                Change::Cut(at) => bytes.truncate(at.index(length)),
            }
        }
        bytes
    })
}

/// The path, the message and the frame around it.
fn cases() -> impl Strategy<Value = (String, Vec<u8>)> {
    let message = prop_oneof![2 => vec(any::<u8>(), 0..300), 3 => mutated(good())];
    let framed = prop_oneof![
        9 => message.clone().prop_map(|message| raw::framed(&message)),
        1 => mutated(good().iter().map(|message| raw::framed(message)).collect()),
    ];
    let paths = raw::paths().into_iter().filter(|path| !path.ends_with("Follow"));
    (prop::sample::select(paths.collect::<Vec<_>>()), framed)
}

async fn send(channel: &Channel, (path, body): (String, Vec<u8>)) {
    let mut request = raw::request(&path, "mallory", raw::whole(body.clone()));
    // So that nobody waits until something is in force.
    request.headers_mut().insert("grpc-timeout", "300m".parse().unwrap());
    let status = raw::outcome(channel, request).await.expect("an answer");
    assert!(!raw::is_our_fault(&status), "{path} with {body:?}: {status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_bytes_are_answered_as_a_fault_of_ours() {
    let running =
        limited(CallLimits { requests_per_second: 1_000_000, ..CallLimits::default() }).await;
    let gateway = Bystander::at(&running).await;
    let channel = connect(tcp(&running)).await;
    let mut runner = TestRunner::new(RunnerConfig::default());
    println!("the seed: {:?}", runner.rng());
    let cases = cases();
    let mut answered = 0;
    while answered < CASES {
        let batch: Vec<_> =
            (0..AT_A_TIME).map(|_| cases.new_tree(&mut runner).unwrap().current()).collect();
        futures::future::join_all(batch.into_iter().map(|case| send(&channel, case))).await;
        answered += AT_A_TIME;
    }
    println!("{answered} messages; meanwhile {} checks were answered", gateway.end().await);
    assert_well(&running, channel).await;
}
