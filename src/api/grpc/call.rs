//! What comes with a request besides its message: who calls, and until when they wait.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::{MetadataMap, MetadataValue};

use crate::domain::{Caller, violation::Violations};

/// The metadata key by which a caller names who acts.
const ACTOR_KEY: &str = "support-access-actor";
/// The metadata key of the gRPC deadline.
const TIMEOUT_KEY: &str = "grpc-timeout";
/// How long a caller waits that does not say, and at most.
const PATIENCE: Duration = Duration::from_secs(10);
/// As much, for a change to be in force everywhere: longer than the longest `max_staleness`.
const ENFORCEMENT_PATIENCE: Duration = Duration::from_mins(6);
/// The most of a caller's patience that is kept back for the way home.
const WAY_HOME_MAX: Duration = Duration::from_millis(50);

/// Who calls.
pub(super) fn caller(metadata: &MetadataMap) -> Result<Caller, Violations> {
    let name = metadata.get(ACTOR_KEY).map(MetadataValue::to_str).transpose();
    let name = name.map_err(|_| Violations::of(ACTOR_KEY, "must be visible ASCII characters"))?;
    Caller::local(name).map_err(|error| Violations::of(ACTOR_KEY, error))
}

/// When an answer must be on its way: a little before the caller's deadline, so that it arrives.
pub(super) fn deadline(metadata: &MetadataMap) -> Instant {
    deadline_within(metadata, PATIENCE)
}

/// As [`deadline`], of somebody who waits for a change to be in force everywhere.
pub(super) fn enforcement_deadline(metadata: &MetadataMap) -> Instant {
    deadline_within(metadata, ENFORCEMENT_PATIENCE)
}

fn deadline_within(metadata: &MetadataMap, most: Duration) -> Instant {
    let timeout = metadata.get(TIMEOUT_KEY).and_then(|value| parse_timeout(value.to_str().ok()?));
    let patience = timeout.unwrap_or(most).min(most);
    Instant::now() + patience.saturating_sub((patience / 10).min(WAY_HOME_MAX))
}

/// A `Timeout` of the gRPC protocol: up to eight digits and a unit.
pub(in crate::api) fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = digits.len() <= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = digits.parse().ok().filter(|_| is_number)?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_grpc_protocol_writes_them() {
        let cases = [
            ("1H", Some(Duration::from_hours(1))),
            ("2M", Some(Duration::from_mins(2))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("5n", Some(Duration::from_nanos(5))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("123456789m", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            ("5", None),
            ("m", None),
            ("", None),
            ("5é", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_timeout(text), expected, "{text:?}");
        }
    }
}
