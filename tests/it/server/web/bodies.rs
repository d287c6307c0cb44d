//! Bodies that are not a strict message, or arrive slowly.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::*;

#[tokio::test]
async fn json_that_readers_could_understand_differently_is_rejected() {
    let (running, _store) = serving().await;
    let cases = [
        (r#"{"check": {}, "check": {}}"#, "check", "must occur once"),
        (r#"{"check": {"agentId": "a", "agent_id": "b"}}"#, "check.agent_id", "must occur once"),
        (r#"{"check": {"agentId": "a", "agentId": "a"}}"#, "check.agent_id", "must occur once"),
        (r#"{"check": {"agent": "a"}}"#, "check", "has the unknown field \"agent\""),
        (r#"{"check": {"agentId": 7}}"#, "check.agent_id", "must follow the JSON mapping"),
        (r#"{"check": {"agentId": {}}}"#, "check.agent_id", "must not be an object"),
        (r#"{"check": {"groupIds": "a"}}"#, "check.group_ids", "must follow the JSON mapping"),
        (r#"{"check": {"groupIds": [null]}}"#, "check.group_ids[0]", "must follow the JSON"),
        (r#"{"check": {"agentKind": "ROBOT"}}"#, "check.agent_kind", "must follow the JSON"),
        (r#"{"check": []}"#, "check", "must follow the JSON mapping"),
        ("[]", "message", "must follow the JSON mapping"),
        ("", "message", "must follow the JSON mapping"),
        ("{", "message", "must follow the JSON mapping"),
        ("{} {}", "message", "must follow the JSON mapping"),
        ("{\"check\": {\"agentId\": \"\u{0}\"}}", "check.agent_id", "must follow the JSON"),
        (r#"{"consistencyToken": "\ud800"}"#, "consistency_token", "must follow the JSON"),
        ("\u{feff}{}", "message", "must follow the JSON mapping"),
    ];
    for (body, field, description) in cases {
        let reply = send(&running, post(CHECK, "application/json", body)).await;
        assert_eq!(
            reply.error(),
            (400, "invalid_argument".into(), "INVALID_FIELD".into()),
            "{body}"
        );
        let violation = reply.violation();
        assert_eq!(violation.0, field, "{body}: {violation:?}");
        assert!(violation.1.starts_with(description), "{body}: {violation:?}");
    }
    let not_utf8 = b"{\"consistencyToken\": \"\xff\"}".to_vec();
    assert_eq!(send(&running, post(CHECK, "application/json", not_utf8)).await.status, 400);
    stop(running).await.unwrap();
}

#[tokio::test]
async fn deep_and_large_json_is_rejected() {
    let (running, _store) = serving().await;
    let nested = |levels: usize| {
        format!(r#"{{"check":{{"groupIds":{}{}}}}}"#, "[".repeat(levels), "]".repeat(levels))
    };
    for levels in [20, 100, 100_000] {
        let reply = send(&running, post(CHECK, "application/json", nested(levels))).await;
        assert_eq!(reply.status, 400);
        assert_eq!(reply.violation().1, "must be nested at most 16 levels deep");
    }
    let long = json!({"consistencyToken": "x".repeat(320 * 1_024)});
    let reply = send(&running, post_json(CHECK, &long)).await;
    let violation = ("message".to_owned(), "must be at most 327680 bytes long".to_owned());
    assert_eq!((reply.status, reply.violation()), (400, violation));
    // Each empty check takes three bytes here, but a thousand in memory.
    let many = format!("{{\"checks\":[{}{{}}]}}", "{},".repeat(1_000_000));
    let reply = send(&running, post(BATCH, "application/json", many)).await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.violation().1, "has too many fields; send fewer in one message");
    let garbage = send(&running, post(CHECK, "application/proto", vec![0xff; 100])).await;
    assert_eq!(garbage.error(), (400, "invalid_argument".into(), "INVALID_FIELD".into()));
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_answered_in_time() {
    let (running, _store) = serving().await;
    let head = format!(
        "POST {CHECK} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{{"
    );
    let mut stream = TcpStream::connect(web(&running)).await.unwrap();
    let started = Instant::now();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = String::new();
    // The server closes the connection, because the rest of the body would follow.
    with_timeout(stream.read_to_string(&mut response)).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 504 "), "{response}");
    let took = started.elapsed();
    assert!((Duration::from_secs(9)..Duration::from_secs(30)).contains(&took), "{took:?}");
    stop(running).await.unwrap();
}
