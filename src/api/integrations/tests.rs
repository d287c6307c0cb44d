use std::collections::HashMap;

use futures::FutureExt;
use serde_json::json;

use super::*;
use crate::domain::{AccessLevel, AgentKind, Reason, ids::GroupId};

/// Sources of all parts.
const EDGE: &str = r#"
    [edge]
    callers = ["gateway"]
    claims = { metadata = { key = "staff" } }
    agent = { claim = "email" }
    groups = { claim = "groups" }
    kind = { value = "HUMAN" }
    level = { method = { GET = "READ_ONLY", default = "READ_WRITE" } }
    tenant = { path = "tenant" }
    [[edge.routes]]
    path = "/t/{tenant}/search"
    level = { value = "READ_ONLY" }
    [[edge.routes]]
    path = "/t/{tenant}/**"
    [[edge.routes]]
    path = "/headers"
    tenant = { header = "x-tenant" }
    agent = { header = "x-agent" }
    groups = { header = "x-groups" }
    level = { header = "x-level" }
    on_behalf_of = { header = "x-human" }
    kind = { extension = "kind" }
    [[edge.routes]]
    path = "/claims"
    tenant = { claim = "organization" }
    kind = { claim = "/agent/kind" }
"#;

fn configs(text: &str) -> IntegrationConfigs {
    toml::from_str(text).unwrap()
}

fn integrations(text: &str) -> Integrations {
    let configs = configs(text);
    assert_eq!(configs.problems(), [""; 0]);
    Integrations::new(&configs, &BTreeMap::new())
}

fn claims() -> Value {
    json!({
        "email": "ann@vendor.example",
        "groups": ["support", "Not An Id\u{0}"],
        "organization": ["acme"],
        "agent": { "kind": "AI" },
    })
}

/// A request with claims.
fn request<'a>(method: &'a str, path: &'a str, headers: &[(&'a str, &'a str)]) -> HttpRequest<'a> {
    HttpRequest {
        method,
        path,
        headers: headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        extensions: HashMap::from([("kind".to_owned(), "SERVICE".to_owned())]),
        verified_claims: Some(claims()),
    }
}

fn ask(text: &str, request: &HttpRequest<'_>) -> Result<AccessCheck, Reason> {
    let integrations = integrations(text);
    let asked = integrations.of("gateway").unwrap().question(request, Time::UNIX_EPOCH);
    asked.now_or_never().unwrap().map_err(|error| match error {
        QuestionError::Input(InputError { reason, .. }) => reason,
        QuestionError::NoKeys => panic!("no token is verified"),
    })
}

fn group_ids(check: &AccessCheck) -> Vec<&str> {
    check.groups.ids().map(GroupId::as_str).collect()
}

const HEADERS: [(&str, &str); 5] = [
    ("x-tenant", "acme"),
    ("x-agent", "bot-7"),
    ("x-groups", "support, engineering"),
    ("x-level", "ADMIN"),
    ("x-human", "dana"),
];

#[test]
fn every_source_is_read() {
    let check = ask(EDGE, &request("GET", "/t/acme/users?tenant=globex", &[])).unwrap();
    assert_eq!(check.tenant_id.as_str(), "acme");
    assert_eq!(check.agent_id.as_ref().unwrap().as_str(), "ann@vendor.example");
    assert_eq!(group_ids(&check), ["support"]);
    assert_eq!(check.groups.ignored().len(), 1);
    assert_eq!(check.agent_kind, AgentKind::Human);
    assert_eq!(check.required_level, AccessLevel::ReadOnly);
    assert_eq!(check.on_behalf_of, None);

    let check = ask(EDGE, &request("GET", "/headers", &HEADERS)).unwrap();
    assert_eq!(check.tenant_id.as_str(), "acme");
    assert_eq!(check.agent_id.as_ref().unwrap().as_str(), "bot-7");
    assert_eq!(group_ids(&check), ["engineering", "support"]);
    assert_eq!(check.required_level, AccessLevel::Admin);
    assert_eq!(check.agent_kind, AgentKind::Service);
    assert_eq!(check.on_behalf_of.as_ref().unwrap().as_str(), "dana");

    let check = ask(EDGE, &request("DELETE", "/claims", &[])).unwrap();
    assert_eq!(check.tenant_id.as_str(), "acme");
    assert_eq!(check.agent_kind, AgentKind::Ai);
    assert_eq!(check.required_level, AccessLevel::ReadWrite);
}

#[test]
fn the_method_decides_the_level_with_exceptions() {
    for (method, path, level) in [
        ("GET", "/t/acme/x", AccessLevel::ReadOnly),
        ("get", "/t/acme/x", AccessLevel::ReadWrite),
        ("POST", "/t/acme/x", AccessLevel::ReadWrite),
        ("POST", "/t/acme/search", AccessLevel::ReadOnly),
    ] {
        assert_eq!(ask(EDGE, &request(method, path, &[])).unwrap().required_level, level);
    }
    let replaced = request("GET", "/t/acme/x", &[("X-HTTP-Method-Override", "DELETE")]);
    assert_eq!(ask(EDGE, &replaced), Err(Reason::InputAmbiguous));
    let without_default = EDGE.replace(", default = \"READ_WRITE\"", "");
    let posted = request("POST", "/t/acme/x", &[]);
    assert_eq!(ask(&without_default, &posted), Err(Reason::InputMissing));
}

#[test]
fn a_missing_value_denies() {
    for left_out in 0..4 {
        let mut headers = HEADERS.to_vec();
        headers.remove(left_out);
        let asked = ask(EDGE, &request("GET", "/headers", &headers));
        assert_eq!(asked, Err(Reason::InputMissing), "without {}", HEADERS[left_out].0);
        let mut headers = HEADERS;
        headers[left_out].1 = "";
        // A list of groups may be empty.
        let expected = (left_out != 2).then_some(Reason::InputMissing);
        assert_eq!(ask(EDGE, &request("GET", "/headers", &headers)).err(), expected);
    }
    for claim in ["email", "groups"] {
        let mut request = request("GET", "/t/acme", &[]);
        request.verified_claims.as_mut().unwrap().as_object_mut().unwrap().remove(claim);
        assert_eq!(ask(EDGE, &request), Err(Reason::InputMissing), "without {claim}");
    }
    let without_extension =
        HttpRequest { extensions: HashMap::new(), ..request("GET", "/headers", &HEADERS) };
    assert_eq!(ask(EDGE, &without_extension), Err(Reason::InputMissing));
    let without_claims = HttpRequest { verified_claims: None, ..request("GET", "/t/acme", &[]) };
    assert_eq!(ask(EDGE, &without_claims), Err(Reason::InputMissing));
    assert_eq!(ask(EDGE, &request("GET", "/other", &[])), Err(Reason::InputMissing));
}

#[test]
fn a_duplicated_value_denies() {
    for (index, (name, value)) in HEADERS.into_iter().enumerate() {
        let repeated = [HEADERS.as_slice(), &[(name, value)]].concat();
        let asked = ask(EDGE, &request("GET", "/headers", &repeated));
        assert_eq!(asked, Err(Reason::InputAmbiguous), "{name}");
        // As Envoy joins repeated headers. Only groups are a list.
        let joined = format!("{value},{value}");
        let mut headers = HEADERS;
        headers[index].1 = &joined;
        let expected = (name != "x-groups").then_some(Reason::InputAmbiguous);
        assert_eq!(ask(EDGE, &request("GET", "/headers", &headers)).err(), expected, "{name}");
    }
    let mut request = request("GET", "/claims", &[]);
    request.verified_claims.as_mut().unwrap()["organization"] = json!(["acme", "globex"]);
    assert_eq!(ask(EDGE, &request), Err(Reason::InputAmbiguous));
    request.path = "/t/acme/../globex";
    assert_eq!(ask(EDGE, &request), Err(Reason::InputAmbiguous));
}

#[test]
fn an_invalid_value_denies() {
    for (index, value) in [(0, "a\u{0}b"), (1, "a\u{202e}b"), (3, "read_only"), (4, "\u{7}")] {
        let mut headers = HEADERS;
        headers[index].1 = value;
        let asked = ask(EDGE, &request("GET", "/headers", &headers));
        assert_eq!(asked, Err(Reason::InputInvalid), "{value:?}");
    }
    let mut request = request("GET", "/claims", &[]);
    request.verified_claims.as_mut().unwrap()["agent"] = json!({ "kind": "robot" });
    assert_eq!(ask(EDGE, &request), Err(Reason::InputInvalid));
}

#[test]
fn a_mapping_translates_values_of_the_identity_provider() {
    let mapped = format!(
        "{EDGE}\n[edge.mapping]\ngroups = {{ \"/support\" = \"support\", \"5b9e\" = \"billing\" }}\n\
         tenants = {{ \"org_1\" = \"acme\" }}\nkinds = {{ \"bot\" = \"AI\" }}\n"
    );
    let mut request = request("GET", "/claims", &[]);
    let claims = request.verified_claims.as_mut().unwrap();
    claims["organization"] = json!("org_1");
    claims["groups"] = json!(["/support", "5b9e", "/unmapped", "support"]);
    claims["agent"] = json!({ "kind": "bot" });
    let check = ask(&mapped, &request).unwrap();
    assert_eq!(check.tenant_id.as_str(), "acme");
    assert_eq!(check.agent_kind, AgentKind::Ai);
    assert_eq!(group_ids(&check), ["billing", "support"]);
    assert!(check.groups.ignored().is_empty(), "unmapped groups are no part of the question");
    for (claim, value) in [("organization", json!("acme")), ("agent", json!({ "kind": "AI" }))] {
        let claims = request.verified_claims.as_mut().unwrap();
        let mapped_value = std::mem::replace(&mut claims[claim], value);
        assert_eq!(ask(&mapped, &request), Err(Reason::InputMissing), "{claim} is not mapped");
        request.verified_claims.as_mut().unwrap()[claim] = mapped_value;
    }
    // A constant is an id already.
    request.path = "/t/org_1/x";
    assert_eq!(ask(&mapped, &request).unwrap().agent_kind, AgentKind::Human);
}

#[test]
fn a_claim_that_was_too_large_denies() {
    let mut request = request("GET", "/t/acme", &[]);
    let claims = request.verified_claims.as_mut().unwrap();
    claims.as_object_mut().unwrap().remove("groups");
    claims["_claim_names"] = json!({ "groups": "src1" });
    assert_eq!(ask(EDGE, &request), Err(Reason::ClaimOverflow));
    // Even if other groups are in the token.
    request.verified_claims.as_mut().unwrap()["groups"] = json!(["support"]);
    assert_eq!(ask(EDGE, &request), Err(Reason::ClaimOverflow));
    let many: Vec<String> = (0..501).map(|index| format!("group-{index}")).collect();
    request.verified_claims = Some(json!({ "email": "ann", "groups": many }));
    assert_eq!(ask(EDGE, &request), Err(Reason::ClaimOverflow));
}

#[test]
fn each_gateway_has_one_integration() {
    let route = r#"
        agent = { value = "a" }
        tenant = { value = "t" }
        groups = { value = "g" }
        kind = { value = "AI" }
        level = { value = "ADMIN" }
        routes = [{ path = "/" }]"#;
    let others = format!("{EDGE}\n[others]\n{route}");
    let others = integrations(&others);
    assert!(others.of("gateway").unwrap().metadata().is_some());
    assert!(others.of("other").unwrap().metadata().is_none());
    let error = integrations(EDGE).of("other").err().unwrap();
    assert_eq!(error.reason, Reason::InputMissing);
    for (text, problem) in [
        (format!("[a]\n{route}\n[b]\n{route}"), "integrations.b: integrations.a has no callers"),
        (
            format!("[a]\ncallers = ['x']\n{route}\n[b]\ncallers = ['x']\n{route}"),
            "integrations.b: integrations.a has the same caller",
        ),
    ] {
        let problems = configs(&text).problems();
        assert!(problems.len() == 1 && problems[0].starts_with(problem), "{problems:?}");
    }
}

#[test]
fn a_problem_of_the_configuration_names_the_route_the_part_and_the_fix() {
    for (before, after, problem) in [
        ("claims = { metadata = { key = \"staff\" } }\n", "", "so the integration needs claims"),
        ("callers = [\"gateway\"]\n", "", "so the integration needs callers"),
        ("\"x-tenant\"", "\"X-Tenant\"", "tenant of the path \"/headers\" must name a header"),
        (
            "tenant = { path = \"tenant\" }\n",
            "",
            "tenant of the path \"/t/{tenant}/search\" is missing",
        ),
        ("path = \"tenant\"", "path = \"other\"", "which the path does not contain"),
        ("\"HUMAN\"", "\"human\"", "must be HUMAN, AI or SERVICE, but is \"human\""),
        ("GET = \"READ_ONLY\"", "GET = \"READ\"", "must be READ_ONLY, READ_WRITE or ADMIN"),
        ("GET = \"READ_ONLY\"", "get = \"READ_ONLY\"", "must name methods in upper case"),
        ("email", "", "must not have an empty name"),
        ("/search", "/../search", "must not contain empty segments"),
    ] {
        let text = EDGE.replacen(before, after, 1);
        let problems = configs(&text).problems();
        let is_named =
            |found: &String| found.starts_with("integrations.edge: ") && found.contains(problem);
        assert!(problems.iter().any(is_named), "{problem}: {problems:?}");
    }
    for (before, after) in [
        ("claim = \"email\"", "cookie = \"email\""),
        ("key = \"staff\"", "key = \"staff\", unknown = 1"),
        ("[[edge.routes]]\n", "[[edge.routes]]\nunknown = 1\n"),
    ] {
        let text = EDGE.replacen(before, after, 1);
        assert!(toml::from_str::<IntegrationConfigs>(&text).is_err(), "{after}");
    }
    let empty = configs("[edge]\ncallers = ['a']").problems();
    assert!(empty[0].contains("routes must not be empty"), "{empty:?}");
}
