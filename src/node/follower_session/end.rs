//! The reasons for which a node ends the stream of a follower.

use crate::{
    domain::Revision,
    node::{
        followers::NoSlot,
        message::{FOLLOWERS_MAX, MESSAGES_PER_SECOND, PROTOCOL},
    },
};

/// Why the upstream has ended a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SessionEnd {
    /// The first message was not hello.
    #[error("the first message must be hello")]
    NoHello,
    /// Hello was sent twice.
    #[error("hello must be the first message, and must be sent once")]
    SecondHello,
    /// The follower speaks another version of the protocol.
    #[error(
        "this node speaks version {PROTOCOL} of the protocol, but the follower speaks {0}; \
        upgrade the older of the two"
    )]
    OtherProtocol(u32),
    /// The follower is this node.
    #[error("a check node must not follow itself; correct the upstream")]
    Itself,
    /// The revision was not sent, or is less than an earlier one.
    #[error(
        "ack.revision must be between {least}, the last acknowledged revision, and {most}, the \
        last sent revision, but is {found}"
    )]
    WrongAck {
        /// The last acknowledged revision.
        least: Revision,
        /// The last sent revision.
        most: Revision,
        /// The acknowledged revision.
        found: Revision,
    },
    /// The sequence numbers of pings must increase.
    #[error("ping.sequence must be greater than {last}, but is {found}")]
    WrongPing {
        /// The sequence number of the last ping.
        last: i64,
        /// The sequence number of this ping.
        found: i64,
    },
    /// The follower exceeds the rate limit.
    #[error(
        "the follower exceeds the rate limit; send at most {MESSAGES_PER_SECOND} messages a second"
    )]
    Flood,
    /// The follower reads too slowly: the next changes, or the rest of the snapshot, were dropped.
    #[error("the follower reads too slowly; reconnect, and start from a snapshot")]
    TooSlow,
    /// The follower has a lease and delays a change, and followers with its credential have
    /// delayed changes for too long.
    #[error(
        "the follower delays every change, because it does not acknowledge changes in time; find \
        out why"
    )]
    Unacknowledged,
    /// Followers with the same credential have delayed changes for too long.
    #[error(
        "followers with this credential have delayed changes for too long; follow another node, or \
        retry later"
    )]
    Excluded,
    /// The node id belongs to a follower with another credential.
    #[error(
        "a follower with another credential uses this node id; restart the follower, which gets \
        another id"
    )]
    OtherCredential,
    /// The node has the maximum number of followers.
    #[error("this node has {FOLLOWERS_MAX} followers, the maximum; follow another node")]
    TooMany,
    /// The node has replaced the snapshot.
    #[error("this node has replaced its snapshot; reconnect")]
    NewSnapshot,
    /// The follower has opened another stream.
    #[error("the follower has opened another stream")]
    Replaced,
}

impl From<NoSlot> for SessionEnd {
    fn from(reason: NoSlot) -> Self {
        match reason {
            NoSlot::TooMany => Self::TooMany,
            NoSlot::OtherCredential => Self::OtherCredential,
            NoSlot::Excluded => Self::Excluded,
        }
    }
}
