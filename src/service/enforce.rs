//! Waits until a change is enforced, and reports the progress.

use std::time::Duration;

use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};
use tracing::{Instrument, info_span};

use crate::{
    domain::{
        Enforced, Event, Position, Revision, TenantId, Time,
        time::between,
        token::{ConsistencyToken, TokenEvent, TokenInvalid},
    },
    node::{
        enforcement::{Commit, Coverage},
        enforcer::EnforcementTotals,
    },
    service::{Service, ServiceError},
    store::{HistoryEvent, StoreError},
};

/// How long every caller may wait for enforcement.
const SHORT_WAIT: Duration = Duration::from_secs(10);
/// The number of calls that may wait longer. Leases can be long, and calls that wait for a dead
/// node must not exhaust the resources that revocations need.
pub(super) const LONG_WAITS: usize = 512;
/// The number of calls for one tenant, or for the vendor, that may wait longer. So one tenant
/// cannot exhaust the long waits of other tenants.
pub(super) const LONG_WAITS_OF_OWNER: usize = 32;

/// Whether a change is enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnforcementState {
    /// No check node can still answer from before the change.
    Complete,
    /// At the caller's deadline, the change was not known to be enforced.
    Pending,
}

/// How far a change has reached the check nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enforcement {
    /// Whether the change is enforced.
    pub state: EnforcementState,
    /// The position of the change in the log. Internal.
    pub revision: Revision,
    /// Identifies the change to callers.
    pub token: ConsistencyToken,
    /// From the commit until the change was known to be enforced, or until this result.
    pub elapsed: Duration,
    /// Nodes that answer from the change or a later one.
    pub nodes_acknowledged: u32,
    /// Nodes that did not acknowledge the change, and whose leases have expired.
    pub nodes_lapsed: u32,
    /// Nodes that may still answer from before the change. A node counts together with its
    /// followers until the last follower has acknowledged. 0 if complete.
    pub nodes_pending: u32,
    /// If complete, when the change was known to be enforced. Otherwise, the latest time at which
    /// the change is enforced.
    pub complete_by: Time,
}

/// An event, as listed for callers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventView {
    /// The event with the hash.
    pub listed: HistoryEvent,
    /// The recorded enforcement of the change.
    pub enforcement: Option<Enforcement>,
}

impl EnforcementState {
    /// The name in the API and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "COMPLETE",
            Self::Pending => "PENDING",
        }
    }
}

impl Service {
    /// The totals of the changes that this process has made, for metrics.
    pub fn enforcement_totals(&self) -> EnforcementTotals {
        self.enforcer.totals()
    }

    /// Waits until a commit is enforced, or until `deadline`. The result is recorded in the history
    /// in either case.
    pub(super) async fn enforce(
        &self,
        owner: Option<&TenantId>,
        commit: Commit,
        deadline: Instant,
    ) -> Result<Enforcement, ServiceError> {
        let result = self.enforcer.enforce(commit);
        let span = info_span!(target: "support_access::trace", "enforce", revision = commit.last);
        let enforced = self.wait(owner, result, deadline).instrument(span).await;
        let time = Some(commit.time);
        let enforcement = if let Some(enforced) = enforced {
            self.complete(commit.last, time, enforced)?
        } else {
            let elapsed = self.node.boot_time().since(commit.at);
            self.pending(commit.last, time, elapsed, &commit)?
        };
        self.enforcer.count_response(enforcement.state == EnforcementState::Complete);
        Ok(enforcement)
    }

    /// As [`Self::enforce`], for a change that was made earlier and is known to be durable. Returns
    /// the recorded result, if there is one. Revision 0 stands for a tenant's state before the
    /// first event.
    ///
    /// The result depends on the nodes that have the event, and on no later event: a tenant must
    /// not learn of changes of other tenants.
    pub(super) async fn enforce_again(
        &self,
        owner: Option<&TenantId>,
        revision: Revision,
        deadline: Instant,
    ) -> Result<Enforcement, ServiceError> {
        let time = self.event_at(revision).await?.map(|event| event.time);
        if let Some(enforced) = self.store.history().enforced(revision).await? {
            return self.complete(revision, time, enforced);
        }
        let at = self.node.boot_time();
        // Every node that may still answer from before the change is in this membership.
        let max_staleness = self.enforcer.refresh().await?;
        let event = (revision, time.unwrap_or(Time::UNIX_EPOCH));
        let commit = Commit {
            first: revision,
            last: revision,
            time: event.1,
            in_log: self.own_position_in_log(revision).await?.unwrap_or(event),
            at,
            max_staleness,
        };
        let (commit, result) = self.enforcer.wait_for(commit);
        let enforced = self.wait(owner, result, deadline).await;
        let elapsed = time.map_or(Duration::ZERO, |time| between(time, self.now()));
        match enforced {
            Some(enforced) => self.complete(revision, time, Enforced { elapsed, ..enforced }),
            None => self.pending(revision, time, elapsed, &commit),
        }
    }

    /// The position of this node, if the position is later than `revision` and in the log of the
    /// database. The event of `revision` was read from the database before.
    ///
    /// The node buffers only recent events, so it cannot show that it has an old event. The node
    /// does have the event at its position. If the database has that event too, both logs have the
    /// same earlier events. So the node has the event of `revision`.
    ///
    /// The result stays true while the node follows this log. After a restore, the node replaces
    /// its snapshot and drops the buffered events. The acknowledgement of the node then no longer
    /// counts, because the buffer lacks the event at the returned position. A restore between the
    /// two reads of the database can lose the event of `revision`. No acknowledgement can prevent
    /// that.
    async fn own_position_in_log(
        &self,
        revision: Revision,
    ) -> Result<Option<(Revision, Time)>, ServiceError> {
        let Some(Position { revision: own, time: Some(time), .. }) = self.node.position() else {
            return Ok(None);
        };
        if own <= revision {
            return Ok(None);
        }
        let event = self.event_at(own).await?;
        Ok(event.filter(|event| event.time == time).map(|event| (event.revision, event.time)))
    }

    /// Waits until the event of a consistency token, and every earlier event, is enforced. The
    /// event must be in the history of the tenant, or in the vendor's own.
    pub async fn wait_enforced(
        &self,
        tenant_id: Option<&TenantId>,
        token: &str,
        deadline: Instant,
    ) -> Result<Enforcement, ServiceError> {
        let token = self.decrypt(token)?;
        if token.revision != 0 {
            let event = self.event_at(token.revision).await?.ok_or(ServiceError::EventNotFound)?;
            if token != TokenEvent::new(event.revision, Some(event.time)) {
                return Err(TokenInvalid.into());
            }
            if event.tenant_id.as_ref() != tenant_id {
                return Err(ServiceError::EventNotFound);
            }
            // An event that can be read need not be durable. After a later commit, it is.
            if self.store.begin_alone().await?.commit().await? < token.revision {
                return Err(ServiceError::EventNotFound);
            }
        }
        self.enforce_again(tenant_id, token.revision, deadline).await
    }

    /// An event, as listed for callers.
    pub(super) fn event_view(&self, listed: HistoryEvent) -> Result<EventView, ServiceError> {
        let Event { revision, time, .. } = listed.event;
        let enforcement =
            listed.enforced.map(|enforced| self.complete(revision, Some(time), enforced));
        Ok(EventView { enforcement: enforcement.transpose()?, listed })
    }

    /// The event that a token identifies.
    fn decrypt(&self, token: &str) -> Result<TokenEvent, ServiceError> {
        let read_view = self.node.read_view();
        let key = read_view.view.snapshot().token_key();
        match key.ok_or(TokenInvalid).and_then(|key| key.decrypt(token)) {
            // A node without a lease may not know yet that the key was replaced.
            Err(TokenInvalid) if !read_view.is_fresh() => {
                Err(StoreError::Unavailable("the node has no lease".into()).into())
            }
            result => Ok(result?),
        }
    }

    async fn wait(
        &self,
        owner: Option<&TenantId>,
        result: oneshot::Receiver<Enforced>,
        deadline: Instant,
    ) -> Option<Enforced> {
        let mut result = result;
        let soon = deadline.min(Instant::now() + SHORT_WAIT);
        let mut outcome = timeout_at(soon, &mut result).await;
        if outcome.is_err()
            && soon < deadline
            && let Some(_permit_of_owner) = self.long_waits_of_owner.try_acquire(&owner.cloned())
            && let Ok(_permit) = self.long_waits.try_acquire()
        {
            outcome = timeout_at(deadline, &mut result).await;
        }
        // No result: the deadline came, too many calls wait, or the server stops.
        outcome.ok()?.ok()
    }

    fn complete(
        &self,
        revision: Revision,
        time: Option<Time>,
        enforced: Enforced,
    ) -> Result<Enforcement, ServiceError> {
        let Enforced { elapsed, nodes_acknowledged, nodes_lapsed } = enforced;
        Ok(Enforcement {
            state: EnforcementState::Complete,
            revision,
            token: self.token(revision, time)?,
            elapsed,
            nodes_acknowledged,
            nodes_lapsed,
            nodes_pending: 0,
            complete_by: time.unwrap_or_else(|| self.now()) + elapsed,
        })
    }

    fn pending(
        &self,
        revision: Revision,
        time: Option<Time>,
        elapsed: Duration,
        commit: &Commit,
    ) -> Result<Enforcement, ServiceError> {
        let Coverage { acknowledged, lapsed, missing, complete_at } =
            self.enforcer.coverage(commit);
        Ok(Enforcement {
            state: EnforcementState::Pending,
            revision,
            token: self.token(revision, time)?,
            elapsed,
            nodes_acknowledged: acknowledged,
            nodes_lapsed: lapsed,
            nodes_pending: missing,
            complete_by: self.now() + complete_at.since(self.node.boot_time()),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use futures::future::join_all;

    use super::*;
    use crate::{
        domain::{
            AccessLevel, Caller, End, FreeText, GrantRequest, GroupId, NodeId, NodeKind,
            SupportPolicy, Ticket, clock::ManualClock, time::from_micros,
        },
        node::{CheckNode, replica::Replica},
        service::Limits,
        store::{Store, memory::MemoryStore},
    };

    /// A service whose node follows the log only when it joins.
    struct Fixture {
        clock: Arc<ManualClock>,
        memory: Arc<MemoryStore>,
        replica: Arc<Replica>,
        service: Service,
    }

    impl Fixture {
        async fn new() -> Self {
            let clock = Arc::new(ManualClock::at(from_micros(1_700_000_000_000_000).unwrap()));
            let memory = Arc::new(MemoryStore::new(clock.clone()));
            let max_staleness = Duration::from_secs(2);
            let limits =
                Limits { live_grants_per_tenant: 100, live_grants_per_group: 100, max_staleness };
            let node = CheckNode::new(NodeId(uuid::Uuid::nil()), NodeKind::Replica, clock.clone());
            let replica = Replica::new(node, Store::new(memory.clone()), max_staleness);
            replica.join().await.unwrap();
            let service = Service::new(replica.clone(), SupportPolicy::default(), limits);
            Self { clock, memory, replica, service }
        }

        async fn grant(&self, tenant_id: &'static str) {
            self.clock.pass(Duration::from_millis(1));
            let request = GrantRequest {
                request_id: None,
                tenant_id: TenantId::fixed(tenant_id),
                group_id: GroupId::fixed("support"),
                agent_ids: BTreeSet::new(),
                access_level: AccessLevel::ReadOnly,
                agent_kinds: None,
                start_time: None,
                end: End::UntilRevoked,
                reason: FreeText::default(),
                ticket: Ticket::default(),
            };
            let caller = Caller::local(None).unwrap();
            self.service.grant_access(&caller, request, Instant::now()).await.unwrap();
        }

        /// The number of nodes that have acknowledged an event.
        async fn acknowledged(&self, revision: Revision) -> u32 {
            let enforcement = self.service.enforce_again(None, revision, Instant::now()).await;
            enforcement.unwrap().nodes_acknowledged
        }
    }

    #[tokio::test]
    async fn a_node_acknowledges_events_that_it_no_longer_buffers() {
        let fixture = Fixture::new().await;
        fixture.grant("acme").await;
        fixture.grant("globex").await;
        fixture.replica.join().await.unwrap();
        assert_eq!(fixture.acknowledged(1).await, 1);
        assert_eq!(fixture.acknowledged(2).await, 1);
        fixture.grant("globex").await;
        assert_eq!(fixture.acknowledged(2).await, 1, "a later event of others does not matter");
        assert_eq!(fixture.acknowledged(3).await, 0, "the node lacks this event");
    }

    #[tokio::test]
    async fn a_node_of_another_log_acknowledges_nothing() {
        let fixture = Fixture::new().await;
        fixture.grant("acme").await;
        let backup = fixture.memory.backup().unwrap();
        fixture.grant("lost").await;
        fixture.grant("lost").await;
        fixture.replica.join().await.unwrap();
        fixture.memory.restore(backup);
        fixture.clock.pass(Duration::from_secs(1));
        fixture.grant("acme").await;
        assert_eq!(fixture.acknowledged(2).await, 0, "the node has another event 2");
        fixture.grant("acme").await;
        fixture.grant("acme").await;
        for revision in 1..=4 {
            assert_eq!(fixture.acknowledged(revision).await, 0, "{revision}");
        }
        fixture.replica.join().await.unwrap();
        for revision in 1..=4 {
            assert_eq!(fixture.acknowledged(revision).await, 1, "{revision}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_tenant_cannot_exhaust_the_long_waits() {
        let Fixture { service, .. } = Fixture::new().await;
        let [acme, globex] = ["acme", "globex"].map(TenantId::fixed);
        let start = Instant::now();
        let deadline = start + Duration::from_mins(1);
        let wait = async |owner| {
            let (_never, result) = oneshot::channel();
            service.wait(Some(owner), result, deadline).await;
            start.elapsed()
        };
        let of_acme = join_all((0..=LONG_WAITS_OF_OWNER).map(|_| wait(&acme)));
        let (of_acme, of_globex) = tokio::join!(of_acme, wait(&globex));
        let short = of_acme.iter().filter(|waited| **waited < Duration::from_secs(11)).count();
        assert_eq!(short, 1, "only the call beyond the maximum waits for a short time");
        assert!(of_globex >= Duration::from_mins(1), "the other tenant is not affected");
    }
}
