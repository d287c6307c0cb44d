//! Checks: answered from the node's snapshot, without a database.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    domain::{
        AccessLevel, Decision, GrantId, GrantState, GrantTerms, Question, Reason, Revision, Time,
        decision::{decide, message},
        explain::{ChecklistItem, checklist, obstacles},
        time::between,
    },
    node::{CheckNode, ReadView},
    store::{GrantFilter, GrantQuery, PageBounds, QueryScope, Store},
};

/// How long a check waits for the revision it is to be answered from.
pub const REVISION_TIMEOUT: Duration = Duration::from_secs(1);
/// The most questions in one batch.
pub const BATCH_MAX: usize = 1_000;
/// How many questions of a batch are answered before others get a turn.
const BATCH_CHUNK: usize = 32;
/// The most grants in an explanation.
const CANDIDATES_MAX: usize = 100;

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Why. [`Reason::GrantActive`] allows, everything else denies.
    pub reason: Reason,
    /// The grant that decided.
    pub grant_id: Option<GrantId>,
    /// If allowed: its level.
    pub access_level: Option<AccessLevel>,
    /// If allowed: its end.
    pub expire_time: Option<Time>,
    /// How long the answer may be acted upon; zero for a denial.
    pub valid_for: Duration,
    /// What it was computed from.
    pub revision: Revision,
    /// For people.
    pub message: String,
}

/// Why a question is answered as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The answer.
    pub answer: Answer,
    /// What to look at, in order.
    pub checklist: Vec<ChecklistItem>,
    /// The tenant's grants: those that checks look at, then older ones; each newest first.
    pub candidates: Vec<Candidate>,
    /// Whether there are more, or may be, since the store could not be asked.
    pub is_truncated: bool,
}

/// A grant, and what keeps it from letting the agent in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The grant's terms.
    pub terms: GrantTerms,
    /// Its state then.
    pub state: GrantState,
    /// [`Reason::GrantActive`] alone if nothing does.
    pub reasons: Vec<Reason>,
}

/// Answers checks, at a replica or a sidecar.
#[derive(Debug)]
pub struct Checks {
    node: Arc<CheckNode>,
    /// Where grants are that are too old to be held in memory; a sidecar has no such place.
    history: Option<Arc<dyn Store>>,
}

impl Checks {
    /// Answers from what `node` holds, and explains with what `history` has, too.
    pub fn new(node: Arc<CheckNode>, history: Option<Arc<dyn Store>>) -> Self {
        Self { node, history }
    }

    /// May the agent enter? From `at_least` or later, or denied as stale.
    pub async fn check(
        &self,
        question: &Question,
        at_least: Revision,
        deadline: Instant,
    ) -> Answer {
        let read_view = self.read_view(at_least, deadline).await;
        answer(&read_view, &decision(&read_view, question), question)
    }

    /// Many questions, answered from one snapshot at one time. Returns its revision as well.
    pub async fn check_batch(
        &self,
        questions: &[Question],
        at_least: Revision,
        deadline: Instant,
    ) -> (Vec<Answer>, Revision) {
        let read_view = self.read_view(at_least, deadline).await;
        let mut answers = Vec::with_capacity(questions.len());
        for some in questions.chunks(BATCH_CHUNK) {
            let one = |question| answer(&read_view, &decision(&read_view, question), question);
            answers.extend(some.iter().map(one));
            // Others on this thread have waited long enough.
            tokio::task::yield_now().await;
        }
        (answers, read_view.view.snapshot().revision())
    }

    /// Why is the question answered as it is? The answer is the one that a check gets; grants that are too old to be held in
    /// memory come from the store, if it can be reached.
    pub async fn explain(
        &self,
        question: &Question,
        at_least: Revision,
        deadline: Instant,
    ) -> Explanation {
        let read_view = self.read_view(at_least, deadline).await;
        let now = read_view.now.unwrap_or(Time::UNIX_EPOCH.into());
        let decision = decision(&read_view, question);
        let answer = answer(&read_view, &decision, question);
        let checklist = checklist(&decision, question);
        let held = read_view.view.snapshot().grants(&question.tenant_id).cloned();
        let (terms, is_truncated) = self.with_older(held.collect(), question, now.latest).await;
        let candidates = terms.into_iter().map(|terms| Candidate {
            reasons: reasons(&decision, obstacles(&terms, question, now)),
            state: terms.state(now),
            terms,
        });
        Explanation { answer, checklist, candidates: candidates.collect(), is_truncated }
    }

    /// What memory holds of a tenant, and behind it the ended grants that only the store has.
    async fn with_older(
        &self,
        mut held: Vec<GrantTerms>,
        question: &Question,
        now: Time,
    ) -> (Vec<GrantTerms>, bool) {
        held.sort_unstable_by_key(|terms| std::cmp::Reverse(terms.grant_id));
        let mut filter = GrantFilter::all(QueryScope::Tenant(question.tenant_id.clone()));
        filter.states = vec![GrantState::Expired, GrantState::Revoked];
        let page = PageBounds::newest(CANDIDATES_MAX + 1);
        let query = GrantQuery { filter, now, page };
        let older = match &self.history {
            Some(store) => store.queries().grants(&query).await.ok(),
            None => None,
        };
        let is_unknown = older.is_none();
        let held_ids: HashSet<_> = held.iter().map(|terms| terms.grant_id).collect();
        let older = older.unwrap_or_default().into_iter().map(|listed| listed.item.terms);
        held.extend(older.filter(|terms| !held_ids.contains(&terms.grant_id)));
        let is_truncated = is_unknown || held.len() > CANDIDATES_MAX;
        held.truncate(CANDIDATES_MAX);
        (held, is_truncated)
    }

    /// What there is to answer from, once it includes `at_least`. If that does not come in time, it may not be answered from.
    async fn read_view(&self, at_least: Revision, deadline: Instant) -> ReadView {
        if self.node.revision() < at_least {
            let patience = deadline.min(Instant::now() + REVISION_TIMEOUT);
            if !self.node.wait_for(at_least, patience).await {
                return ReadView { valid_for: Duration::ZERO, ..self.node.read_view() };
            }
        }
        self.node.read_view()
    }
}

/// What keeps a grant from letting the agent in: a lock first, if there is one, and what of the grant does.
fn reasons(decision: &Decision<'_>, mut obstacles: Vec<Reason>) -> Vec<Reason> {
    if decision.lock.is_some() {
        obstacles.retain(|reason| *reason != Reason::GrantActive);
        obstacles.insert(0, Reason::Locked);
    }
    obstacles
}

fn decision<'a>(read_view: &'a ReadView, question: &Question) -> Decision<'a> {
    match read_view.now {
        Some(now) if read_view.is_fresh() => {
            let snapshot = read_view.view.snapshot();
            let (locks, grants) =
                (snapshot.locks_on(question), snapshot.grants(&question.tenant_id));
            decide(locks, grants, question, now)
        }
        _ => Decision::STALE,
    }
}

fn answer(read_view: &ReadView, decision: &Decision<'_>, question: &Question) -> Answer {
    let deciding = decision.terms.filter(|_| decision.is_allowed());
    let expire_time = deciding.and_then(|terms| terms.expire_time);
    let until_expiry =
        expire_time.zip(read_view.now).map(|(expire, now)| between(now.latest, expire));
    let valid_for = match deciding {
        Some(_) => until_expiry.map_or(read_view.valid_for, |rest| rest.min(read_view.valid_for)),
        None => Duration::ZERO,
    };
    Answer {
        reason: decision.reason,
        grant_id: decision.terms.map(|terms: &GrantTerms| terms.grant_id),
        access_level: deciding.map(|terms| terms.access_level),
        expire_time,
        valid_for,
        revision: read_view.view.snapshot().revision(),
        message: message(decision, question),
    }
}
