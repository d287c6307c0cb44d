//! The record of all answers and enforced revocations with their times, and the check of their
//! consistency.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use parking_lot::Mutex;
use support_access::api::proto::v1::{
    Decision, DecisionReason, EnforcementState, Event, Grant, ListEventsRequest,
    RevokeAccessRequest, event::Payload, support_access_client::SupportAccessClient,
};
use tokio::sync::watch;
use tonic::{Status, transport::Channel};

use crate::nodes::{
    fleet::{Admin, Revoked},
    requests::check_request,
    server::eventually,
};

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Allowed through the grant with this id.
    Allowed(String),
    /// Denied according to the node's state.
    Denied(DecisionReason),
    /// Denied because the node's state may be outdated.
    Stale,
}

/// A check and its outcome.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The number of the process that answered.
    pub node: usize,
    pub tenant_id: String,
    pub invoked: Instant,
    pub answered: Instant,
    pub verdict: Verdict,
}

/// All answers and enforced revocations that the test has seen.
#[derive(Debug, Default)]
pub struct History {
    answers: Mutex<Vec<Answer>>,
    /// For each revoked grant, the first time that a caller was notified of complete enforcement.
    enforced: Mutex<HashMap<String, Instant>>,
    /// The number of enforced revocations.
    revocations: watch::Sender<usize>,
    /// The number of acknowledged changes.
    changes: AtomicUsize,
}

/// The events of each tenant in order, from one log.
pub type Log = BTreeMap<String, Vec<Event>>;

impl Verdict {
    pub fn is_allowed_by(&self, grant: &Grant) -> bool {
        matches!(self, Self::Allowed(grant_id) if *grant_id == grant.grant_id)
    }
}

impl History {
    /// Checks access at a node and records the answer.
    pub async fn check(
        &self,
        node: usize,
        client: &SupportAccessClient<Channel>,
        tenant_id: &str,
        consistency_token: &str,
    ) -> Result<Verdict, Status> {
        let invoked = Instant::now();
        let request = check_request(tenant_id, consistency_token);
        let answer = client.clone().check_access(request).await?.into_inner();
        let answered = Instant::now();
        let verdict = match (answer.decision(), answer.reason()) {
            (Decision::Allowed, DecisionReason::GrantActive) => Verdict::Allowed(answer.grant_id),
            (Decision::Denied, DecisionReason::Stale) => Verdict::Stale,
            (Decision::Denied, reason) => Verdict::Denied(reason),
            other => panic!("{other:?}"),
        };
        self.answers.lock().push(Answer {
            node,
            tenant_id: tenant_id.into(),
            invoked,
            answered,
            verdict: verdict.clone(),
        });
        Ok(verdict)
    }

    /// Revokes a grant and records whether enforcement is complete.
    pub async fn revoke(&self, admin: &mut Admin, grant: &Grant) -> Result<Revoked, Status> {
        let request = RevokeAccessRequest {
            tenant_id: grant.tenant_id.clone(),
            grant_id: grant.grant_id.clone(),
            ..Default::default()
        };
        let started = Instant::now();
        let revoked = admin.revoke_access(request).await?.into_inner();
        let took = started.elapsed();
        let (grant, enforcement) = (revoked.grant.unwrap(), revoked.enforcement.unwrap());
        if enforcement.state() == EnforcementState::Complete {
            self.enforced.lock().entry(grant.grant_id.clone()).or_insert(started + took);
            self.revocations.send_modify(|revocations| *revocations += 1);
        }
        Ok(Revoked { grant, enforcement, took })
    }

    /// Subscribes to enforced revocations.
    pub fn watch_revocations(&self) -> watch::Receiver<usize> {
        self.revocations.subscribe()
    }

    /// Returns all matching answers so far.
    pub fn answers(&self, matches: impl Fn(&Answer) -> bool) -> Vec<Answer> {
        self.answers.lock().iter().filter(|answer| matches(answer)).cloned().collect()
    }

    /// Records an acknowledged change.
    pub fn record_change(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for `changes` more acknowledged changes, and for one certain answer after them.
    pub async fn wait_for_changes(&self, changes: usize) {
        let goal = self.changes.load(Ordering::Relaxed) + changes;
        let is_reached = async || self.changes.load(Ordering::Relaxed) >= goal;
        eventually("changes are acknowledged", is_reached).await;
        let changed_at = Instant::now();
        eventually("checks are answered", async || {
            let answers = self.answers.lock();
            let later = |answer: &&Answer| answer.invoked >= changed_at;
            answers.iter().rev().find(later).is_some_and(|answer| answer.verdict != Verdict::Stale)
        })
        .await;
    }

    /// Returns the number of answers and the number of allowed answers.
    pub fn counts(&self) -> (usize, usize) {
        let answers = self.answers.lock();
        let allowed = answers.iter().filter(|answer| matches!(answer.verdict, Verdict::Allowed(_)));
        (answers.len(), allowed.count())
    }

    /// Asserts that all answers respect the enforced revocations and match the events in `log`.
    pub fn verify(&self, log: &Log) {
        self.assert_no_access_after_revocation();
        assert_consistent(log, &self.answers(|_| true));
    }

    /// Asserts the guarantee: no check that starts after an enforced revocation is allowed by the
    /// revoked grant.
    pub fn assert_no_access_after_revocation(&self) {
        let enforced = self.enforced.lock();
        for answer in self.answers.lock().iter() {
            if let Verdict::Allowed(grant_id) = &answer.verdict
                && let Some(enforced) = enforced.get(grant_id)
            {
                assert!(
                    answer.invoked <= *enforced,
                    "allowed after enforcement at {enforced:?}: {answer:?}"
                );
            }
        }
    }
}

impl Answer {
    /// Returns whether the answer is correct while exactly the grants in `live` are live.
    pub fn matches_state(&self, live: &[String]) -> bool {
        match &self.verdict {
            Verdict::Allowed(grant_id) => live.contains(grant_id),
            Verdict::Denied(_) => live.is_empty(),
            Verdict::Stale => true,
        }
    }
}

/// Asserts that each answer matches a state of the log, and that no node returns to an earlier
/// state of a tenant.
pub fn assert_consistent(log: &Log, answers: &[Answer]) {
    let states: BTreeMap<_, _> =
        log.iter().map(|(tenant, events)| (tenant, replay(events))).collect();
    let mut answers: Vec<&Answer> =
        answers.iter().filter(|answer| answer.verdict != Verdict::Stale).collect();
    answers.sort_by_key(|answer| answer.invoked);
    let mut shown: HashMap<(usize, &str), Shown> = HashMap::new();
    for answer in answers {
        let shown = shown.entry((answer.node, &answer.tenant_id)).or_default();
        let first = shown.first(answer.invoked);
        let beginning = vec![Vec::new()];
        let states = states.get(&answer.tenant_id).unwrap_or(&beginning);
        let mut candidates =
            (first..states.len()).filter(|index| answer.matches_state(&states[*index]));
        let state = candidates.next();
        let state = state
            .unwrap_or_else(|| panic!("no state of {:?} matches {answer:?}", &states[first..]));
        shown.later.push((answer.answered, state));
    }
}

/// The states of a tenant that a node's answers have shown. Each is the earliest possible state.
#[derive(Debug, Default)]
struct Shown {
    /// The latest state in answers that arrived before the current check was sent.
    floor: usize,
    /// The remaining answers: the arrival time and the state of each.
    later: Vec<(Instant, usize)>,
}

impl Shown {
    /// Returns the earliest state that a check sent at `invoked` may show.
    fn first(&mut self, invoked: Instant) -> usize {
        let Self { floor, later } = self;
        later.retain(|(answered, state)| {
            let has_arrived = *answered < invoked;
            if has_arrived {
                *floor = (*floor).max(*state);
            }
            !has_arrived
        });
        *floor
    }
}

/// Returns whether the answer matches any state of the log.
pub fn matches_log(log: &Log, answer: &Answer) -> bool {
    let events = log.get(&answer.tenant_id).map_or(&[][..], Vec::as_slice);
    replay(events).iter().any(|live| answer.matches_state(live))
}

/// Returns the live grants of a tenant before the first event and after each event.
fn replay(events: &[Event]) -> Vec<Vec<String>> {
    let mut states = vec![Vec::new()];
    for event in events {
        let mut live = states.last().unwrap().clone();
        match event.payload.as_ref().unwrap() {
            Payload::Granted(granted) => live.push(granted.grant.clone().unwrap().grant_id),
            Payload::Revoked(enforced) => {
                let grant_id = &enforced.grant.as_ref().unwrap().grant_id;
                live.retain(|live| live != grant_id);
            }
            Payload::Expired(enforced) => {
                let grant_id = &enforced.grant.as_ref().unwrap().grant_id;
                live.retain(|live| live != grant_id);
            }
            _ => {}
        }
        states.push(live);
    }
    states
}

/// Reads all events of `tenants`.
pub async fn log(admin: &mut Admin, tenants: &[String]) -> Log {
    let mut log = Log::new();
    for tenant_id in tenants {
        let mut events = Vec::new();
        let mut page_token = String::new();
        loop {
            let tenant_id = tenant_id.clone();
            let request = ListEventsRequest { tenant_id, page_token, ..Default::default() };
            let page = admin.list_events(request).await.unwrap().into_inner();
            events.extend(page.events);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        events.reverse();
        log.insert(tenant_id.clone(), events);
    }
    log
}
