//! Bearer tokens: invalid tokens of every kind are rejected.

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use support_access::{
    api::proto::v1::{ListGrantsRequest, support_access_admin_client::SupportAccessAdminClient},
    domain::Clock,
    server::SystemClock,
};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;

use super::{
    World, bearing,
    issuer::{Issuer, KeyServer, NAME, Signer, claims, set},
    reason,
};
use crate::server::harness::eventually;

type Admin = SupportAccessAdminClient<Channel>;

async fn list(client: &Admin, token: &str) -> Result<(), Status> {
    let request =
        ListGrantsRequest { tenant_id: "acme".to_owned(), ..ListGrantsRequest::default() };
    client.clone().list_grants(bearing(request, token)).await.map(drop)
}

fn valid() -> Value {
    claims("alice@acme.example", "access-admin", &["acme"])
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = valid();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = valid();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// A token of these parts.
fn raw(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(header), part(claims))
}

#[tokio::test]
async fn each_algorithm_is_accepted_with_its_keys() {
    let signers = [Signer::es256("e"), Signer::ed25519("d"), Signer::rs256("r")];
    let keys = KeyServer::new(set(&signers.iter().collect::<Vec<_>>())).await;
    let world = World::with_keys_at(&keys.url).await;
    let client = world.admin(None).await;
    for signer in &signers {
        list(&client, &signer.sign(&valid())).await.unwrap();
        // A key id is optional while only one key matches.
        let without_id = signer.sign_with(&Header::new(signer.algorithm), &valid());
        list(&client, &without_id).await.unwrap();
    }
    let two = set(&[&signers[0], &Signer::es256("other")]);
    let keys = KeyServer::new(two).await;
    let world = World::with_keys_at(&keys.url).await;
    let client = world.admin(None).await;
    list(&client, &signers[0].sign(&valid())).await.unwrap();
    let without_id = signers[0].sign_with(&Header::new(Algorithm::ES256), &valid());
    assert_eq!(list(&client, &without_id).await.unwrap_err().code(), Code::Unauthenticated);
}

/// Tokens that the issuer has not signed.
fn forged(issuer: &Issuer) -> Vec<(&'static str, String)> {
    let signer = &issuer.signer;
    let header = |change: fn(&mut Header)| {
        let mut header = Header { kid: Some(signer.id.clone()), ..Header::new(Algorithm::ES256) };
        change(&mut header);
        signer.sign_with(&header, &valid())
    };
    let jwk = signer.jwk();
    let x = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap();
    let confused = |secret: &[u8]| {
        let header = Header { kid: Some(signer.id.clone()), ..Header::new(Algorithm::HS256) };
        encode(&header, &valid(), &EncodingKey::from_secret(secret)).unwrap()
    };
    let sign = |claims: &Value| signer.sign(claims);
    let signature = sign(&valid()).rsplit('.').next().unwrap().to_owned();
    let none = |alg: &str, signature: &str| {
        raw(&json!({ "alg": alg, "kid": "first" }), &valid(), signature)
    };
    let other = Signer::es256("first");
    let embedded = {
        let key = serde_json::from_value(other.jwk()).unwrap();
        let header =
            Header { jwk: Some(key), kid: Some("first".into()), ..Header::new(Algorithm::ES256) };
        other.sign_with(&header, &valid())
    };
    vec![
        ("an empty token", String::new()),
        ("one part", "x".into()),
        ("two parts", "a.b".into()),
        ("empty parts", "..".into()),
        ("four parts", sign(&valid()) + ".x"),
        ("no signature", raw(&json!({ "alg": "ES256", "kid": "first" }), &valid(), "")),
        ("alg none", none("none", "")),
        ("alg None", none("None", "")),
        ("alg NONE, signed", none("NONE", &signature)),
        ("no alg", raw(&json!({ "kid": "first" }), &valid(), &signature)),
        (
            "the signature of other claims",
            raw(&json!({ "alg": "ES256", "kid": "first" }), &valid(), &signature),
        ),
        ("HMAC with the public key", confused(&x)),
        ("HMAC with the set", confused(issuer.jwks().as_bytes())),
        ("HMAC with the JWK", confused(jwk.to_string().as_bytes())),
        ("HMAC with an empty key", confused(b"")),
        ("EdDSA, by another key with the same id", Signer::ed25519("first").sign(&valid())),
        ("ES256 in the header, signed with EdDSA", {
            let token = Signer::ed25519("first").sign(&valid());
            let signature = token.rsplit('.').next().unwrap();
            raw(&json!({ "alg": "ES256", "kid": "first" }), &valid(), signature)
        }),
        ("a certificate's name", sign(&with("sub", json!("spiffe://vendor.example/gateway")))),
        ("a user's name", sign(&with("sub", json!("uid:0")))),
        ("a reserved name", sign(&with("sub", json!("anonymous")))),
        ("a name with a bidi character", sign(&with("sub", json!("alice\u{202e}")))),
        ("a name with a character of no width", sign(&with("sub", json!("ali\u{200b}ce")))),
        ("an unknown key", Signer::es256("second").sign(&valid())),
        ("another key with the same id", other.sign(&valid())),
        ("a key in the header", embedded),
        ("a key id that is a path", header(|header| header.kid = Some("../../etc/passwd".into()))),
        ("a critical extension", header(|header| header.crit = Some(vec!["exp".into()]))),
    ]
}

/// Tokens that the issuer has signed, with invalid claims.
fn unsuitable(issuer: &Issuer) -> Vec<(&'static str, String)> {
    let signature = "c2lnbmF0dXJl";
    let sign = |claims: &Value| issuer.signer.sign(claims);
    let now = SystemClock.now().timestamp();
    vec![
        ("expired", sign(&with("exp", json!(now - 31)))),
        ("expired in 1970", sign(&with("exp", json!(0)))),
        ("expired before 1970", sign(&with("exp", json!(-1)))),
        ("without an end", sign(&without("exp"))),
        ("an end that is a word", sign(&with("exp", json!("tomorrow")))),
        ("an end that is a string", sign(&with("exp", json!((now + 600).to_string())))),
        ("an end after the year 9999", sign(&with("exp", json!(u64::MAX)))),
        ("an end beyond integers", sign(&with("exp", json!(1e300)))),
        ("an end that is null", sign(&with("exp", Value::Null))),
        ("not yet valid", sign(&with("nbf", json!(now + 60)))),
        ("a start that is a word", sign(&with("nbf", json!("soon")))),
        ("for another audience", sign(&with("aud", json!("another")))),
        ("for other audiences", sign(&with("aud", json!(["another", "support-access-2"])))),
        ("for an audience with a space", sign(&with("aud", json!("support-access ")))),
        ("without an audience", sign(&without("aud"))),
        ("for an empty list", sign(&with("aud", json!([])))),
        ("for a number", sign(&with("aud", json!(1)))),
        ("of another issuer", sign(&with("iss", json!("https://id.other.example")))),
        ("of an issuer with a slash", sign(&with("iss", json!(format!("{NAME}/"))))),
        ("of several issuers", sign(&with("iss", json!([NAME, "https://id.other.example"])))),
        ("without an issuer", sign(&without("iss"))),
        ("without a name", sign(&without("sub"))),
        ("an empty name", sign(&with("sub", json!("")))),
        ("a name that is a number", sign(&with("sub", json!(7)))),
        ("the name of the service", sign(&with("sub", json!("system")))),
        ("a name of two lines", sign(&with("sub", json!("a\nb")))),
        ("a long name", sign(&with("sub", json!("x".repeat(129))))),
        ("claims that are a list", raw(&json!({ "alg": "ES256" }), &json!([1]), signature)),
        ("too long", sign(&with("more", json!("x".repeat(8_192))))),
    ]
}

#[tokio::test]
async fn invalid_tokens_are_rejected() {
    let world = World::new().await;
    let client = world.admin(None).await;
    list(&client, &world.issuer.signer.sign(&valid())).await.unwrap();
    let cases = [forged(&world.issuer), unsuitable(&world.issuer)].concat();
    let count = cases.len();
    for (name, token) in cases {
        let rejected = list(&client, &token).await.unwrap_err();
        assert_eq!(
            (rejected.code(), &*reason(&rejected)),
            (Code::Unauthenticated, "TOKEN_REJECTED"),
            "{name}"
        );
        let message = rejected.message();
        assert!(message.starts_with("the bearer token is rejected: "), "{name}: {message}");
    }
    println!("{count} invalid tokens");
}

#[tokio::test]
async fn the_leeway_tolerates_differences_between_clocks() {
    let world = World::new().await;
    let client = world.admin(None).await;
    let now = SystemClock.now().timestamp();
    for claims in [
        with("exp", json!(now - 20)),
        with("nbf", json!(now + 20)),
        with("exp", json!(1.5 + f64::from(i32::try_from(now + 60).unwrap()))),
        with("aud", json!(["another", "support-access"])),
    ] {
        list(&client, &world.issuer.signer.sign(&claims)).await.unwrap();
    }
}

#[tokio::test]
async fn truncated_and_modified_tokens_are_rejected() {
    let world = World::new().await;
    let client = world.admin(None).await;
    let token = world.issuer.signer.sign(&valid());
    let mut count = 0;
    for length in 0..token.len() {
        assert!(list(&client, &token[..length]).await.is_err(), "{length} bytes of {token}");
        let mut changed = token.clone().into_bytes();
        changed[length] = if changed[length] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(list(&client, &changed).await.is_err(), "changed at {length}: {token}");
        count += 2;
    }
    println!("{count} broken tokens");
}

#[tokio::test]
async fn malformed_claims_grant_nothing() {
    let world = World::new().await;
    let client = world.admin(None).await;
    let cases = [
        with("roles", json!([])),
        with("roles", json!({ "access-admin": true })),
        with("roles", json!(["ACCESS-ADMIN"])),
        with("roles", json!("access-administrator")),
        without("roles"),
        with("tenants", json!([])),
        with("tenants", json!(["ACME"])),
        with("tenants", json!(["acme ", "other"])),
        with("tenants", json!(["*"])),
        with("tenants", json!({ "acme": true })),
        with("tenants", json!("acme,other")),
        without("tenants"),
    ];
    for claims in cases {
        let rejected = list(&client, &world.issuer.signer.sign(&claims)).await.unwrap_err();
        assert_eq!(rejected.code(), Code::PermissionDenied, "{claims}");
    }
    for claims in [
        with("roles", json!("openid access-admin")),
        with("roles", json!(["access-admin", 1, null])),
        with("roles", json!({ "access-admin": { "1": "acme.example" } })),
        with("tenants", json!("acme")),
        with("tenants", json!({ "acme": { "id": "7" } })),
    ] {
        list(&client, &world.issuer.signer.sign(&claims)).await.unwrap();
    }
}

#[tokio::test]
async fn other_schemes_and_huge_headers_are_rejected() {
    let world = World::new().await;
    let client = world.admin(None).await;
    let token = world.issuer.signer.sign(&valid());
    let send = async |value: String| {
        let mut request = Request::new(ListGrantsRequest {
            tenant_id: "acme".to_owned(),
            ..ListGrantsRequest::default()
        });
        request.metadata_mut().insert("authorization", value.parse().unwrap());
        client.clone().list_grants(request).await.map(drop)
    };
    send(format!("Bearer {token}")).await.unwrap();
    send(format!("bearer  {token}")).await.unwrap();
    for value in
        [token.clone(), format!("Basic {token}"), format!("Bearer{token}"), "Bearer".into()]
    {
        assert_eq!(send(value).await.unwrap_err().code(), Code::Unauthenticated);
    }
    // The limit of metadata rejects a megabyte.
    assert!(send(format!("Bearer {}", "x".repeat(1 << 20))).await.is_err());
    list(&world.admin(None).await, &token).await.unwrap();
}

#[tokio::test]
async fn unknown_keys_cause_a_refresh_at_most_every_five_seconds() {
    let (first, second) = (Signer::es256("1"), Signer::ed25519("2"));
    let keys = KeyServer::new(set(&[&first])).await;
    let world = World::with_keys_at(&keys.url).await;
    let client = world.admin(None).await;
    list(&client, &first.sign(&valid())).await.unwrap();
    let before = keys.fetches();

    *keys.response.lock() = (200, set(&[&first, &second]));
    eventually(async || list(&client, &second.sign(&valid())).await.is_ok()).await;
    list(&client, &first.sign(&valid())).await.unwrap();
    assert_eq!(keys.fetches(), before + 1, "one fetch returns the new key");

    let unknown = Signer::es256("3");
    let started = Instant::now();
    for _ in 0..200 {
        let rejected = list(&client, &unknown.sign(&valid())).await.unwrap_err();
        assert!(rejected.message().ends_with("has no such key"), "{}", rejected.message());
    }
    let fetches = keys.fetches() - before;
    let fetches_max = 2 + started.elapsed().as_secs() / 5;
    assert!(fetches as u64 <= fetches_max, "{fetches} fetches, but at most {fetches_max}");
}

#[tokio::test]
async fn an_unavailable_issuer_does_not_prevent_the_start() {
    let signer = Signer::es256("1");
    let keys = KeyServer::new(set(&[&signer])).await;
    *keys.response.lock() = (500, "sorry".into());
    let world = World::with_keys_at(&keys.url).await;
    let client = world.admin(None).await;
    let rejected = list(&client, &signer.sign(&valid())).await.unwrap_err();
    assert_eq!((rejected.code(), &*reason(&rejected)), (Code::Unavailable, "KEYS_UNAVAILABLE"));
    let delay = rejected.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(delay > Duration::ZERO);
    *keys.response.lock() = (200, set(&[&signer]));
    eventually(async || list(&client, &signer.sign(&valid())).await.is_ok()).await;
    // An invalid set does not replace a valid one.
    *keys.response.lock() = (200, "{}".into());
    let unknown = Signer::es256("2");
    eventually(async || {
        let _ = list(&client, &unknown.sign(&valid())).await;
        keys.fetches() > 2
    })
    .await;
    list(&client, &signer.sign(&valid())).await.unwrap();
}
