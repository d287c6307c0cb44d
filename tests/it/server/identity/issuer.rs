//! An issuer of tokens, and a server of its keys.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::{
    encoding::AsDer,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use parking_lot::Mutex;
use serde_json::{Value, json};
use support_access::{domain::Clock, server::SystemClock};
use tokio::net::TcpListener;

pub(crate) const NAME: &str = "https://id.vendor.example";
pub(crate) const AUDIENCE: &str = "support-access";

/// A signing key.
pub(crate) struct Signer {
    pub(crate) id: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) key: EncodingKey,
}

impl Signer {
    pub(crate) fn es256(id: &str) -> Self {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(
            &ECDSA_P256_SHA256_FIXED_SIGNING,
            &aws_lc_rs::rand::SystemRandom::new(),
        );
        let key = EncodingKey::from_ec_der(pkcs8.unwrap().as_ref());
        Self { id: id.to_owned(), algorithm: Algorithm::ES256, key }
    }

    pub(crate) fn ed25519(id: &str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref());
        Self { id: id.to_owned(), algorithm: Algorithm::EdDSA, key }
    }

    pub(crate) fn rs256(id: &str) -> Self {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
        // PKCS #8 (RFC 5958) contains PKCS #1 behind the name of the algorithm.
        let key = EncodingKey::from_rsa_der(&pkcs8.as_ref()[26..]);
        Self { id: id.to_owned(), algorithm: Algorithm::RS256, key }
    }

    pub(crate) fn jwk(&self) -> Value {
        let mut jwk =
            serde_json::to_value(Jwk::from_encoding_key(&self.key, self.algorithm).unwrap())
                .unwrap();
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.clone()), ..Header::new(self.algorithm) };
        self.sign_with(&header, claims)
    }

    pub(crate) fn sign_with(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &self.key).unwrap()
    }
}

/// An issuer with one key.
pub(crate) struct Issuer {
    pub(crate) signer: Signer,
}

impl Issuer {
    pub(crate) fn new() -> Self {
        Self { signer: Signer::es256("first") }
    }

    pub(crate) fn jwks(&self) -> String {
        set(&[&self.signer])
    }

    pub(crate) fn token(&self, name: &str, role: &str, tenants: &[&str]) -> String {
        self.signer.sign(&claims(name, role, tenants))
    }
}

pub(crate) fn set(signers: &[&Signer]) -> String {
    json!({ "keys": signers.iter().map(|signer| signer.jwk()).collect::<Vec<_>>() }).to_string()
}

pub(crate) fn claims(name: &str, role: &str, tenants: &[&str]) -> Value {
    json!({
        "iss": NAME,
        "aud": AUDIENCE,
        "sub": name,
        "exp": SystemClock.now().timestamp() + 600,
        "roles": [role],
        "tenants": tenants,
    })
}

/// A server of a JWK set, which tests can replace.
#[derive(Clone)]
pub(crate) struct KeyServer {
    pub(crate) url: String,
    pub(crate) response: Arc<Mutex<(u16, String)>>,
    requests: Arc<AtomicUsize>,
}

impl KeyServer {
    pub(crate) async fn new(jwks: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let response = Arc::new(Mutex::new((200, jwks)));
        let server = Self { url, response, requests: Arc::default() };
        let (response, requests) = (Arc::clone(&server.response), Arc::clone(&server.requests));
        let route = axum::routing::get(async move || {
            requests.fetch_add(1, Ordering::SeqCst);
            let (code, text) = response.lock().clone();
            (axum::http::StatusCode::from_u16(code).unwrap(), text)
        });
        let router = axum::Router::new().route("/jwks.json", route);
        #[expect(
            clippy::disallowed_methods,
            reason = "the task ends with the runtime of the test"
        )]
        tokio::spawn(async move { axum::serve(listener, router).await });
        server
    }

    /// The number of requests so far.
    pub(crate) fn fetches(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}
