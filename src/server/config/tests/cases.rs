//! What every setting may be.

use super::*;

/// A setting: its line in a file; its default, and its value in the file, in the environment and as a flag; and how to read it back.
pub(super) type Case = (&'static str, &'static str, [&'static str; 4], fn(&Config) -> String);

fn of_addresses() -> Vec<Case> {
    vec![
        (
            LISTEN,
            r#"listen = ["127.0.0.1:1"]"#,
            ["127.0.0.1:50051", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"],
            |config| {
                config.common.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            },
        ),
        (
            METRICS_LISTEN,
            r#"metrics_listen = "127.0.0.1:1""#,
            ["127.0.0.1:9464", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"],
            |config| config.common.metrics_listen.to_string(),
        ),
        (
            DATABASE_URL,
            r#"database_url = "sqlite:file""#,
            ["sqlite://support-access.db", "sqlite:file", "sqlite:env", "sqlite:flag"],
            |config| config.database_url.clone(),
        ),
        (MAX_STALENESS, r#"max_staleness = "3s""#, ["2s", "3s", "4s", "5s"], |config| {
            Span(config.max_staleness).to_string()
        }),
    ]
}

/// Every setting.
pub(super) fn all() -> Vec<Case> {
    let others: [Case; 10] = [
        (DRAIN_TIMEOUT, r#"drain_timeout = "3s""#, ["10s", "3s", "4s", "5s"], |config| {
            Span(config.common.drain_timeout).to_string()
        }),
        (INSECURE, "insecure = true", ["false", "true", "false", "true"], |config| {
            config.common.security.insecure.to_string()
        }),
        (REFLECTION, "reflection = false", ["true", "false", "true", "false"], |config| {
            config.common.security.reflection.to_string()
        }),
        (SOCKET_MODE, r#"socket_mode = "0600""#, ["660", "600", "666", "770"], |config| {
            format!("{:o}", config.common.security.socket_mode)
        }),
        (LOG, r#"log = "warn""#, ["info", "warn", "error", "debug"], |config| {
            config.common.log.clone()
        }),
        (LOG_FORMAT, r#"log_format = "text""#, ["auto", "text", "json", "auto"], |config| {
            format!("{:?}", config.common.log_format).to_lowercase()
        }),
        (
            OTLP_ENDPOINT,
            r#"otlp_endpoint = "http://a:1""#,
            ["", "http://a:1", "https://b:2", "http://c"],
            |config| config.common.otlp_endpoint.clone().unwrap_or_default(),
        ),
        (TRACE_RATIO, r#"trace_ratio = "0.5""#, ["0.01", "0.5", "0", "1"], |config| {
            (f64::from(config.common.trace_ratio.0) / 1e6).to_string()
        }),
        (
            MAX_LIVE_GRANTS_PER_TENANT,
            "max_live_grants_per_tenant = 3",
            ["10000", "3", "4", "5"],
            |config| config.max_live_grants_per_tenant.to_string(),
        ),
        (VERIFY_INTERVAL, r#"verify_interval = "3s""#, ["1h", "3s", "4s", "5s"], |config| {
            Span(config.verify_interval).to_string()
        }),
    ];
    of_addresses().into_iter().chain(others).collect()
}
