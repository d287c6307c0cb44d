//! Values of arguments, and arguments that several commands share.

use std::collections::BTreeMap;

use clap::{Args, Command, ValueEnum};
use prost_types::{Duration, Timestamp};
use uuid::Uuid;

use super::error::{ArgumentNames, CliError};
use crate::{
    api::proto::v1,
    domain::{
        Span,
        time::{self, SpanError},
    },
};

/// An access level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    #[value(alias = "read_only")]
    ReadOnly,
    #[value(alias = "read_write")]
    ReadWrite,
    Admin,
}

/// A kind of agents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Human,
    Ai,
    Service,
}

/// A state of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    Scheduled,
    Active,
    Expired,
    Revoked,
}

/// The length of a list.
#[derive(Debug, Clone, Args)]
pub(crate) struct LimitArgs {
    /// List at most this many, 1 to 1000000
    #[arg(
        long = "limit",
        value_name = "NUMBER",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000)
    )]
    page_size: u32,
}

/// The pages of a list that are still to be read.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    missing: usize,
    token: String,
}

/// A tenant, or the vendor's own history.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct HistoryArgs {
    /// The tenant
    #[arg(value_name = "TENANT")]
    tenant_id: Option<String>,
    /// The vendor's own history: the locks that apply in all tenants
    #[arg(long)]
    vendor: bool,
}

impl HistoryArgs {
    /// The tenant, or `None` for the vendor.
    pub(crate) fn tenant_id(&self) -> Result<Option<String>, CliError> {
        // An empty tenant, such as an unset variable of a script, must not stand for the vendor.
        match self.tenant_id.as_deref() {
            Some("") => Err(CliError::usage("TENANT: must not be empty")),
            tenant_id => Ok(tenant_id.map(Into::into)),
        }
    }
}

impl LimitArgs {
    pub(crate) fn pages(&self) -> Pages {
        let missing = usize::try_from(self.page_size).unwrap_or(usize::MAX);
        Pages { missing, token: String::new() }
    }
}

impl Pages {
    /// The maximum size of a page at the server.
    const SIZE_MAX: usize = 1_000;

    pub(crate) fn size(&self) -> i32 {
        i32::try_from(self.missing.min(Self::SIZE_MAX)).unwrap_or_default()
    }

    pub(crate) fn token(&self) -> String {
        self.token.clone()
    }

    /// Counts a page. Returns false after the last page.
    pub(crate) fn next(&mut self, length: usize, next_page_token: &str) -> bool {
        self.missing = self.missing.saturating_sub(length);
        next_page_token.clone_into(&mut self.token);
        self.missing > 0 && !self.token.is_empty()
    }
}

impl From<Level> for v1::AccessLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::ReadOnly => Self::ReadOnly,
            Level::ReadWrite => Self::ReadWrite,
            Level::Admin => Self::Admin,
        }
    }
}

impl From<Kind> for v1::AgentKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Human => Self::Human,
            Kind::Ai => Self::Ai,
            Kind::Service => Self::Service,
        }
    }
}

impl From<State> for v1::GrantState {
    fn from(state: State) -> Self {
        match state {
            State::Scheduled => Self::Scheduled,
            State::Active => Self::Active,
            State::Expired => Self::Expired,
            State::Revoked => Self::Revoked,
        }
    }
}

/// The names of the arguments `A` by their ids: `--for`, or `TENANT`.
pub(crate) fn names<A: Args>() -> ArgumentNames {
    let command = A::augment_args(Command::new("names"));
    let name = |arg: &clap::Arg| match arg.get_long() {
        Some(long) => format!("--{long}"),
        None => arg.get_value_names().unwrap_or_default().join(" "),
    };
    let names = command.get_arguments().map(|arg| (arg.get_id().to_string(), name(arg)));
    names.collect::<BTreeMap<_, _>>()
}

/// A duration such as `7d` or `1h 30m`.
pub(crate) fn parse_duration(text: &str) -> Result<Span, String> {
    text.parse().map_err(|error: SpanError| error.to_string())
}

/// A duration in a request.
pub(crate) fn to_proto(span: Span) -> Result<Duration, CliError> {
    span.0.try_into().map_err(|_| CliError::usage(format!("{span} is too long")))
}

/// A time in RFC 3339, with optional seconds.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    const EXAMPLE: &str = "write a time such as 2026-12-01T09:00Z";
    let has_clock_time = text.get(10..11).is_some_and(|c| matches!(c, "T" | "t" | " "));
    if !has_clock_time {
        return Err(format!("must have a date, a time of day and a zone; {EXAMPLE}"));
    }
    let zone = text.char_indices().skip(11).find(|(_, c)| matches!(c, 'Z' | 'z' | '+' | '-'));
    let Some((zone, _)) = zone else {
        return Err(format!("must end with Z for UTC, or an offset such as +01:00; {EXAMPLE}"));
    };
    let (local, zone) = text.split_at(zone);
    let seconds = if local.len() == "2026-12-01T09:00".len() { ":00" } else { "" };
    let time = chrono::DateTime::parse_from_rfc3339(&format!("{local}{seconds}{zone}"))
        .map_err(|_| format!("does not exist; {EXAMPLE}"))?;
    let nanos = i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default();
    match time::from_parts(time.timestamp(), nanos) {
        Some(_) => Ok(Timestamp { seconds: time.timestamp(), nanos }),
        None => Err(format!("must have a year from 1 to 9999; {EXAMPLE}")),
    }
}

/// A group and the highest level, such as `support:read-write`. A group may contain a colon.
pub(crate) fn parse_group_override(text: &str) -> Result<v1::GroupOverride, String> {
    const EXAMPLE: &str = "write a group and a level, such as support:read-write";
    let (group_id, level) = text.rsplit_once(':').ok_or(EXAMPLE)?;
    let level = Level::from_str(level, true)
        .map_err(|_| format!("{level:?} is not a level: write read-only, read-write or admin"))?;
    let max_access_level = v1::AccessLevel::from(level).into();
    Ok(v1::GroupOverride { group_id: group_id.into(), max_access_level })
}

/// The option that makes a repeated command safe.
#[derive(Debug, Clone, Args)]
pub(crate) struct RequestArgs {
    /// Makes a repeated command safe: the same id makes one change [default: a new UUID]
    #[arg(long = "request-id", value_name = "ID")]
    request_id: Option<String>,
}

impl RequestArgs {
    pub(crate) fn id(&self) -> String {
        self.request_id.clone().unwrap_or_else(|| Uuid::now_v7().to_string())
    }

    /// Adds to an error how the command can be repeated without a second change.
    pub(crate) fn with_id_in_hint(request_id: &str, error: CliError) -> CliError {
        if !error.is_uncertain() {
            return error;
        }
        error.with_hint(format!(
            "the change may have been made; with --request-id {request_id}, a repeated command \
             makes one change"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_zone_and_may_lack_seconds() {
        let cases = [
            ("2026-12-01T09:00Z", 1_796_115_600, 0),
            ("2026-12-01T09:00:00Z", 1_796_115_600, 0),
            ("2026-12-01 09:00z", 1_796_115_600, 0),
            ("2026-12-01T10:00+01:00", 1_796_115_600, 0),
            ("2026-12-01T04:00:00.25-05:00", 1_796_115_600, 250_000_000),
            ("1969-12-31T23:59:59.5Z", -1, 500_000_000),
        ];
        for (text, seconds, nanos) in cases {
            assert_eq!(parse_time(text), Ok(Timestamp { seconds, nanos }), "{text}");
        }
    }

    #[test]
    fn malformed_times_are_rejected_with_an_example() {
        let cases = [
            ("2026-12-01", "must have a date, a time of day and a zone"),
            ("tomorrow", "must have a date, a time of day and a zone"),
            ("2026-12-01T09:00", "must end with Z"),
            ("2026-12-01T09:00:00", "must end with Z"),
            ("2026-13-01T09:00Z", "does not exist"),
            ("2026-12-01T9:00Z", "does not exist"),
            ("0000-12-01T09:00Z", "must have a year from 1 to 9999"),
            ("2026-12-01Té:00Z", "does not exist"),
            ("日本日本", "must have a date, a time of day and a zone"),
        ];
        for (text, expected) in cases {
            let error = parse_time(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert!(error.ends_with("write a time such as 2026-12-01T09:00Z"), "{text}: {error}");
        }
    }

    #[test]
    fn durations_have_units_of_a_fixed_length() {
        assert_eq!(parse_duration("1d 12h"), Ok(Span::hours(36)));
        assert_eq!(parse_duration("2w"), Ok(Span::days(14)));
        for text in ["", "7", "-1h", "7x", "1M", "30M", "1month", "1y", "1H", "1D"] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.contains("the units are w, d, h, m, s"), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_group_override_has_a_group_and_a_level() {
        let group = parse_group_override("a:b:READ_WRITE").unwrap();
        assert_eq!(
            (group.group_id.as_str(), group.max_access_level()),
            ("a:b", v1::AccessLevel::ReadWrite)
        );
        assert!(parse_group_override("support").is_err());
        assert!(parse_group_override("support:all").is_err());
    }

    #[test]
    fn pages_end_with_the_limit_or_the_list() {
        let mut pages = LimitArgs { page_size: 1_500 }.pages();
        assert_eq!(pages.size(), 1_000);
        assert!(pages.next(1_000, "a"));
        assert_eq!((pages.size(), pages.token().as_str()), (500, "a"));
        assert!(!pages.next(500, "b"), "the limit is reached");
        let mut pages = LimitArgs { page_size: 1_500 }.pages();
        assert!(!pages.next(3, ""), "the list has ended");
    }
}
