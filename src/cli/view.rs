//! Answers for people.

use prost_types::{Duration, Timestamp};

use super::{
    client::Answer,
    table::{Cell, Look, Tone, details, table},
};
use crate::{
    api::proto::v1,
    domain::{Span, time},
};

mod check;
mod event;
mod grant;
mod lock;
mod node;
mod policy;
#[cfg(test)]
mod tests;

/// A moment in UTC, to the second, for columns that say so in their head.
fn moment(time: Option<&Timestamp>, absent: &str) -> String {
    let Some(time) = time else { return absent.into() };
    match time::from_parts(time.seconds, time.nanos) {
        Some(time) => time.format("%Y-%m-%d %H:%M:%S").to_string(),
        None => "not a time".into(),
    }
}

/// A moment that stands alone.
fn moment_utc(time: Option<&Timestamp>, absent: &str) -> String {
    let text = moment(time, absent);
    if time.is_some() { text + " UTC" } else { text }
}

fn span(duration: Option<&Duration>) -> String {
    let Some(duration) = duration else { return "-".into() };
    match std::time::Duration::try_from(*duration) {
        Ok(duration) => Span(duration).to_string(),
        Err(_) => "not a duration".into(),
    }
}

/// A duration that was measured, short; a little less rather than more.
fn about(duration: Option<&Duration>) -> String {
    let measured = duration.and_then(|it| std::time::Duration::try_from(*it).ok());
    let Some(measured) = measured else { return span(duration) };
    let (seconds, tenths) = (measured.as_secs(), measured.subsec_millis() / 100);
    match measured.as_millis() {
        0 => format!("{}us", measured.as_micros()),
        1..1_000 => format!("{}ms", measured.as_millis()),
        1_000..60_000 if tenths > 0 => format!("{seconds}.{tenths}s"),
        _ => Span(std::time::Duration::from_secs(seconds)).to_string(),
    }
}

/// The name of an enum's value without what all names of the enum begin with.
fn short<'a>(name: &'a str, prefix: &str) -> &'a str {
    name.strip_prefix(prefix).unwrap_or(name)
}

fn level(level: v1::AccessLevel) -> &'static str {
    short(level.as_str_name(), "ACCESS_LEVEL_")
}

fn yes_or_no(truth: bool) -> Cell {
    Cell::new(if truth { "yes" } else { "no" })
}

/// The line that states how far a change has reached the check nodes.
fn enforcement(enforcement: Option<&v1::Enforcement>) -> (&'static str, Cell) {
    let Some(found) = enforcement else {
        return ("In force", Cell::new("unknown"));
    };
    let elapsed = about(found.elapsed.as_ref());
    let (acknowledged, lapsed, pending) =
        (found.nodes_acknowledged, found.nodes_lapsed, found.nodes_pending);
    let nodes = format!("{acknowledged} acknowledged, {lapsed} lapsed");
    let is_complete = found.state() == v1::EnforcementState::Complete;
    let text = if is_complete {
        format!("at every check node, after {elapsed} ({nodes})")
    } else {
        let latest = moment_utc(found.complete_by.as_ref(), "-");
        format!(
            "NOT YET at every check node ({nodes}, {pending} pending); at the latest at {latest}"
        )
    };
    ("In force", Cell::new(text).toned(Some(if is_complete { Tone::Good } else { Tone::Notice })))
}

/// The line with the consistency token of a change.
fn token(token: &str) -> (&'static str, Cell) {
    ("Token", Cell::new(token))
}
