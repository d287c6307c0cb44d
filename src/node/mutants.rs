//! The rules of the protocol, each of which tests break on purpose to see that the simulation notices.

/// A rule that keeps the promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A proof counts from when it was asked for.
    StampOfSending,
    /// A node has a row in the roll before it has a proof.
    RowBeforeProof,
    /// A node acknowledges what checks are answered from, not what it was sent.
    PublishBeforeAck,
    /// A node acknowledges for those that it feeds, too.
    AckForFollowers,
    /// Who hands on a proof says how old it is.
    Age,
    /// Leases are measured by a clock that goes on through suspend.
    BootTime,
    /// Holders count shorter, and waiters longer, than the lease.
    RateMargin,
    /// A pong stands behind the changes that were applied before it.
    PongBehindChanges,
    /// A proof counts once its revision is held.
    ProofAfterApply,
    /// A silent node is passed over only once its row is gone.
    StrikeOffBeforeSkip,
    /// The roll is read after the commit.
    RollAfterCommit,
    /// A follower that has gone without a word is waited for until its proof has lapsed.
    WaitForTheGone,
    /// A node leaves only when nobody can answer from what it has vouched for.
    LeaveAlone,
    /// A node whose row is gone registers anew, and starts from its revision then.
    NoProofWithoutRow,
    /// A node that holds another history than its database's drops it.
    NoticeOtherHistory,
    /// Acknowledgements of another history are forgotten.
    ForgetOldAcks,
    /// Checks are decided at the database's time, not the node's own.
    DatabaseTime,
}

/// Whether a test has broken the rule.
#[cfg(not(test))]
#[inline]
pub(crate) const fn is_broken(_: Rule) -> bool {
    false
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
