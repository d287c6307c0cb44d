//! Outsiders at the metrics endpoint, which needs no authentication.

use std::net::SocketAddr;

use futures::future::join_all;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

use super::{
    super::{BackgroundClient, CHECK_TIMEOUT, connections::connect_from},
    REPLICA, SENDING, SIDECAR, Target,
};
use crate::server::{harness::get, process::Launch};

/// Addresses of attackers, and connections of each: four times as many as the server accepts.
const ADDRESSES: u8 = 8;
const CONNECTIONS: usize = 128;

/// Sends as much as possible, and reads nothing.
async fn flood(source: [u8; 4], to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = connect_from(source, to).await;
    // Fails once the server stops reading, or closes the connection.
    let _ = timeout(SENDING, stream.write_all(bytes)).await;
    stream
}

async fn attack(target: &Target) {
    let gateway = BackgroundClient::on(target.server.connect().await);
    let request = "GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n";
    let body = |header: &str| format!("POST /metrics HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n");
    let zeros = "0".repeat(1 << 20);
    for (name, bytes) in [
        ("silence", String::new()),
        ("unfinished heads", format!("GET /metrics HTTP/1.1\r\nX-A: {}", "a".repeat(16_000))),
        ("long heads", format!("GET /metrics HTTP/1.1\r\nX-A: {zeros}")),
        ("many fields", format!("GET / HTTP/1.1\r\n{}", "a:\r\n".repeat(100_000))),
        ("unread responses", request.repeat(10_000)),
        ("long bodies", body("Content-Length: 1000000000") + &zeros),
        ("chunked bodies", body("Transfer-Encoding: chunked") + "ffffff\r\n" + &zeros),
    ] {
        let attacks = (0..ADDRESSES).map(async |address| {
            let source = [127, 0, 0, 2 + address];
            join_all((0..CONNECTIONS).map(|_| flood(source, target.server.http, bytes.as_bytes())))
                .await
        });
        let attackers = join_all(attacks).await;
        let ready = timeout(CHECK_TIMEOUT, get(target.server.http, "/readyz")).await;
        assert_eq!(ready.expect("a response in time").0, 200, "{name}");
        target.report(&format!("metrics endpoint, {name}"));
        drop(attackers);
    }
    println!("meanwhile {} checks were answered", gateway.stop().await);
    target.assert_survived();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outsiders_do_not_exhaust_the_metrics_endpoint() {
    let replica = Target::start(Launch::replica("memory:"), REPLICA);
    let sidecar = Target::start(Launch::sidecar(&[replica.server.url()]), SIDECAR);
    sidecar.server.ready().await;
    attack(&sidecar).await;
    attack(&replica).await;
}
