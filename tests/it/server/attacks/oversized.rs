//! Messages and headers above the limits of length, number or depth.

use prost::Message;
use support_access::{
    api::proto::v1::{BatchCheckAccessRequest, GrantAccessRequest, NamedAgents},
    server::config::CallLimits,
};
use tonic::Code;

use super::{
    BackgroundClient, MEGABYTE, assert_healthy, connect,
    frames::{
        Attacker, CHECK, CONTINUATION, END_HEADERS, GO_AWAY, GRANT, HEADERS, RST_STREAM, call,
        frame, header,
    },
    limited, raw, resident, tcp,
};
use crate::server::harness::{TIMEOUT, a_grant, an_access_check, get};

const BATCH: &str = "/supportaccess.v1.SupportAccess/BatchCheckAccess";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// The tag of a field.
fn tag(number: u32, wire_type: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | wire_type), &mut bytes);
    bytes
}

/// A repeated field with a million empty elements.
fn a_million(number: u32) -> Vec<u8> {
    [tag(number, 2), vec![0]].concat().repeat(1_000_000)
}

/// Nested unknown groups (wire types 3 and 4).
fn nested(depth: usize) -> Vec<u8> {
    [tag(99, 3).repeat(depth), tag(99, 4).repeat(depth)].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_messages_are_rejected() {
    let running = limited(CallLimits::default()).await;
    let address = tcp(&running);
    let gateway = BackgroundClient::connect(&running).await;
    let channel = connect(address).await;
    let batch = |count| BatchCheckAccessRequest {
        checks: vec![an_access_check(); count],
        ..BatchCheckAccessRequest::default()
    };
    let long = GrantAccessRequest { reason: "x".repeat(1_000_000), ..a_grant() };
    let named_agents = Some(NamedAgents { agent_ids: vec!["ada".to_owned(); 100_000] });
    let agents = GrantAccessRequest { named_agents, ..a_grant() };
    let cases = [
        (BATCH, batch(1_000).encode_to_vec(), Code::Ok),
        (BATCH, batch(1_001).encode_to_vec(), Code::InvalidArgument),
        (BATCH, vec![0; 4 * MEGABYTE + 1], Code::InvalidArgument),
        (GRANT, vec![0; 4 * MEGABYTE + 1], Code::InvalidArgument),
        (GRANT, long.encode_to_vec(), Code::InvalidArgument),
        (GRANT, agents.encode_to_vec(), Code::InvalidArgument),
        (BATCH, a_million(1), Code::InvalidArgument),
        (CHECK, a_million(3), Code::InvalidArgument),
        (GRANT, a_million(3), Code::InvalidArgument),
        (CHECK, nested(50), Code::InvalidArgument),
        (CHECK, nested(1_000_000), Code::InvalidArgument),
        (GRANT, nested(1_000_000), Code::InvalidArgument),
        (HEALTH, vec![0; 1_025], Code::InvalidArgument),
    ];
    for (path, message, expected) in cases {
        let before = resident();
        let request = raw::request(path, "mallory", raw::whole(raw::framed(&message)));
        let status = raw::outcome(&channel, request).await.expect("a status");
        let shown = format!("{path} with {} bytes: {status:?}", message.len());
        assert_eq!(status.code(), expected, "{shown}");
        println!("{path}, {} B: +{} B", message.len(), resident().saturating_sub(before));
    }
    // Compression is disabled: a compressed message is rejected without decompression.
    let bomb = [vec![1, 0, 0, 0, 20], vec![7; 20]].concat();
    let status = raw::outcome(&channel, raw::request(CHECK, "mallory", raw::whole(bomb))).await;
    let status = status.expect("a status");
    assert!(!raw::is_server_fault(&status), "{status:?}");
    println!("meanwhile {} checks were answered", gateway.stop().await);
    assert_healthy(&running, channel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oversized_headers_are_rejected() {
    let running = limited(CallLimits::default()).await;
    let address = tcp(&running);
    let gateway = BackgroundClient::connect(&running).await;
    let before = resident();
    for length in [17_000, 60_000, 1 << 20] {
        let mut attacker = Attacker::connect(address).await.unwrap();
        let mut block = call(CHECK, "mallory");
        header(&mut block, "x-large", &"x".repeat(length));
        let chunks: Vec<&[u8]> = block.chunks(16_000).collect();
        let mut bytes = Vec::new();
        for (index, chunk) in chunks.iter().enumerate() {
            let kind = if index == 0 { HEADERS } else { CONTINUATION };
            let flags = if index + 1 == chunks.len() { END_HEADERS } else { 0 };
            bytes.extend(frame(kind, flags, 1, chunk));
        }
        let _ = attacker.send(&bytes).await;
        // A response with the status 431, a reset stream, or a closed connection.
        let rejection = attacker
            .until(TIMEOUT, |frame| [HEADERS, RST_STREAM, GO_AWAY].contains(&frame.kind))
            .await;
        assert!(rejection.is_some() || attacker.until_closed(TIMEOUT).await.is_some(), "{length}");
    }
    let mut attacker = Attacker::silent(running.metrics).await.unwrap();
    let head =
        format!("GET /healthz HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "x".repeat(100_000));
    let _ = attacker.send(head.as_bytes()).await;
    assert!(attacker.until_closed(TIMEOUT).await.is_some());
    assert_eq!(get(running.metrics, "/readyz").await.0, 200);
    assert!(resident().saturating_sub(before) < 16 * MEGABYTE);
    println!("meanwhile {} checks were answered", gateway.stop().await);
    assert_healthy(&running, connect(address).await).await;
}
