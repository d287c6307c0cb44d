//! The acceptance of the database clock after a step.
//!
//! After a step back, every grant would last longer by the step. So the ends of live grants move
//! back first, in transactions of limited size. The last transaction accepts the clock.
//!
//! The events record for which step each end was moved, and every accepted step. So a further call
//! continues an interrupted one, and moves no end twice. An end moves only as far as the accepted
//! steps since the last event about the grant, together, go back.
//!
//! A party with access to the database could hide a row from a transaction, and restore the row
//! later. So the last transaction authenticates all rows, and requires that the pass has visited
//! each live grant.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use chrono::TimeDelta;
use tokio::time::Instant;

use crate::{
    domain::{
        AcceptClockRequest, Caller, Event, EventKind, GrantId, Revision, Time,
        token::ConsistencyToken,
    },
    service::{
        Service, ServiceError,
        grants::{expiry, grant_event, revocation},
        idempotency::{earlier_parts, key},
        sharing::Sharing,
    },
    store::{NewEvent, QueryScope, Store, StoreError, Transaction},
};

/// The most live grants that one transaction reads. Other transactions wait meanwhile.
const BATCH: usize = 200;
/// The most events in one read of the log.
const LOG_BATCH: usize = 1_000;
/// Ends move back by this much more than the measured step. Otherwise, a clock that drifts or a
/// slow reading would require that all ends move again.
const MARGIN_MS: i64 = 2_000;

/// The result of `AcceptClock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptClockOutcome {
    /// The distance of the accepted clock from the trusted time; positive if the clock was ahead.
    /// Zero: the clock is trusted, and was not accepted.
    pub step: TimeDelta,
    /// The number of grants whose ends this call moved back, or that it revoked.
    pub moved_count: u32,
    /// Identifies the change.
    pub token: ConsistencyToken,
}

impl Service {
    /// Accepts the database clock as it is. Changes nothing if the clock is trusted. After an
    /// error, a further call continues.
    pub async fn accept_clock(
        &self,
        caller: &Caller,
        request: AcceptClockRequest,
        deadline: Instant,
    ) -> Result<AcceptClockOutcome, ServiceError> {
        let key = key(None, request.request_id.as_ref(), "AcceptClock", &request)?;
        let mut pass = Pass::default();
        loop {
            let sent_at = self.node.boot_time();
            let mut transaction = self.begin(Sharing::Alone).await?;
            if let Some(part) = earlier_parts(transaction.as_mut(), &key, &[]).await?.pop() {
                let event = self.replay(transaction, part).await?;
                return self.accepted(&event);
            }
            if self.replica.database_clock().is_trusted() {
                transaction.commit().await?;
                let token = self.token_of(self.last_revision(QueryScope::Vendor).await?).await?;
                let (step, moved_count) = (TimeDelta::zero(), pass.moved);
                return Ok(AcceptClockOutcome { step, moved_count, token });
            }
            let step_ms = step_ms(transaction.as_ref(), self.node.boot_time().since(sent_at));
            if step_ms < pass.step_ms {
                let head = self.store.log().head().await?.revision;
                pass = Pass::start(step_ms - MARGIN_MS, head, pass.moved);
            }
            let is_last = self.move_ends(&mut pass, transaction.as_mut(), caller, &request).await?;
            if is_last {
                let kind = EventKind::ClockAccepted { step_ms, moved_count: pass.moved };
                let (author, reason) = (caller.author.clone(), request.reason.clone());
                let new = NewEvent { tenant_id: None, author, reason, kind };
                pass.appended.push(transaction.append(new).await?);
                transaction.record_request(&key, 0).await?;
            }
            let events = std::mem::take(&mut pass.appended);
            if !events.is_empty() {
                let commit = self.commit(transaction, &events).await?;
                drop(self.enforcer.enforce(commit));
            }
            if let Some(event) = events.last().filter(|_| is_last) {
                if !self.node.wait_for(event.revision, deadline).await {
                    let problem =
                        "the clock is accepted, but this node has not loaded the new epoch; retry";
                    return Err(StoreError::Unavailable(problem.into()).into());
                }
                return self.accepted(event);
            }
        }
    }

    /// Moves the ends of the next live grants. Returns true if no grant is left.
    async fn move_ends(
        &self,
        pass: &mut Pass,
        transaction: &mut dyn Transaction,
        caller: &Caller,
        request: &AcceptClockRequest,
    ) -> Result<bool, ServiceError> {
        if pass.step_ms >= 0 {
            return Ok(true);
        }
        let (last_events, is_last) = pass.read(&self.store, transaction).await?;
        let steps = AcceptedSteps::of(&transaction.clock_events().await?);
        let now = transaction.now();
        for event in last_events {
            let Some(new) = steps.correction(&event, pass.step_ms, now, caller, request) else {
                continue;
            };
            if !matches!(new.kind, EventKind::Expired { .. }) {
                pass.moved = pass.moved.saturating_add(1);
            }
            pass.appended.push(transaction.append(new).await?);
        }
        if is_last {
            pass.check_complete(&transaction.live_grant_ids().await?)?;
        }
        Ok(is_last)
    }

    fn accepted(&self, event: &Event) -> Result<AcceptClockOutcome, ServiceError> {
        let EventKind::ClockAccepted { step_ms, moved_count } = event.kind else {
            let problem = "a request to accept the clock refers to another event";
            return Err(StoreError::Broken(problem.into()).into());
        };
        let (step, token) =
            (TimeDelta::milliseconds(step_ms), self.token(event.revision, Some(event.time))?);
        Ok(AcceptClockOutcome { step, moved_count, token })
    }
}

/// A lower bound of the step: a step back may be smaller, and a step forward greater. The
/// transaction has read the clock in the `elapsed` time since its time was known.
fn step_ms(transaction: &dyn Transaction, elapsed: Duration) -> i64 {
    let (clock, now) = (transaction.clock(), transaction.now());
    let elapsed_us = i64::try_from(elapsed.as_micros()).unwrap_or(i64::MAX);
    let step_us = clock.timestamp_micros() - now.timestamp_micros();
    step_us.saturating_sub(elapsed_us).div_euclid(1_000)
}

/// A pass over all live grants, before a step back is accepted.
#[derive(Debug, Default)]
struct Pass {
    /// The step for which the ends move. Zero: none moves.
    step_ms: i64,
    /// The grants that were created up to this revision are visited.
    after: Revision,
    /// The changes up to this revision are visited.
    seen: Revision,
    /// The grants whose last events were read.
    visited: HashSet<GrantId>,
    /// The number of grants whose ends were moved, or that were revoked, in all passes.
    moved: u32,
    /// The events of the current transaction.
    appended: Vec<Event>,
}

impl Pass {
    fn start(step_ms: i64, head: Revision, moved: u32) -> Self {
        Self { step_ms, after: Revision::MIN, seen: head, moved, ..Self::default() }
    }

    /// The last events about the next live grants, and about all grants that have changed since the
    /// previous transaction. Returns true if no grant is left.
    async fn read(
        &mut self,
        store: &Store,
        transaction: &mut dyn Transaction,
    ) -> Result<(Vec<Event>, bool), StoreError> {
        let mut events = Vec::new();
        loop {
            // The transaction has locked the head, so that these are all events.
            let changes = store.log().events_after(self.seen, LOG_BATCH).await?;
            let is_end = changes.len() < LOG_BATCH;
            self.seen = changes.last().map_or(self.seen, |event| event.revision);
            events.extend(changes);
            if is_end {
                break;
            }
        }
        let live = transaction.last_events_of_live_grants(self.after, BATCH).await?;
        let is_last = live.len() < BATCH;
        self.after = live.last().map_or(self.after, |listed| listed.position);
        events.extend(live.into_iter().map(|listed| listed.item));
        let by_grant = events.into_iter().filter_map(|event| Some((event.grant_id()?, event)));
        let last_events: BTreeMap<GrantId, Event> = by_grant.collect();
        self.visited.extend(last_events.keys());
        Ok((last_events.into_values().collect(), is_last))
    }

    /// Fails if a live grant was not visited.
    fn check_complete(&self, live: &[GrantId]) -> Result<(), StoreError> {
        let Some(hidden) = live.iter().find(|grant_id| !self.visited.contains(grant_id)) else {
            return Ok(());
        };
        let problem = format!(
            "the row of grant {hidden} was hidden while the ends of all grants were moved; find \
             the party that changes the database, then repeat the command"
        );
        Err(StoreError::Broken(problem.into()))
    }
}

/// The steps of the clock that operators have accepted, oldest first.
#[derive(Debug)]
struct AcceptedSteps(Vec<(Revision, i64)>);

impl AcceptedSteps {
    fn of(clock_events: &[Event]) -> Self {
        let step = |event: &Event| match event.kind {
            EventKind::ClockAccepted { step_ms, .. } => Some((event.revision, step_ms)),
            _ => None,
        };
        Self(clock_events.iter().filter_map(step).collect())
    }

    /// The steps that were accepted after the event of `revision`.
    fn since(&self, revision: Revision) -> impl Iterator<Item = i64> {
        self.0.iter().filter(move |(accepted, _)| *accepted > revision).map(|(_, step_ms)| *step_ms)
    }

    /// The event that prevents a further step from extending the grant of `last`, the last event
    /// about the grant. `None` if the end is early enough.
    fn correction(
        &self,
        last: &Event,
        step_ms: i64,
        now: Time,
        caller: &Caller,
        request: &AcceptClockRequest,
    ) -> Option<NewEvent> {
        let grant = last.kind.grant().filter(|_| !last.kind.is_end())?;
        let end = grant.terms.expire_time?;
        let moved_for = match last.kind {
            EventKind::Extended { clock_step_ms, .. } => clock_step_ms,
            _ => None,
        };
        let is_moved = moved_for.is_some() && self.since(last.revision).next().is_none();
        // A moved end is already a time of the clock that is going to be accepted.
        if !is_moved && end <= now {
            return Some(expiry(grant));
        }
        // By this much, the clock would be behind the clock for which the end was set.
        let since: i64 = self.since(last.revision).sum();
        let behind_ms = moved_for.unwrap_or(0) - since - step_ms;
        if behind_ms <= 0 {
            return None;
        }
        let moved = end.checked_sub_signed(TimeDelta::milliseconds(behind_ms));
        let Some(expire_time) = moved.filter(|end| *end > grant.terms.start_time) else {
            return Some(revocation(caller, grant.clone(), request.reason.clone(), now));
        };
        let mut grant = grant.clone();
        grant.terms.expire_time = Some(expire_time);
        let (author, reason) = (caller.author.clone(), request.reason.clone());
        let kind = EventKind::Extended {
            grant: grant.clone(),
            previous_expire_time: Some(end),
            clock_step_ms: Some(step_ms),
        };
        Some(grant_event(&grant, author, reason, kind))
    }
}
