//! Searches.

use std::sync::Arc;

use support_access::server::{Listeners, SystemClock, config::SidecarConfig, start_sidecar};

use super::*;

const LOCK: &str = "/supportaccess.v1.SupportAccessAdmin/LockAccess";

fn ids(response: &Value) -> Vec<&str> {
    let results = response["results"].as_array().unwrap_or_else(|| panic!("{response}"));
    assert!(results.iter().all(|result| result["type"] == "user"), "{response}");
    results.iter().map(|result| result["id"].as_str().unwrap()).collect()
}

fn names(response: &Value) -> Vec<&str> {
    let results = response["results"].as_array().unwrap_or_else(|| panic!("{response}"));
    results.iter().map(|result| result["name"].as_str().unwrap()).collect()
}

async fn lock(running: &Running, target: &str, value: Value) {
    let mut request = json!({ "tenantId": "record-1", "reason": "a test" });
    request[target] = value;
    let reply = send(running, post_json(LOCK, &request)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

/// A search for subjects, with an id that is ignored.
async fn subjects(running: &Running, action: &str) -> Value {
    ask(running, SUBJECTS, &question("ignored", action, "record-1")).await
}

#[tokio::test]
async fn a_search_finds_the_named_subjects() {
    let running = fixture().await;
    let response = subjects(&running, "read").await;
    assert_eq!(ids(&response), ["alice", "bob"]);
    assert_eq!(response["page"]["next_token"], "");
    assert_eq!(ids(&subjects(&running, "write").await), ["alice"]);
    let mut without_id = question("", "read", "record-1");
    without_id["subject"].as_object_mut().unwrap().remove("id");
    assert_eq!(ids(&ask(&running, SUBJECTS, &without_id).await), ["alice", "bob"]);
    lock(&running, "agentId", "bob".into()).await;
    assert_eq!(ids(&subjects(&running, "read").await), ["alice"]);
    lock(&running, "agentKind", "AGENT_KIND_HUMAN".into()).await;
    assert_eq!(ids(&subjects(&running, "read").await), [""; 0]);
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_search_says_that_members_of_groups_are_unknown() {
    let running = fixture().await;
    let response = subjects(&running, "read").await;
    assert_eq!(response["context"]["group_ids"], json!([]));
    assert_eq!(response["context"]["is_complete"], true);
    grant_to(&running, "ACCESS_LEVEL_READ_ONLY", &[]).await;
    let response = subjects(&running, "read").await;
    assert_eq!(ids(&response), ["alice", "bob"]);
    assert_eq!(response["context"]["group_ids"], json!(["support"]));
    let message = response["context"]["message"].as_str().unwrap();
    assert!(message.contains("does not know the members"), "{message}");
    assert_eq!(subjects(&running, "write").await["context"]["group_ids"], json!([]));
    lock(&running, "groupId", "support".into()).await;
    let response = subjects(&running, "read").await;
    assert_eq!((ids(&response), &response["context"]["group_ids"]), (vec![], &json!([])));
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_search_finds_the_permitted_actions() {
    let running = fixture().await;
    let actions = async |subject: &str, resource: &str| {
        let mut request = question(subject, "", resource);
        request.as_object_mut().unwrap().remove("action");
        let response = ask(&running, ACTIONS, &request).await;
        assert_eq!(response["page"]["next_token"], "");
        names(&response).join(" ")
    };
    assert_eq!(actions("alice", "record-1").await, "read write");
    assert_eq!(actions("bob", "record-1").await, "read");
    assert_eq!(actions("carol", "record-1").await, "");
    assert_eq!(actions("alice", "record-2").await, "");
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_search_about_unknown_names_finds_nothing() {
    let running = fixture().await;
    for path in ["/subject/type", "/action/name", "/resource/type", "/resource/id"] {
        let mut request = question("alice", "read", "record-1");
        *request.pointer_mut(path).unwrap() = "unknown".into();
        assert_eq!(ids(&ask(&running, SUBJECTS, &request).await), [""; 0], "{path}");
        let actions = ask(&running, ACTIONS, &request).await;
        let expected = if path == "/action/name" { vec!["read", "write"] } else { vec![] };
        assert_eq!(names(&actions), expected, "{path}");
    }
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_search_without_a_required_entity_gets_status_400() {
    let running = fixture().await;
    let required = [
        (SUBJECTS, &["/subject", "/subject/type", "/action", "/action/name", "/resource"][..]),
        (SUBJECTS, &["/resource/type", "/resource/id"]),
        (ACTIONS, &["/subject", "/subject/type", "/subject/id", "/resource", "/resource/id"]),
    ];
    for (path, fields) in required {
        for field in fields {
            let (parent, key) = field.rsplit_once('/').unwrap();
            let mut request = question("alice", "read", "record-1");
            request.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
            let reply = send(&running, post_json(path, &request)).await;
            assert_eq!(reply.status, 400, "{path} {field}");
            assert_eq!(reply.violation().0, field[1..].replace('/', "."), "{path}");
        }
    }
    stop(running).await.unwrap();
}

#[tokio::test]
async fn pages_together_contain_each_result_once() {
    let running = fixture().await;
    grant_to(&running, "ACCESS_LEVEL_READ_ONLY", &["dana", "alice", "carol"]).await;
    for (path, expected) in
        [(SUBJECTS, &["alice", "bob", "carol", "dana"][..]), (ACTIONS, &["read", "write"])]
    {
        let mut request = question("alice", "read", "record-1");
        request["page"] = json!({ "limit": 1 });
        let mut found = Vec::new();
        loop {
            let response = ask(&running, path, &request).await;
            let results = response["results"].as_array().unwrap();
            assert_eq!(results.len(), 1, "{response}");
            let name = results[0].get("id").unwrap_or(&results[0]["name"]);
            found.push(name.as_str().unwrap().to_owned());
            let token = response["page"]["next_token"].as_str().unwrap();
            if token.is_empty() {
                break;
            }
            request["page"]["next_token"] = token.into();
        }
        assert_eq!(found, expected);
    }
    let mut request = question("alice", "read", "record-1");
    for (page, field) in [
        (json!(1), "page"),
        (json!({ "limit": 0 }), "page.limit"),
        (json!({ "limit": "1" }), "page.limit"),
        (json!({ "next_token": 1 }), "page.next_token"),
        (json!({ "next_token": "!" }), "page.next_token"),
    ] {
        request["page"] = page;
        for path in [SUBJECTS, ACTIONS] {
            let reply = send(&running, post_json(path, &request)).await;
            assert_eq!((reply.status, reply.violation().0.as_str()), (400, field), "{path}");
        }
    }
    request["page"] = json!({ "limit": 1_000_000, "next_token": "" });
    assert_eq!(ask(&running, SUBJECTS, &request).await["results"].as_array().unwrap().len(), 4);
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_node_that_cannot_decide_says_so() {
    let config = SidecarConfig {
        web_listen: Some(ListenAddress::Tcp(loopback())),
        // No server listens at this port.
        upstream: vec!["http://127.0.0.1:1".to_owned()],
        common: common(),
        ..SidecarConfig::default()
    };
    let listeners = Listeners::bind(&config.common, config.web_listen.as_ref()).unwrap();
    let running = start_sidecar(config, listeners, Arc::new(SystemClock)).await.unwrap();
    let mut request = question("alice", "read", "acme");
    request["resource"]["type"] = "tenant".into();
    let response = ask(&running, EVALUATION, &request).await;
    assert_eq!(response["decision"], false);
    assert_eq!(response["context"]["reason"], "STALE");
    for path in [SUBJECTS, ACTIONS] {
        let response = ask(&running, path, &request).await;
        assert_eq!(
            (&response["results"], &response["context"]["reason"]),
            (&json!([]), &"STALE".into())
        );
    }
    stop(running).await.unwrap();
}
