//! Values on the command line, and arguments that several commands have.

use clap::Args;
use prost_types::Timestamp;

use crate::{
    api::proto::v1,
    domain::{
        time,
        time::{Span, SpanError},
    },
};

/// When access ends.
#[derive(Debug, Clone, Args)]
#[group(id = "end", multiple = false)]
pub(crate) struct EndArgs {
    /// How long access lasts, such as 8h, 7d or "1d 12h". More than 0, and at most the longest duration in the tenant's
    /// support policy.
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_span)]
    pub(crate) duration: Option<Span>,
    /// The first moment without access, such as 2026-12-01T09:00Z. In the future, and within the tenant's support policy.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub(crate) until: Option<Timestamp>,
    /// Access lasts until somebody revokes it, if the tenant's support policy allows that.
    #[arg(long)]
    pub(crate) until_revoked: bool,
}

impl EndArgs {
    /// The fields `expire_time`, `duration` and `until_revoked` of a request.
    pub(crate) fn fields(&self) -> Result<EndFields, super::Failure> {
        let duration = self.duration.map(to_duration).transpose()?;
        Ok((self.until, duration, self.until_revoked))
    }
}

/// The end of a grant in a request: `expire_time`, `duration` and `until_revoked`.
pub(crate) type EndFields = (Option<Timestamp>, Option<prost_types::Duration>, bool);

/// A duration, for people: `7d`, `1h 30m`.
pub(crate) fn parse_span(text: &str) -> Result<Span, String> {
    text.parse().map_err(|error: SpanError| error.to_string())
}

/// A duration, for messages.
pub(crate) fn to_duration(span: Span) -> Result<prost_types::Duration, super::Failure> {
    span.0.try_into().map_err(|_| super::Failure::usage(format!("{span} is too long")))
}

/// A moment: RFC 3339, the seconds optional.
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    const EXAMPLE: &str = "write a time like 2026-12-01T09:00Z";
    let has_clock = text.get(10..11).is_some_and(|c| matches!(c, "T" | "t" | " "));
    if !has_clock {
        return Err(format!("there must be a date, a time of day and a zone; {EXAMPLE}"));
    }
    let zone = text.char_indices().skip(11).find(|(_, c)| matches!(c, 'Z' | 'z' | '+' | '-'));
    let Some((zone, _)) = zone else {
        return Err(format!(
            "the zone is missing: end it with Z for UTC, or with an offset such as +01:00; {EXAMPLE}"
        ));
    };
    let (local, zone) = text.split_at(zone);
    let seconds = if local.len() == "2026-12-01T09:00".len() { ":00" } else { "" };
    let time = chrono::DateTime::parse_from_rfc3339(&format!("{local}{seconds}{zone}"))
        .map_err(|_| format!("there is no such time; {EXAMPLE}"))?;
    let nanos = i32::try_from(time.timestamp_subsec_nanos()).unwrap_or_default();
    match time::from_parts(time.timestamp(), nanos) {
        Some(_) => Ok(Timestamp { seconds: time.timestamp(), nanos }),
        None => Err(format!("the year must be from 1 to 9999; {EXAMPLE}")),
    }
}

/// A level, in upper or lower case, with `_` or `-`.
pub(crate) fn parse_level(text: &str) -> Result<v1::AccessLevel, String> {
    v1::AccessLevel::from_str_name(&format!("ACCESS_LEVEL_{}", to_name(text)))
        .filter(|level| *level != v1::AccessLevel::Unspecified)
        .ok_or_else(|| "write READ_ONLY, READ_WRITE or ADMIN".into())
}

/// A state, in upper or lower case.
pub(crate) fn parse_state(text: &str) -> Result<v1::GrantState, String> {
    v1::GrantState::from_str_name(&format!("GRANT_STATE_{}", to_name(text)))
        .filter(|state| *state != v1::GrantState::Unspecified)
        .ok_or_else(|| "write SCHEDULED, ACTIVE, EXPIRED or REVOKED".into())
}

/// An agent kind, in upper or lower case.
pub(crate) fn parse_kind(text: &str) -> Result<v1::AgentKind, String> {
    v1::AgentKind::from_str_name(&format!("AGENT_KIND_{}", to_name(text)))
        .filter(|kind| *kind != v1::AgentKind::Unspecified)
        .ok_or_else(|| "write HUMAN, AI or SERVICE".into())
}

/// A group and its highest level: `support:READ_WRITE`. The group itself may have a colon in it.
pub(crate) fn parse_group(text: &str) -> Result<v1::GroupOverride, String> {
    let (group_id, level) = text.rsplit_once(':').ok_or_else(|| {
        "write a group and its highest level, such as support:READ_WRITE".to_owned()
    })?;
    let max_access_level = parse_level(level)?.into();
    Ok(v1::GroupOverride { group_id: group_id.into(), max_access_level })
}

fn to_name(text: &str) -> String {
    text.replace('-', "_").to_ascii_uppercase()
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
    fn other_times_are_refused_with_a_hint() {
        let cases = [
            ("2026-12-01", "there must be a date, a time of day and a zone"),
            ("tomorrow", "there must be a date, a time of day and a zone"),
            ("2026-12-01T09:00", "the zone is missing"),
            ("2026-12-01T09:00:00", "the zone is missing"),
            ("2026-13-01T09:00Z", "there is no such time"),
            ("2026-12-01T9:00Z", "there is no such time"),
            ("0000-12-01T09:00Z", "the year must be from 1 to 9999"),
            ("2026-12-01Té:00Z", "there is no such time"),
            ("日本日本", "there must be a date, a time of day and a zone"),
        ];
        for (text, expected) in cases {
            let error = parse_time(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
            assert!(error.ends_with("write a time like 2026-12-01T09:00Z"), "{text}: {error}");
        }
    }

    #[test]
    fn levels_and_states_may_be_written_in_any_case() {
        for text in ["READ_ONLY", "read-only", "Read_Only"] {
            assert_eq!(parse_level(text), Ok(v1::AccessLevel::ReadOnly));
        }
        assert_eq!(parse_level("admin"), Ok(v1::AccessLevel::Admin));
        assert_eq!(parse_state("active"), Ok(v1::GrantState::Active));
        for text in ["", "root", "unspecified", "ACCESS_LEVEL_ADMIN"] {
            assert!(parse_level(text).is_err(), "{text:?}");
            assert!(parse_state(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(parse_span("1d 12h"), Ok(Span::hours(36)));
        for text in ["", "7", "-1h", "7x"] {
            let error = parse_span(text).unwrap_err();
            assert!(error.starts_with("must be a duration such as 7d, 8h or 1h 30m"), "{error}");
        }
    }

    #[test]
    fn a_group_comes_with_its_max_access_level() {
        let group = parse_group("a:b:read-write").unwrap();
        assert_eq!(
            (group.group_id.as_str(), group.max_access_level()),
            ("a:b", v1::AccessLevel::ReadWrite)
        );
        assert!(parse_group("support").is_err());
        assert!(parse_group("support:all").is_err());
    }
}
