//! The format of records and checkpoints, keys, signatures and malformed lines.

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::{Engine, engine::general_purpose::STANDARD};
use support_access::domain::{
    LogName, TenantId,
    chain::{
        ChainError, ChainHead, Checkpoint, CheckpointKey, Content, Hash, KeyError, Link, PublicKey,
        Verifier, VerifyError, VerifyReport,
        verifier::{LINE_LENGTH_MAX, read_checkpoint},
    },
    time::from_micros,
};
use uuid::Uuid;

mod properties;

/// Written by OpenSSL. The public key of the pair is `PUBLIC`.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIADdu1QeYWxjDvFu3l7INeD7eyF5jNZCC+qClsWXYW+s
-----END PRIVATE KEY-----
";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAc/IHbQ0KR0OkIkJT1+ymLSk+XeEeC5cmokkQaykgBhk=
-----END PUBLIC KEY-----
";

fn log(number: u128) -> LogName {
    LogName(Uuid::from_u128(number))
}

/// The hashed content of an event.
#[derive(Debug, Clone)]
struct Sample {
    actor: String,
    via: Option<String>,
    actor_asserted: bool,
    reason: String,
    body: String,
}

/// The lines of an export, and the last link.
fn export(log: LogName, tenant_id: &str, events: &[Sample]) -> (Vec<String>, Link) {
    let mut last = Link::START;
    let mut lines = Vec::new();
    for (sample, number) in events.iter().zip(1..) {
        let content = Content {
            tenant_id,
            time: from_micros(1_800_000_000_000_000 + number).unwrap(),
            actor: &sample.actor,
            via: sample.via.as_deref(),
            actor_asserted: sample.actor_asserted,
            reason: &sample.reason,
            body: &sample.body,
        };
        let link = content.link(log, last).unwrap();
        lines.push(content.record(log, number, last.hash, link).unwrap().line);
        last = link;
    }
    (lines, last)
}

fn checkpoint(
    log: LogName,
    tenant_id: &str,
    link: Link,
    key: Option<&CheckpointKey>,
) -> Checkpoint {
    let tenant_id = TenantId::new(tenant_id).ok();
    let time = from_micros(1_900_000_000_000_000).unwrap();
    Checkpoint::new(tenant_id.as_ref(), ChainHead { log, link }, time, key).unwrap()
}

/// The DER content of a PEM file.
fn der(pem: &str) -> Vec<u8> {
    let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    STANDARD.decode(text).unwrap()
}

fn key() -> CheckpointKey {
    CheckpointKey::from_pkcs8(&der(PRIVATE)).unwrap()
}

fn verify<L: AsRef<[u8]>>(
    lines: &[L],
    key: Option<PublicKey>,
    kept: Option<&Checkpoint>,
) -> Result<VerifyReport, VerifyError> {
    let mut verifier = Verifier::new(key, kept.cloned()).unwrap();
    for line in lines {
        verifier.line(line.as_ref())?;
    }
    verifier.finish()
}

fn fault(line: usize, mismatch: ChainError) -> Result<VerifyReport, VerifyError> {
    Err(VerifyError { line: line as u64, mismatch })
}

#[test]
fn the_format_is_stable() {
    let body = r#"{"type":"granted","grant":{"grant_id":"0","sequence":7}}"#;
    let sample = Sample {
        actor: "maria@acme".into(),
        via: Some("portal".into()),
        actor_asserted: true,
        reason: "why\n\u{1f692}".into(),
        body: body.into(),
    };
    let (lines, last) = export(log(7), "acme", &[sample]);
    let expected = "{\"actor\":\"maria@acme\",\"actor_asserted\":true,\
        \"event\":{\"grant\":{\"grant_id\":\"0\",\"sequence\":7},\"type\":\"granted\"},\
        \"format\":\"support-access.history.record.v1\",\
        \"hash\":\"HASH\",\"log\":\"00000000-0000-0000-0000-000000000007\",\
        \"previous_hash\":\"0000000000000000000000000000000000000000000000000000000000000000\",\
        \"reason\":\"why\\n\u{1f692}\",\"sequence\":1,\"tenant_id\":\"acme\",\
        \"time\":\"2027-01-15T08:00:00.000001Z\",\"via\":\"portal\"}";
    // Computed by `sha256sum` from the line without its hash.
    let hash = "a57a02ea3b94a7decf1a9b4745c71910ba7af4ea22833caa2667cce6897c73c9";
    assert_eq!(last.hash.to_string(), hash);
    assert_eq!(lines, [expected.replace("HASH", hash)]);
    let without = expected.replace("\"hash\":\"HASH\",", "");
    assert_eq!(Hash::of(&without), last.hash);
    let line = checkpoint(log(7), "acme", last, Some(&key())).line();
    let start = format!(
        "{{\"format\":\"support-access.history.checkpoint.v1\",\"hash\":\"{}\",\"key_id\":\"{}\",\
         \"log\":\"00000000-0000-0000-0000-000000000007\",\"sequence\":1,\"signature\":\"",
        last.hash,
        key().public().id(),
    );
    assert!(line.starts_with(&start), "{line}");
    assert!(
        line.ends_with("\",\"tenant_id\":\"acme\",\"time\":\"2030-03-17T17:46:40.000000Z\"}"),
        "{line}"
    );
    assert_eq!(read_checkpoint(line.as_bytes()).unwrap().line(), line);
}

#[test]
fn keys_of_openssl_are_decoded_and_not_printed() {
    let public = PublicKey::from_spki(&der(PUBLIC)).unwrap();
    assert_eq!(key().public(), public);
    assert_eq!(format!("{:?}", key()), format!("CheckpointKey({:?})", public.id()));
    let ecdsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let (private, public) = (der(PRIVATE), der(PUBLIC));
    for wrong in [&[][..], &[0; 3], &private[..40], &public, &ecdsa.serialize_der()] {
        assert_eq!(CheckpointKey::from_pkcs8(wrong), Err(KeyError::NotPrivate), "{wrong:?}");
    }
    for wrong in [&[][..], &[0; 3], &public[..40], &private, &der(&ecdsa.public_key_pem())] {
        assert_eq!(PublicKey::from_spki(wrong), Err(KeyError::NotPublic), "{wrong:?}");
    }
}

fn other_key() -> CheckpointKey {
    let pair = Ed25519KeyPair::generate().unwrap();
    CheckpointKey::from_pkcs8(pair.to_pkcs8v1().unwrap().as_ref()).unwrap()
}

#[test]
fn a_public_key_requires_signatures() {
    let (lines, last) = export(log(1), "acme", &[]);
    assert!(lines.is_empty());
    let public = Some(key().public());
    let line = |key: Option<&CheckpointKey>| checkpoint(log(1), "acme", last, key).line();
    let other = other_key();
    assert!(verify(&[line(Some(&key()))], public, None).unwrap().is_signed);
    assert_eq!(verify(&[line(None)], public, None), fault(1, ChainError::NotSigned));
    let mismatch =
        ChainError::OtherKey { expected: key().public().id(), found: other.public().id() };
    assert_eq!(verify(&[line(Some(&other))], public, None), fault(1, mismatch));
    let disguised = line(Some(&other)).replace(&other.public().id(), &key().public().id());
    assert_eq!(verify(&[disguised], public, None), fault(1, ChainError::WrongSignature));
    let later = line(Some(&key())).replace("2030-", "2031-");
    assert_eq!(verify(&[&later], public, None), fault(1, ChainError::WrongSignature));
    assert!(verify(&[&later], None, None).is_ok(), "without a key, signatures are not checked");
    let kept = checkpoint(log(1), "acme", last, None);
    assert_eq!(Verifier::new(public, Some(kept)).unwrap_err(), ChainError::NotSigned);
    let none: [&str; 0] = [];
    assert_eq!(verify(&none, None, None), fault(1, ChainError::Empty));
}

#[test]
fn malformed_lines_are_rejected() {
    let sample = Sample {
        actor: "a".into(),
        via: None,
        actor_asserted: false,
        reason: String::new(),
        body: "{}".into(),
    };
    let (lines, last) = export(log(1), "acme", &[sample]);
    let line = &lines[0];
    let point = checkpoint(log(1), "acme", last, None).line();
    let unknown = [
        "{}",
        "[]",
        "1",
        "\"\"",
        "null",
        "{\"format\":\"support-access.history.record.v2\"}",
        &line.replace("\"sequence\":1", "\"sequence\":0"),
        &line.replace("\"sequence\":1", "\"sequence\":\"1\""),
        &line.replace("\"event\":{}", "\"event\":[]"),
        &line.replace("\"event\":{}", "\"event\":{},\"extra\":1"),
        &line.replace("\"format\"", "\"event2\":1,\"format\""),
        &line.replace("\"actor\":\"a\"", "\"actor\":\"a\",\"actor_asserted\":false"),
        &line.replace(&last.hash.to_string(), &last.hash.to_string().to_uppercase()),
        &line.replace(&last.hash.to_string(), ""),
        &point.replace("\"log\"", "\"key_id\":\"0011223344556677\",\"log\""),
        &point.replace("\"sequence\":1", "\"sequence\":-1"),
        &point.replace("\"sequence\":1", "\"sequence\":0"),
        &point.replace("\"format\"", "\"extra\":1,\"format\""),
    ];
    for text in unknown {
        assert_eq!(verify(&[text], None, None), fault(1, ChainError::Unknown), "{text}");
    }
    let long = "x".repeat(LINE_LENGTH_MAX + 1);
    let broken: [(&[u8], ChainError); 11] = [
        (b"", ChainError::NotJson),
        (b"{", ChainError::NotJson),
        (b"\xff", ChainError::NotJson),
        (b"\"\\ud800\"", ChainError::NotJson),
        (b"\xef\xbb\xbf{}", ChainError::NotJson),
        (b"{} {}", ChainError::NotJson),
        (b"{ }", ChainError::NotCanonical),
        (b"{\"a\":1,\"a\":1}", ChainError::NotCanonical),
        (b"[1.0]", ChainError::NotCanonical),
        (b"{}\r", ChainError::NotCanonical),
        (long.as_bytes(), ChainError::TooLong),
    ];
    for (text, mismatch) in broken {
        assert_eq!(
            verify(&[text], None, None),
            fault(1, mismatch),
            "{}",
            String::from_utf8_lossy(&text[..text.len().min(40)])
        );
    }
    let duplicate = line.replacen("{\"actor\":\"a\"", "{\"actor\":\"b\",\"actor\":\"a\"", 1);
    assert_eq!(
        verify(&[duplicate], None, None),
        fault(1, ChainError::NotCanonical),
        "a reader might show b"
    );
    let after = [line.as_str(), &point, line];
    assert_eq!(verify(&after, None, None), fault(3, ChainError::AfterCheckpoint));
    let other = checkpoint(log(1), "bolt", last, None).line();
    let mismatch = ChainError::OtherTenant { expected: "acme".into(), found: "bolt".into() };
    assert_eq!(verify(&[line, &other], None, None), fault(2, mismatch));
    let other = checkpoint(log(2), "acme", last, None).line();
    assert_eq!(verify(&[line, &other], None, None), fault(2, ChainError::OtherLog));
}
