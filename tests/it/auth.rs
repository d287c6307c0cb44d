//! Authentication by certificates, users and tokens, and the keys of issuers.

mod http;

use std::{fs, sync::Arc, time::Duration};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::json;
use support_access::{
    auth::{
        AuthError, Authenticator, Peer,
        bindings::{AuthConfig, Bindings, IssuerConfig},
        certificate::Certificate,
        keys::{IssuerKeys, KeyError},
        token::{TokenError, Verifier},
    },
    domain::{Action, Clock, Role, Scope, clock::ManualClock, time::from_micros},
};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(from_micros(1_800_000_000_000_000).unwrap()))
}

fn bound(role: Role, name: &str) -> Bindings {
    let certificates = Some([(role, vec![name.to_owned()])].into());
    AuthConfig { certificates, ..AuthConfig::default() }.bindings()
}

#[test]
fn a_certificate_that_expires_during_a_connection_is_rejected() {
    let clock = clock();
    let not_after = clock.now() + chrono::TimeDelta::seconds(10);
    let names = vec!["gateway.example".to_owned()];
    let peer = Peer::Certificate(Certificate { names, not_after });
    let bindings = bound(Role::Gateway, "gateway.example");
    let authenticator = Authenticator::new(Some((bindings, Verifier::default())), clock.clone());
    let caller = authenticator.by_connection(&peer, None).unwrap();
    assert_eq!(caller.may(Action::CheckAccess, Scope::Global), Ok(()));
    clock.pass(Duration::from_secs(9));
    assert!(authenticator.by_connection(&peer, None).is_ok());
    clock.pass(Duration::from_secs(1));
    let error = authenticator.by_connection(&peer, None).unwrap_err();
    assert_eq!(error, AuthError::CertificateExpired);
}

#[tokio::test]
async fn expired_credentials_stay_expired_when_the_wall_clock_is_set_back() {
    let clock = clock();
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("keys.json");
    let pair = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
    let key = EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref());
    let jwk = Jwk::from_encoding_key(&key, Algorithm::EdDSA).unwrap();
    fs::write(&path, json!({ "keys": [jwk] }).to_string()).unwrap();
    let issuer = json!({
        "issuer": "https://id.example",
        "audience": "support-access",
        "keys": path,
        "leeway": "30s",
        "roles": { "operator": ["operator"] },
    });
    let issuer: IssuerConfig = serde_json::from_value(issuer).unwrap();
    let keys = IssuerKeys::of_issuer(&issuer.issuer, issuer.keys.as_deref(), clock.clone());
    let keys = Arc::new(keys.unwrap());
    let verifier = Verifier::new([(issuer, keys)]);
    let bindings = bound(Role::Gateway, "gateway.example");
    let authenticator = Authenticator::new(Some((bindings, verifier)), clock.clone());
    let claims = json!({
        "iss": "https://id.example",
        "aud": "support-access",
        "sub": "olga",
        "roles": "operator",
        "exp": clock.now().timestamp() + 60,
    });
    let token = encode(&Header::new(Algorithm::EdDSA), &claims, &key).unwrap();
    let certificate = Certificate {
        names: vec!["gateway.example".to_owned()],
        not_after: clock.now() + chrono::TimeDelta::seconds(90),
    };
    let peer = Peer::Certificate(certificate);
    let by_token = async || authenticator.by_token(&Peer::Unknown, &token).await;
    let by_certificate = || authenticator.by_connection(&peer, None);

    clock.pass(Duration::from_secs(89));
    assert!(by_token().await.is_ok() && by_certificate().is_ok(), "including the leeway");
    clock.set(chrono::TimeDelta::hours(-1));
    assert!(by_token().await.is_ok() && by_certificate().is_ok(), "89 s have elapsed");
    clock.pass(Duration::from_secs(1));
    assert_eq!(by_token().await, Err(AuthError::Token(TokenError::Expired)));
    assert_eq!(by_certificate(), Err(AuthError::CertificateExpired));
    clock.pass(Duration::from_mins(30));
    assert_eq!(by_token().await, Err(AuthError::Token(TokenError::Expired)));
    assert_eq!(by_certificate(), Err(AuthError::CertificateExpired));
}

#[tokio::test]
async fn a_wall_clock_that_was_ahead_for_a_while_leaves_no_trace() {
    let clock = clock();
    let peer = Peer::Certificate(Certificate {
        names: vec!["gateway.example".to_owned()],
        not_after: clock.now() + chrono::TimeDelta::minutes(10),
    });
    let bindings = bound(Role::Gateway, "gateway.example");
    let authenticator = Authenticator::new(Some((bindings, Verifier::default())), clock.clone());
    clock.set(chrono::TimeDelta::hours(2));
    let error = authenticator.by_connection(&peer, None).unwrap_err();
    assert_eq!(error, AuthError::CertificateExpired);
    clock.pass(Duration::from_secs(3));
    clock.set(chrono::TimeDelta::hours(-2));
    assert!(authenticator.by_connection(&peer, None).is_ok());
}

#[test]
fn without_authentication_every_caller_is_local_with_all_roles() {
    let authenticator = Authenticator::new(None, clock());
    let caller = authenticator.by_connection(&Peer::Unknown, Some("maria")).unwrap();
    assert_eq!(caller.author.actor.as_str(), "maria");
    for action in Action::ALL {
        assert_eq!(caller.may(*action, Scope::Tenant("acme")), Ok(()), "{}", action.name());
    }
    for name in ["system", "", " maria"] {
        assert!(authenticator.by_connection(&Peer::Unknown, Some(name)).is_err(), "{name:?}");
    }
}

#[test]
fn an_empty_configuration_admits_no_caller() {
    let methods = (AuthConfig::default().bindings(), Verifier::default());
    let authenticator = Authenticator::new(Some(methods), clock());
    assert_eq!(authenticator.by_connection(&Peer::Unknown, None), Err(AuthError::Missing));
    assert_eq!(authenticator.by_connection(&Peer::User(0), None), Err(AuthError::Missing));
}

#[test]
fn roles_of_both_parties_conflict() {
    for first in Role::ALL {
        for second in Role::ALL {
            let is_rejected = first.conflict(second).is_some();
            assert_eq!(is_rejected, second.conflict(first).is_some(), "{first} {second}");
            let is_expected = |a: Role, b: Role| {
                matches!(a, Role::TenantAdmin | Role::TenantAuditor)
                    && !matches!(b, Role::TenantAdmin | Role::TenantAuditor)
                    || a == Role::Portal && matches!(b, Role::Gateway | Role::Operator)
            };
            let expected = is_expected(first, second) || is_expected(second, first);
            assert_eq!(is_rejected, expected, "{first} {second}");
        }
    }
}

/// A JWK set with one usable key.
fn jwk_set(id: &str) -> String {
    let pair = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
    let key = EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref());
    let mut jwk =
        serde_json::to_value(Jwk::from_encoding_key(&key, Algorithm::EdDSA).unwrap()).unwrap();
    jwk["kid"] = json!(id);
    json!({ "keys": [jwk, { "kty": "oct", "k": "c2VjcmV0", "kid": "secret" }] }).to_string()
}

#[tokio::test]
async fn keys_that_cannot_be_refreshed_are_used_for_a_day() {
    let clock = clock();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let body = jwk_set("1");
    let route = axum::routing::get(async move || body);
    let serving = axum::serve(listener, axum::Router::new().route("/", route));
    let keys = Arc::new(IssuerKeys::new(&url, clock.clone()).unwrap());
    let running = Arc::clone(&keys).run(CancellationToken::new());
    tokio::select! {
        _ = serving.into_future() => panic!("the server has ended"),
        () = running => panic!("the refresh task has ended"),
        found = keys.find(Some("1"), Algorithm::EdDSA) => assert!(found.is_ok()),
    }
    // From here on, the server is unavailable and no task refreshes.
    clock.pass(Duration::from_hours(23));
    assert!(keys.find(Some("1"), Algorithm::EdDSA).await.is_ok());
    clock.pass(Duration::from_hours(1));
    let error = keys.find(Some("1"), Algorithm::EdDSA).await.err();
    assert_eq!(error, Some(KeyError::Unavailable));
}

/// The discovery document of an issuer.
type Document = fn(&str) -> serde_json::Value;

/// Serves a discovery document and a key set. Returns the issuer and the server.
async fn identity_provider(document: Document) -> (String, axum::Router, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("http://{}/realms/staff", listener.local_addr().unwrap());
    let (keys, document) = (jwk_set("1"), document(&issuer).to_string());
    let router = axum::Router::new()
        .route("/realms/staff/keys", axum::routing::get(async move || keys))
        .route(
            "/realms/staff/.well-known/openid-configuration",
            axum::routing::get(async move || document),
        );
    (issuer, router, listener)
}

#[tokio::test]
async fn keys_are_found_by_discovery_unless_the_document_is_about_another_issuer() {
    let documents: [(Document, bool); 5] = [
        (|issuer| json!({ "issuer": issuer, "jwks_uri": format!("{issuer}/keys") }), true),
        (
            |issuer| {
                let (name, keys) = (format!("{issuer}/"), format!("{issuer}/keys"));
                json!({ "issuer": name, "jwks_uri": keys })
            },
            false,
        ),
        (|issuer| json!({ "issuer": issuer, "jwks_uri": "https://id.example/keys" }), false),
        (|issuer| json!({ "issuer": issuer, "jwks_uri": "http://id.example/keys" }), false),
        (|issuer| json!({ "jwks_uri": format!("{issuer}/keys") }), false),
    ];
    for (index, (document, expected)) in documents.into_iter().enumerate() {
        let (issuer, router, listener) = identity_provider(document).await;
        let keys = Arc::new(IssuerKeys::of_issuer(&issuer, None, clock()).unwrap());
        tokio::select! {
            _ = axum::serve(listener, router).into_future() => panic!("the server has ended"),
            () = Arc::clone(&keys).run(CancellationToken::new()) => panic!("the task has ended"),
            found = keys.find(Some("1"), Algorithm::EdDSA) => {
                assert_eq!(found.is_ok(), expected, "document {index}");
            }
        }
    }
    let error = IssuerKeys::of_issuer("id.example", None, clock()).unwrap_err();
    assert!(error.contains("must start with https://") && error.contains("set keys"), "{error}");
}

#[tokio::test]
async fn keys_match_by_id_and_algorithm_and_only_if_they_are_for_signatures() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("keys.json");
    fs::write(&path, jwk_set("1")).unwrap();
    let keys = IssuerKeys::new(path.to_str().unwrap(), clock()).unwrap();
    assert!(keys.find(Some("1"), Algorithm::EdDSA).await.is_ok());
    assert!(keys.find(None, Algorithm::EdDSA).await.is_ok());
    for (id, algorithm) in [
        ("1", Algorithm::ES256),
        ("1", Algorithm::RS256),
        ("1", Algorithm::HS256),
        ("secret", Algorithm::HS256),
        ("2", Algorithm::EdDSA),
    ] {
        let error = keys.find(Some(id), algorithm).await.err();
        assert_eq!(error, Some(KeyError::Unknown), "{id} {algorithm:?}");
    }
}

#[test]
fn invalid_sources_of_keys_are_rejected() {
    let error = |source: &str| IssuerKeys::new(source, clock()).unwrap_err();
    for url in [
        "http://id.example/keys",
        "http://127.0.0.1.example/keys",
        "ftp://id.example",
        "file:///etc/passwd",
    ] {
        assert!(error(url).contains("must start with https://"), "{url}");
    }
    assert!(error("/no/such/file").contains("/no/such/file cannot be read"));
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("keys.json");
    for (text, expected) in [
        ("", "is not a JWK set"),
        ("{}", "is not a JWK set"),
        (r#"{"keys":[]}"#, "has no key"),
        (r#"{"keys":[{"kty":"oct","k":"eA"}]}"#, "has no key"),
    ] {
        fs::write(&path, text).unwrap();
        assert!(error(path.to_str().unwrap()).contains(expected), "{text}");
    }
    assert_eq!(
        error("https://ada:secret@id.example"),
        "the URL of an issuer's keys must not contain credentials"
    );
    assert!(IssuerKeys::new("https://id.example/keys", clock()).is_ok());
    assert!(IssuerKeys::new("http://localhost:1/keys", clock()).is_ok());
}
