//! Observes every commit and every check, and reports the first violation of a guarantee.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt::Write,
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc},
    task,
    time::Instant,
};

use crate::{
    check::{GrantKey, access_check, access_checks, decision},
    clocks::DatabaseClock,
    counts::Counts,
    domain::{
        AccessCheck, AgentKind, Epoch, Event, GrantId, GrantTerms, LockTerms, NodeId, Position,
        Reason, Revision, TenantId, Time, time::between,
    },
    model::{LogModel, elapsed_at},
    node::{CheckNode, ReadView},
    observed::Observed,
    service::{Enforcement, EnforcementState},
    store::Retained,
};

/// The number of recently changed grants that are checked after each change of a node.
const RECENT_GRANTS: usize = 6;
/// The time within which a change must be enforced, in percent of the longest lease.
const ENFORCED_WITHIN_PERCENT: u32 = 110;
/// Additional time for timers, which have a resolution of a millisecond.
const TIMER_SLACK: Duration = Duration::from_millis(5);
/// The time within which healthy nodes observe a change.
const OBSERVED_WITHIN: Duration = Duration::from_millis(100);

/// The state of the nodes when the database came up with an earlier log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RestoreKind {
    /// All leases had expired.
    LeasesExpired,
    /// The last commits were lost, but no registration. Leases from before are still valid.
    LeasesValid,
}

#[derive(Debug)]
pub(crate) struct Checker {
    start: Instant,
    /// The longest lease duration of any node.
    max_staleness: Duration,
    clock: Arc<DatabaseClock>,
    state: Mutex<State>,
    pub(crate) observed: Mutex<Observed>,
    violated: Notify,
    /// Receives each grant with an end time.
    ends: mpsc::UnboundedSender<GrantEnd>,
}

/// A grant, the end time, and when all of its time has elapsed at healthy nodes.
pub(crate) type GrantEnd = (GrantKey, Time, Instant);

#[derive(Debug)]
struct State {
    log: LogModel,
    /// The log before the last restore, if leases from before may still be valid.
    earlier: Option<EarlierLog>,
    /// The number of restores.
    log_number: u64,
    recent_grants: VecDeque<GrantKey>,
    /// Grants that a node has denied as expired in an epoch, with the end times.
    expired: BTreeSet<(NodeId, Option<uuid::Uuid>, GrantId, Option<Time>)>,
    /// The position and generation of the snapshot that was last compared with the model, by node.
    compared: BTreeMap<String, (Position, u64)>,
    lines: Vec<String>,
    violation: Option<String>,
    counts: Counts,
}

/// A log that has lost the last events. Nodes may answer from this log until `until`, or until an
/// event after `fork` is enforced.
#[derive(Debug)]
struct EarlierLog {
    log: LogModel,
    until: Instant,
    fork: Revision,
}

impl Checker {
    pub(crate) fn new(
        max_staleness: Duration,
        clock: Arc<DatabaseClock>,
        ends: mpsc::UnboundedSender<GrantEnd>,
    ) -> Self {
        let state = State {
            log: LogModel::new(Epoch(uuid::Uuid::nil())),
            earlier: None,
            log_number: 0,
            recent_grants: VecDeque::new(),
            expired: BTreeSet::new(),
            compared: BTreeMap::new(),
            lines: Vec::new(),
            violation: None,
            counts: Counts::default(),
        };
        let (start, violated, state) = (Instant::now(), Notify::new(), Mutex::new(state));
        Self { start, max_staleness, clock, state, observed: Mutex::default(), violated, ends }
    }

    // === the history ===

    /// Adds a line to the history.
    pub(crate) fn log(&self, line: &str) {
        let at = self.start.elapsed().as_micros();
        let (millis, micros) = (at / 1_000, at % 1_000);
        self.state.lock().lines.push(format!("{millis:>6}.{micros:03} {line}"));
    }

    /// Reports a violation, which ends the history.
    pub(crate) fn violation(&self, text: String) {
        self.log(&text);
        self.state.lock().violation.get_or_insert(text);
        self.violated.notify_one();
    }

    /// Waits for a violation.
    pub(crate) async fn violated(&self) {
        self.violated.notified().await;
    }

    /// The violation, if any, and all lines.
    pub(crate) fn history(&self) -> (Option<String>, Vec<String>) {
        let state = self.state.lock();
        (state.violation.clone(), state.lines.clone())
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state.lock().counts
    }

    // === the log ===

    /// Records the events of a commit, whose last event may begin an epoch.
    pub(crate) fn record_commit(&self, events: Vec<Event>, epoch: Option<Epoch>) {
        for event in events {
            let owner = event.tenant_id.as_ref().map_or("vendor", TenantId::as_str);
            let mut line = format!("r{} {} {owner}", event.revision, event.kind.name());
            let mut state = self.state.lock();
            if let Some(grant) = event.kind.grant() {
                let GrantTerms { group_id, expire_time, .. } = &grant.terms;
                let _ = write!(line, " {group_id}");
                let (tenant_id, group_id) = (grant.tenant_id.clone(), group_id.clone());
                let key = GrantKey { tenant_id, group_id };
                if let Some(end) = expire_time.filter(|_| !event.kind.is_end()) {
                    let observed = Instant::now() + OBSERVED_WITHIN;
                    let elapsed = elapsed_at(observed, between(event.time, end));
                    let _ = self.ends.send((key.clone(), end, elapsed));
                }
                state.add_recent_grant(key);
            }
            if let Some(lock) = event.kind.lock() {
                let _ = write!(line, " {:?} until {:?}", lock.terms.target, lock.terms.expire_time);
                state.add_locked_grant(&lock.terms);
            }
            state.counts.commits += 1;
            self.observed.lock().record_commit(event.revision);
            state.log.push(event);
            drop(state);
            self.log(&line);
        }
        if let Some(epoch) = epoch {
            self.state.lock().log.begin_epoch(epoch);
        }
    }

    /// Records that the current task has received the response to a commit.
    pub(crate) fn record_commit_response(&self, revision: Revision) {
        self.state.lock().log.record_commit_response(revision);
    }

    /// Records that the log now ends at `head`.
    pub(crate) fn record_restore(&self, head: Position, kind: RestoreKind) {
        self.log(&format!("the log is restored to r{}: {kind:?}", head.revision));
        let mut state = self.state.lock();
        state.log_number += 1;
        state.compared.clear();
        let earlier = state.log.clone();
        let is_same_log = state.log.restore(&head);
        self.observed.lock().truncate(head.revision, is_same_log);
        let until = Instant::now() + self.max_staleness * 102 / 100;
        let earlier = EarlierLog { log: earlier, until, fork: head.revision };
        state.earlier = (kind == RestoreKind::LeasesValid).then_some(earlier);
    }

    /// Identifies the current log.
    pub(crate) fn log_number(&self) -> u64 {
        self.state.lock().log_number
    }

    /// Records the enforcement of a change of log `log_number`, from the response of a replica.
    pub(crate) fn record_enforcement(
        &self,
        enforcement: &Enforcement,
        log_number: u64,
        has_run_since: impl Fn(Instant) -> bool,
    ) {
        let Enforcement { state: result, revision, nodes_acknowledged, nodes_lapsed, .. } =
            *enforcement;
        let mut state = self.state.lock();
        if state.log_number != log_number {
            return;
        }
        if result == EnforcementState::Pending {
            state.counts.pending += 1;
            return;
        }
        state.counts.complete += 1;
        state.counts.acknowledged += u64::from(nodes_lapsed == 0);
        state.log.enforced = state.log.enforced.max(revision);
        state.earlier = state.earlier.take().filter(|earlier| revision <= earlier.fork);
        // Only the task that made the change: other tasks may have started to wait much later.
        let committed_at = state.log.at(revision).and_then(|logged| {
            let (at, task) = logged.response.filter(|(_, task)| *task == task::try_id())?;
            task.map(|_| at)
        });
        drop(state);
        self.log(&format!(
            "r{revision} is enforced: {nodes_acknowledged} acknowledged, {nodes_lapsed} lapsed"
        ));
        let limit = self.max_staleness * ENFORCED_WITHIN_PERCENT / 100 + TIMER_SLACK;
        if let Some(committed_at) = committed_at
            && has_run_since(committed_at)
            && committed_at.elapsed() > limit
        {
            let elapsed = committed_at.elapsed();
            self.violation(format!("the enforcement of r{revision} took {elapsed:?}"));
        }
    }

    // === checks ===

    /// Checks all recently changed grants at a node.
    pub(crate) fn check_recent_grants(&self, name: &str, node: &CheckNode) {
        let grants = self.state.lock().recent_grants.clone();
        let read_view = node.read_view();
        self.verify_snapshot(name, node, &read_view);
        for check in grants.iter().flat_map(access_checks) {
            self.verify_decision(name, node.id(), &read_view, &check);
        }
    }

    /// Checks one grant at a node, and returns the reason of the decision.
    pub(crate) fn check(&self, name: &str, node: &CheckNode, grant: &GrantKey) -> Reason {
        let read_view = node.read_view();
        self.verify_snapshot(name, node, &read_view);
        self.verify_decision(name, node.id(), &read_view, &access_check(grant))
    }

    fn verify_decision(
        &self,
        name: &str,
        node_id: NodeId,
        read_view: &ReadView,
        check: &AccessCheck,
    ) -> Reason {
        let (reason, decided_by) = decision(read_view, check);
        let mut state = self.state.lock();
        if let Some((grant_id, end)) = decided_by {
            let position = read_view.view.snapshot().position();
            let key = (node_id, position.map(|position| position.epoch.0), grant_id, end);
            let was_expired = state.expired.contains(&key);
            // A clock that is not trusted leaves no trace.
            let is_remembered = read_view.view.is_clock_trusted();
            if reason == Reason::Expired && is_remembered && !was_expired {
                state.expired.insert(key);
            } else if reason == Reason::GrantActive && was_expired {
                drop(state);
                self.violation(format!("{name} allows a grant that it has denied as expired"));
                return reason;
            }
        }
        state.counts.checks += 1;
        state.counts.stale += u64::from(reason == Reason::Stale);
        state.counts.locked += u64::from(reason == Reason::Locked);
        if reason == Reason::GrantActive
            && let Some((grant_id, _)) = decided_by
        {
            state.counts.allowed += 1;
            state.counts.allowed_ai += u64::from(check.agent_kind == AgentKind::Ai);
            // A node reads the clock with each renewal of its lease.
            let now = self.clock.earliest_within(self.max_staleness * 102 / 100);
            let latest = self.clock.latest();
            let observed = self.observed.lock();
            let elapsed =
                |revision, span| observed.has_elapsed(node_id, revision, span, &self.clock);
            let may_allow = |log: &LogModel| log.may_allow(check, grant_id, now, latest, elapsed);
            if !may_allow(&state.log) && !state.earlier_log().is_some_and(may_allow) {
                let enforced = state.log.enforced;
                let revision = read_view.view.snapshot().revision();
                drop(state);
                self.violation(format!(
                    "{name} allows {} {:?} at r{revision}, but r{enforced} is enforced, at {}",
                    check.tenant_id,
                    check.agent_kind,
                    now.format("%H:%M:%S%.6f")
                ));
            }
        }
        reason
    }

    /// A snapshot must equal the model at the same position. With a valid lease, it must be in the
    /// current log, and contain all enforced events.
    fn verify_snapshot(&self, name: &str, node: &CheckNode, read_view: &ReadView) {
        let (snapshot, generation) = (read_view.view.snapshot(), node.generation());
        let Some(position) = snapshot.position() else { return };
        let mut state = self.state.lock();
        let mut fault = None;
        if state.log.contains(&position) {
            self.observed.lock().record(node.id(), position.revision);
            // A comparison is expensive, so each snapshot is compared once.
            let compared = state.compared.insert(name.into(), (position, generation));
            if compared != Some((position, generation)) {
                fault = state.log.difference(snapshot);
            }
            if read_view.is_fresh() && position.revision < state.log.enforced {
                let (revision, enforced) = (position.revision, state.log.enforced);
                fault = Some(format!("answers from r{revision}, but r{enforced} is enforced"));
            }
        } else if read_view.is_fresh()
            && !state.earlier_log().is_some_and(|log| log.contains(&position))
        {
            fault = Some(format!("answers from r{} of another log", position.revision));
        }
        drop(state);
        if let Some(fault) = fault {
            self.violation(format!("{name} {fault}"));
        }
    }

    // === for the workload ===

    /// All grants at the head of the log, and whether each is live.
    pub(crate) fn grants(&self) -> Vec<(GrantKey, GrantTerms, bool)> {
        let state = self.state.lock();
        let grants = state.log.grants().map(|(tenant_id, retained, terms)| {
            let key = GrantKey { tenant_id: tenant_id.clone(), group_id: terms.group_id.clone() };
            (key, terms.clone(), retained == Retained::Live)
        });
        grants.collect()
    }

    /// All live locks at the head of the log.
    pub(crate) fn locks(&self) -> Vec<LockTerms> {
        self.state.lock().log.locks().cloned().collect()
    }

    /// The event of the current log with this revision.
    pub(crate) fn event(&self, revision: Revision) -> Option<Event> {
        self.state.lock().log.at(revision).map(|logged| logged.event.clone())
    }

    pub(crate) fn head(&self) -> Revision {
        self.state.lock().log.head()
    }
}

impl State {
    fn add_recent_grant(&mut self, grant: GrantKey) {
        self.recent_grants.retain(|known| *known != grant);
        self.recent_grants.push_back(grant);
        if self.recent_grants.len() > RECENT_GRANTS {
            self.recent_grants.pop_front();
        }
    }

    /// Adds one of the live grants that a lock affects.
    fn add_locked_grant(&mut self, lock: &LockTerms) {
        let live = self.log.grants().filter(|(_, retained, _)| *retained == Retained::Live);
        let live = live.map(|(tenant_id, _, terms)| {
            let (tenant_id, group_id) = (tenant_id.clone(), terms.group_id.clone());
            GrantKey { tenant_id, group_id }
        });
        let affected =
            live.filter(|grant| access_checks(grant).iter().any(|it| lock.matches(it))).max();
        if let Some(grant) = affected {
            self.add_recent_grant(grant);
        }
    }

    fn earlier_log(&self) -> Option<&LogModel> {
        let earlier = self.earlier.as_ref().filter(|earlier| Instant::now() < earlier.until);
        earlier.map(|earlier| &earlier.log)
    }
}
