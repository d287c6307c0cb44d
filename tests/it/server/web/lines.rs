//! The export of a history in lines of JSON.

use super::*;

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
