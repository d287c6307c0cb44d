//! `AuthZEN` 1.0: the assertions of the certification scenario's Core levels, with its fixture.

use support_access::api::web::authzen::config::AuthZenConfig;

use super::{callers::send_as, *};
use crate::server::identity::{GATEWAY, OPERATOR, World};

mod search;

const EVALUATION: &str = "/access/v1/evaluation";
const EVALUATIONS: &str = "/access/v1/evaluations";
const SUBJECTS: &str = "/access/v1/search/subject";
const ACTIONS: &str = "/access/v1/search/action";
const METADATA: &str = "/.well-known/authzen-configuration";

fn authzen(table: &str) -> AuthZenConfig {
    let config: AuthZenConfig = toml::from_str(table).unwrap();
    assert_eq!(config.problems(), [""; 0]);
    config
}

/// A server in whose only record `alice` may read and write, and `bob` may read.
async fn fixture() -> Running {
    let authzen = authzen(
        r#"
        url = "https://access.example"
        default_groups = ["support"]
        resource_type = "record"
        actions = { read = "READ_ONLY", write = "READ_WRITE" }
        "#,
    );
    let (running, _store) = serving_with(Common { authzen, ..common() }).await;
    grant_to(&running, "ACCESS_LEVEL_READ_WRITE", &["alice"]).await;
    grant_to(&running, "ACCESS_LEVEL_READ_ONLY", &["bob"]).await;
    running
}

/// Grants access to agents, or to the whole group.
async fn grant_to(running: &Running, level: &str, agents: &[&str]) {
    let mut request = grant();
    request["tenantId"] = "record-1".into();
    request["accessLevel"] = level.into();
    if !agents.is_empty() {
        request["namedAgents"] = json!({ "agentIds": agents });
    }
    let reply = send(running, post_json(GRANT, &request)).await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

fn question(subject: &str, action: &str, resource: &str) -> Value {
    json!({
        "subject": { "type": "user", "id": subject },
        "action": { "name": action },
        "resource": { "type": "record", "id": resource },
    })
}

/// The body of a successful response.
async fn ask(running: &Running, path: &str, body: &Value) -> Value {
    let reply = send(running, post_json(path, body)).await;
    assert_eq!(reply.status, 200, "{body}: {reply:?}");
    assert_eq!(reply.headers["content-type"], "application/json");
    reply.json()
}

fn decisions(response: &Value) -> Vec<bool> {
    let evaluations = response["evaluations"].as_array().unwrap_or_else(|| panic!("{response}"));
    evaluations.iter().map(|evaluation| evaluation["decision"].as_bool().unwrap()).collect()
}

#[tokio::test]
async fn an_evaluation_is_decided_as_a_check() {
    let running = fixture().await;
    for (subject, action, resource, expected) in [
        ("alice", "read", "record-1", true),
        ("alice", "write", "record-1", true),
        ("bob", "read", "record-1", true),
        ("bob", "write", "record-1", false),
        ("carol", "read", "record-1", false),
        ("alice", "read", "record-2", false),
        ("alice", "erase", "record-1", false),
    ] {
        let question = question(subject, action, resource);
        let response = ask(&running, EVALUATION, &question).await;
        assert_eq!(response["decision"], expected, "{question}: {response}");
        assert_eq!(ask(&running, EVALUATION, &question).await["decision"], expected);
    }
    let allowed = ask(&running, EVALUATION, &question("bob", "read", "record-1")).await;
    let context = &allowed["context"];
    assert_eq!((&context["reason"], &context["remedy"]), (&"GRANT_ACTIVE".into(), &"NONE".into()));
    assert!(context["grant_id"].is_string() && context["message"].is_string(), "{context}");
    assert!(context["valid_for"].as_str().unwrap().ends_with('s'), "{context}");
    let denied = ask(&running, EVALUATION, &question("bob", "write", "record-1")).await;
    let context = &denied["context"];
    let expected = (&"LEVEL_EXCEEDED".into(), &"REQUEST_HIGHER_LEVEL".into());
    assert_eq!((&context["reason"], &context["remedy"]), expected);
    assert!(context.get("valid_for").is_none() && !context.to_string().contains("revision"));
    let unknown = ask(&running, EVALUATION, &question("bob", "erase", "record-1")).await;
    assert_eq!(unknown["context"]["reason"], "INPUT_INVALID");
    let message = "action.name: must be a name of the setting authzen.actions";
    assert_eq!(unknown["context"]["message"], message);
    stop(running).await.unwrap();
}

#[tokio::test]
async fn unknown_fields_and_properties_are_ignored() {
    let running = fixture().await;
    let mut question = question("alice", "read", "record-1");
    question["subject"]["properties"] =
        json!({ "department": { "name": "Sales" }, "a": [1, null] });
    question["action"]["properties"] = json!({ "method": "GET" });
    question["resource"]["properties"] = json!({ "status": "archived" });
    question["context"] = json!({ "time": "2026-11-28T00:00:00Z" });
    question["future"] = json!({ "a": true });
    question["evaluations"] = json!([]);
    assert_eq!(ask(&running, EVALUATION, &question).await["decision"], true);
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_request_outside_the_specification_gets_status_400() {
    let running = fixture().await;
    let valid = || question("alice", "read", "record-1");
    let mut bodies = vec![json!([]), json!("text"), json!(null)];
    for path in ["/subject", "/action", "/resource", "/subject/type", "/subject/id"]
        .into_iter()
        .chain(["/action/name", "/resource/type", "/resource/id"])
    {
        let (parent, key) = path.rsplit_once('/').unwrap();
        let mut missing = valid();
        missing.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key);
        bodies.push(missing);
        for wrong in [json!(7), json!([]), json!(null)] {
            let mut body = valid();
            *body.pointer_mut(path).unwrap() = wrong;
            bodies.push(body);
        }
    }
    let mut text = valid();
    text["subject"] = "alice".into();
    bodies.push(text);
    for body in bodies {
        let reply = send(&running, post_json(EVALUATION, &body)).await;
        assert_eq!(
            reply.error(),
            (400, "invalid_argument".into(), "INVALID_FIELD".into()),
            "{body}"
        );
    }
    let mut body = valid();
    body["subject"]["properties"] = json!({ "groups": "support" });
    let reply = send(&running, post_json(EVALUATION, &body)).await;
    let expected = ("subject.properties.groups", "must be an array of strings");
    assert_eq!(reply.violation(), (expected.0.into(), expected.1.into()));
    let valid = valid().to_string();
    let twice = valid.replacen('{', r#"{"subject":{},"#, 1);
    for body in ["", "{", &twice, &valid[..valid.len() - 1]] {
        let reply = send(&running, post(EVALUATION, "application/json", body.to_owned())).await;
        assert_eq!(reply.status, 400, "{body}");
        assert_eq!(reply.violation().0, "message", "{body}");
    }
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/proto"] {
        let reply = send(&running, post(EVALUATION, content_type, valid.clone())).await;
        assert_eq!(reply.status, 400, "{content_type}");
    }
    let mut untyped = post(EVALUATION, "", valid);
    untyped.headers_mut().remove("content-type");
    assert_eq!(send(&running, untyped).await.status, 400);
    let mut get = post_json(EVALUATION, &json!({}));
    *get.method_mut() = Method::GET;
    assert_eq!(send(&running, get).await.status, 405);
    stop(running).await.unwrap();
}

#[tokio::test]
async fn the_request_id_is_echoed() {
    let running = fixture().await;
    let valid = question("alice", "read", "record-1");
    for (path, body, status) in [
        (EVALUATION, valid.clone(), 200),
        (EVALUATIONS, valid.clone(), 200),
        (SUBJECTS, valid.clone(), 200),
        (ACTIONS, valid.clone(), 200),
        (EVALUATION, json!({}), 400),
    ] {
        let mut request = post_json(path, &body);
        request.headers_mut().insert("x-request-id", "request-7".parse().unwrap());
        let reply = send(&running, request).await;
        assert_eq!(
            (reply.status, &reply.headers["x-request-id"]),
            (status, &"request-7".parse().unwrap())
        );
        assert_eq!(send(&running, post_json(path, &body)).await.status, status);
    }
    stop(running).await.unwrap();
}

#[tokio::test]
async fn evaluations_are_answered_in_order_and_use_whole_defaults() {
    let running = fixture().await;
    let mut request = question("alice", "write", "record-1");
    request["subject"]["properties"] = json!({ "groups": ["support"] });
    request["evaluations"] = json!([
        {},
        { "subject": { "type": "user", "id": "bob" } },
        { "subject": { "type": "user", "id": "bob" }, "action": { "name": "read" } },
        { "resource": { "type": "record", "id": "record-2" } },
        { "action": { "name": "read" } },
    ]);
    let response = ask(&running, EVALUATIONS, &request).await;
    assert_eq!(decisions(&response), [true, false, true, false, true]);
    // An element is never merged with its default.
    request["evaluations"] = json!([
        { "resource": { "id": "record-1" } },
        { "subject": { "type": "user" } },
        { "action": {} },
        "text",
        { "resource": { "type": "record", "id": "" } },
        { "action": { "name": "read" } },
    ]);
    let response = ask(&running, EVALUATIONS, &request).await;
    assert_eq!(decisions(&response), [false, false, false, false, false, true]);
    let context = &response["evaluations"][0]["context"];
    assert_eq!(context["message"], "resource.type: must be set");
    // Without a check, the answer needs no decision.
    request["evaluations"] = json!([{ "action": {} }, 7]);
    assert_eq!(decisions(&ask(&running, EVALUATIONS, &request).await), [false, false]);
    stop(running).await.unwrap();
}

#[tokio::test]
async fn defaults_that_would_take_much_memory_are_rejected() {
    let running = fixture().await;
    let mut request = question("alice", "read", "record-1");
    let groups: Vec<_> = (0..500).map(|group| format!("{group:0>128}")).collect();
    request["subject"]["properties"] = json!({ "groups": groups });
    request["evaluations"] = json!(vec![json!({}); 10]);
    assert_eq!(decisions(&ask(&running, EVALUATIONS, &request).await), [false; 10]);
    request["evaluations"] = json!(vec![json!({}); 1_000]);
    let reply = send(&running, post_json(EVALUATIONS, &request)).await;
    assert_eq!(reply.status, 400);
    assert_eq!(reply.violation().1, "has too many fields; send fewer in one message");
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_request_without_evaluations_is_a_single_evaluation() {
    let running = fixture().await;
    let mut request = question("bob", "read", "record-1");
    assert_eq!(ask(&running, EVALUATIONS, &request).await["decision"], true);
    request["evaluations"] = json!([]);
    let response = ask(&running, EVALUATIONS, &request).await;
    assert_eq!(response["decision"], true);
    assert!(response.get("evaluations").is_none(), "{response}");
    request["action"]["name"] = "erase".into();
    assert_eq!(ask(&running, EVALUATIONS, &request).await["decision"], false);
    for wrong in [json!({}), json!("text"), json!(vec![json!({}); 1_001])] {
        request["evaluations"] = wrong;
        let reply = send(&running, post_json(EVALUATIONS, &request)).await;
        assert_eq!((reply.status, reply.violation().0.as_str()), (400, "evaluations"));
    }
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_semantic_ends_the_evaluations() {
    let running = fixture().await;
    let mut request = question("bob", "read", "record-1");
    let element = |action: &str| json!({ "action": { "name": action } });
    request["evaluations"] = json!(["write", "read", "erase", "read", "write"].map(element));
    for (semantic, expected) in [
        ("execute_all", &[false, true, false, true, false][..]),
        ("deny_on_first_deny", &[false]),
        ("permit_on_first_permit", &[false, true]),
    ] {
        request["options"] = json!({ "evaluations_semantic": semantic, "another": 1 });
        let response = ask(&running, EVALUATIONS, &request).await;
        assert_eq!(decisions(&response), expected, "{semantic}");
    }
    request["evaluations"] = json!(["read", "erase", "read"].map(element));
    request["options"] = json!({ "evaluations_semantic": "deny_on_first_deny" });
    assert_eq!(decisions(&ask(&running, EVALUATIONS, &request).await), [true, false]);
    for (options, field) in [
        (json!("execute_all"), "options"),
        (json!({ "evaluations_semantic": "first" }), "options.evaluations_semantic"),
    ] {
        request["options"] = options;
        let reply = send(&running, post_json(EVALUATIONS, &request)).await;
        assert_eq!((reply.status, reply.violation().0.as_str()), (400, field));
    }
    stop(running).await.unwrap();
}

#[tokio::test]
async fn properties_state_groups_kind_and_human() {
    let (running, _store) = serving().await;
    assert_eq!(send(&running, post_json(GRANT, &grant())).await.status, 200);
    let reason = async |subject: Value| {
        let request = json!({
            "subject": subject,
            "action": { "name": "read" },
            "resource": { "type": "tenant", "id": "acme" },
        });
        let response = ask(&running, EVALUATION, &request).await;
        response["context"]["reason"].as_str().unwrap().to_owned()
    };
    let groups = json!({ "groups": ["support"] });
    let human = json!({ "type": "user", "id": "ada", "properties": groups });
    assert_eq!(reason(human).await, "GRANT_ACTIVE");
    assert_eq!(reason(json!({ "type": "user", "id": "ada" })).await, "GROUP_MISMATCH");
    let agent = json!({ "type": "ai_agent", "id": "bot", "properties": groups });
    assert_eq!(reason(agent).await, "AGENT_KIND_NOT_ALLOWED");
    let stated = json!({ "groups": ["support"], "agent_kind": "SERVICE", "on_behalf_of": "ada" });
    let stated = json!({ "type": "user", "id": "ada", "properties": stated });
    assert_eq!(reason(stated).await, "AGENT_KIND_NOT_ALLOWED");
    let unknown = json!({ "type": "robot", "id": "ada", "properties": groups });
    assert_eq!(reason(unknown).await, "INPUT_INVALID");
    stop(running).await.unwrap();
}

#[tokio::test]
async fn only_gateways_get_answers() {
    let world = World::new().await;
    let known = json!({
        "subject": { "type": "user", "id": "ada" },
        "action": { "name": "read" },
        "resource": { "type": "tenant", "id": "acme" },
    });
    let mut unknown = known.clone();
    unknown["resource"]["type"] = "record".into();
    for path in [EVALUATION, EVALUATIONS, SUBJECTS, ACTIONS] {
        for body in [&known, &unknown] {
            let reply = send_as(&world, OPERATOR, path, body).await;
            let expected = (403, "permission_denied".into(), "ROLE_MISSING".into());
            assert_eq!(reply.error(), expected, "{path}: {body}");
            let reply = send_as(&world, GATEWAY, path, body).await;
            assert_eq!(reply.status, 200, "{path}: {body}: {reply:?}");
        }
    }
    stop(world.running).await.unwrap();
}

#[tokio::test]
async fn metadata_name_the_endpoints_at_the_configured_url() {
    let running = fixture().await;
    let get = |path: &str| {
        Request::get(path).header("host", "localhost").body(Full::new(Bytes::new())).unwrap()
    };
    let reply = send(&running, get(METADATA)).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["content-type"], "application/json");
    let expected = json!({
        "policy_decision_point": "https://access.example",
        "access_evaluation_endpoint": "https://access.example/access/v1/evaluation",
        "access_evaluations_endpoint": "https://access.example/access/v1/evaluations",
        "search_subject_endpoint": "https://access.example/access/v1/search/subject",
        "search_action_endpoint": "https://access.example/access/v1/search/action",
    });
    assert_eq!(reply.json(), expected);
    assert_eq!(send(&running, post_json(METADATA, &json!({}))).await.status, 405);
    stop(running).await.unwrap();
    let (running, _store) = serving().await;
    assert_eq!(send(&running, get(METADATA)).await.status, 404);
    stop(running).await.unwrap();
}
