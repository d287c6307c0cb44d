//! Times and durations, in microseconds.

use std::{fmt, str::FromStr, time::Duration};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// A time, UTC, truncated to microseconds, which every store keeps exactly.
pub type Time = DateTime<Utc>;

/// The first second of a `google.protobuf.Timestamp`, since 1970: the start of the year 1.
pub const SECONDS_MIN: i64 = -62_135_596_800;
/// The last second of a `google.protobuf.Timestamp`, since 1970: the end of the year 9999.
pub const SECONDS_MAX: i64 = 253_402_300_799;

/// The time without fractions of a microsecond.
pub fn truncate(time: Time) -> Time {
    time.trunc_subsecs(6)
}

/// The time from seconds and nanoseconds since 1970, truncated. `None` outside the years 1 to 9999.
pub fn from_parts(seconds: i64, nanos: i32) -> Option<Time> {
    let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    if !(SECONDS_MIN..=SECONDS_MAX).contains(&seconds) {
        return None;
    }
    DateTime::from_timestamp(seconds, nanos).map(truncate)
}

/// The time from microseconds since 1970. `None` outside the years 1 to 9999.
pub fn from_micros(micros: i64) -> Option<Time> {
    DateTime::from_timestamp_micros(micros)
        .filter(|time| (SECONDS_MIN..=SECONDS_MAX).contains(&time.timestamp()))
}

/// The time `span` later. `None` after the year 9999.
pub fn after(time: Time, span: Span) -> Option<Time> {
    let delta = TimeDelta::from_std(span.0).ok()?;
    time.checked_add_signed(delta).filter(|later| later.timestamp() <= SECONDS_MAX).map(truncate)
}

/// The time from `earlier` to `later`; zero if `earlier` is later.
pub fn between(earlier: Time, later: Time) -> Duration {
    (later - earlier).to_std().unwrap_or_default()
}

/// Bounds of the current time. A grant starts when the lower bound reaches the start, and ends when
/// the upper bound reaches the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The lower bound.
    pub earliest: Time,
    /// The upper bound.
    pub latest: Time,
}

impl From<Time> for Now {
    /// The time is known exactly.
    fn from(time: Time) -> Self {
        Self { earliest: time, latest: time }
    }
}

/// A length of time that people choose, such as the duration of a grant. Written `7d`, `8h`, `1h
/// 30m`, `90s`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub Duration);

/// The units of a [`Span`], in microseconds, largest first. Months and years are missing: neither
/// has a fixed length, and an `M` is easily confused with an `m`.
const UNITS: [(&str, u64); 7] = [
    ("w", 604_800_000_000),
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
    ("us", 1),
];

/// Why a text is not a [`Span`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be a duration such as 7d, 8h or 1h 30m; the units are w, d, h, m, s, ms and us")]
pub struct SpanError;

impl Span {
    /// A number of hours.
    pub const fn hours(hours: u64) -> Self {
        Self(Duration::from_secs(hours * 3_600))
    }

    /// A number of days of 24 hours.
    pub const fn days(days: u64) -> Self {
        Self::hours(days * 24)
    }

    /// The duration in seconds as protobuf JSON writes it, such as `604800s` or `0.500s`.
    pub fn to_proto_json(self) -> String {
        let (seconds, micros) = (self.0.as_secs(), self.0.subsec_micros());
        match micros {
            0 => format!("{seconds}s"),
            _ if micros.is_multiple_of(1_000) => format!("{seconds}.{:03}s", micros / 1_000),
            _ => format!("{seconds}.{micros:06}s"),
        }
    }

    /// Whether the duration is zero.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let whole = [
            (seconds / 86_400, "d"),
            (seconds / 3_600 % 24, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
            (u64::from(self.0.subsec_millis()), "ms"),
            (u64::from(self.0.subsec_micros() % 1_000), "us"),
        ];
        let mut separator = "";
        for (number, unit) in whole.into_iter().filter(|(number, _)| *number > 0) {
            write!(f, "{separator}{number}{unit}")?;
            separator = " ";
        }
        if separator.is_empty() { f.write_str("0s") } else { Ok(()) }
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut micros: u64 = 0;
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(SpanError);
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(SpanError)?;
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let (_, length) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(SpanError)?;
            let number: u64 = number.parse().map_err(|_| SpanError)?;
            let part = number.checked_mul(*length);
            micros = part.and_then(|part| micros.checked_add(part)).ok_or(SpanError)?;
            rest = tail.trim_start();
        }
        Ok(Self(Duration::from_micros(micros)))
    }
}

impl TryFrom<String> for Span {
    type Error = SpanError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}
