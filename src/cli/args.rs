//! Values of arguments, and arguments that several commands share.

use std::collections::BTreeMap;

use clap::{Args, Command, ValueEnum, builder::PossibleValue};
use prost_types::{Duration, Timestamp};
use uuid::Uuid;

use super::{
    error::{ArgumentNames, CliError},
    view::short,
};
use crate::{
    api::proto::v1,
    domain::{
        Span,
        time::{self, SpanError},
    },
};

/// The maximum size of a page at the server.
const PAGE_SIZE_MAX: usize = 1_000;

/// Accepts enums of the API as argument values. `READ_WRITE` is written `read-write` or
/// `read_write`.
macro_rules! value_enums {
    ($($Enum:ident, $prefix:literal: $($Variant:ident),*;)*) => { $(
        impl ValueEnum for v1::$Enum {
            fn value_variants<'a>() -> &'a [Self] {
                &[$(Self::$Variant),*]
            }

            fn to_possible_value(&self) -> Option<PossibleValue> {
                let name = short(self.as_str_name(), $prefix).to_lowercase();
                Some(PossibleValue::new(name.replace('_', "-")).alias(name))
            }
        }
    )* };
}

value_enums! {
    AccessLevel, "ACCESS_LEVEL_": ReadOnly, ReadWrite, Admin;
    AgentKind, "AGENT_KIND_": Human, Ai, Service;
    GrantState, "GRANT_STATE_": Scheduled, Active, Expired, Revoked;
}

/// The maximum length of a list.
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
        // An empty tenant, such as from an unset variable of a script, must not mean the vendor.
        match self.tenant_id.as_deref() {
            Some("") => Err(CliError::usage(
                "TENANT: must not be empty; name a tenant, or use --vendor for the vendor",
            )),
            tenant_id => Ok(tenant_id.map(Into::into)),
        }
    }
}

impl LimitArgs {
    /// Reads pages until the limit or the end of the list. `read_page` takes the size and the token
    /// of a page, and returns the items and the token of the next page. Returns all items, and the
    /// token of the rest of the list.
    pub(crate) async fn read<T>(
        &self,
        read_page: impl AsyncFn(i32, String) -> Result<(Vec<T>, String), CliError>,
    ) -> Result<(Vec<T>, String), CliError> {
        let limit = usize::try_from(self.page_size).unwrap_or(usize::MAX);
        let (mut items, mut token) = (Vec::new(), String::new());
        loop {
            let size = (limit - items.len()).min(PAGE_SIZE_MAX);
            let (page, next) = read_page(i32::try_from(size).unwrap_or_default(), token).await?;
            items.extend(page);
            if items.len() >= limit || next.is_empty() {
                return Ok((items, next));
            }
            token = next;
        }
    }
}

/// The names of the arguments `A` by id. Examples of names are `--for` and `TENANT`.
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
    span.0
        .try_into()
        .map_err(|_| CliError::usage(format!("{span} is too long; write a shorter duration")))
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
    let level = v1::AccessLevel::from_str(level, true)
        .map_err(|_| format!("{level:?} is not a level: write read-only, read-write or admin"))?;
    Ok(v1::GroupOverride { group_id: group_id.into(), max_access_level: level.into() })
}

/// An agent kind with an optional level and condition, such as `ai:read-only:on-behalf-of`.
pub(crate) fn parse_kind(text: &str) -> Result<v1::AgentKindEntry, String> {
    const EXAMPLE: &str = "write a kind such as human, ai:read-only or ai:read-only:on-behalf-of";
    let mut parts = text.split(':').peekable();
    let kind = parts.next().unwrap_or_default();
    let agent_kind = v1::AgentKind::from_str(kind, true)
        .map_err(|_| format!("{kind:?} is not a kind: write human, ai or service"))?;
    let mut entry =
        v1::AgentKindEntry { agent_kind: agent_kind.into(), ..v1::AgentKindEntry::default() };
    if let Some(level) = parts.peek().and_then(|part| v1::AccessLevel::from_str(part, true).ok()) {
        entry.max_access_level = level.into();
        parts.next();
    }
    entry.on_behalf_of_required = parts.next_if(|part| *part == "on-behalf-of").is_some();
    match parts.next() {
        Some(part) => Err(format!("{part:?} is not a level or on-behalf-of; {EXAMPLE}")),
        None => Ok(entry),
    }
}

/// The id by which the server recognizes a repeated command.
#[derive(Debug, Clone, Args)]
pub(crate) struct RequestArgs {
    /// Repeated commands with the same id make the change only once [default: a new UUID]
    #[arg(long = "request-id", value_name = "ID")]
    request_id: Option<String>,
}

impl RequestArgs {
    pub(crate) fn id(&self) -> String {
        self.request_id.clone().unwrap_or_else(|| Uuid::now_v7().to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

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
    fn a_kind_has_an_optional_level_and_condition() {
        use v1::{AccessLevel, AgentKind};
        let cases = [
            ("human", AgentKind::Human, AccessLevel::Unspecified, false),
            ("AI:READ_ONLY", AgentKind::Ai, AccessLevel::ReadOnly, false),
            ("ai:on-behalf-of", AgentKind::Ai, AccessLevel::Unspecified, true),
            ("service:admin:on-behalf-of", AgentKind::Service, AccessLevel::Admin, true),
        ];
        for (text, kind, level, is_required) in cases {
            let entry = parse_kind(text).unwrap();
            assert_eq!((entry.agent_kind(), entry.max_access_level()), (kind, level), "{text}");
            assert_eq!(entry.on_behalf_of_required, is_required, "{text}");
        }
        for text in ["", "robot", "ai:", "ai:all", "ai:on-behalf-of:admin", "ai:admin:admin"] {
            let error = parse_kind(text).unwrap_err();
            assert!(error.contains("write"), "{text}: {error}");
        }
    }

    /// Reads a list with these pages. Returns the size and token of each request, and the result.
    async fn read(pages: &[(usize, &str)]) -> (Vec<(i32, String)>, (usize, String)) {
        let requests = RefCell::new(Vec::new());
        let read_page = async |size, token| {
            let (length, next) = pages[requests.borrow().len()];
            requests.borrow_mut().push((size, token));
            Ok((vec![(); length], next.to_owned()))
        };
        let (items, rest) = LimitArgs { page_size: 1_500 }.read(read_page).await.unwrap();
        (requests.into_inner(), (items.len(), rest))
    }

    #[tokio::test]
    async fn pages_end_with_the_limit_or_the_list() {
        let (requests, result) = read(&[(1_000, "a"), (500, "b")]).await;
        assert_eq!(requests, [(1_000, String::new()), (500, "a".into())]);
        assert_eq!(result, (1_500, "b".into()), "the limit is reached");
        let (requests, result) = read(&[(3, "")]).await;
        assert_eq!(requests, [(1_000, String::new())]);
        assert_eq!(result, (3, String::new()), "the list has ended");
    }
}
