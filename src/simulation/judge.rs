//! Sees everything, and accuses whoever breaks the promise.

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
    domain::{
        AccessCheck, AccessLevel, AgentId, AgentKind, AssertedGroups, Clock, Event, GrantId,
        GrantTerms, GroupId, LockTerms, NodeId, Position, Reason, Revision, TenantId, Time,
        decision::decide,
    },
    node::{CheckNode, ReadView},
    service::{Enforcement, EnforcementState},
    simulation::{clocks::DatabaseClock, counts::Counts, history::History},
    store::Retained,
};

/// How many grants that have ended or may have are asked about all the time.
const SUSPECTS: usize = 6;
/// The latest that a change is in force everywhere, in hundredths of the longest lease.
const COMPLETE_WITHIN: u32 = 110;
/// What timers of a millisecond may add to that.
const SLACK: Duration = Duration::from_millis(5);

/// A grant, as a question needs it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Subject {
    pub(super) tenant_id: TenantId,
    pub(super) group_id: GroupId,
}

/// What holds after the database came up with something older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Aftermath {
    /// Nobody could answer any more when it was restored.
    Clean,
    /// The last commits were lost all of a sudden. All nodes are still in the roll, and may answer for a while.
    Sudden,
}

#[derive(Debug)]
pub(super) struct Judge {
    start: Instant,
    /// The longest lease that any node has.
    longest_lease: Duration,
    clock: Arc<DatabaseClock>,
    inner: Mutex<Inner>,
    accused: Notify,
    /// Grants with an end time, for whoever watches these.
    ends: mpsc::UnboundedSender<(Subject, Time)>,
}

#[derive(Debug)]
struct Inner {
    history: History,
    /// The log that was before.
    earlier: Option<Earlier>,
    /// Counts the logs.
    incarnation: u64,
    suspects: VecDeque<Subject>,
    /// Grants that nodes have said to be over, by their end times.
    over: BTreeSet<(NodeId, GrantId, Option<Time>)>,
    /// The position and generation of snapshots that were compared with the log, by the names of their nodes.
    compared: BTreeMap<String, (Position, u64)>,
    lines: Vec<String>,
    accusation: Option<String>,
    counts: Counts,
}

/// A log whose last events were lost. Nodes may answer by it until then, or until something after `fork` is in force everywhere.
#[derive(Debug)]
struct Earlier {
    history: History,
    until: Instant,
    fork: Revision,
}

impl Judge {
    pub(super) fn new(
        longest_lease: Duration,
        clock: Arc<DatabaseClock>,
        ends: mpsc::UnboundedSender<(Subject, Time)>,
    ) -> Self {
        Self {
            start: Instant::now(),
            longest_lease,
            clock,
            inner: Mutex::new(Inner {
                history: History::new(crate::domain::Epoch(uuid::Uuid::nil())),
                earlier: None,
                incarnation: 0,
                suspects: VecDeque::new(),
                over: BTreeSet::new(),
                compared: BTreeMap::new(),
                lines: Vec::new(),
                accusation: None,
                counts: Counts::default(),
            }),
            accused: Notify::new(),
            ends,
        }
    }

    // === what is said ===

    /// Writes a line of the history.
    pub(super) fn note(&self, line: &str) {
        let at = self.start.elapsed().as_micros();
        let (millis, micros) = (at / 1_000, at % 1_000);
        self.inner.lock().lines.push(format!("{millis:>6}.{micros:03} {line}"));
    }

    /// Somebody has broken the promise.
    pub(super) fn accuse(&self, what: String) {
        self.note(&what);
        self.inner.lock().accusation.get_or_insert(what);
        self.accused.notify_one();
    }

    pub(super) async fn accused(&self) {
        self.accused.notified().await;
    }

    pub(super) fn verdict(&self) -> (Option<String>, Vec<String>, Counts) {
        let inner = self.inner.lock();
        (inner.accusation.clone(), inner.lines.clone(), inner.counts)
    }

    // === what happens ===

    pub(super) fn committed(&self, events: Vec<Event>) {
        for event in events {
            let owner = event.tenant_id.as_ref().map_or("vendor", TenantId::as_str);
            let mut line = format!("r{} {} {owner}", event.revision, event.kind.name());
            let mut inner = self.inner.lock();
            if let Some(grant) = event.kind.grant() {
                let GrantTerms { group_id, expire_time, .. } = &grant.terms;
                let _ = write!(line, " {group_id}");
                let tenant_id = grant.tenant_id.clone();
                let subject = Subject { tenant_id, group_id: group_id.clone() };
                if let Some(end) = expire_time.filter(|_| !event.kind.is_end()) {
                    let _ = self.ends.send((subject.clone(), end));
                }
                inner.suspect(subject);
            }
            if let Some(lock) = event.kind.lock() {
                let _ = write!(line, " {:?} until {:?}", lock.terms.target, lock.terms.expire_time);
                inner.suspect_locked(&lock.terms);
            }
            inner.counts.commits += 1;
            inner.history.push(event);
            drop(inner);
            self.note(&line);
        }
    }

    pub(super) fn answered(&self, revision: Revision) {
        self.inner.lock().history.answered(revision);
    }

    /// The log ends at `head` now.
    pub(super) fn restored(&self, head: Position, aftermath: Aftermath) {
        self.note(&format!("the log ends at r{} now: {aftermath:?}", head.revision));
        let mut inner = self.inner.lock();
        inner.incarnation += 1;
        inner.compared.clear();
        let before = inner.history.clone();
        if before.holds(&head) {
            inner.history.truncate(head.revision);
        } else {
            inner.history = History::new(head.epoch);
        }
        let until = Instant::now() + self.longest_lease * 102 / 100;
        let earlier = Earlier { history: before, until, fork: head.revision };
        inner.earlier = (aftermath == Aftermath::Sudden).then_some(earlier);
    }

    /// Which log it is.
    pub(super) fn incarnation(&self) -> u64 {
        self.inner.lock().incarnation
    }

    /// Somebody was told how far a change of log `incarnation` has reached, by a replica that has or has not run all the time.
    pub(super) fn told(
        &self,
        enforcement: &Enforcement,
        incarnation: u64,
        has_run_since: impl Fn(Instant) -> bool,
    ) {
        let Enforcement { state, revision, nodes_acknowledged, nodes_lapsed, .. } = *enforcement;
        let mut inner = self.inner.lock();
        if inner.incarnation != incarnation {
            return;
        }
        if state == EnforcementState::Pending {
            inner.counts.pending += 1;
            return;
        }
        inner.counts.complete += 1;
        inner.counts.acknowledged += u64::from(nodes_lapsed == 0);
        inner.history.complete = inner.history.complete.max(revision);
        // Whoever answers by the earlier log now is late.
        inner.earlier = inner.earlier.take().filter(|earlier| revision <= earlier.fork);
        // Who asks about a change that somebody else has made has all the time from then.
        let own = inner.history.at(revision).and_then(|logged| {
            let (at, task) = logged.answered.filter(|(_, task)| *task == task::try_id())?;
            task.map(|_| at)
        });
        drop(inner);
        self.note(&format!(
            "r{revision} complete: {nodes_acknowledged} acknowledged, {nodes_lapsed} lapsed"
        ));
        if let Some(since) = own
            && has_run_since(since)
            && since.elapsed() > self.longest_lease * COMPLETE_WITHIN / 100 + SLACK
        {
            self.accuse(format!("r{revision} took {:?} to be complete", since.elapsed()));
        }
    }

    // === checks ===

    /// Looks at a node as a gateway does that asks it now, about every grant that is suspect.
    pub(super) fn look(&self, name: &str, node: &CheckNode) {
        let suspects = self.inner.lock().suspects.clone();
        let read_view = node.read_view();
        self.look_at_snapshot(name, &read_view, node.generation());
        for subject in &suspects {
            self.judge(name, node.id(), &read_view, subject);
        }
    }

    /// Asks a node about one grant, and says why it allows or denies.
    pub(super) fn ask(&self, name: &str, node: &CheckNode, subject: &Subject) -> Reason {
        let read_view = node.read_view();
        self.look_at_snapshot(name, &read_view, node.generation());
        self.judge(name, node.id(), &read_view, subject)
    }

    fn judge(
        &self,
        name: &str,
        node_id: NodeId,
        read_view: &ReadView,
        subject: &Subject,
    ) -> Reason {
        let (reason, grant) = answer(read_view, subject);
        let mut inner = self.inner.lock();
        if let Some((grant_id, end)) = grant {
            let is_over = inner.over.contains(&(node_id, grant_id, end));
            if reason == Reason::Expired && !is_over {
                inner.over.insert((node_id, grant_id, end));
            } else if reason == Reason::GrantActive && is_over {
                drop(inner);
                self.accuse(format!("{name} allows again what was over"));
                return reason;
            }
        }
        inner.counts.checks += 1;
        inner.counts.stale += u64::from(reason == Reason::Stale);
        inner.counts.locked += u64::from(reason == Reason::Locked);
        if reason == Reason::GrantActive
            && let Some((grant_id, _)) = grant
        {
            inner.counts.allowed += 1;
            let (now, latest) = (self.clock.now(), self.clock.latest());
            let question = question(subject);
            let may_allow = |history: &History| history.may_allow(&question, grant_id, now, latest);
            if !may_allow(&inner.history) && !inner.earlier().is_some_and(may_allow) {
                let complete = inner.history.complete;
                let revision = read_view.view.snapshot().revision();
                drop(inner);
                self.accuse(format!(
                    "{name} allows {} {} at r{revision}, though r{complete} is complete and it is {}",
                    subject.tenant_id,
                    subject.group_id,
                    now.format("%H:%M:%S%.6f")
                ));
            }
        }
        reason
    }

    /// Whoever answers must answer by the log, and by all of it that is complete. Whoever holds a position must hold all of it.
    fn look_at_snapshot(&self, name: &str, read_view: &ReadView, generation: u64) {
        let snapshot = read_view.view.snapshot();
        let Some(position) = snapshot.position() else { return };
        let mut inner = self.inner.lock();
        let mut fault = None;
        if inner.history.holds(&position) {
            // Comparing takes long, and what was right stays so.
            if inner.compared.insert(name.into(), (position, generation))
                != Some((position, generation))
            {
                fault = inner.history.fault(snapshot);
            }
            if read_view.is_fresh() && position.revision < inner.history.complete {
                let (revision, complete) = (position.revision, inner.history.complete);
                fault = Some(format!("answers by r{revision}, though r{complete} is complete"));
            }
        } else if read_view.is_fresh() && !inner.earlier().is_some_and(|it| it.holds(&position)) {
            fault = Some(format!("answers by r{} of another log", position.revision));
        }
        drop(inner);
        if let Some(fault) = fault {
            self.accuse(format!("{name} {fault}"));
        }
    }

    // === for users ===

    /// Grants as they are now, by the log.
    pub(super) fn grants(&self) -> Vec<(Subject, GrantTerms, bool)> {
        let inner = self.inner.lock();
        let all = inner.history.grants().map(|(tenant_id, held, terms)| {
            let group_id = terms.group_id.clone();
            let subject = Subject { tenant_id: tenant_id.clone(), group_id };
            (subject, terms.clone(), held == Retained::Live)
        });
        all.collect()
    }

    /// Locks as they are now, by the log.
    pub(super) fn locks(&self) -> Vec<LockTerms> {
        self.inner.lock().history.locks().cloned().collect()
    }

    pub(super) fn head(&self) -> Revision {
        self.inner.lock().history.head()
    }

    /// The event of the current log with this revision.
    pub(super) fn event(&self, revision: Revision) -> Option<Event> {
        self.inner.lock().history.at(revision).map(|logged| logged.event.clone())
    }
}

impl Inner {
    fn suspect(&mut self, subject: Subject) {
        self.suspects.retain(|other| *other != subject);
        self.suspects.push_back(subject);
        if self.suspects.len() > SUSPECTS {
            self.suspects.pop_front();
        }
    }

    /// One of those whom a lock keeps out, or lets in again.
    fn suspect_locked(&mut self, lock: &LockTerms) {
        let subject = |(tenant_id, held, terms): (&TenantId, Retained, &GrantTerms)| {
            let (tenant_id, group_id) = (tenant_id.clone(), terms.group_id.clone());
            (held == Retained::Live).then_some(Subject { tenant_id, group_id })
        };
        let live = self.history.grants().filter_map(subject);
        let met = live.filter(|subject| lock.matches(&question(subject))).max();
        if let Some(subject) = met {
            self.suspect(subject);
        }
    }

    fn earlier(&self) -> Option<&History> {
        let earlier = self.earlier.as_ref().filter(|earlier| Instant::now() < earlier.until);
        earlier.map(|earlier| &earlier.history)
    }
}

fn question(subject: &Subject) -> AccessCheck {
    AccessCheck {
        tenant_id: subject.tenant_id.clone(),
        agent_id: Some(AgentId::fixed("anna")),
        groups: AssertedGroups::new([String::from(subject.group_id.clone())]),
        required_level: AccessLevel::ReadOnly,
        agent_kind: AgentKind::Human,
        on_behalf_of: None,
    }
}

/// What a check answers that sees this, and by which grant.
fn answer(read_view: &ReadView, subject: &Subject) -> (Reason, Option<(GrantId, Option<Time>)>) {
    let question = question(subject);
    let Some(time) = read_view.now.filter(|_| read_view.is_fresh()) else {
        return (Reason::Stale, None);
    };
    let snapshot = read_view.view.snapshot();
    let (locks, grants) = (snapshot.locks_on(&question), snapshot.grants(&question.tenant_id));
    let decision = decide(locks, grants, &question, time);
    (decision.reason, decision.terms.map(|terms| (terms.grant_id, terms.expire_time)))
}
