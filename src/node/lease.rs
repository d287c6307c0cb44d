//! Leases. A lease shows that the data of a node is recent enough to answer checks from. No clocks
//! are compared. Pure: time is an argument.
//!
//! A [`Lease`] states that every change that was committed before `valid_from` has a revision of at
//! most `revision`. A node that has applied `revision` may answer until `valid_from + 0.99 ×
//! max_staleness`. All times are on the node's own [`BootTime`]. Clocks are assumed to run at the
//! right rate within 1 %, but need not agree.

use std::{collections::VecDeque, time::Duration};

use crate::{
    domain::{BootTime, Now, Position, Revision},
    node::message::LeaseGrant,
};

/// Maximum number of renewals in flight. Beyond that, the oldest renewal is dropped, because its
/// response would give the oldest lease.
const IN_FLIGHT_MAX: usize = 32;
/// Maximum number of leases that wait for a revision to be applied.
const PENDING_MAX: usize = 32;

/// Minimum pause between two renewals, even if a newer lease is requested.
pub const EARLY_RENEWAL_PAUSE: Duration = Duration::from_millis(20);

/// How long the holder may use a lease of `span`. The clock of the holder may run 1 % slow.
pub fn holder_bound(span: Duration) -> Duration {
    span * 99 / 100
}

/// How long other nodes must wait until a lease of `span` has expired. The clock of the waiting
/// node may run 1 % fast.
pub fn grantor_bound(span: Duration) -> Duration {
    span * 101 / 100
}

/// Upper bound, on this clock, of a span that another clock measured. Both clocks may be wrong by
/// 1 %, so the factor is 101/99, rounded up.
pub fn upper_bound(span: Duration) -> Duration {
    span * 103 / 100
}

/// Lower bound of such a span. The factor is 99/101, rounded down.
pub fn lower_bound(span: Duration) -> Duration {
    span * 97 / 100
}

/// The right to answer checks from `revision` for a bounded time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Every change that was committed before this time is included in `revision`.
    pub valid_from: BootTime,
    /// The revision that must be applied before the lease is used.
    pub revision: Revision,
    /// Lifetime counted from `valid_from`, on a perfect clock.
    pub max_staleness: Duration,
    /// The database clock, as read by the renewal.
    pub database_clock: ClockReading,
}

/// A reading of the database clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// When the request was sent: a lower bound of the time of the reading.
    pub sent_at: BootTime,
    /// When the response arrived: an upper bound of the time of the reading.
    pub received_at: BootTime,
    /// The value that was read.
    pub value: Now,
    /// Whether the replica trusts the reading.
    pub is_trusted: bool,
}

impl ClockReading {
    /// Bounds of the database clock at `now`.
    pub fn at(&self, now: BootTime) -> Now {
        Now {
            earliest: self.value.earliest + lower_bound(now.since(self.received_at)),
            latest: self.value.latest + upper_bound(now.since(self.sent_at)),
        }
    }
}

impl Lease {
    /// The first instant at which the lease is invalid.
    pub fn expires_at(&self) -> BootTime {
        self.valid_from + holder_bound(self.max_staleness)
    }

    /// Whether checks may be answered at `now`.
    pub fn is_valid(&self, now: BootTime) -> bool {
        now < self.expires_at()
    }

    /// The lease to grant to followers when the time of the database is `time`. The stream is
    /// ordered, so a follower has `revision` when the grant arrives.
    pub fn grant(&self, revision: Revision, time: Now, now: BootTime) -> LeaseGrant {
        let (age, max_staleness) = (now.since(self.valid_from), self.max_staleness);
        let is_clock_trusted = self.database_clock.is_trusted;
        LeaseGrant { revision, age, max_staleness, now: time, is_clock_trusted }
    }
}

/// Renewals in flight, and leases whose revision is not applied yet.
#[derive(Debug, Default)]
pub struct LeaseTracker {
    last_seq: i64,
    /// Sequence number and send time of each renewal, oldest first.
    in_flight: VecDeque<(i64, BootTime)>,
    /// Leases whose revision is not applied yet. A lease from the database has the head of the log.
    pending: VecDeque<(Lease, Option<Position>)>,
}

impl LeaseTracker {
    /// Starts a renewal, and returns a sequence number. Call before sending the request: the
    /// lease will start at `now`.
    pub fn start_renewal(&mut self, now: BootTime) -> i64 {
        self.last_seq += 1;
        if self.in_flight.len() == IN_FLIGHT_MAX {
            self.in_flight.pop_front();
        }
        self.in_flight.push_back((self.last_seq, now));
        self.last_seq
    }

    /// Records the response to renewal `seq`. The database also returns the `head` of the log;
    /// another node does not, because a stream stays within one log. Returns the reading of the
    /// database clock; `None` for duplicate, reordered and unsolicited responses.
    pub fn record_response(
        &mut self,
        seq: i64,
        lease_grant: LeaseGrant,
        head: Option<Position>,
        now: BootTime,
    ) -> Option<ClockReading> {
        while self.in_flight.front().is_some_and(|(oldest, _)| *oldest < seq) {
            self.in_flight.pop_front();
        }
        let (_, sent_at) = self.in_flight.pop_front_if(|(oldest, _)| *oldest == seq)?;
        if self.pending.len() == PENDING_MAX {
            // The oldest lease is usable first, and the new one is valid longest. So drop a lease
            // in between.
            self.pending.pop_back();
        }
        let LeaseGrant { now: value, is_clock_trusted: is_trusted, .. } = lease_grant;
        let database_clock = ClockReading { sent_at, received_at: now, value, is_trusted };
        let lease = Lease {
            valid_from: sent_at - upper_bound(lease_grant.age),
            revision: lease_grant.revision,
            max_staleness: lease_grant.max_staleness,
            database_clock,
        };
        self.pending.push_back((lease, head));
        Some(database_clock)
    }

    /// The best usable lease of a node at revision `applied`, which has the lease `current`. A
    /// valid lease is better than an expired one. Among several, the latest `valid_from` is best.
    pub fn best(
        &mut self,
        applied: Revision,
        current: Option<Lease>,
        now: BootTime,
    ) -> Option<Lease> {
        let is_usable = |lease: &Lease| lease.revision <= applied;
        let usable = self.pending.iter().map(|(lease, _)| *lease).filter(is_usable);
        // An earlier lease may have a longer lifetime, so the latest lease need not expire last.
        let rank = |lease: &Lease| (lease.is_valid(now), lease.valid_from);
        let best = current.into_iter().chain(usable).max_by_key(rank);
        self.pending.retain(|(lease, _)| !is_usable(lease));
        best
    }

    /// Whether the log of this node, which ends at `applied`, lacks the head of a valid pending
    /// lease.
    ///
    /// This happens after a restore. When the node sent the renewal, its position was in both logs.
    /// Then the node received an event of the earlier log. Expired leases are ignored, because they
    /// may refer to an earlier log.
    pub fn conflicts_with(
        &self,
        applied: Revision,
        now: BootTime,
        contains: impl Fn(&Position) -> bool,
    ) -> bool {
        let valid = self.pending.iter().filter(|(lease, _)| lease.is_valid(now));
        let mut heads = valid.filter_map(|(_, head)| head.as_ref());
        heads.any(|head| head.revision <= applied && !contains(head))
    }

    /// Drops all renewals and pending leases. Call when the node switches to another log.
    pub fn reset(&mut self) {
        self.in_flight.clear();
        self.pending.clear();
    }
}
