//! Bodies and unread responses at the web listener.

use std::{io::Write, path::Path};

use flate2::{Compression, write::GzEncoder};
use futures::future::join_all;
use support_access::api::proto::v1::GrantAccessRequest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

use super::{super::BackgroundClient, REPLICA, Target, rejections};
use crate::server::{
    harness::{a_grant, eventually, with_timeout},
    process::Launch,
};

const BATCH: &str = "BatchCheckAccess";
/// The maximum length of a message, in bytes.
const LENGTH_MAX: usize = 4 * 1_024 * 1_024;

/// Sends a request of the caller `mallory`.
async fn send(socket: &Path, method: &str, encoding: &str, body: &[u8]) -> UnixStream {
    let head = format!(
        "POST /supportaccess.v1.{method} HTTP/1.1\r\nhost: localhost\r\n\
         content-type: application/json\r\ncontent-encoding: {encoding}\r\n\
         support-access-actor: mallory\r\ncontent-length: {}\r\n\r\n",
        body.len(),
    );
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    // Fails if the server has rejected the request before the end.
    let _ = stream.write_all(body).await;
    stream
}

/// The status of a response.
async fn status(mut stream: UnixStream) -> String {
    let mut head = [0; 12];
    // Fails if the server has closed the connection, because it does not read the rest of the body.
    match with_timeout(stream.read_exact(&mut head)).await {
        Ok(_) => String::from_utf8_lossy(&head[9..]).into_owned(),
        Err(_) => "closed".to_owned(),
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_bodies_do_not_exhaust_the_memory_of_a_replica() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("web.sock");
    let launch = Launch::replica("memory:")
        .env("SUPPORT_ACCESS_WEB_LISTEN", format!("unix:{}", socket.display()));
    let target = Target::start(launch, REPLICA);
    let gateway = BackgroundClient::on(target.server.connect().await);
    let empty = format!("{{\"checks\":[{}{{}}]}}", "{},".repeat(LENGTH_MAX / 3 - 10));
    let list = format!("[{}\"\"]", "\"\",".repeat(LENGTH_MAX / 3 - 100));
    let groups = format!("{{\"checks\":[{{\"groupIds\":{list}}}]}}");
    // Just within the limit on the memory of a message.
    let list = format!("[{}\"\"]", "\"\",".repeat(200_000));
    let valid = format!("{{\"checks\":[{{\"groupIds\":{list}}}]}}");
    let bodies = [
        ("empty checks", "identity", empty.into_bytes()),
        ("empty groups", "identity", groups.into_bytes()),
        ("groups within the limit", "identity", valid.into_bytes()),
        ("100 MB of spaces, compressed", "gzip", gzip(&vec![b' '; 100_000_000])),
        ("compressed spaces within the limit", "gzip", gzip(&vec![b' '; LENGTH_MAX])),
    ];
    for (name, encoding, body) in bodies {
        let method = format!("SupportAccess/{BATCH}");
        let sent = (0..16).map(async |_| send(&socket, &method, encoding, &body).await);
        let statuses = join_all(join_all(sent).await.into_iter().map(status)).await;
        let expected = ["400", "429", "504", "closed"];
        assert!(statuses.iter().all(|status| expected.contains(&&**status)), "{statuses:?}");
        target.report(&format!("{name}: {statuses:?}"));
    }
    println!("meanwhile {} checks were answered", gateway.stop().await);
    target.assert_survived();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_json_does_not_exhaust_the_memory_of_a_replica() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("web.sock");
    let launch = Launch::replica("memory:")
        .env("SUPPORT_ACCESS_WEB_LISTEN", format!("unix:{}", socket.display()))
        .flags(&["--max-live-grants-per-group", "600"]);
    let target = Target::start(launch, REPLICA);
    let mut admin = target.server.admin().await;
    for _ in 0..600 {
        let grant = GrantAccessRequest { reason: "\u{1F511}".repeat(1_000), ..a_grant() };
        admin.grant_access(grant).await.unwrap();
    }
    let gateway = BackgroundClient::on(target.server.connect().await);
    let list = br#"{"tenantId": "acme", "pageSize": 1000}"#;
    let lists = (0..60)
        .map(async |_| send(&socket, "SupportAccessAdmin/ListEvents", "identity", list).await);
    let unread = join_all(lists).await;
    // Lists of 2.4 MB, of which fewer than 20 fit into the quota of the caller.
    eventually(async || rejections(&target, "ListEvents").await >= 40).await;
    target.report("unread lists of 2.4 MB in JSON");
    drop(unread);
    println!("meanwhile {} checks were answered", gateway.stop().await);
    target.assert_survived();
}
