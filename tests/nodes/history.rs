//! Checks, answers and promises, with the time of each by one clock, and whether they are consistent.

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

use crate::{
    fleet::{Admin, Revoked, question},
    server::eventually,
};

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Allowed, by this grant.
    Allowed(String),
    /// Denied, from what the node knows.
    Denied(DecisionReason),
    /// Denied, since the node cannot tell.
    Stale,
}

/// A check.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The life of the node that answered.
    pub node: usize,
    pub tenant_id: String,
    pub invoked: Instant,
    pub answered: Instant,
    pub verdict: Verdict,
}

/// Everything that was seen from outside.
#[derive(Debug, Default)]
pub struct History {
    answers: Mutex<Vec<Answer>>,
    /// When somebody was first told that a grant lets nobody in any more.
    ended: Mutex<HashMap<String, Instant>>,
    /// How many were.
    ends: watch::Sender<usize>,
    /// The number of changes that administrators know to have been made.
    changes: AtomicUsize,
}

/// What one log says of each tenant: its events, in their order.
pub type Log = BTreeMap<String, Vec<Event>>;

impl Verdict {
    pub fn is_allowed_by(&self, grant: &Grant) -> bool {
        matches!(self, Self::Allowed(grant_id) if *grant_id == grant.grant_id)
    }
}

impl History {
    /// Asks a node, and notes the answer.
    pub async fn ask(
        &self,
        node: usize,
        client: &SupportAccessClient<Channel>,
        tenant_id: &str,
        consistency_token: &str,
    ) -> Result<Verdict, Status> {
        let invoked = Instant::now();
        let check = question(tenant_id, consistency_token);
        let answer = client.clone().check_access(check).await?.into_inner();
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

    /// Revokes, and notes whether the end was said to be in force everywhere.
    pub async fn revoke(&self, admin: &mut Admin, grant: &Grant) -> Result<Revoked, Status> {
        let request = RevokeAccessRequest {
            tenant_id: grant.tenant_id.clone(),
            grant_id: grant.grant_id.clone(),
            ..Default::default()
        };
        let began = Instant::now();
        let revoked = admin.revoke_access(request).await?.into_inner();
        let took = began.elapsed();
        let (grant, enforcement) = (revoked.grant.unwrap(), revoked.enforcement.unwrap());
        if enforcement.state() == EnforcementState::Complete {
            self.ended.lock().entry(grant.grant_id.clone()).or_insert(began + took);
            self.ends.send_modify(|ends| *ends += 1);
        }
        Ok(Revoked { grant, enforcement, took })
    }

    /// Tells whenever something was said to have ended.
    pub fn ends(&self) -> watch::Receiver<usize> {
        self.ends.subscribe()
    }

    /// All answers so far that fit.
    pub fn answers(&self, fits: impl Fn(&Answer) -> bool) -> Vec<Answer> {
        self.answers.lock().iter().filter(|answer| fits(answer)).cloned().collect()
    }

    /// Notes that an administrator's change was acknowledged.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until so many more changes have been acknowledged, and a node has answered a check since.
    pub async fn goes_on(&self, changes: usize) {
        let goal = self.changes.load(Ordering::Relaxed) + changes;
        let is_reached = async || self.changes.load(Ordering::Relaxed) >= goal;
        eventually("changes are made", is_reached).await;
        let changed = Instant::now();
        eventually("checks are answered", async || {
            let answers = self.answers.lock();
            let later = |answer: &&Answer| answer.invoked >= changed;
            answers.iter().rev().find(later).is_some_and(|answer| answer.verdict != Verdict::Stale)
        })
        .await;
    }

    /// How many answers there are, and how many of them allow.
    pub fn counts(&self) -> (usize, usize) {
        let answers = self.answers.lock();
        let allowed = answers.iter().filter(|answer| matches!(answer.verdict, Verdict::Allowed(_)));
        (answers.len(), allowed.count())
    }

    /// Checks all answers against the promises, and against the events in `log`.
    pub fn verify(&self, log: &Log) {
        self.nobody_was_let_in_after_the_end();
        assert_consistent(log, &self.answers(|_| true));
    }

    /// The promise.
    pub fn nobody_was_let_in_after_the_end(&self) {
        let ended = self.ended.lock();
        for answer in self.answers.lock().iter() {
            if let Verdict::Allowed(grant_id) = &answer.verdict
                && let Some(ended) = ended.get(grant_id)
            {
                assert!(answer.invoked <= *ended, "after the end, at {ended:?}: {answer:?}");
            }
        }
    }
}

impl Answer {
    /// Whether it can be given where those grants, and no others, are live.
    pub fn is_of(&self, live: &[String]) -> bool {
        match &self.verdict {
            Verdict::Allowed(grant_id) => live.contains(grant_id),
            Verdict::Denied(_) => live.is_empty(),
            Verdict::Stale => true,
        }
    }
}

/// Each answer shows a state of the log, and no node goes back to an earlier state of a tenant.
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
        let mut fitting = (first..states.len()).filter(|index| answer.is_of(&states[*index]));
        let state = fitting.next();
        let state = state.unwrap_or_else(|| panic!("{:?} has: {answer:?}", &states[first..]));
        shown.later.push((answer.answered, state));
    }
}

/// The states of a tenant that a node has shown, each the earliest possible one.
#[derive(Debug, Default)]
struct Shown {
    /// The latest state in answers that arrived before the current check was sent.
    floor: usize,
    /// The other answers: when each arrived, and its state.
    later: Vec<(Instant, usize)>,
}

impl Shown {
    /// The earliest state that a check may show which is sent at this time.
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

/// Whether some state of the log explains the answer.
pub fn is_of(log: &Log, answer: &Answer) -> bool {
    let events = log.get(&answer.tenant_id).map_or(&[][..], Vec::as_slice);
    replay(events).iter().any(|live| answer.is_of(live))
}

/// The live grants of a tenant: at the beginning, and after each event.
fn replay(events: &[Event]) -> Vec<Vec<String>> {
    let mut states = vec![Vec::new()];
    for event in events {
        let mut live = states.last().unwrap().clone();
        match event.payload.as_ref().unwrap() {
            Payload::Granted(granted) => live.push(granted.grant.clone().unwrap().grant_id),
            Payload::Revoked(ended) => {
                let grant_id = &ended.grant.as_ref().unwrap().grant_id;
                live.retain(|live| live != grant_id);
            }
            Payload::Expired(ended) => {
                let grant_id = &ended.grant.as_ref().unwrap().grant_id;
                live.retain(|live| live != grant_id);
            }
            _ => {}
        }
        states.push(live);
    }
    states
}

/// The events of those tenants.
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
