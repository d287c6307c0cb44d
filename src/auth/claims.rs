//! Claims of verified tokens, in the shapes that identity providers send.

use serde_json::{Number, Value};
use tracing::debug;

/// Names the claims that an identity provider has left out of the token (OpenID Connect Core 1.0,
/// section 5.6.2). Entra ID does so for more than 200 groups.
const LEFT_OUT: &str = "_claim_names";
/// States that Entra ID has left out the groups of a token from the implicit flow.
const HAS_GROUPS: &str = "hasgroups";
const GROUPS: &str = "groups";
/// The largest number up to which every whole number is exact as a floating-point number.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A claim by its name. A name that starts with a slash is a JSON pointer (RFC 6901).
pub fn find<'a>(claims: &'a Value, name: &str) -> Option<&'a Value> {
    if name.starts_with('/') { claims.pointer(name) } else { claims.get(name) }
}

/// Whether the identity provider has left out the claim, because it was too large for the token.
pub fn is_left_out(claims: &Value, name: &str) -> bool {
    let name = name.strip_prefix('/').unwrap_or(name);
    let is_named = claims.get(LEFT_OUT).is_some_and(|names| names.get(name).is_some());
    let has_groups = || match claims.get(HAS_GROUPS) {
        Some(Value::Bool(has_groups)) => *has_groups,
        Some(Value::String(text)) => text == "true",
        _ => false,
    };
    is_named || name == GROUPS && has_groups()
}

/// The values of the claim `name`. A list has the values of its items. An object of objects has the
/// values of its keys: Keycloak sends organizations as either. A number becomes its text. Skips
/// `null` and values of other types.
pub fn texts(claims: &Value, name: &str) -> Vec<String> {
    let Some(value) = find(claims, name) else {
        if is_left_out(claims, name) {
            debug!(claim = name, "the identity provider has left out a claim that was too large");
        }
        return Vec::new();
    };
    match value {
        Value::Array(items) => items.iter().filter_map(|item| text(item, name)).collect(),
        Value::Object(fields) => fields
            .iter()
            // A flag that is `false` must not count.
            .filter(|(_, value)| value.is_object())
            .map(|(key, _)| key.clone())
            .collect(),
        value => text(value, name).into_iter().collect(),
    }
}

fn text(value: &Value, name: &str) -> Option<String> {
    let kind = match value {
        Value::String(text) => return Some(text.clone()),
        Value::Number(number) => return Some(number_text(number)),
        Value::Null => return None,
        Value::Bool(_) => "a boolean",
        Value::Array(_) => "a list in a list",
        Value::Object(_) => "an object in a list",
    };
    debug!(claim = name, kind, "a value of a claim has a type that is not read");
    None
}

/// Envoy passes every number of a token as a floating-point number.
fn number_text(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if !number.is_i64() && float.fract() == 0.0 && float.abs() <= EXACT_MAX => {
            format!("{float:.0}")
        }
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_shape_of_an_identity_provider_is_read() {
        for (claim, expected) in [
            (json!("acme"), vec!["acme"]),
            (json!(["acme", "globex"]), vec!["acme", "globex"]),
            (
                json!({ "acme": { "id": "1" }, "globex": {}, "initech": false }),
                vec!["acme", "globex"],
            ),
            (json!(42), vec!["42"]),
            (json!(42.0), vec!["42"]),
            (json!(-1.5), vec!["-1.5"]),
            (json!(["access-admin", null, 7]), vec!["access-admin", "7"]),
            (json!([true, ["nested"], { "a": 1 }, "b"]), vec!["b"]),
            (json!(null), vec![]),
            (json!(true), vec![]),
        ] {
            assert_eq!(texts(&json!({ "organization": claim }), "organization"), expected);
        }
        let nested = json!({ "realm_access": { "roles": ["a"] }, "a.b/c": "d" });
        assert_eq!(texts(&nested, "/realm_access/roles"), ["a"]);
        assert_eq!(texts(&nested, "a.b/c"), ["d"]);
        assert!(texts(&nested, "/realm_access/none").is_empty());
    }

    #[test]
    fn a_claim_that_was_left_out_is_noticed() {
        let sources = json!({ "src1": { "endpoint": "https://graph.example" } });
        let left_out = json!({ "_claim_names": { "groups": "src1" }, "_claim_sources": sources });
        assert!(is_left_out(&left_out, "groups") && is_left_out(&left_out, "/groups"));
        assert!(!is_left_out(&left_out, "roles"));
        for (flag, expected) in [(json!(true), true), (json!("true"), true), (json!(false), false)]
        {
            assert_eq!(is_left_out(&json!({ "hasgroups": flag }), "groups"), expected);
        }
        assert!(!is_left_out(&json!({ "hasgroups": true }), "roles"));
        assert!(!is_left_out(&json!({ "groups": [] }), "groups"));
    }
}
