//! Why a node ends a stream of a follower.

use crate::{
    domain::Revision,
    node::{
        follower_session::allowance::MESSAGES_PER_SECOND, followers::FOLLOWERS_MAX,
        message::PROTOCOL,
    },
};

/// Why a stream was ended by the node that feeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionEnd {
    /// The first message was another.
    #[error("the first message must be hello")]
    NoHello,
    /// There was another hello.
    #[error("hello must be the first message, and come once")]
    SecondHello,
    /// The follower is too new or too old.
    #[error(
        "this node speaks version {PROTOCOL} of the protocol, but the follower speaks {0}: upgrade the older of the two"
    )]
    OtherProtocol(u32),
    /// The follower is this node.
    #[error("a check node must not follow itself: correct its upstream")]
    Itself,
    /// An acknowledgement of something that was not sent, or less than one before.
    #[error(
        "ack.revision must be between {least} and {most}, which this stream was sent, but is {found}"
    )]
    WrongAck {
        /// What was acknowledged before.
        least: Revision,
        /// What was sent.
        most: Revision,
        /// What came.
        found: Revision,
    },
    /// Pings must be numbered upwards.
    #[error("ping.sequence must be greater than {last}, but is {found}")]
    WrongPing {
        /// The ping before.
        last: i64,
        /// What came.
        found: i64,
    },
    /// The follower talks too much.
    #[error("a follower may send {MESSAGES_PER_SECOND} messages and one report a second")]
    Flood,
    /// The follower reads too slowly, and what it would need next is no longer kept.
    #[error("the follower is too slow: it must come back, and take a snapshot")]
    TooSlow,
    /// The follower asks for leases, but does not acknowledge what it was sent: every change waits for it.
    #[error("the follower has not acknowledged revision {0} for too long: it must come back")]
    Unacknowledged(Revision),
    /// No more can be fed.
    #[error("this node feeds {FOLLOWERS_MAX} others already: follow another")]
    TooMany,
    /// This node holds another history now.
    #[error("this node has taken a new snapshot: the follower must come back")]
    NewSnapshot,
    /// The follower has opened another stream.
    #[error("the follower has opened another stream")]
    Replaced,
}
