//! The reference model of one log: the committed events, and the checks that these allow.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{task, time::Instant};

use crate::{
    check::is_requested,
    domain::{
        AccessCheck, Epoch, Event, EventKind, GrantId, GrantTerms, LockTerms, Position, Revision,
        TenantId, Time, time::between,
    },
    node::Snapshot,
    store::Retained,
};

/// The latest instant at which a node knows that `span` has elapsed since `start`. The time of a
/// node may run 2 % slow.
pub(crate) fn elapsed_at(start: Instant, span: Duration) -> Instant {
    start + span * 103 / 100 + Duration::from_millis(200)
}

/// The content of a snapshot at one revision.
#[derive(Debug, Clone, Default)]
struct State {
    grants: BTreeMap<(TenantId, GrantId), (Retained, GrantTerms)>,
    /// By the revision of the creation. Lock ids are random, so an order by id would not depend on
    /// the seed alone.
    locks: BTreeMap<Revision, LockTerms>,
    /// The event that set the end of each grant that ends, and the time from the event to the end.
    spans: BTreeMap<(TenantId, GrantId), (Revision, Duration)>,
}

/// One log, from the start.
#[derive(Debug, Clone)]
pub(crate) struct LogModel {
    /// The epochs, each with the revision of its first event.
    epochs: Vec<(Revision, Epoch)>,
    events: Vec<LoggedEvent>,
    /// The state at each revision.
    states: Vec<Arc<State>>,
    /// The last revision that a response has reported as enforced.
    pub(crate) enforced: Revision,
}

#[derive(Debug, Clone)]
pub(crate) struct LoggedEvent {
    pub(crate) event: Event,
    /// The arrival of the response to the commit, and the task that received the response.
    pub(crate) response: Option<(Instant, Option<task::Id>)>,
}

impl LogModel {
    pub(crate) fn new(epoch: Epoch) -> Self {
        let (epochs, states) = (vec![(0, epoch)], vec![Arc::default()]);
        Self { epochs, events: Vec::new(), states, enforced: 0 }
    }

    pub(crate) fn head(&self) -> Revision {
        self.events.last().map_or(0, |logged| logged.event.revision)
    }

    /// Begins an epoch with the last event, which accepts the clock.
    pub(crate) fn begin_epoch(&mut self, epoch: Epoch) {
        self.epochs.push((self.head(), epoch));
    }

    pub(crate) fn push(&mut self, event: Event) {
        let mut state = self.states.last().map(|state| State::clone(state)).unwrap_or_default();
        if let Some(grant) = event.kind.grant() {
            let retained = if event.kind.is_end() { Retained::LastEnded } else { Retained::Live };
            // Each tenant grants access to each group once, so a snapshot retains every grant.
            let key = (grant.tenant_id.clone(), grant.id());
            // An end that moves with the clock leaves the rest of the time as it is.
            let is_moved = matches!(event.kind, EventKind::Extended { clock_step_ms: Some(_), .. });
            if retained == Retained::Live && !is_moved {
                let span = grant.terms.expire_time.map(|end| between(event.time, end));
                match span {
                    Some(span) => state.spans.insert(key.clone(), (event.revision, span)),
                    None => state.spans.remove(&key),
                };
            }
            state.grants.insert(key, (retained, grant.terms.clone()));
        }
        if let Some(lock) = event.kind.lock() {
            if event.kind.is_end() {
                state.locks.retain(|_, terms| terms.lock_id != lock.id());
            } else {
                state.locks.insert(event.revision, lock.terms.clone());
            }
        }
        self.states.push(Arc::new(state));
        self.events.push(LoggedEvent { event, response: None });
    }

    /// Records that the current task has received the response to the commit of `revision`.
    pub(crate) fn record_commit_response(&mut self, revision: Revision) {
        let index = usize::try_from(revision - 1).ok();
        if let Some(logged) = index.and_then(|index| self.events.get_mut(index)) {
            logged.response.get_or_insert_with(|| (Instant::now(), task::try_id()));
        }
    }

    /// Drops all events after `head`. If `head` is not in this log, another log starts, and the
    /// result is false.
    pub(crate) fn restore(&mut self, head: &Position) -> bool {
        if !self.contains(head) {
            *self = Self::new(head.epoch);
            return false;
        }
        let head = head.revision;
        let length = usize::try_from(head).unwrap_or(0);
        self.events.truncate(length);
        self.states.truncate(length + 1);
        self.epochs.retain(|(first, _)| *first <= head);
        self.enforced = self.enforced.min(head);
        true
    }

    pub(crate) fn at(&self, revision: Revision) -> Option<&LoggedEvent> {
        self.events.get(usize::try_from(revision - 1).ok()?)
    }

    /// Whether the position is in this log.
    pub(crate) fn contains(&self, position: &Position) -> bool {
        let time = self.at(position.revision).map(|logged| logged.event.time);
        let mut epochs = self.epochs.iter().rev();
        let epoch = epochs.find(|(first, _)| *first <= position.revision);
        epoch.is_some_and(|(_, epoch)| *epoch == position.epoch)
            && (position.revision == 0 || (time.is_some() && time == position.time))
    }

    /// How a snapshot at a position in this log differs from the model. Tenants in which everything
    /// is denied, because of a forgery, are not compared.
    pub(crate) fn difference(&self, snapshot: &Snapshot) -> Option<String> {
        let revision = snapshot.revision();
        let state = self.states.get(usize::try_from(revision).ok()?)?;
        let quarantined: Vec<_> = snapshot.locks().filter(|lock| lock.is_quarantine()).collect();
        let is_compared = |tenant_id: Option<&TenantId>| {
            let is_about = |lock: &&LockTerms| lock.tenant_id.as_ref() == tenant_id;
            !quarantined.iter().any(|lock| lock.tenant_id.is_none() || is_about(lock))
        };
        let grants: BTreeMap<_, _> = snapshot
            .iter()
            .filter(|(tenant_id, ..)| is_compared(Some(tenant_id)))
            .map(|(tenant_id, retained, terms)| {
                ((tenant_id.clone(), terms.grant_id), (retained, terms.clone()))
            })
            .collect();
        let is_compared_lock = |lock: &&LockTerms| is_compared(lock.tenant_id.as_ref());
        let mut locks: Vec<_> = snapshot.locks().filter(is_compared_lock).collect();
        let mut expected_locks: Vec<_> = state.locks.values().filter(is_compared_lock).collect();
        locks.sort_by_key(|lock| lock.lock_id);
        expected_locks.sort_by_key(|lock| lock.lock_id);
        if locks != expected_locks {
            let (count, expected) = (locks.len(), expected_locks.len());
            return Some(format!(
                "has {count} locks at r{revision} that differ from the {expected} of the log"
            ));
        }
        let expected =
            state.grants.iter().filter(|((tenant_id, _), _)| is_compared(Some(tenant_id)));
        let expected: BTreeMap<_, _> =
            expected.map(|(key, grant)| (key.clone(), grant.clone())).collect();
        let found = snapshot.iter().filter(|(tenant_id, ..)| is_compared(Some(tenant_id))).count();
        let is_same = grants == expected && found == grants.len();
        let (count, expected) = (found, expected.len());
        (!is_same).then(|| {
            format!("has {count} grants at r{revision} that differ from the {expected} of the log")
        })
    }

    /// Whether a check may be allowed by a grant, from the last enforced revision or from any later
    /// one.
    ///
    /// A node knows a time of the database of at least `now`, and may once have known `latest`.
    /// After a step back, an expired lock need not apply again, and a started grant may still be
    /// used. However, a grant ends when its time `has_elapsed` since the event that set the end.
    pub(crate) fn may_allow(
        &self,
        check: &AccessCheck,
        grant_id: GrantId,
        now: Time,
        latest: Time,
        has_elapsed: impl Fn(Revision, Duration) -> bool,
    ) -> bool {
        // Changes happen at the trusted time, which may be ahead of the clock.
        let latest = latest.max(self.events.last().map_or(latest, |last| last.event.time));
        let key = (check.tenant_id.clone(), grant_id);
        let is_over = |state: &State| {
            state.spans.get(&key).is_some_and(|(revision, span)| has_elapsed(*revision, *span))
        };
        let is_active = |terms: &GrantTerms| {
            terms.revoke_time.is_none()
                && !terms.is_expired
                && terms.start_time <= latest
                && terms.expire_time.is_none_or(|end| now < end)
        };
        let denies = |lock: &LockTerms| lock.matches(check) && lock.applies_at(latest);
        let enforced = usize::try_from(self.enforced).unwrap_or(0);
        self.states.iter().skip(enforced).any(|state| {
            state
                .grants
                .get(&key)
                .is_some_and(|(_, terms)| is_active(terms) && is_requested(&terms.group_id, check))
                && !is_over(state)
                && !state.locks.values().any(denies)
        })
    }

    /// The locks that no event has ended, oldest first.
    pub(crate) fn locks(&self) -> impl Iterator<Item = &LockTerms> {
        self.states.last().into_iter().flat_map(|state| state.locks.values())
    }

    /// All grants at the head.
    pub(crate) fn grants(&self) -> impl Iterator<Item = (&TenantId, Retained, &GrantTerms)> {
        let grants = self.states.last().into_iter().flat_map(|state| state.grants.iter());
        grants.map(|((tenant_id, _), (retained, terms))| (tenant_id, *retained, terms))
    }
}
