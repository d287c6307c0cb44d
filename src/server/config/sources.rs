//! Sources of settings, in order of precedence: flags, environment variables, the configuration
//! file, defaults.

use std::{collections::BTreeMap, fmt, fs, path::PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// Looks up an environment variable.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The settings given on the command line.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    config: Option<PathBuf>,
    values: BTreeMap<String, Vec<String>>,
}

/// Every source but the defaults.
#[derive(Default)]
pub struct Sources<'a> {
    flags: Option<&'a Flags>,
    env: Option<Env<'a>>,
    file: Option<File>,
}

struct File {
    path: PathBuf,
    table: Table,
}

/// The text of a setting.
pub(super) struct Found {
    /// The name of the setting at its source, such as `--listen` or `listen in FILE`.
    pub(super) origin: String,
    pub(super) values: Vec<String>,
}

/// An invalid configuration. Each problem names the setting, the value and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.join("; "))]
pub struct ConfigError {
    /// A sentence each; at least one.
    pub problems: Vec<String>,
}

/// The name of a flag.
pub fn flag(name: &str) -> String {
    name.replace('_', "-")
}

/// The name of an environment variable. Unknown variables with this prefix are not rejected:
/// Kubernetes defines some for a service named `support-access`.
pub fn variable(name: &str) -> String {
    format!("SUPPORT_ACCESS_{}", name.to_uppercase())
}

/// The value of `result`. Records an error as a problem.
pub(super) fn take<T>(result: Result<T, String>, problems: &mut Vec<String>) -> Option<T> {
    result.map_err(|problem| problems.push(problem)).ok()
}

// === impl Flags ===

impl Flags {
    /// Names the configuration file. `None`: the variable `SUPPORT_ACCESS_CONFIG` may name it.
    pub fn with_file(mut self, config: Option<PathBuf>) -> Self {
        self.config = config;
        self
    }

    /// Adds the values given for the setting `name`. No values: the flag was not given.
    pub fn with(mut self, name: &str, values: impl IntoIterator<Item = String>) -> Self {
        self.values.entry(name.to_owned()).or_default().extend(values);
        self
    }
}

// === impl Sources ===

impl<'a> Sources<'a> {
    /// Reads the configuration file, if there is one. Every key must be one of `known`.
    pub(super) fn open(
        flags: &'a Flags,
        env: Env<'a>,
        known: &[&str],
        problems: &mut Vec<String>,
    ) -> Self {
        let mut sources = Self { flags: Some(flags), env: Some(env), file: None };
        let path = flags.config.clone().or_else(|| sources.variable("config").map(PathBuf::from));
        sources.file = path.and_then(|path| take(File::read(path), problems));
        if let Some(File { path, table }) = &sources.file {
            for key in table.keys().filter(|key| !known.contains(&key.as_str())) {
                let (path, known) = (path.display(), known.join(", "));
                problems
                    .push(format!("{path} has the unknown key {key:?}; known keys are {known}"));
            }
        }
        sources
    }

    /// The values of the setting `name`. Records problems, and returns the default instead.
    pub(super) fn values<T>(
        &self,
        name: &str,
        is_list: bool,
        default: &str,
        parse: impl Fn(&str) -> Result<T, String>,
        problems: &mut Vec<String>,
    ) -> Vec<T> {
        let found = take(self.find(name, is_list), problems).flatten();
        let given = found.and_then(|Found { origin, values }| {
            if values.is_empty() || values.len() > 1 && !is_list {
                let expected =
                    if is_list { "have at least one value" } else { "be a single value" };
                problems.push(format!("{origin} must {expected}"));
                return None;
            }
            let parse = |text| parse(text).map_err(|error| format!("{origin} {error}"));
            // Every value is parsed, so that every problem is recorded.
            let parsed: Vec<_> = values.iter().map(|text| take(parse(text), problems)).collect();
            parsed.into_iter().collect::<Option<Vec<T>>>()
        });
        let default =
            || Some(default).filter(|text| !text.is_empty()).and_then(|text| parse(text).ok());
        given.unwrap_or_else(|| default().into_iter().collect())
    }

    /// The text of the setting `name` at the source that takes precedence. `None`: no source has
    /// it.
    pub(super) fn find(&self, name: &str, is_list: bool) -> Result<Option<Found>, String> {
        let given = self.flags.and_then(|flags| flags.values.get(name));
        if let Some(values) = given.filter(|values| !values.is_empty()) {
            let origin = format!("--{}", flag(name));
            return Ok(Some(Found { origin, values: values.clone() }));
        }
        if let Some(text) = self.variable(name) {
            let values = if is_list {
                text.split(',').map(|part| part.trim().to_owned()).collect()
            } else {
                vec![text]
            };
            return Ok(Some(Found { origin: variable(name), values }));
        }
        self.file.as_ref().map_or(Ok(None), |file| file.find(name))
    }

    /// Deserializes the keys `names` of the file as the fields of `T`. The error names the file.
    pub(super) fn fields<T: DeserializeOwned>(&self, names: &[&str]) -> Result<Option<T>, String> {
        let Some(file) = &self.file else { return Ok(None) };
        let entries = file.table.iter().filter(|(key, _)| names.contains(&key.as_str()));
        let table: Table = entries.map(|(key, value)| (key.clone(), value.clone())).collect();
        let parsed = T::deserialize(table).map_err(|error| flat(&error));
        parsed.map(Some).map_err(|error| format!("{}: {error}", file.path.display()))
    }

    /// Deserializes the table `name` of the file. The error names the table and the file.
    pub(super) fn table<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, String> {
        let value = self.file.as_ref().and_then(|file| file.table.get(name));
        let Some(value) = value else { return Ok(None) };
        let parsed = T::deserialize(value.clone()).map_err(|error| flat(&error));
        parsed.map(Some).map_err(|error| format!("{}: {error}", self.table_name(name)))
    }

    /// The name of a table in error messages.
    pub(super) fn table_name(&self, name: &str) -> String {
        format!("[{name}] in {}", self.file_name())
    }

    /// The name of the file in error messages.
    pub(super) fn file_name(&self) -> String {
        self.file.as_ref().map(|file| file.path.display().to_string()).unwrap_or_default()
    }

    /// An environment variable. An empty variable counts as unset, because some environments cannot
    /// unset one.
    fn variable(&self, name: &str) -> Option<String> {
        self.env?(&variable(name)).filter(|text| !text.is_empty())
    }
}

impl fmt::Debug for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").field("file", &self.file_name()).finish_non_exhaustive()
    }
}

/// The text of an error, in one line.
fn flat(error: &toml::de::Error) -> String {
    error.to_string().trim().replace('\n', " ")
}

// === impl File ===

impl File {
    fn read(path: PathBuf) -> Result<Self, String> {
        let shown = path.display();
        let text = fs::read_to_string(&path)
            .map_err(|error| format!("cannot read the configuration file {shown}: {error}"))?;
        let table = toml::from_str(&text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = text.bytes().take(start).filter(|byte| *byte == b'\n').count() + 1;
            format!(
                "the configuration file {shown} is not TOML: {}, in line {line}",
                error.message()
            )
        })?;
        Ok(Self { path, table })
    }

    fn find(&self, name: &str) -> Result<Option<Found>, String> {
        let Some(value) = self.table.get(name) else { return Ok(None) };
        let origin = format!("{name} in {}", self.path.display());
        let values: Option<Vec<String>> = match value {
            Value::Array(values) => values.iter().map(to_text).collect(),
            value => to_text(value).map(|text| vec![text]),
        };
        match values {
            Some(values) => Ok(Some(Found { origin, values })),
            None => Err(format!("{origin} must be a string, a number, true or false")),
        }
    }
}

fn to_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Boolean(truth) => Some(truth.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Datetime(_) | Value::Array(_) | Value::Table(_) => None,
    }
}
