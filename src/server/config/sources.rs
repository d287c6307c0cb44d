//! Where settings are looked for: flags, then the environment, then the file.

use std::{collections::BTreeMap, fs, path::PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::{COMMON, CallLimits, ConfigError, LISTEN, OF_REPLICA, OF_SIDECAR, UPSTREAM};
use crate::{auth::bindings::AuthConfig, domain::SupportPolicy};

const POLICY: &str = "policy";
const LIMITS: &str = "limits";
/// What makes up [`AuthConfig`].
const AUTH: [&str; 4] = ["certificates", "users", "issuers", "trust_portal_assertion"];

/// Looks up a variable of the environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A value, or the rest of a sentence that begins with the name of the setting.
pub(super) type Parsed<T> = Result<T, String>;

/// What was given on the command line, as it was written there.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    config: Option<PathBuf>,
    values: BTreeMap<&'static str, Vec<String>>,
}

/// The three places, in the order in which they are asked.
pub(super) struct Sources<'a> {
    flags: &'a Flags,
    env: Env<'a>,
    file: Option<File>,
}

struct File {
    path: PathBuf,
    table: Table,
}

/// The text of a setting.
struct Found {
    /// Its name where it stands.
    origin: String,
    values: Vec<String>,
}

// === impl Flags ===

impl Flags {
    /// The file to read, if one was named.
    pub fn with_file(mut self, config: Option<PathBuf>) -> Self {
        self.config = config;
        self
    }

    /// The values given for the setting `name`; none: it was not given.
    pub fn with(mut self, name: &'static str, values: impl IntoIterator<Item = String>) -> Self {
        self.values.insert(name, values.into_iter().collect());
        self
    }
}

// === impl Sources ===

impl<'a> Sources<'a> {
    pub(super) fn open(flags: &'a Flags, env: Env<'a>) -> Result<Self, ConfigError> {
        let named = flags.config.clone().or_else(|| get(env, "config").map(PathBuf::from));
        Ok(Self { flags, env, file: named.map(File::read).transpose()? })
    }

    /// The setting `name`, which has one value.
    pub(super) fn read<T>(
        &self,
        name: &'static str,
        default: T,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Result<T, ConfigError> {
        let Some(Found { origin, values }) = self.find(name)? else { return Ok(default) };
        let [value] = values.as_slice() else {
            return Err(ConfigError(format!("{origin} must be a single value, but is a list")));
        };
        parse(value).map_err(|found| ConfigError(format!("{origin} {found}")))
    }

    /// The setting `name`, which has one or more values.
    pub(super) fn read_all<T>(
        &self,
        name: &'static str,
        default: Vec<T>,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Result<Vec<T>, ConfigError> {
        let Some(Found { origin, values }) = self.find(name)? else { return Ok(default) };
        if values.is_empty() {
            return Err(ConfigError(format!("{origin} must have at least one value")));
        }
        let parse = |value| parse(value).map_err(|found| ConfigError(format!("{origin} {found}")));
        values.iter().map(String::as_str).map(parse).collect()
    }

    /// The vendor's catalogue, which only a file can hold.
    pub(super) fn policy(&self) -> Result<Option<SupportPolicy>, ConfigError> {
        self.file.as_ref().map_or(Ok(None), File::policy)
    }

    /// Who may call, as what, which only a file can hold.
    pub(super) fn auth(&self) -> Result<AuthConfig, ConfigError> {
        self.file.as_ref().map_or(Ok(AuthConfig::default()), File::auth)
    }

    /// How much callers may use, which only a file can hold.
    pub(super) fn limits(&self) -> Result<CallLimits, ConfigError> {
        self.file.as_ref().map_or(Ok(CallLimits::default()), File::limits)
    }

    fn find(&self, name: &'static str) -> Result<Option<Found>, ConfigError> {
        if let Some(values) = self.flags.values.get(name).filter(|values| !values.is_empty()) {
            return Ok(Some(Found { origin: format!("--{name}"), values: values.clone() }));
        }
        if let Some(text) = get(self.env, name) {
            let values = match name {
                LISTEN | UPSTREAM => text.split(',').map(|part| part.trim().to_owned()).collect(),
                _ => vec![text],
            };
            return Ok(Some(Found { origin: variable(name), values }));
        }
        self.file.as_ref().map_or(Ok(None), |file| file.find(name))
    }
}

/// The variable that holds the setting `name`. Others that begin alike are not refused: Kubernetes sets some of its own
/// for a service called `support-access`.
fn variable(name: &str) -> String {
    format!("SUPPORT_ACCESS_{}", name.replace('-', "_").to_uppercase())
}

/// An empty variable is one that is not set: it cannot be unset everywhere.
fn get(env: Env<'_>, name: &str) -> Option<String> {
    env(&variable(name)).filter(|text| !text.is_empty())
}

// === impl File ===

impl File {
    fn read(path: PathBuf) -> Result<Self, ConfigError> {
        let shown = path.display();
        let text = fs::read_to_string(&path).map_err(|error| {
            ConfigError(format!("the configuration file {shown} cannot be read: {error}"))
        })?;
        let table: Table = toml::from_str(&text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
            let found = error.message();
            ConfigError(format!(
                "the configuration file {shown} is not TOML: {found}, in line {line}"
            ))
        })?;
        // One file may serve replicas and sidecars.
        let settings = || COMMON.iter().chain(&OF_REPLICA).chain(&OF_SIDECAR);
        let is_known = |key: &str| {
            [POLICY, LIMITS].contains(&key)
                || AUTH.contains(&key)
                || settings().any(|name| to_key(name) == key)
        };
        if let Some(unknown) = table.keys().find(|key| !is_known(key)) {
            let known = settings().map(|name| to_key(name)).collect::<Vec<_>>().join(", ");
            let tables = AUTH.join(", ");
            return Err(ConfigError(format!(
                "the configuration file {shown} has the unknown key {unknown:?}; known are {known}, {tables}, {LIMITS} and {POLICY}"
            )));
        }
        Ok(Self { path, table })
    }

    fn find(&self, name: &str) -> Result<Option<Found>, ConfigError> {
        let key = to_key(name);
        let origin = format!("{key} in {}", self.path.display());
        let texts = match self.table.get(&key) {
            None => return Ok(None),
            Some(Value::Array(values)) => values.iter().map(to_text).collect(),
            Some(value) => to_text(value).map(|text| vec![text]),
        };
        match texts {
            Some(values) => Ok(Some(Found { origin, values })),
            None => {
                Err(ConfigError(format!("{origin} must be a text, a whole number, true or false")))
            }
        }
    }

    fn auth(&self) -> Result<AuthConfig, ConfigError> {
        let own = |(key, value): (&String, &Value)| {
            AUTH.contains(&key.as_str()).then(|| (key.clone(), value.clone()))
        };
        let table: Table = self.table.iter().filter_map(own).collect();
        let refuse = |found: String| {
            let found = found.trim().replace('\n', " ");
            ConfigError(format!("{} says of callers what cannot be: {found}", self.path.display()))
        };
        let auth = AuthConfig::deserialize(table).map_err(|error| refuse(error.to_string()))?;
        auth.check().map_err(refuse)?;
        Ok(auth)
    }

    fn limits(&self) -> Result<CallLimits, ConfigError> {
        let Some(value) = self.table.get(LIMITS) else { return Ok(CallLimits::default()) };
        let refuse = |found: String| {
            let found = found.trim().replace('\n', " ");
            ConfigError(format!("[{LIMITS}] in {} is not right: {found}", self.path.display()))
        };
        let limits = CallLimits::deserialize(value.clone());
        let limits = limits.map_err(|error| refuse(error.to_string()))?;
        limits.check().map_err(refuse)?;
        Ok(limits)
    }

    fn policy(&self) -> Result<Option<SupportPolicy>, ConfigError> {
        let Some(value) = self.table.get(POLICY) else { return Ok(None) };
        let shown = self.path.display();
        let policy = SupportPolicy::deserialize(value.clone()).map_err(|error| {
            let found = error.to_string().trim().replace('\n', " ");
            ConfigError(format!("[{POLICY}] in {shown} is not a support policy: {found}"))
        })?;
        policy.check().map_err(|violations| {
            let found = violations.as_slice().iter();
            let found = found.map(|one| format!("{} {}", one.field, one.description));
            let found = found.collect::<Vec<_>>().join("; ");
            ConfigError(format!("[{POLICY}] in {shown} is not a support policy: {found}"))
        })?;
        Ok(Some(policy))
    }
}

/// The name of a setting as files write it.
fn to_key(name: &str) -> String {
    name.replace('-', "_")
}

fn to_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(truth) => Some(truth.to_string()),
        Value::Float(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}
