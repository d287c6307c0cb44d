//! The rules of the protocol, each of which tests break on purpose to see that the simulation notices.

use crate::{
    domain::{Ack, Event, Position},
    node::CheckNode,
    store::{HeartbeatResponse, Store, StoreError},
};

/// A rule that keeps the promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A lease counts from when it was asked for.
    StampOfSending,
    /// A node has a row in the roll before it has a lease.
    RowBeforeProof,
    /// A node whose row is gone registers anew, and has no lease from before it has.
    NoProofWithoutRow,
    /// A row never says the same `seq` again, also when it is made anew, or an older one was restored.
    RowSeqOnce,
    /// A node acknowledges what checks are answered from, not what it was sent.
    PublishBeforeAck,
    /// A node acknowledges for those that it feeds, too.
    AckForFollowers,
    /// A follower acknowledges what is known to be of its upstream's history.
    AckOfThisHistory,
    /// Who is lease_grant for counts from then on.
    CountWhomIsVouched,
    /// A follower that comes back counts for what it was lease_grant for before.
    KeepLeaseOnReturn,
    /// A follower that has gone without a word is waited for until its lease has lapsed.
    WaitForTheGone,
    /// A node leaves with a word only when nobody can answer from what it has lease_grant for.
    LeaveAlone,
    /// A node that is about to leave grants leases for nobody any more.
    SilentOnceLeaving,
    /// Who hands on a lease says how old it is.
    Age,
    /// Leases are measured by a clock that goes on through suspend.
    BootTime,
    /// Holders count shorter, and waiters longer, than the lease.
    RateMargin,
    /// Holders count shorter than the lease.
    ShorterLease,
    /// Waiters wait longer than the lease.
    LongerWait,
    /// Ages, and the time that has passed, count a little longer.
    StretchedSpan,
    /// A pong stands behind the changes that were applied before it.
    PongBehindChanges,
    /// A lease counts once its revision is held.
    ProofAfterApply,
    /// A lease from the database counts only for a node that holds the log that it is about.
    ProofOfThisHistory,
    /// What is held beyond the log that a lease is about was read after that lease was given.
    ReadAfterProof,
    /// A silent node is passed over only once its row is gone.
    StrikeOffBeforeSkip,
    /// A silent node's row is struck off only if it says what it said when it was silent.
    StrikeOffWhatWasSeen,
    /// A row is silent from when it was seen, not from when it was looked for.
    SeenWhenAnswered,
    /// The roll is read after the commit.
    RollAfterCommit,
    /// The wait for a lapse begins when the commit is answered.
    WaitFromAnswer,
    /// The wait is for the longest lease that any node has.
    LongestLease,
    /// A node that holds another history than its database's drops it.
    NoticeOtherHistory,
    /// A stream ends when what feeds it holds another history.
    OneHistoryPerStream,
    /// A follower goes on only from an event that the node that feeds it has, too.
    SameEvent,
    /// A follower goes on when the node that feeds it has proven, since the follower came, that it holds the log that there is.
    GoOnWhenProven,
    /// Acknowledgements of another history are forgotten.
    ForgetOldAcks,
    /// Checks are decided at the database's time, not the node's own.
    DatabaseTime,
    /// A time that nothing was decided at does not count.
    RememberNoOldTime,
    /// The time of decisions never goes back.
    TimeNeverBack,
}

impl Rule {
    /// Every rule.
    pub const ALL: [Self; 36] = [
        Self::StampOfSending,
        Self::RowBeforeProof,
        Self::NoProofWithoutRow,
        Self::RowSeqOnce,
        Self::PublishBeforeAck,
        Self::AckForFollowers,
        Self::AckOfThisHistory,
        Self::CountWhomIsVouched,
        Self::KeepLeaseOnReturn,
        Self::WaitForTheGone,
        Self::LeaveAlone,
        Self::SilentOnceLeaving,
        Self::Age,
        Self::BootTime,
        Self::RateMargin,
        Self::ShorterLease,
        Self::LongerWait,
        Self::StretchedSpan,
        Self::PongBehindChanges,
        Self::ProofAfterApply,
        Self::ProofOfThisHistory,
        Self::ReadAfterProof,
        Self::StrikeOffBeforeSkip,
        Self::StrikeOffWhatWasSeen,
        Self::SeenWhenAnswered,
        Self::RollAfterCommit,
        Self::WaitFromAnswer,
        Self::LongestLease,
        Self::NoticeOtherHistory,
        Self::OneHistoryPerStream,
        Self::SameEvent,
        Self::GoOnWhenProven,
        Self::ForgetOldAcks,
        Self::DatabaseTime,
        Self::RememberNoOldTime,
        Self::TimeNeverBack,
    ];
}

/// Whether a test has broken the rule.
#[cfg(not(test))]
#[inline]
pub(crate) const fn is_broken(_: Rule) -> bool {
    false
}

/// Reads what a renewal reads, for a node that has no row. Only for nodes whose rules are broken.
pub(crate) async fn heartbeat_without_row(
    store: &dyn Store,
    held: Option<Position>,
) -> Result<Option<HeartbeatResponse>, StoreError> {
    let now = store.log().begin().await?.now();
    let end = store.log().head().await?;
    let is_held = held.is_some_and(|held| held.epoch == end.epoch);
    Ok(Some(HeartbeatResponse { head: end, is_held, now }))
}

/// Acknowledges what checks are not answered from yet. Only for nodes whose rules are broken.
pub(crate) async fn acknowledge_unpublished(
    store: &dyn Store,
    node: &CheckNode,
    events: &[Event],
) -> Result<(), StoreError> {
    let Some((last, held)) = events.last().zip(node.held()) else { return Ok(()) };
    let (revision, time) = (last.revision, Some(last.time));
    let ack = Ack { revision, ..node.ack() };
    store
        .membership()
        .acknowledge(node.id(), Position { revision, time, ..held }, ack)
        .await
        .map(drop)
}

#[cfg(test)]
pub(crate) use broken::{break_rule, is_broken};

#[cfg(test)]
mod broken {
    use std::cell::Cell;

    use super::Rule;

    thread_local! {
        static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
    }

    /// Breaks a rule, or none, in everything that this thread runs from now on.
    pub(crate) fn break_rule(rule: Option<Rule>) {
        BROKEN.set(rule);
    }

    /// Whether a test has broken the rule.
    pub(crate) fn is_broken(rule: Rule) -> bool {
        BROKEN.get() == Some(rule)
    }
}
