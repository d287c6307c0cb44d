//! The settings as text: the reference page, and the effective configuration of a process.

use std::fmt::Write;

use toml::Value;

use super::{
    groups::{Common, Config, SidecarConfig, open},
    sections::EXAMPLE,
    setting::{Kind, Settings},
    sources::{Env, Flags, Found},
    values::DatabaseUrl,
};

const INTRODUCTION: &str = "\
# Configuration

`support-access serve` (a replica) and `support-access sidecar` take their settings from flags,
environment variables and a configuration file, in this order of precedence. The flag `--config` or
the variable `SUPPORT_ACCESS_CONFIG` names the file, which is TOML. A replica and a sidecar may
share a file.

A setting has one name everywhere: `max_staleness` in the file is the flag `--max-staleness` and
the variable `SUPPORT_ACCESS_MAX_STALENESS`. An empty variable counts as unset. For a list,
repeat the flag, or separate the values in the variable by commas. Durations are numbers with units,
such as `90s` or `1h 30m`.

`support-access config check` reports every problem of a configuration, or prints the effective
settings.
";

const SECTIONS_INTRODUCTION: &str = "\
## Tables of the file

These settings have neither a flag nor a variable. The example contains every table with every key,
and defaults where there are any. [permissions.md](permissions.md) describes the roles.
";

/// The page `docs/configuration.md`.
pub fn reference() -> String {
    let mut page = INTRODUCTION.to_owned();
    for (title, settings) in [
        ("Replicas and sidecars", Common::SETTINGS),
        ("Replicas", Config::SETTINGS),
        ("Sidecars", SidecarConfig::SETTINGS),
    ] {
        let _ =
            write!(page, "\n## {title}\n\n| Setting | Default | Description |\n|---|---|---|\n");
        for setting in settings {
            let default = Some(setting.default).filter(|text| !text.is_empty());
            let default = default.map_or("none".into(), |text| format!("`{text}`"));
            let text = setting.paragraphs().collect::<Vec<_>>().join(" ").replace('|', "\\|");
            let _ = writeln!(page, "| `{}` | {default} | {text} |", setting.name);
        }
    }
    let _ = write!(page, "\n{SECTIONS_INTRODUCTION}\n```toml\n{EXAMPLE}```\n");
    page
}

/// The effective settings as a configuration file, with the source of each as a comment. Contains
/// no secrets.
pub fn effective<C: Settings>(config: &C, flags: &Flags, env: Env<'_>) -> String {
    let sources = open(flags, env, &mut Vec::new());
    let mut text = String::new();
    for setting in C::settings() {
        let (name, is_list) = (setting.name, setting.kind == Kind::Many);
        let default = || (!setting.default.is_empty()).then(|| setting.default.to_owned());
        let default = || Some(Found { origin: "default".into(), values: vec![default()?] });
        let found = sources.find(name, is_list).ok().flatten().or_else(default);
        let _ = match found {
            Some(Found { origin, values }) => {
                let mut values = values.iter().map(|text| Value::String(shown(name, text)));
                let value = if is_list {
                    Value::Array(values.collect())
                } else {
                    values.next().unwrap_or(Value::Boolean(true))
                };
                writeln!(text, "{name} = {value}  # {origin}")
            }
            None => writeln!(text, "# {name} is not set"),
        };
    }
    let mut sections = config.sections();
    // The fields of `auth` are keys of the file itself.
    if let Some(Value::Table(auth)) = sections.remove("auth") {
        sections.extend(auth);
    }
    let _ = write!(text, "\n{}", toml::to_string(&sections).unwrap_or_default());
    text
}

/// The text of a value without secrets.
fn shown(name: &str, text: &str) -> String {
    if name != "database_url" {
        return text.to_owned();
    }
    let url = text.parse::<DatabaseUrl>();
    url.map(|url| url.redacted().to_owned()).unwrap_or_default()
}
