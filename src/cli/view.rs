//! Parts of output for people that several commands share. All times are UTC.

use prost_types::{Duration, Timestamp};

use super::table::{Cell, Highlight};
use crate::{
    api::proto::v1,
    domain::{Span, time},
};

/// The end of a list that is longer than the limit.
pub(crate) const MORE: &str = "\nThe list is longer; --limit shows more.\n";

/// A time to the second, for columns with UTC in the header.
pub(crate) fn time_to_second(time: Option<&Timestamp>, absent: &str) -> String {
    format_time(time, "%Y-%m-%d %H:%M:%S", absent)
}

/// A time to the minute, rounded down, for columns with UTC in the header.
pub(crate) fn time_to_minute(time: Option<&Timestamp>, absent: &str) -> String {
    format_time(time, "%Y-%m-%d %H:%M", absent)
}

/// A time with the zone.
pub(crate) fn time_utc(time: Option<&Timestamp>, absent: &str) -> String {
    format_time(time, "%Y-%m-%d %H:%M:%S UTC", absent)
}

fn format_time(time: Option<&Timestamp>, format: &str, absent: &str) -> String {
    let Some(time) = time else { return absent.into() };
    match time::from_parts(time.seconds, time.nanos) {
        Some(time) => time.format(format).to_string(),
        None => "invalid".into(),
    }
}

/// A duration that a person chose.
pub(crate) fn duration(duration: Option<&Duration>) -> String {
    let Some(duration) = duration else { return "-".into() };
    match std::time::Duration::try_from(*duration) {
        Ok(duration) => Span(duration).to_string(),
        Err(_) => "invalid".into(),
    }
}

/// A measured duration with two or three digits, rounded down.
pub(crate) fn measured(measured: Option<&Duration>) -> String {
    let measured_time = measured.and_then(|found| std::time::Duration::try_from(*found).ok());
    let Some(time) = measured_time else { return duration(measured) };
    let (seconds, tenths) = (time.as_secs(), time.subsec_millis() / 100);
    match time.as_millis() {
        0 => format!("{}us", time.as_micros()),
        1..1_000 => format!("{}ms", time.as_millis()),
        1_000..60_000 if tenths > 0 => format!("{seconds}.{tenths}s"),
        _ => Span(std::time::Duration::from_secs(seconds)).to_string(),
    }
}

/// The distance of a clock from the expected time, with its direction.
pub(crate) fn clock_distance(distance: Option<&Duration>) -> String {
    let Some(Duration { seconds, nanos }) = distance.copied() else { return "-".into() };
    let size = Duration { seconds: seconds.saturating_abs(), nanos: nanos.saturating_abs() };
    let direction = if seconds < 0 || nanos < 0 { "behind" } else { "ahead" };
    format!("{} {direction}", measured(Some(&size)))
}

/// The name of an enum value without the prefix of the enum.
pub(crate) fn short<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}

pub(crate) fn level(level: v1::AccessLevel) -> &'static str {
    short(level.as_str_name(), "ACCESS_LEVEL_")
}

pub(crate) fn kind(kind: v1::AgentKind) -> &'static str {
    short(kind.as_str_name(), "AGENT_KIND_")
}

/// Agent kinds, with the level of each kind whose level differs from `usual`.
pub(crate) fn kinds(kinds: Option<&v1::AgentKinds>, usual: v1::AccessLevel) -> String {
    let entry = |entry: &v1::AgentKindEntry| {
        let max_level = match entry.max_access_level() {
            v1::AccessLevel::Unspecified => String::new(),
            max_level if max_level == usual => String::new(),
            max_level => format!(":{}", level(max_level)),
        };
        let condition = if entry.on_behalf_of_required { " on behalf of a human" } else { "" };
        format!("{}{max_level}{condition}", kind(entry.agent_kind()))
    };
    match kinds {
        Some(kinds) if kinds.entries.is_empty() => "none".into(),
        Some(kinds) => kinds.entries.iter().map(entry).collect::<Vec<_>>().join(", "),
        None => "-".into(),
    }
}

pub(crate) fn yes_or_no(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

/// A time and the caller that made the change.
pub(crate) fn time_and_caller(time: Option<&Timestamp>, caller: &str) -> Cell {
    Cell::new(format!("{} by {caller}", time_utc(time, "-")))
}

/// The numbers of acknowledged and lapsed nodes. A lapsed node has no valid lease from before the
/// change.
pub(crate) fn node_counts(enforcement: &v1::Enforcement) -> String {
    let v1::Enforcement { nodes_acknowledged, nodes_lapsed, .. } = enforcement;
    format!("{nodes_acknowledged} acknowledged, {nodes_lapsed} lapsed")
}

/// The rows for the enforcement state and the consistency token of a change.
pub(crate) fn enforcement(
    enforcement: Option<&v1::Enforcement>,
) -> impl Iterator<Item = (&'static str, Cell)> {
    let state = match enforcement {
        None => Cell::new("unknown").highlighted(Highlight::Warning),
        Some(found) if found.state() == v1::EnforcementState::Complete => {
            let elapsed = measured(found.elapsed.as_ref());
            let counts = node_counts(found);
            Cell::new(format!("at every check node, after {elapsed} ({counts})"))
                .highlighted(Highlight::Good)
        }
        Some(found) => pending(found),
    };
    let token = enforcement.map(|found| ("Token", Cell::new(&found.consistency_token)));
    [("Enforced", state)].into_iter().chain(token)
}

/// A change that is not yet known to be enforced everywhere.
pub(crate) fn pending(enforcement: &v1::Enforcement) -> Cell {
    let (counts, pending) = (node_counts(enforcement), enforcement.nodes_pending);
    let latest = time_utc(enforcement.complete_by.as_ref(), "-");
    let text = format!("NOT YET at every check node ({counts}, {pending} pending); by {latest}");
    Cell::new(text).highlighted(Highlight::Warning)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measured_durations_are_short_and_rounded_down() {
        let cases = [
            (0, 999, "0us"),
            (0, 872_900, "872us"),
            (0, 12_345_678, "12ms"),
            (1, 0, "1s"),
            (2, 390_000_000, "2.3s"),
            (61, 500_000_000, "1m 1s"),
        ];
        for (seconds, nanos, expected) in cases {
            assert_eq!(measured(Some(&Duration { seconds, nanos })), expected);
        }
        assert_eq!(measured(None), "-");
        assert_eq!(measured(Some(&Duration { seconds: -1, nanos: 0 })), "invalid");
    }

    #[test]
    fn a_pending_change_states_the_latest_time() {
        let found = v1::Enforcement {
            state: v1::EnforcementState::Pending.into(),
            consistency_token: "token".into(),
            nodes_acknowledged: 1,
            nodes_pending: 2,
            complete_by: Some(Timestamp { seconds: 1_796_115_600, nanos: 0 }),
            ..v1::Enforcement::default()
        };
        let rows: Vec<_> = enforcement(Some(&found)).collect();
        let text = "NOT YET at every check node (1 acknowledged, 0 lapsed, 2 pending); \
                    by 2026-12-01 09:00:00 UTC";
        let state = Cell::new(text).highlighted(Highlight::Warning);
        assert_eq!(rows, [("Enforced", state), ("Token", Cell::new("token"))]);
        assert_eq!(enforcement(None).count(), 1, "no token is known");
    }
}
