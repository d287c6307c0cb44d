//! Bearer tokens: every way in which one can be wrong is refused.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use support_access::{
    api::proto::v1::{ListGrantsRequest, support_access_admin_client::SupportAccessAdminClient},
    domain::{Clock, clock::SystemClock},
};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;

use super::{
    World, bearing,
    issuer::{Issuer, KeyServer, NAME, Signer, claims, set},
    reason,
};
use crate::harness::eventually;

type Admin = SupportAccessAdminClient<Channel>;

async fn list(client: &Admin, token: &str) -> Result<(), Status> {
    let request =
        ListGrantsRequest { tenant_id: "acme".to_owned(), ..ListGrantsRequest::default() };
    client.clone().list_grants(bearing(request, token)).await.map(drop)
}

fn good() -> Value {
    claims("alice@acme.example", "access-admin", &["acme"])
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = good();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = good();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// Header and claims, with this behind them.
fn raw(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(header), part(claims))
}

#[tokio::test]
async fn each_algorithm_is_taken_from_a_key_that_is_for_it() {
    let signers = [Signer::es256("e"), Signer::ed25519("d"), Signer::rs256("r")];
    let keys = KeyServer::new(set(&signers.iter().collect::<Vec<_>>())).await;
    let world = World::with_keys_at(&keys.url).await;
    let client = world.admin(None).await;
    for signer in &signers {
        list(&client, &signer.sign(&good())).await.unwrap();
        // Without a key id, as long as there is no choice.
        let anonymous = signer.sign_with(&Header::new(signer.algorithm), &good());
        list(&client, &anonymous).await.unwrap();
    }
    let two = set(&[&signers[0], &Signer::es256("other")]);
    let keys = KeyServer::new(two).await;
    let world = World::with_keys_at(&keys.url).await;
    let client = world.admin(None).await;
    list(&client, &signers[0].sign(&good())).await.unwrap();
    let anonymous = signers[0].sign_with(&Header::new(Algorithm::ES256), &good());
    assert_eq!(list(&client, &anonymous).await.unwrap_err().code(), Code::Unauthenticated);
}

/// Tokens that the issuer has not made, or with a key that is not its own.
fn forged(issuer: &Issuer) -> Vec<(&'static str, String)> {
    let signer = &issuer.signer;
    let header = |change: fn(&mut Header)| {
        let mut header = Header { kid: Some(signer.id.clone()), ..Header::new(Algorithm::ES256) };
        change(&mut header);
        signer.sign_with(&header, &good())
    };
    let jwk = signer.jwk();
    let x = URL_SAFE_NO_PAD.decode(jwk["x"].as_str().unwrap()).unwrap();
    let confused = |secret: &[u8]| {
        let header = Header { kid: Some(signer.id.clone()), ..Header::new(Algorithm::HS256) };
        encode(&header, &good(), &EncodingKey::from_secret(secret)).unwrap()
    };
    let sign = |claims: &Value| signer.sign(claims);
    let signature = sign(&good()).rsplit('.').next().unwrap().to_owned();
    let none = |alg: &str, signature: &str| {
        raw(&json!({ "alg": alg, "kid": "first" }), &good(), signature)
    };
    let stranger = Signer::es256("first");
    let embedded = {
        let key = serde_json::from_value(stranger.jwk()).unwrap();
        let header =
            Header { jwk: Some(key), kid: Some("first".into()), ..Header::new(Algorithm::ES256) };
        stranger.sign_with(&header, &good())
    };
    vec![
        ("nothing", String::new()),
        ("no token", "x".into()),
        ("two parts", "a.b".into()),
        ("empty parts", "..".into()),
        ("four parts", sign(&good()) + ".x"),
        ("no signature", raw(&json!({ "alg": "ES256", "kid": "first" }), &good(), "")),
        ("alg none", none("none", "")),
        ("alg None", none("None", "")),
        ("alg NONE, signed", none("NONE", &signature)),
        ("no alg", raw(&json!({ "kid": "first" }), &good(), &signature)),
        (
            "another's signature",
            raw(&json!({ "alg": "ES256", "kid": "first" }), &good(), &signature),
        ),
        ("HMAC with the public key", confused(&x)),
        ("HMAC with the set", confused(issuer.jwks().as_bytes())),
        ("HMAC with the JWK", confused(jwk.to_string().as_bytes())),
        ("HMAC with nothing", confused(b"")),
        (
            "EdDSA said and signed, by a key that is called alike",
            Signer::ed25519("first").sign(&good()),
        ),
        ("ES256 said, EdDSA signed", {
            let other = Signer::ed25519("first").sign(&good());
            let signature = other.rsplit('.').next().unwrap();
            raw(&json!({ "alg": "ES256", "kid": "first" }), &good(), signature)
        }),
        ("a certificate's name", sign(&with("sub", json!("spiffe://vendor.example/gateway")))),
        ("a user's name", sign(&with("sub", json!("uid:0")))),
        ("nobody's name", sign(&with("sub", json!("anonymous")))),
        ("a name with what is hidden", sign(&with("sub", json!("alice\u{202e}")))),
        ("a name of no width", sign(&with("sub", json!("ali\u{200b}ce")))),
        ("a key that is not known", Signer::es256("second").sign(&good())),
        ("a key that is called alike", stranger.sign(&good())),
        ("a key that it brings along", embedded),
        ("a key that is a path", header(|it| it.kid = Some("../../etc/passwd".into()))),
        ("what is critical", header(|it| it.crit = Some(vec!["exp".into()]))),
    ]
}

/// Tokens that the issuer has made, and that are not fit for this.
fn unfit(issuer: &Issuer) -> Vec<(&'static str, String)> {
    let signature = "c2lnbmF0dXJl";
    let sign = |claims: &Value| issuer.signer.sign(claims);
    let now = SystemClock.now().timestamp();
    vec![
        ("expired", sign(&with("exp", json!(now - 31)))),
        ("expired in 1970", sign(&with("exp", json!(0)))),
        ("expired before", sign(&with("exp", json!(-1)))),
        ("without an end", sign(&without("exp"))),
        ("an end in words", sign(&with("exp", json!("tomorrow")))),
        ("an end as a text", sign(&with("exp", json!((now + 600).to_string())))),
        ("an end beyond all times", sign(&with("exp", json!(u64::MAX)))),
        ("an end beyond all numbers", sign(&with("exp", json!(1e300)))),
        ("no end", sign(&with("exp", Value::Null))),
        ("not yet valid", sign(&with("nbf", json!(now + 60)))),
        ("valid from somewhere", sign(&with("nbf", json!("soon")))),
        ("for another audience", sign(&with("aud", json!("another")))),
        ("for others", sign(&with("aud", json!(["another", "support-access-2"])))),
        ("for an audience with a space", sign(&with("aud", json!("support-access ")))),
        ("for nobody", sign(&without("aud"))),
        ("for a list of nobody", sign(&with("aud", json!([])))),
        ("for a number", sign(&with("aud", json!(1)))),
        ("of another issuer", sign(&with("iss", json!("https://id.other.example")))),
        ("of an issuer with a slash", sign(&with("iss", json!(format!("{NAME}/"))))),
        ("of several issuers", sign(&with("iss", json!([NAME, "https://id.other.example"])))),
        ("of nobody", sign(&without("iss"))),
        ("without a name", sign(&without("sub"))),
        ("an empty name", sign(&with("sub", json!("")))),
        ("a name that is a number", sign(&with("sub", json!(7)))),
        ("the service's own name", sign(&with("sub", json!("system")))),
        ("a name of two lines", sign(&with("sub", json!("a\nb")))),
        ("a long name", sign(&with("sub", json!("x".repeat(129))))),
        ("claims that are a list", raw(&json!({ "alg": "ES256" }), &json!([1]), signature)),
        ("too long", sign(&with("more", json!("x".repeat(8_192))))),
    ]
}

#[tokio::test]
async fn tokens_that_are_wrong_are_refused() {
    let world = World::new().await;
    let client = world.admin(None).await;
    list(&client, &world.issuer.signer.sign(&good())).await.unwrap();
    let cases = [forged(&world.issuer), unfit(&world.issuer)].concat();
    let count = cases.len();
    for (what, token) in cases {
        let refused = list(&client, &token).await.unwrap_err();
        assert_eq!(
            (refused.code(), &*reason(&refused)),
            (Code::Unauthenticated, "TOKEN_REJECTED"),
            "{what}"
        );
        let told = refused.message();
        assert!(told.starts_with("the bearer token is refused: "), "{what}: {told}");
    }
    println!("{count} wrong tokens");
}

#[tokio::test]
async fn clocks_may_differ_by_the_leeway() {
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
async fn no_part_of_a_token_will_do_and_no_letter_of_it_can_be_changed() {
    let world = World::new().await;
    let client = world.admin(None).await;
    let token = world.issuer.signer.sign(&good());
    let mut tried = 0;
    for length in 0..token.len() {
        assert!(list(&client, &token[..length]).await.is_err(), "{length} bytes of {token}");
        let mut changed = token.clone().into_bytes();
        changed[length] = if changed[length] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(list(&client, &changed).await.is_err(), "changed at {length}: {token}");
        tried += 2;
    }
    println!("{tried} broken tokens");
}

#[tokio::test]
async fn claims_that_are_not_what_they_should_be_claim_nothing() {
    let world = World::new().await;
    let client = world.admin(None).await;
    let cases = [
        with("roles", json!([])),
        with("roles", json!({ "access-admin": true })),
        with("roles", json!(["access-admin", 1])),
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
        let refused = list(&client, &world.issuer.signer.sign(&claims)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{claims}");
    }
    for claims in [with("roles", json!("openid access-admin")), with("tenants", json!("acme"))] {
        list(&client, &world.issuer.signer.sign(&claims)).await.unwrap();
    }
}

#[tokio::test]
async fn other_schemes_and_huge_headers_let_nobody_in() {
    let world = World::new().await;
    let client = world.admin(None).await;
    let token = world.issuer.signer.sign(&good());
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
    // A megabyte is refused by HTTP/2 itself, or by its client: it never gets to where tokens are read.
    assert!(send(format!("Bearer {}", "x".repeat(1 << 20))).await.is_err());
    list(&world.admin(None).await, &token).await.unwrap();
}

#[tokio::test]
async fn keys_are_fetched_when_they_have_changed_and_not_more_often() {
    let (first, second) = (Signer::es256("1"), Signer::ed25519("2"));
    let keys = KeyServer::new(set(&[&first])).await;
    let world = World::with_keys_at(&keys.url).await;
    let client = world.admin(None).await;
    list(&client, &first.sign(&good())).await.unwrap();
    let before = keys.times_asked();

    *keys.answer.lock() = (200, set(&[&first, &second]));
    eventually(async || list(&client, &second.sign(&good())).await.is_ok()).await;
    list(&client, &first.sign(&good())).await.unwrap();
    assert_eq!(keys.times_asked(), before + 1, "one fetch brought the new key");

    let stranger = Signer::es256("3");
    for _ in 0..200 {
        let refused = list(&client, &stranger.sign(&good())).await.unwrap_err();
        assert!(refused.message().ends_with("has no such key"), "{}", refused.message());
    }
    assert!(keys.times_asked() <= before + 2, "asked {} times", keys.times_asked() - before);
}

#[tokio::test]
async fn an_issuer_that_is_down_keeps_no_server_from_starting() {
    let signer = Signer::es256("1");
    let keys = KeyServer::new(set(&[&signer])).await;
    *keys.answer.lock() = (500, "sorry".into());
    let world = World::with_keys_at(&keys.url).await;
    let client = world.admin(None).await;
    let refused = list(&client, &signer.sign(&good())).await.unwrap_err();
    assert_eq!((refused.code(), &*reason(&refused)), (Code::Unavailable, "KEYS_UNAVAILABLE"));
    let delay = refused.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(delay > Duration::ZERO);
    *keys.answer.lock() = (200, set(&[&signer]));
    eventually(async || list(&client, &signer.sign(&good())).await.is_ok()).await;
    // What is not a set of keys does not take the place of one.
    *keys.answer.lock() = (200, "{}".into());
    let stranger = Signer::es256("2");
    eventually(async || {
        let _ = list(&client, &stranger.sign(&good())).await;
        keys.times_asked() > 2
    })
    .await;
    list(&client, &signer.sign(&good())).await.unwrap();
}
