//! Random input for every parser: tokens, certificates, key sets, the configuration.

use std::{fs, path::Path, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use proptest::{collection::vec, prelude::*};
use support_access::{
    auth::{bindings::AuthConfig, certificate::Certificate, keys::IssuerKeys, token::Verifier},
    domain::Clock,
    server::{
        SystemClock,
        config::{self, Config, Flags},
    },
};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio_util::sync::CancellationToken;

use super::fuzz::mutated;
use crate::server::identity::{
    GATEWAY, auth,
    authority::Authority,
    issuer::{Issuer, claims},
};

/// A verifier, and a valid token.
struct Tokens {
    verifier: Verifier,
    valid: String,
    runtime: Runtime,
    _folder: TempDir,
}

impl Tokens {
    fn new() -> Self {
        let (folder, issuer) = (TempDir::new().unwrap(), Issuer::new());
        let path = folder.path().join("jwks.json");
        fs::write(&path, issuer.jwks()).unwrap();
        let path = path.display().to_string();
        let AuthConfig { issuers, .. } = auth(&path, "");
        let keys = Arc::new(IssuerKeys::new(&path, Arc::new(SystemClock)).unwrap());
        let verifier =
            Verifier::new(issuers.into_iter().flatten().map(|issuer| (issuer, Arc::clone(&keys))));
        let valid = issuer.signer.sign(&claims("alice@acme.example", "access-admin", &["acme"]));
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        // The task ends with the runtime.
        runtime.spawn(keys.run(CancellationToken::new()));
        let tokens = Self { verifier, valid, runtime, _folder: folder };
        assert!(tokens.is_accepted(&tokens.valid));
        tokens
    }

    fn is_accepted(&self, token: &str) -> bool {
        self.runtime.block_on(self.verifier.verify(token, SystemClock.now())).is_ok()
    }
}

/// The decoded parts of a token. The last character of base64 contains unused bits.
fn decoded(token: &str) -> Vec<Vec<u8>> {
    token
        .split('.')
        .map(|part| URL_SAFE_NO_PAD.decode(part).unwrap_or_else(|_| part.into()))
        .collect()
}

/// A few parts, some of which are JSON.
fn parts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        vec(any::<u8>(), 0..60).prop_map(|bytes| URL_SAFE_NO_PAD.encode(bytes)),
        Just(URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256","kid":"first","typ":"JWT"}"#)),
        Just(URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#)),
        Just(URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA"}"#)),
        Just(URL_SAFE_NO_PAD.encode(r#"{"iss":"https://id.vendor.example","exp":9999999999}"#)),
        "[A-Za-z0-9_=-]{0,40}",
    ];
    vec(part, 1..5).prop_map(|parts| parts.join("."))
}

#[test]
fn only_issued_tokens_are_accepted() {
    let tokens = Tokens::new();
    let valid = decoded(&tokens.valid);
    let mutants = mutated(vec![tokens.valid.clone().into_bytes()]);
    let texts = prop_oneof![
        3 => mutants.prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        1 => parts(),
        1 => any::<String>(),
    ];
    proptest!(ProptestConfig::with_cases(20_000), |(token in texts)| {
        prop_assert!(!tokens.is_accepted(&token) || decoded(&token) == valid, "{token}");
    });
}

#[test]
fn certificates_are_parsed_or_rejected() {
    let (pem, _) = Authority::new("fuzz").client(GATEWAY);
    let valid = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
    assert_eq!(Certificate::from_der(&valid).unwrap().names, [GATEWAY]);
    let bytes = prop_oneof![1 => vec(any::<u8>(), 0..600), 4 => mutated(vec![valid])];
    proptest!(ProptestConfig::with_cases(20_000), |(der in bytes)| {
        drop(Certificate::from_der(&der));
    });
}

#[test]
fn key_sets_are_parsed_or_rejected() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("jwks.json");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let valid = Issuer::new().jwks();
    let random = prop_oneof![any::<String>(), json()].prop_map(String::into_bytes);
    let bytes = prop_oneof![1 => random, 4 => mutated(vec![valid.into_bytes()])];
    proptest!(ProptestConfig::with_cases(5_000), |(set in bytes)| {
        write_new(&path, &set);
        drop(IssuerKeys::new(&path.display().to_string(), Arc::clone(&clock)));
    });
}

/// Writes a new file. Some file systems flush a file that is truncated.
fn write_new(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}

/// JSON that resembles a key set.
fn json() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("kty"),
        Just("keys"),
        Just("n"),
        Just("e"),
        Just("crv"),
        Just("x"),
        Just("alg")
    ];
    let text = prop_oneof![
        Just("RSA"),
        Just("EC"),
        Just("OKP"),
        Just("P-256"),
        Just("Ed25519"),
        Just("AQAB")
    ];
    let leaf = prop_oneof![
        text.prop_map(|text| format!("{text:?}")),
        any::<i64>().prop_map(|number| number.to_string()),
        Just("null".to_owned()),
    ];
    leaf.prop_recursive(4, 30, 5, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            vec((name.clone(), inner), 0..5).prop_map(|fields| {
                let fields: Vec<_> =
                    fields.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

#[test]
fn configurations_are_loaded_or_rejected() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("config.toml");
    let valid = "trust_portal_assertion = true\nlisten = ['127.0.0.1:0']\n\
        [limits]\nconnections = 10\nchecks_per_second = 5\nkeepalive_interval = '3s'\n\
        [certificates]\nportal = ['spiffe://a.example/p']\n[users]\ngateway = [7]\n\
        [[issuers]]\nissuer = 'https://a.example'\naudience = 'b'\nkeys = 'c'\nleeway = '30s'\n\
        roles = { tenant_admin = ['d'], operator = ['e'] }\n";
    let random = any::<String>().prop_map(String::into_bytes);
    let bytes = prop_oneof![1 => random, 4 => mutated(vec![valid.into()])];
    let flags = Flags::default().with_file(Some(path.clone()));
    proptest!(ProptestConfig::with_cases(20_000), |(text in bytes)| {
        write_new(&path, &text);
        if let Ok(config) = config::load::<Config>(&flags, &|_| None) {
            prop_assert!(config.common.auth.problems().is_empty());
        }
    });
}
