//! Configuration: sources, defaults and errors.

mod documents;
mod security;

use std::{collections::BTreeMap, fs, time::Duration};

use support_access::{
    domain::{AccessLevel, Span, chain::CheckpointKey},
    server::config::{
        Common, Config, ConfigError, DatabaseConfig, EXAMPLE, Env, Flags, HealthConfig,
        ListenAddress, Settings, SidecarConfig, effective, load, open, reference, variable,
    },
};
use tempfile::TempDir;

/// The settings of a test, by source.
#[derive(Default)]
struct Given<'a> {
    flags: Vec<(&'a str, &'a str)>,
    env: Vec<(&'a str, &'a str)>,
    file: Option<&'a str>,
}

impl Given<'_> {
    /// Calls `read` with flags and environment. Errors contain `FILE` instead of the path of the
    /// file.
    fn with<T>(
        &self,
        read: impl Fn(&Flags, Env<'_>) -> Result<T, ConfigError>,
    ) -> Result<T, Vec<String>> {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("config.toml");
        let mut flags = Flags::default();
        if let Some(text) = self.file {
            fs::write(&path, text).unwrap();
            flags = flags.with_file(Some(path.clone()));
        }
        for (name, value) in &self.flags {
            flags = flags.with(name, [(*value).to_owned()]);
        }
        let env: BTreeMap<&str, &str> = self.env.iter().copied().collect();
        let result = read(&flags, &|name| env.get(name).map(|value| (*value).to_owned()));
        let path = path.to_string_lossy();
        result.map_err(|error| {
            error.problems.iter().map(|problem| problem.replace(&*path, "FILE")).collect()
        })
    }

    fn load<C: Settings>(&self) -> Result<C, Vec<String>> {
        self.with(load)
    }

    /// Reads the settings without checking their combinations.
    fn read<C: Settings>(&self) -> C {
        let read = self.with(|flags, env| {
            let mut problems = Vec::new();
            let config = C::read(&open(flags, env, &mut problems), &mut problems);
            if problems.is_empty() { Ok(config) } else { Err(ConfigError { problems }) }
        });
        read.unwrap()
    }
}

fn load_file(text: &str) -> Result<Config, Vec<String>> {
    Given { file: Some(text), ..Given::default() }.load()
}

fn load_flags<C: Settings>(flags: &[(&str, &str)]) -> Result<C, Vec<String>> {
    Given { flags: flags.to_vec(), ..Given::default() }.load()
}

fn problem_of(name: &str, value: &str) -> String {
    let mut problems = load_flags::<Config>(&[(name, value)]).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

/// Three values of a setting. The first differs from the default.
fn values_of(name: &str, dir: &TempDir) -> [String; 3] {
    let values = match name {
        "listen" | "web_listen" | "metrics_listen" => ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"],
        "drain_timeout" | "max_staleness" | "verify_interval" => ["3s", "4s", "5s"],
        "socket_mode" => ["0600", "0666", "0770"],
        "insecure" => ["true", "false", "true"],
        "reflection" => ["false", "true", "false"],
        "log" => ["warn", "error", "debug"],
        "log_format" => ["text", "json", "auto"],
        "otlp_endpoint" => ["http://a:1", "https://b:2", "http://c"],
        "trace_ratio" => ["0.5", "0", "1"],
        "database_url" => ["sqlite:a", "memory:", "postgres://c"],
        "max_live_grants_per_tenant" | "max_live_grants_per_group" => ["3", "4", "5"],
        "upstream" => ["https://a", "https://b", "unix:/c"],
        "checkpoint_key" => {
            return ["a", "b", "c"].map(|name| write_key(dir, name));
        }
        _ => ["a", "b", "c"],
    };
    values.map(str::to_owned)
}

fn write_key(dir: &TempDir, name: &str) -> String {
    let path = dir.path().join(name);
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    fs::write(&path, pair.serialize_pem()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn assert_precedence<C: Settings + Default + PartialEq + std::fmt::Debug>() {
    let dir = TempDir::new().unwrap();
    for setting in C::settings() {
        let name = setting.name;
        let values = values_of(name, &dir);
        let [in_file, in_env, in_flag] = values.each_ref().map(String::as_str);
        let expected = |value| Given { flags: vec![(name, value)], ..Given::default() }.read::<C>();
        let (line, variable) = (format!("{name} = {in_file:?}"), variable(name));
        let file = Some(line.as_str());
        let env = vec![(variable.as_str(), in_env)];
        let read = |given: Given<'_>| given.read::<C>();
        assert_ne!(expected(in_file), C::default(), "{name}");
        assert_eq!(read(Given { file, ..Given::default() }), expected(in_file), "{name}");
        let with_env = Given { file, env: env.clone(), ..Given::default() };
        assert_eq!(read(with_env), expected(in_env), "{name}");
        let with_flag = Given { file, env, flags: vec![(name, in_flag)] };
        assert_eq!(read(with_flag), expected(in_flag), "{name}");
    }
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    assert_precedence::<Config>();
    assert_precedence::<SidecarConfig>();
}

#[test]
fn settings_that_are_not_given_have_their_defaults() {
    assert_eq!(Given::default().load(), Ok(Config::default()));
    assert_eq!(load_file(""), Ok(Config::default()));
    let env = vec![("SUPPORT_ACCESS_LISTEN", ""), ("SUPPORT_ACCESS_CONFIG", "")];
    assert_eq!(Given { env, ..Given::default() }.load(), Ok(Config::default()));
}

#[test]
fn every_default_is_read() {
    // `Common::auth` has three optional sections, `[authzen]` an optional URL and a list, and an
    // entry of `[[policy.agent_kinds]]` an optional level. At sidecars, `web_listen` is `off`.
    for (settings, config, other) in [
        (Config::settings(), format!("{:?}", Config::default()), 6),
        (SidecarConfig::settings(), format!("{:?}", SidecarConfig::default()), 6),
    ] {
        let unset = settings.iter().filter(|setting| setting.default.is_empty()).count();
        let empty = config.matches(": None").count() + config.matches(": []").count();
        assert_eq!(empty, unset + other, "{config}");
    }
}

#[test]
fn the_environment_can_name_the_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("c.toml");
    fs::write(&path, "max_staleness = '7s'").unwrap();
    let env = vec![("SUPPORT_ACCESS_CONFIG", path.to_str().unwrap())];
    let config: Config = Given { env, ..Given::default() }.load().unwrap();
    assert_eq!(config.max_staleness, Duration::from_secs(7));
}

#[test]
fn lists_are_repeated_flags_or_separated_by_commas() {
    let expected = vec![
        ListenAddress::Tcp("127.0.0.1:1".parse().unwrap()),
        ListenAddress::Unix("/run/access.sock".into()),
    ];
    let flags = [("listen", "127.0.0.1:1"), ("listen", "unix:/run/access.sock")];
    assert_eq!(load_flags::<Config>(&flags).unwrap().common.listen, expected);
    let env = vec![("SUPPORT_ACCESS_LISTEN", "127.0.0.1:1, unix:/run/access.sock")];
    let config: Config = Given { env, ..Given::default() }.load().unwrap();
    assert_eq!(config.common.listen, expected);
}

#[test]
fn listen_addresses_are_parsed_and_displayed() {
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
fn invalid_values_are_rejected_with_the_valid_ones() {
    let duration = "must be a duration from 200ms to 5m, such as 2s, but is";
    let cases = [
        ("max_staleness", "199ms", &*format!("{duration} \"199ms\"")),
        ("max_staleness", "301s", &*format!("{duration} \"301s\"")),
        ("max_staleness", "2", &*format!("{duration} \"2\"")),
        ("verify_interval", "0s", "must be a duration from 1s to 30d, such as 2s, but is \"0s\""),
        ("drain_timeout", "2h", "must be a duration from 0s to 1h, such as 2s, but is \"2h\""),
        ("listen", "x", "must be like 127.0.0.1:50051, [::1]:50051 or unix:/path, but is \"x\""),
        ("listen", "unix:", "must name a path, such as unix:/run/access.sock, but is \"unix:\""),
        (
            "web_listen",
            "on",
            "must be like 127.0.0.1:50051, [::1]:50051 or unix:/path, but is \"on\"; use off to \
             serve no web listener",
        ),
        (
            "metrics_listen",
            "unix:/a",
            "must be an IP address and a port, such as 127.0.0.1:9464, but is \"unix:/a\"",
        ),
        ("insecure", "yes", "must be true or false, but is \"yes\""),
        ("log", "a=b=c", "must be like info or warn,support_access=debug, but is \"a=b=c\""),
        ("trace_ratio", "1.1", "must be a number from 0 to 1, such as 0.01, but is \"1.1\""),
        (
            "otlp_endpoint",
            "http://me:secret@collector:4317",
            "must be the URL of a collector of OTLP over gRPC, such as http://127.0.0.1:4317, \
             without a path or a password",
        ),
        ("log_format", "xml", "must be auto, text or json, but is \"xml\""),
        (
            "max_live_grants_per_tenant",
            "10001",
            "must be a whole number from 1 to 10000, but is \"10001\"",
        ),
        (
            "database_url",
            "mysql://root:secret@db",
            "must start with sqlite:, postgres: or memory:, such as sqlite://support-access.db, \
             but starts with \"mysql\"",
        ),
    ];
    for (name, value, expected) in cases {
        let flag = name.replace('_', "-");
        assert_eq!(problem_of(name, value), format!("--{flag} {expected}"));
    }
    let env = vec![("SUPPORT_ACCESS_LOG_FORMAT", "xml")];
    let problems = Given { env, ..Given::default() }.load::<Config>().unwrap_err();
    assert_eq!(problems, ["SUPPORT_ACCESS_LOG_FORMAT must be auto, text or json, but is \"xml\""]);
}

#[test]
fn every_problem_is_reported() {
    let given = Given {
        flags: vec![("listen", "a"), ("listen", "b"), ("socket_mode", "999")],
        env: vec![("SUPPORT_ACCESS_LOG_FORMAT", "xml")],
        file: Some(
            "max_staleness = 3\ntrace_ratio = 1.5\nlog = []\nfoo = 1\nbar = 2\n\
             [limits]\nconnections = 0\ncalls_per_caller = 0\n[policy]\nmax_duration = 5",
        ),
    };
    let problems = given.load::<Config>().unwrap_err();
    let starts = [
        "FILE has the unknown key \"bar\"",
        "FILE has the unknown key \"foo\"",
        "max_staleness in FILE must be a duration",
        "--listen must be like",
        "--listen must be like",
        "--socket-mode must be permission bits",
        "log in FILE must be a single value",
        "SUPPORT_ACCESS_LOG_FORMAT must be auto",
        "trace_ratio in FILE must be a number from 0 to 1, such as 0.01, but is \"1.5\"",
        "[limits] in FILE: connections must be at least 1",
        "[limits] in FILE: calls_per_caller must be at least 1",
        "[policy] in FILE: invalid type: integer `5`",
    ];
    assert_eq!(problems.len(), starts.len(), "{problems:#?}");
    for (problem, start) in problems.iter().zip(starts) {
        assert!(problem.starts_with(start), "{problem}");
    }
}

#[test]
fn problems_of_a_file_name_the_key_and_the_file() {
    let cases = [
        (
            "max-staleness = '2s'",
            "FILE has the unknown key \"max-staleness\"; known keys are listen, ",
        ),
        ("log = ['info', 'warn']", "log in FILE must be a single value"),
        ("log = 2026-12-01", "log in FILE must be a string, a number, true or false"),
        ("listen = []", "listen in FILE must have at least one value"),
        (
            "log = 'info'\nlog = 'warn'",
            "the configuration file FILE is not TOML: duplicate key, in line 2",
        ),
        ("[policy]\nlongest = '1d'", "[policy] in FILE: unknown field `longest`, expected one of"),
        (
            "[policy]\nmax_duration = '1d'\npreset_durations = ['1h']",
            "[policy] in FILE: default_duration must be positive and at most max_duration",
        ),
        ("limits = { calls = 1 }", "[limits] in FILE: unknown field `calls`"),
    ];
    for (text, expected) in cases {
        let problems = load_file(text).unwrap_err();
        let [problem] = problems.as_slice() else { panic!("{problems:?}") };
        assert!(problem.starts_with(expected), "{problem}");
    }
    let flags = Flags::default().with_file(Some("no/such.toml".into()));
    let error = load::<Config>(&flags, &|_| None).unwrap_err().to_string();
    let expected =
        "cannot read the configuration file no/such.toml: No such file or directory (os error 2)";
    assert_eq!(error, expected);
}

#[test]
fn the_policy_comes_from_the_file() {
    let text = r#"
        [policy]
        max_duration = "30d"
        preset_durations = ["1h", "7d"]
        until_revoked_allowed = false

        [[policy.groups]]
        group_id = "tier-1"
        max_access_level = "READ_WRITE"
    "#;
    let policy = load_file(text).unwrap().policy;
    let [group] = policy.groups.as_slice() else { panic!("{policy:?}") };
    assert_eq!(
        (group.group_id.as_str(), group.max_access_level),
        ("tier-1", AccessLevel::ReadWrite)
    );
    assert_eq!(policy.max_duration, Span::days(30));
    assert_eq!(policy.default_duration, Span::days(7), "an absent key has its default");
    assert!(!policy.until_revoked_allowed);
}

#[test]
fn a_migration_and_a_health_check_read_a_single_setting() {
    let file = "database_url = 'memory:'\nmetrics_listen = '127.0.0.1:1'\nmax_staleness = '1ms'";
    let given = Given { file: Some(file), ..Given::default() };
    assert_eq!(given.load::<DatabaseConfig>().unwrap().database_url.as_str(), "memory:");
    let address = given.load::<HealthConfig>().unwrap().metrics_listen;
    assert_eq!(address, "127.0.0.1:1".parse().unwrap());
    assert!(given.load::<Config>().is_err());
}

#[test]
fn a_replica_and_a_sidecar_may_share_a_file() {
    let file = Some("max_staleness = \"3s\"\nupstream = [\"https://a:1\", \"unix:/b\"]");
    let given = Given { file, ..Given::default() };
    assert_eq!(given.load::<SidecarConfig>().unwrap().upstream, ["https://a:1", "unix:/b"]);
    assert_eq!(given.load::<Config>().unwrap().max_staleness, Duration::from_secs(3));
}

#[test]
fn a_sidecar_needs_a_valid_upstream() {
    let load = |flags: &[(&str, &str)]| load_flags::<SidecarConfig>(flags);
    let problem = |flags: &[(&str, &str)]| load(flags).unwrap_err().join("\n");
    assert_eq!(load(&[("upstream", "https://a:1")]).unwrap().upstream, ["https://a:1"]);
    let plain = ("upstream", "http://replica:50051");
    let expected = "--upstream http://replica:50051 must start with https://";
    assert!(problem(&[plain]).starts_with(expected));
    assert!(load(&[plain, ("insecure", "true")]).is_ok());
    assert!(problem(&[]).starts_with("--upstream must be given, such as"));
    for text in ["replica:50051", "unix:", "http://", "https://"] {
        let problem = problem(&[("upstream", text)]);
        assert!(problem.starts_with("--upstream must be like https://replica:50051"), "{problem}");
    }
    for text in ["http://ada:secret@replica", "https://replica/path", "http://a b"] {
        let problem = problem(&[("upstream", text)]);
        assert!(problem.starts_with("--upstream is not a valid URL: "), "{problem}");
        assert!(!problem.contains("secret"), "{problem}");
    }
}

#[test]
fn invalid_checkpoint_keys_are_rejected_and_not_shown() {
    let dir = TempDir::new().unwrap();
    let path = write_key(&dir, "key");
    let pem = fs::read_to_string(&path).unwrap();
    let config: Config = load_flags(&[("checkpoint_key", &path)]).unwrap();
    let der = rcgen::KeyPair::from_pem(&pem).unwrap().serialize_der();
    assert_eq!(config.checkpoint_key, Some(CheckpointKey::from_pkcs8(&der).unwrap()));
    let debug = format!("{config:?}");
    assert!(pem.lines().all(|line| !debug.contains(line)), "{debug}");

    let missing = problem_of("checkpoint_key", "no-such-file");
    let expected = "--checkpoint-key must name a key file, but no-such-file cannot be read: ";
    assert!(missing.starts_with(expected), "{missing}");
    let ecdsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    for text in
        [ecdsa.serialize_pem(), pem.replace("PRIVATE", "PUBLIC"), pem[..70].into(), "s3cret".into()]
    {
        fs::write(&path, &text).unwrap();
        let expected = format!(
            "--checkpoint-key must hold an Ed25519 key in PKCS#8 PEM without a password, as \
             `openssl genpkey -algorithm ed25519` writes it, but {path} does not"
        );
        assert_eq!(problem_of("checkpoint_key", &path), expected);
    }
}
