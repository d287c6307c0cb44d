//! The configuration as text: the reference page, the example and the effective settings.

use serde::de::DeserializeOwned;
use support_access::{
    api::{
        integrations::config::{IntegrationConfig, MappingConfig},
        web::authzen::config::AuthZenConfig,
    },
    auth::bindings::AuthConfig,
    domain::SupportPolicy,
    server::config::CallLimits,
};

use super::*;

/// After a change of the tables: `UPDATE_DOCS=1 cargo nextest run the_reference_page`.
#[test]
fn the_reference_page_is_generated_from_the_tables() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, reference()).unwrap();
    }
    let page = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(page, reference(), "run this test with UPDATE_DOCS=1");
}

#[test]
fn the_example_is_valid_and_has_the_defaults() {
    let example = load_file(EXAMPLE).unwrap();
    let default = Config::default();
    assert_eq!(example.common.limits, default.common.limits);
    assert_eq!(example.max_staleness, default.max_staleness);
    assert_eq!(example.common.auth.issuers().count(), 1);
    assert_eq!(example.policy.agent_kinds.len(), 2);
    let SupportPolicy { groups, agent_kinds, .. } = default.policy.clone();
    let policy = SupportPolicy { groups, agent_kinds, ..example.policy };
    assert_eq!(policy, default.policy);
}

/// The fields of a section, from the error about an unknown one.
fn fields<T: DeserializeOwned>(text: &str) -> Vec<String> {
    let error = toml::from_str::<T>(text).err().map(|error| error.message().to_owned()).unwrap();
    let (_, fields) = error.split_once("expected one of ").unwrap_or_else(|| panic!("{error}"));
    fields.split(", ").map(|field| field.trim_matches('`').to_owned()).collect()
}

#[test]
fn the_example_contains_every_key_of_every_section() {
    let issuer = "[[issuers]]\nunknown = 1";
    let group = "[[groups]]\nunknown = 1";
    let kind = "[[agent_kinds]]\nunknown = 1";
    let all = [
        fields::<AuthConfig>("unknown = 1"),
        fields::<AuthConfig>(issuer),
        fields::<AuthZenConfig>("unknown = 1"),
        fields::<CallLimits>("unknown = 1"),
        fields::<IntegrationConfig>("unknown = 1"),
        fields::<MappingConfig>("unknown = 1"),
        fields::<SupportPolicy>("unknown = 1"),
        fields::<SupportPolicy>(group),
        fields::<SupportPolicy>(kind),
    ];
    for field in all.iter().flatten() {
        let is_key = |line: &str| line.starts_with(&format!("{field} ="));
        let is_table = |line: &str| line.contains(&format!("{field}]"));
        assert!(EXAMPLE.lines().any(|line| is_key(line) || is_table(line)), "{field}");
    }
}

#[test]
fn the_effective_settings_are_a_configuration_file() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("config.toml");
    let text = format!(
        "log = 'warn'\ncheckpoint_key = '{}'\n[policy]\nmax_duration = '30d'\n{}",
        write_key(&dir, "key"),
        "[limits]\nconnections = 7\n[[issuers]]\nissuer = 'a'\naudience = 'b'\nkeys = 'c'\n\
         roles = { operator = ['d'] }",
    );
    fs::write(&file, text).unwrap();
    let flags = Flags::default().with_file(Some(file.clone()));
    let flags = flags.with("drain_timeout", ["3s".into()]).with("insecure", ["true".into()]);
    let env = |name: &str| (name == "SUPPORT_ACCESS_LISTEN").then(|| "unix:/a,unix:/b".to_owned());
    let config: Config = load(&flags, &env).unwrap();
    let shown = effective(&config, &flags, &env);
    for line in [
        "listen = [\"unix:/a\", \"unix:/b\"]  # SUPPORT_ACCESS_LISTEN",
        "drain_timeout = \"3s\"  # --drain-timeout",
        &format!("log = \"warn\"  # log in {}", file.display()),
        "max_staleness = \"2s\"  # default",
        "# tls_key is not set",
    ] {
        assert!(shown.lines().any(|shown| shown == line), "{line:?} is not in:\n{shown}");
    }
    assert_eq!(load_file(&shown), Ok(config));
}

#[test]
fn passwords_are_not_shown() {
    for (url, expected) in [
        ("postgres://me:secret@db/x", "postgres"),
        ("postgresql://db/x?password=secret", "postgresql"),
        ("sqlite://a/b.db", "sqlite://a/b.db"),
        ("memory:", "memory:"),
    ] {
        let flags = Flags::default().with("database_url", [url.to_owned()]);
        let config: Config = load(&flags, &|_| None).unwrap();
        assert_eq!(config.database_url.redacted(), expected, "{url}");
        assert!(!format!("{config:?}").contains("secret"), "{config:?}");
        let shown = effective(&config, &flags, &|_| None);
        let line = format!("database_url = {expected:?}  # --database-url");
        assert!(shown.lines().any(|shown| shown == line), "{shown}");
    }
}
