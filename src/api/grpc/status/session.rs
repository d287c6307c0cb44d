//! The statuses that end a replication stream.

use tonic::Status;

use super::StatusBuilder;
use crate::{api::proto::v1::ErrorReason, node::follower_session::SessionEnd};

pub(super) fn session_end(end: &SessionEnd) -> Status {
    let ended = |reason| StatusBuilder::new(reason, end.to_string());
    match end {
        SessionEnd::NoHello => ended(ErrorReason::HelloExpected).field("message").build(),
        SessionEnd::SecondHello => ended(ErrorReason::HelloRepeated).field("hello").build(),
        SessionEnd::WrongAck { .. } => {
            ended(ErrorReason::AckOutOfRange).field("acknowledge.revision").build()
        }
        SessionEnd::WrongPing { .. } => {
            ended(ErrorReason::PingOutOfOrder).field("ping.sequence").build()
        }
        SessionEnd::OtherProtocol(_) => {
            ended(ErrorReason::ProtocolMismatch).field("hello.protocol_version").build()
        }
        SessionEnd::Itself => ended(ErrorReason::FollowsItself).field("hello.node_id").build(),
        SessionEnd::Flood => ended(ErrorReason::TooManyMessages).build(),
        SessionEnd::TooSlow => ended(ErrorReason::FollowerTooSlow).build(),
        SessionEnd::Unacknowledged => ended(ErrorReason::ChangesNotAcknowledged).build(),
        SessionEnd::Excluded => ended(ErrorReason::FollowersExcluded).build(),
        SessionEnd::OtherCredential => {
            ended(ErrorReason::NodeIdTaken).field("hello.node_id").build()
        }
        SessionEnd::TooMany => ended(ErrorReason::TooManyFollowers).build(),
        SessionEnd::NewSnapshot => ended(ErrorReason::NewSnapshot).build(),
        SessionEnd::Replaced => ended(ErrorReason::StreamReplaced).build(),
    }
}
