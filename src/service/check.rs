//! Checks: decided from the node's snapshot, without a database.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    domain::{
        AccessCheck, AccessLevel, Decision, GrantId, GrantState, GrantTerms, LockId, Reason,
        Remedy, TenantId, Time,
        decision::{decide, message},
        explain::{ChecklistItem, checklist, obstacles},
        time::between,
        token::{TokenEvent, TokenInvalid},
    },
    node::{CheckNode, ReadView, Snapshot, tenant_grants::TenantGrants},
    service::ServiceError,
    store::{GrantFilter, GrantQuery, PageBounds, QueryScope, Store},
};

/// How long a check waits for the event of its consistency token.
pub const TOKEN_TIMEOUT: Duration = Duration::from_secs(1);
/// The maximum number of checks in one batch.
pub const BATCH_MAX: usize = 1_000;
/// The number of checks after which a batch yields to other tasks.
const BATCH_CHUNK: usize = 64;
/// The maximum number of grants in an explanation.
const CANDIDATES_MAX: usize = 100;

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// The reason. Only [`Reason::GrantActive`] allows.
    pub reason: Reason,
    /// The remedy for a denial.
    pub remedy: Remedy,
    /// The grant that allows the check, or that came closest.
    pub grant_id: Option<GrantId>,
    /// The lock that denies the check.
    pub lock_id: Option<LockId>,
    /// The level of the grant for the agent's kind. `None`: denied.
    pub access_level: Option<AccessLevel>,
    /// The end of the grant. `None`: until revoked, or denied.
    pub expire_time: Option<Time>,
    /// How long the result may be used. Zero: denied.
    pub valid_for: Duration,
    /// The decision as a sentence.
    pub message: String,
    /// The number of group values that are not ids.
    pub ignored_group_count: usize,
}

/// The explanation of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The result of the check.
    pub result: CheckResult,
    /// The checklist, in order.
    pub checklist: Vec<ChecklistItem>,
    /// The tenant's grants: first the grants in memory, then older grants; each part newest first.
    pub candidates: Vec<Candidate>,
    /// Whether there are, or may be, more grants.
    pub is_truncated: bool,
    /// The group values that are not ids.
    pub ignored_groups: Vec<String>,
}

/// A grant that was considered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The tenant of the grant.
    pub tenant_id: TenantId,
    /// The grant.
    pub terms: GrantTerms,
    /// The state at the time of the check.
    pub state: GrantState,
    /// [`Reason::GrantActive`] alone, or every obstacle.
    pub reasons: Vec<Reason>,
}

/// Checks, at a replica or a sidecar.
#[derive(Debug)]
pub struct Checks {
    node: Arc<CheckNode>,
    /// The store with the ended grants that are not in memory. A sidecar has no store.
    history: Option<Arc<Store>>,
}

impl Checks {
    /// Decides from the snapshot of `node`. Explanations also read `history`.
    pub fn new(node: Arc<CheckNode>, history: Option<Arc<Store>>) -> Self {
        Self { node, history }
    }

    /// Decides a check from the event of `token` or a later one. Denied with [`Reason::Stale`] if
    /// that event does not arrive in time. An empty token is no token.
    pub async fn check(
        &self,
        check: &AccessCheck,
        token: &str,
        deadline: Instant,
    ) -> Result<CheckResult, ServiceError> {
        let read_view = self.read_view(token, deadline).await?;
        Ok(result(&read_view, &decision(&read_view, check), check))
    }

    /// Decides several checks from one snapshot at one time.
    pub async fn check_batch(
        &self,
        checks: &[AccessCheck],
        token: &str,
        deadline: Instant,
    ) -> Result<Vec<CheckResult>, ServiceError> {
        let read_view = self.read_view(token, deadline).await?;
        let mut results = Vec::with_capacity(checks.len());
        for chunk in checks.chunks(BATCH_CHUNK) {
            if !results.is_empty() {
                tokio::task::yield_now().await;
            }
            let tenants = tenants_of(read_view.view.snapshot(), chunk);
            results.extend(chunk.iter().zip(tenants).map(|(check, grants)| {
                result(&read_view, &decide_from(&read_view, grants, check), check)
            }));
        }
        Ok(results)
    }

    /// Explains a check, with the result that [`Self::check`] returns. Ended grants that are not in
    /// memory come from the store, if the store is available.
    pub async fn explain(
        &self,
        check: &AccessCheck,
        token: &str,
        deadline: Instant,
    ) -> Result<Explanation, ServiceError> {
        let read_view = self.read_view(token, deadline).await?;
        let now = read_view.now.unwrap_or(Time::UNIX_EPOCH.into());
        let decision = decision(&read_view, check);
        let in_memory = read_view.view.snapshot().grants(&check.tenant_id).cloned();
        let (grants, is_truncated) =
            self.with_older(in_memory.collect(), &check.tenant_id, now.latest).await;
        let candidates = grants.into_iter().map(|terms| Candidate {
            tenant_id: check.tenant_id.clone(),
            reasons: reasons(&decision, obstacles(&terms, check, now)),
            state: terms.state(now),
            terms,
        });
        Ok(Explanation {
            result: result(&read_view, &decision, check),
            checklist: checklist(&decision, check),
            candidates: candidates.collect(),
            is_truncated,
            ignored_groups: check.groups.ignored().to_vec(),
        })
    }

    /// Adds the ended grants that only the store has. Returns whether there may be more.
    async fn with_older(
        &self,
        mut grants: Vec<GrantTerms>,
        tenant_id: &TenantId,
        now: Time,
    ) -> (Vec<GrantTerms>, bool) {
        grants.sort_unstable_by_key(|terms| std::cmp::Reverse(terms.grant_id));
        let query = GrantQuery {
            filter: GrantFilter {
                states: vec![GrantState::Expired, GrantState::Revoked],
                ..GrantFilter::all(QueryScope::Tenant(tenant_id.clone()))
            },
            now,
            page: PageBounds::newest(CANDIDATES_MAX + 1),
        };
        let older = match &self.history {
            Some(store) => store.queries().grants(&query).await.ok(),
            None => None,
        };
        let is_unknown = older.is_none();
        let in_memory: HashSet<_> = grants.iter().map(|terms| terms.grant_id).collect();
        let older = older.unwrap_or_default().into_iter().map(|listed| listed.item.terms);
        grants.extend(older.filter(|terms| !in_memory.contains(&terms.grant_id)));
        let is_truncated = is_unknown || grants.len() > CANDIDATES_MAX;
        grants.truncate(CANDIDATES_MAX);
        (grants, is_truncated)
    }

    /// The snapshot to decide from, once it includes the event of `token`. A snapshot that does not
    /// include the event in time must not be used, and gets a `valid_for` of zero.
    async fn read_view(&self, token: &str, deadline: Instant) -> Result<ReadView, TokenInvalid> {
        let read_view = self.node.read_view();
        if token.is_empty() {
            return Ok(read_view);
        }
        let unusable = |read_view| ReadView { valid_for: Duration::ZERO, ..read_view };
        let Some(key) = read_view.view.snapshot().token_key() else {
            return Ok(unusable(read_view));
        };
        let event = match key.decrypt(token) {
            Ok(event) => event,
            // A node without a lease may not know yet that the key was replaced.
            Err(_) if !read_view.is_fresh() => return Ok(unusable(read_view)),
            Err(invalid) => return Err(invalid),
        };
        let timeout = deadline.min(Instant::now() + TOKEN_TIMEOUT);
        let has_arrived = self.node.revision() >= event.revision
            || self.node.wait_for(event.revision, timeout).await;
        let read_view = self.node.read_view();
        let snapshot = read_view.view.snapshot();
        let position = snapshot.position();
        let head = position.map(|position| TokenEvent::new(position.revision, position.time));
        if head.is_some_and(|head| event.contradicts(head)) || snapshot.token_key() != Some(key) {
            return Err(TokenInvalid);
        }
        Ok(if has_arrived { read_view } else { unusable(read_view) })
    }
}

impl CheckResult {
    /// A denial, because a request cannot become a check.
    pub fn of_input(reason: Reason, message: String) -> Self {
        Self {
            reason,
            remedy: Remedy::CorrectInput,
            grant_id: None,
            lock_id: None,
            access_level: None,
            expire_time: None,
            valid_for: Duration::ZERO,
            message,
            ignored_group_count: 0,
        }
    }
}

/// The obstacles of one grant, preceded by the lock that overrides the grant.
fn reasons(decision: &Decision<'_>, mut obstacles: Vec<Reason>) -> Vec<Reason> {
    if decision.lock.is_some() {
        obstacles.retain(|reason| *reason != Reason::GrantActive);
        obstacles.insert(0, Reason::Locked);
    }
    obstacles
}

/// The grants of the tenants of these checks. Most tenants are in no processor cache: in loops this
/// short, the processor waits for the memory of several tenants at once.
fn tenants_of<'a>(snapshot: &'a Snapshot, checks: &[AccessCheck]) -> Vec<Option<&'a TenantGrants>> {
    let tenants = checks.iter().map(|check| snapshot.tenant(&check.tenant_id));
    let tenants = tenants.collect::<Vec<_>>();
    tenants.iter().flatten().for_each(|grants| grants.prefetch());
    for (grants, check) in tenants.iter().zip(checks) {
        if let Some(grants) = grants {
            grants.prefetch_candidate(check);
        }
    }
    tenants
}

fn decision<'a>(read_view: &'a ReadView, check: &AccessCheck) -> Decision<'a> {
    decide_from(read_view, read_view.view.snapshot().tenant(&check.tenant_id), check)
}

/// The decision by the grants of the tenant.
fn decide_from<'a>(
    read_view: &'a ReadView,
    grants: Option<&'a TenantGrants>,
    check: &AccessCheck,
) -> Decision<'a> {
    match read_view.now {
        Some(now) if read_view.is_fresh() => {
            let locks = read_view.view.snapshot().locks_on(check);
            let candidates = grants.into_iter().flat_map(|grants| grants.candidates(check, now));
            decide(locks, candidates, check, now)
        }
        _ => Decision::STALE,
    }
}

fn result(read_view: &ReadView, decision: &Decision<'_>, check: &AccessCheck) -> CheckResult {
    let allowing = decision.terms.filter(|_| decision.is_allowed());
    let expire_time = allowing.and_then(|terms| terms.expire_time);
    let until_expiry =
        expire_time.zip(read_view.now).map(|(expire, now)| between(now.latest, expire));
    let valid_for = match allowing {
        Some(_) => until_expiry.map_or(read_view.valid_for, |rest| rest.min(read_view.valid_for)),
        None => Duration::ZERO,
    };
    CheckResult {
        reason: decision.reason,
        remedy: decision.remedy(),
        grant_id: decision.terms.map(|terms| terms.grant_id),
        lock_id: decision.lock.map(|lock| lock.lock_id),
        access_level: allowing.and_then(|terms| terms.level_of(check.agent_kind)),
        expire_time,
        valid_for,
        message: message(decision, check),
        ignored_group_count: check.groups.ignored().len(),
    }
}
