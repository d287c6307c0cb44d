//! What was asked, answered and promised, with the time of each by one clock: and whether all of it can be true.

use std::{
    collections::{BTreeMap, HashMap},
    time::Instant,
};

use parking_lot::Mutex;
use support_access::api::proto::v1::{
    Decision, DecisionReason, EnforcementState, Event, EventType, Grant, ListEventsRequest,
    RevokeAccessRequest, support_access_client::SupportAccessClient,
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
    pub revision: i64,
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
        at_least: i64,
    ) -> Result<Verdict, Status> {
        let invoked = Instant::now();
        let answer = client.clone().check_access(question(tenant_id, at_least)).await?.into_inner();
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
            revision: answer.revision,
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
        let enforcement = revoked.enforcement.unwrap();
        if enforcement.state() == EnforcementState::Complete {
            self.ended.lock().entry(grant.grant_id.clone()).or_insert(began + took);
            self.ends.send_modify(|ends| *ends += 1);
        }
        Ok(Revoked { enforcement, took })
    }

    /// Tells whenever something was said to have ended.
    pub fn ends(&self) -> watch::Receiver<usize> {
        self.ends.subscribe()
    }

    /// All answers so far that fit.
    pub fn answers(&self, fits: impl Fn(&Answer) -> bool) -> Vec<Answer> {
        self.answers.lock().iter().filter(|answer| fits(answer)).cloned().collect()
    }

    /// Waits until so many more events have been made, and a node has answered from the last of them.
    pub async fn goes_on(&self, events: i64) {
        let latest = || {
            let answers = self.answers.lock();
            let known = answers.iter().filter(|answer| answer.verdict != Verdict::Stale);
            known.map(|answer| answer.revision).max().unwrap_or_default()
        };
        let goal = latest() + events;
        eventually("changes are made", async || latest() >= goal).await;
    }

    /// How many answers there are, and how many of them allow.
    pub fn counts(&self) -> (usize, usize) {
        let answers = self.answers.lock();
        let allowed = answers.iter().filter(|answer| matches!(answer.verdict, Verdict::Allowed(_)));
        (answers.len(), allowed.count())
    }

    /// Whether all of it can be true, of what is in `log`.
    pub fn verify(&self, log: &Log) {
        self.nobody_was_let_in_after_the_end();
        self.no_node_went_back();
        let states: BTreeMap<_, _> = log.iter().map(|(it, events)| (it, replay(events))).collect();
        for answer in self.answers.lock().iter() {
            let live = states.get(&answer.tenant_id).map(|states| live_at(states, answer.revision));
            assert!(answer.is_of(live.unwrap_or_default()), "the log says {live:?}: {answer:?}");
        }
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

    /// Who was told something by a node is not told less by it later.
    fn no_node_went_back(&self) {
        let mut answers = self.answers.lock();
        answers.sort_by_key(|answer| answer.invoked);
        let mut last = HashMap::<usize, Answer>::new();
        for answer in answers.iter() {
            if let Some(last) = last.get(&answer.node).filter(|it| it.answered < answer.invoked) {
                assert!(last.revision <= answer.revision, "{last:?}, and then {answer:?}");
            }
            if last.get(&answer.node).is_none_or(|last| last.answered < answer.answered) {
                last.insert(answer.node, answer.clone());
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

/// After each event: its revision, and the grants that were live then.
pub fn replay(events: &[Event]) -> Vec<(i64, Vec<String>)> {
    let mut states = vec![(0, vec![])];
    for event in events {
        let mut live = states.last().unwrap().1.clone();
        match event.r#type() {
            EventType::Granted => live.push(event.grant_id.clone()),
            EventType::Revoked | EventType::Expired => live.retain(|it| *it != event.grant_id),
            _ => {}
        }
        states.push((event.revision, live));
    }
    states
}

/// The grants that were live at a revision.
pub fn live_at(states: &[(i64, Vec<String>)], revision: i64) -> &[String] {
    let later = states.partition_point(|(at, _)| *at <= revision);
    &states[later - 1].1
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
