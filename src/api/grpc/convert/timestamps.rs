//! Times and durations in messages.

use chrono::TimeDelta;
use prost_types::{Duration as ProtoDuration, Timestamp};

use crate::domain::Time;

pub(in crate::api::grpc) fn timestamp(time: Time) -> Timestamp {
    Timestamp {
        seconds: time.timestamp(),
        nanos: time.timestamp_subsec_nanos().try_into().unwrap_or_default(),
    }
}

/// A duration with a sign.
pub(in crate::api::grpc) fn signed_duration(duration: TimeDelta) -> ProtoDuration {
    ProtoDuration { seconds: duration.num_seconds(), nanos: duration.subsec_nanos() }
}

/// Durations in responses are far shorter than the longest `google.protobuf.Duration`.
pub(in crate::api::grpc) fn duration(duration: std::time::Duration) -> ProtoDuration {
    ProtoDuration {
        seconds: duration.as_secs().try_into().unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().try_into().unwrap_or_default(),
    }
}
