//! The export of a history in lines of JSON.

use support_access::api::proto::v1::GrantAccessRequest;

use super::*;
use crate::server::harness::{a_grant, admin, eventually};

#[tokio::test]
async fn a_history_is_exported_in_lines() {
    let (running, _store) = serving().await;
    for _ in 0..3 {
        assert_eq!(send(&running, post_json(GRANT, &grant())).await.status, 200);
    }
    for content_type in ["application/json", "application/x-ndjson"] {
        let request = post(EXPORT, content_type, json!({"tenantId": "acme"}).to_string());
        let reply = send(&running, request).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.headers["content-type"], "application/x-ndjson");
        let text = String::from_utf8(reply.body.to_vec()).unwrap();
        assert!(text.ends_with('\n'));
        let lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let records = lines.iter().map(|line| line["records"].as_array().unwrap().len());
        assert_eq!(records.sum::<usize>(), 3, "{text}");
    }
    let reply = send(&running, post(EXPORT, "application/proto", "")).await;
    assert_eq!(reply.status, 415);
    let reply = send(&running, post_json(EXPORT, &json!({"tenantId": "\u{7}"}))).await;
    assert_eq!(reply.error(), (400, "invalid_argument".into(), "INVALID_FIELD".into()));
    stop(running).await.unwrap();
}

#[tokio::test]
async fn an_export_that_breaks_off_ends_with_an_error() {
    // A sixteenth of the memory, so 4 MiB, is for the long messages of a caller.
    let limits = CallLimits { memory_mib: 64, ..CallLimits::default() };
    let (running, _store) = limited(limits).await;
    let mut admin = admin(&running).await;
    for _ in 0..60 {
        let grant = GrantAccessRequest { reason: "\u{1F511}".repeat(1_000), ..a_grant() };
        admin.grant_access(grant).await.unwrap();
    }
    let last_line = async || {
        let reply = send(&running, post_json(EXPORT, &json!({"tenantId": "acme"}))).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let text = String::from_utf8(reply.body.to_vec()).unwrap();
        serde_json::from_str::<Value>(text.lines().last().unwrap()).unwrap()
    };
    assert!(last_line().await.get("error").is_none());
    // The rest of the quota is too small for the records.
    let _connections = send_megabytes(&running, 4).await;
    eventually(async || last_line().await["error"]["code"] == "resource_exhausted").await;
}
