mod cases;

use std::{collections::BTreeMap, fs};

use tempfile::TempDir;

use super::*;
use crate::domain::{AccessLevel, Span};

/// What a test sets, and where.
#[derive(Default)]
struct Given<'a> {
    flags: Vec<(&'static str, &'a str)>,
    env: Vec<(&'a str, &'a str)>,
    file: Option<&'a str>,
}

/// Loads what `given` says; the path of the file reads `FILE` in errors.
fn load(given: &Given<'_>) -> Result<Config, String> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("config.toml");
    let mut flags = Flags::default();
    if let Some(text) = given.file {
        fs::write(&path, text).unwrap();
        flags = flags.with_file(Some(path.clone()));
    }
    let mut values: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for (name, value) in &given.flags {
        values.entry(name).or_default().push((*value).into());
    }
    for (name, values) in values {
        flags = flags.with(name, values);
    }
    let env: BTreeMap<&str, &str> = given.env.iter().copied().collect();
    Config::load(&flags, &|name| env.get(name).map(|value| (*value).into()))
        .map_err(|error| error.to_string().replace(&*path.to_string_lossy(), "FILE"))
}

fn load_file(text: &str) -> Result<Config, String> {
    load(&Given { file: Some(text), ..Given::default() })
}

fn load_flag(name: &'static str, value: &str) -> Result<Config, String> {
    load(&Given { flags: vec![(name, value)], ..Given::default() })
}

#[test]
fn nothing_given_means_the_defaults() {
    assert_eq!(load(&Given::default()), Ok(Config::default()));
    assert_eq!(load_file(""), Ok(Config::default()));
    let empty = vec![("SUPPORT_ACCESS_LISTEN", ""), ("SUPPORT_ACCESS_CONFIG", "")];
    assert_eq!(load(&Given { env: empty, ..Given::default() }), Ok(Config::default()));
}

#[test]
fn flags_go_before_the_environment_before_the_file_before_the_default() {
    let cases = cases::all();
    let mut covered: Vec<&str> = cases.iter().map(|case| case.0).collect();
    covered.push(CHECKPOINT_KEY); // has a test of its own, since it names a file
    covered.sort_unstable();
    let mut settings = [&COMMON[..], &OF_REPLICA[..]].concat();
    // These are given together: see the tests of `security`.
    settings.retain(|name| ![TLS_CERTIFICATE, TLS_KEY, TLS_CLIENT_CA].contains(name));
    settings.sort_unstable();
    assert_eq!(covered[..], settings, "every setting has its case");
    for (name, line, [default, from_file, from_env, from_flag], read) in cases {
        let variable = format!("SUPPORT_ACCESS_{}", name.replace('-', "_").to_uppercase());
        let file = Some(line);
        let env = vec![(variable.as_str(), from_env)];
        let load = |given: Given<'_>| read(&load(&given).unwrap());
        assert_eq!(load(Given::default()), default, "{name}");
        assert_eq!(load(Given { file, ..Given::default() }), from_file, "{name}");
        assert_eq!(load(Given { file, env: env.clone(), ..Given::default() }), from_env, "{name}");
        assert_eq!(load(Given { flags: vec![(name, from_flag)], env, file }), from_flag, "{name}");
    }
}

#[test]
fn the_checkpoint_key_is_read_at_once_and_never_shown() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let write = |name: &str| {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        fs::write(path(name), pair.serialize_pem()).unwrap();
        CheckpointKey::from_pem(pair.serialize_pem().as_bytes()).unwrap()
    };
    let keys = ["file", "env", "flag"].map(write);
    let line = format!("checkpoint_key = {:?}", path("file"));
    let (in_env, in_flag) = (path("env"), path("flag"));
    let file = Some(line.as_str());
    let env = vec![("SUPPORT_ACCESS_CHECKPOINT_KEY", in_env.as_str())];
    let flags = vec![(CHECKPOINT_KEY, in_flag.as_str())];
    let load_key = |given: Given<'_>| load(&given).unwrap().checkpoint_key;
    assert_eq!(load_key(Given::default()), None);
    assert_eq!(load_key(Given { file, ..Given::default() }), Some(keys[0].clone()));
    assert_eq!(
        load_key(Given { file, env: env.clone(), ..Given::default() }),
        Some(keys[1].clone())
    );
    assert_eq!(load_key(Given { flags, env, file }), Some(keys[2].clone()));

    let shown = format!("{:?}", load_flag(CHECKPOINT_KEY, &in_flag).unwrap());
    let secret = fs::read_to_string(&in_flag).unwrap();
    assert!(secret.lines().all(|line| !shown.contains(line)), "{shown}");

    let missing = load_flag(CHECKPOINT_KEY, "no-such-file").unwrap_err();
    let expected =
        "--checkpoint-key must name a file with a key, but no-such-file cannot be read: ";
    assert!(missing.starts_with(expected), "{missing}");
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    for text in [
        other.serialize_pem(),
        secret.replace("PRIVATE", "PUBLIC"),
        secret[..70].to_owned(),
        "s3cret".into(),
    ] {
        fs::write(path("other"), &text).unwrap();
        let refused = load_flag(CHECKPOINT_KEY, &path("other")).unwrap_err();
        let expected = format!(
            "--checkpoint-key must hold an Ed25519 key in PKCS#8 PEM without a password, as `openssl genpkey \
             -algorithm ed25519` writes it, but {} does not",
            path("other")
        );
        assert_eq!(refused, expected);
    }
}

#[test]
fn the_environment_can_name_the_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("c.toml");
    fs::write(&path, "max_staleness = '7s'").unwrap();
    let path = path.to_str().unwrap();
    let env = vec![("SUPPORT_ACCESS_CONFIG", path)];
    let config = load(&Given { env, ..Given::default() }).unwrap();
    assert_eq!(config.max_staleness, Duration::from_secs(7));
}

#[test]
fn several_addresses_can_be_listened_on() {
    let expected = vec![
        ListenAddress::Tcp("127.0.0.1:1".parse().unwrap()),
        ListenAddress::Unix("/run/access.sock".into()),
    ];
    let flags = vec![(LISTEN, "127.0.0.1:1"), (LISTEN, "unix:/run/access.sock")];
    assert_eq!(load(&Given { flags, ..Given::default() }).unwrap().common.listen, expected);
    let env = vec![("SUPPORT_ACCESS_LISTEN", "127.0.0.1:1, unix:/run/access.sock")];
    assert_eq!(load(&Given { env, ..Given::default() }).unwrap().common.listen, expected);
}

#[test]
fn addresses_are_read_and_written() {
    for text in ["127.0.0.1:50051", "[::1]:0", "0.0.0.0:80", "unix:/run/access.sock", "unix:a"] {
        assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
    }
    assert_eq!("localhost:5".parse::<ListenAddress>().unwrap().to_string(), "127.0.0.1:5");
    for text in ["", "127.0.0.1", "50051", "example.com:50051", "localhost:", "unix:", "::1:50051"]
    {
        assert!(text.parse::<ListenAddress>().is_err(), "{text:?}");
    }
}

#[test]
fn wrong_values_are_refused_with_what_would_be_right() {
    let cases = [
        (
            MAX_STALENESS,
            "199ms",
            "must be a duration from 200ms to 5m, such as 2s, but is \"199ms\"",
        ),
        (MAX_STALENESS, "301s", "must be a duration from 200ms to 5m, such as 2s, but is \"301s\""),
        (MAX_STALENESS, "2", "must be a duration from 200ms to 5m, such as 2s, but is \"2\""),
        (VERIFY_INTERVAL, "0s", "must be a duration from 1s to 30d, such as 2s, but is \"0s\""),
        (DRAIN_TIMEOUT, "2h", "must be a duration from 0s to 1h, such as 2s, but is \"2h\""),
        (LISTEN, "x", "must be like 127.0.0.1:50051, [::1]:50051 or unix:/path, but is \"x\""),
        (LISTEN, "unix:", "must name a path, such as unix:/run/access.sock, but is \"unix:\""),
        (
            METRICS_LISTEN,
            "unix:/a",
            "must be an IP address and a port, such as 127.0.0.1:9464, but is \"unix:/a\"",
        ),
        (INSECURE, "yes", "must be true or false, but is \"yes\""),
        (LOG, "a=b=c", "must be like info or warn,support_access=debug, but is \"a=b=c\""),
        (TRACE_RATIO, "1.1", "must be a number from 0 to 1, such as 0.01, but is \"1.1\""),
        (
            OTLP_ENDPOINT,
            "http://me:secret@collector:4317",
            "must be the URL of a collector that takes OTLP over gRPC, such as http://127.0.0.1:4317, without a path or a \
             password",
        ),
        (LOG_FORMAT, "xml", "must be auto, text or json, but is \"xml\""),
        (MAX_LIVE_GRANTS_PER_TENANT, "0", "must be a whole number from 1 to 10000, but is \"0\""),
        (
            MAX_LIVE_GRANTS_PER_TENANT,
            "10001",
            "must be a whole number from 1 to 10000, but is \"10001\"",
        ),
        (
            DATABASE_URL,
            "mysql://root:secret@db",
            "must begin with sqlite:, postgres: or memory:, such as sqlite://support-access.db, but begins with \
             \"mysql\"",
        ),
    ];
    for (name, value, expected) in cases {
        assert_eq!(load_flag(name, value), Err(format!("--{name} {expected}")));
    }
    let env = vec![("SUPPORT_ACCESS_LOG_FORMAT", "xml")];
    assert_eq!(
        load(&Given { env, ..Given::default() }).unwrap_err(),
        "SUPPORT_ACCESS_LOG_FORMAT must be auto, text or json, but is \"xml\""
    );
}

#[test]
fn a_file_is_refused_with_the_key_and_the_file() {
    let cases = [
        (
            "max-staleness = '2s'",
            "the configuration file FILE has the unknown key \"max-staleness\"; known are listen, metrics_listen, \
             drain_timeout, tls_certificate, tls_key, tls_client_ca, socket_mode, insecure, reflection, log, log_format, otlp_endpoint, \
             trace_ratio, database_url, max_staleness, max_live_grants_per_tenant, checkpoint_key, verify_interval, upstream, upstream_ca, upstream_certificate, \
             upstream_key, upstream_token_file, certificates, users, issuers, trust_portal_assertion, limits and policy",
        ),
        (
            "max_staleness = 2",
            "max_staleness in FILE must be a duration from 200ms to 5m, such as 2s, but is \"2\"",
        ),
        ("log = ['info', 'warn']", "log in FILE must be a single value, but is a list"),
        ("log = 1.5", "log in FILE must be a text, a whole number, true or false"),
        ("listen = []", "listen in FILE must have at least one value"),
        (
            "log = 'info'\nlog = 'warn'",
            "the configuration file FILE is not TOML: duplicate key, in line 2",
        ),
        (
            "[policy]\nlongest = '1d'",
            "[policy] in FILE is not a support policy: unknown field `longest`, expected one of `groups`, \
             `preset_durations`, `default_duration`, `max_duration`, `until_revoked_allowed`, `reason_required`, \
             `ticket_required`, `max_schedule_ahead`, `agent_kinds`",
        ),
        (
            "[policy]\nmax_duration = 5",
            "[policy] in FILE is not a support policy: invalid type: integer `5`, expected a string in \
             `max_duration`",
        ),
        (
            "[policy]\nmax_duration = '1d'\npreset_durations = ['1h']",
            "[policy] in FILE is not a support policy: default_duration must be positive and at most max_duration",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(load_file(text).unwrap_err(), expected);
    }
}

#[test]
fn a_missing_file_is_named() {
    let flags = Flags::default().with_file(Some("no/such.toml".into()));
    assert_eq!(
        Config::load(&flags, &|_| None).unwrap_err().to_string(),
        "the configuration file no/such.toml cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn the_catalogue_comes_from_the_file() {
    let text = r#"
        [policy]
        max_duration = "30d"
        preset_durations = ["1h", "7d"]
        until_revoked_allowed = false

        [[policy.groups]]
        group_id = "tier-1"
        max_access_level = "READ_WRITE"
    "#;
    let catalogue = load_file(text).unwrap().catalogue;
    let [group] = catalogue.groups.as_slice() else { panic!("{catalogue:?}") };
    assert_eq!(
        (group.group_id.as_str(), group.max_access_level),
        ("tier-1", AccessLevel::ReadWrite)
    );
    assert_eq!(catalogue.max_duration, Span::days(30));
    assert_eq!(catalogue.default_duration, Span::days(7), "what is left out has its default");
    assert!(!catalogue.until_revoked_allowed);
}

#[test]
fn a_migration_reads_the_same_database_url() {
    let env = |name: &str| (name == "SUPPORT_ACCESS_DATABASE_URL").then(|| "memory:".to_owned());
    let flags = Flags::default();
    assert_eq!(Config::load_database_url(&flags, &env), Ok("memory:".to_owned()));
    let flags = flags.with(DATABASE_URL, ["sqlite:a".to_owned()]);
    assert_eq!(Config::load_database_url(&flags, &env), Ok("sqlite:a".to_owned()));
}

#[test]
fn a_password_is_not_shown() {
    let config = load_flag(DATABASE_URL, "postgres://me:secret@db/x").unwrap();
    let shown = format!("{config:?}");
    assert!(shown.contains("postgres:…") && !shown.contains("secret"), "{shown}");
}

fn load_sidecar(flags: &[(&'static str, &str)]) -> Result<SidecarConfig, String> {
    let mut given = Flags::default();
    for (name, value) in flags {
        given = given.with(name, [(*value).to_owned()]);
    }
    SidecarConfig::load(&given, &|_| None).map_err(|error| error.to_string())
}

#[test]
fn a_sidecar_must_have_somebody_to_follow() {
    let upstreams = load_sidecar(&[(UPSTREAM, "https://replica:50051")]).unwrap().upstreams;
    assert_eq!(upstreams, ["https://replica:50051"]);
    let plain = (UPSTREAM, "http://replica:50051");
    let error = load_sidecar(&[plain]).unwrap_err();
    assert!(
        error.starts_with("--upstream http://replica:50051 must begin with https://"),
        "{error}"
    );
    assert!(load_sidecar(&[plain, (INSECURE, "true")]).is_ok());
    assert!(load_sidecar(&[]).unwrap_err().starts_with("--upstream must be given, such as"));
    for wrong in ["replica:50051", "unix:", "http://", "https://"] {
        let error = load_sidecar(&[(UPSTREAM, wrong)]).unwrap_err();
        assert!(error.starts_with("--upstream must be like https://replica:50051"), "{error}");
    }
    for wrong in ["http://ada:secret@replica", "https://replica/path", "http://a b"] {
        let error = load_sidecar(&[(UPSTREAM, wrong)]).unwrap_err();
        assert!(error.starts_with("--upstream is wrong: "), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn a_sidecar_may_share_the_file_of_a_replica() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("config.toml");
    fs::write(&path, "max_staleness = \"3s\"\nupstream = [\"https://a:1\", \"unix:/b\"]").unwrap();
    let flags = Flags::default().with_file(Some(path));
    assert_eq!(
        SidecarConfig::load(&flags, &|_| None).unwrap().upstreams,
        ["https://a:1", "unix:/b"]
    );
    assert_eq!(Config::load(&flags, &|_| None).unwrap().max_staleness, Duration::from_secs(3));
}
