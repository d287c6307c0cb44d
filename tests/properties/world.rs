//! The use cases over the memory store, with a clock that moves only when told to.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use support_access::{
    domain::{
        AccessLevel, AgentId, Caller, Clock as _, End, GrantRequest, GroupId, Note, Question, Span,
        SupportPolicy, TenantId, Ticket, Time, clock::ManualClock, time::from_micros,
    },
    node::{CheckNode, follower},
    store::{Store, memory::MemoryStore},
    work::{GrantRef, GrantView, Limits, Work, check::Answer, grants::Revoked},
};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) struct World {
    pub(crate) work: Arc<Work>,
    pub(crate) node: Arc<CheckNode>,
    pub(crate) store: Arc<dyn Store>,
    /// The check node's.
    pub(crate) clock: Arc<ManualClock>,
    /// The same one, unless the test is about their difference.
    database_clock: Arc<ManualClock>,
    /// Ends the follower with the world.
    _stop: DropGuard,
}

impl World {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(ManualClock::at(from_micros(1_700_000_000_000_000).unwrap()));
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
        Self::over(store, clock, CheckNode::new())
    }

    /// One whose check node has a clock of its own, which is `seconds` behind the database's.
    pub(crate) fn with_a_node_behind(seconds: i64) -> Self {
        let database = Self::new();
        let behind = Arc::new(ManualClock::at(database.now() - TimeDelta::seconds(seconds)));
        let mut world = Self::over(database.store.clone(), behind, CheckNode::new());
        world.database_clock = database.clock.clone();
        world
    }

    /// Another process on the same store, with the same clock.
    pub(crate) async fn restarted(&self) -> Self {
        let node = CheckNode::new();
        node.load(self.store.as_ref()).await.unwrap();
        Self::over(self.store.clone(), self.clock.clone(), node)
    }

    fn over(store: Arc<dyn Store>, clock: Arc<ManualClock>, node: Arc<CheckNode>) -> Self {
        let stop = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "ended by the token")]
        tokio::spawn(follower::run(node.clone(), store.clone(), stop.clone()));
        let limits =
            Limits { live_grants_per_tenant: 10_000, max_staleness: Duration::from_secs(2) };
        let work =
            Work::new(store.clone(), node.clone(), clock.clone(), SupportPolicy::default(), limits);
        let (work, database_clock) = (Arc::new(work), clock.clone());
        Self { work, node, store, clock, database_clock, _stop: stop.drop_guard() }
    }

    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    pub(crate) fn advance(&self, seconds: i64) {
        self.clock.set(TimeDelta::seconds(seconds));
        if !Arc::ptr_eq(&self.clock, &self.database_clock) {
            self.database_clock.set(TimeDelta::seconds(seconds));
        }
    }

    pub(crate) async fn grant(&self, request: GrantRequest) -> GrantView {
        self.work.grant_access(&admin(), request, soon()).await.unwrap()
    }

    pub(crate) async fn revoke(&self, grant: &GrantRef) -> Revoked {
        let caller = admin();
        let revoked = self.work.revoke_access(&caller, grant, None, Note::default(), soon());
        revoked.await.unwrap()
    }

    pub(crate) async fn check(&self, question: &Question) -> Answer {
        let head = self.store.head().await.unwrap().revision;
        self.work.check(question, head, soon()).await
    }
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

pub(crate) fn admin() -> Caller {
    Caller::named("admin@acme").unwrap()
}

pub(crate) fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

pub(crate) fn group(name: &str) -> GroupId {
    GroupId::new(name).unwrap()
}

pub(crate) fn agent(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

pub(crate) fn reference(view: &GrantView) -> GrantRef {
    GrantRef { tenant_id: view.grant.tenant_id.clone(), text: view.grant.id().to_string() }
}

/// A grant to `support` for an hour, from now.
pub(crate) fn mk_request(tenant_id: &TenantId) -> GrantRequest {
    GrantRequest {
        request_id: None,
        tenant_id: tenant_id.clone(),
        group_id: group("support"),
        agent_ids: [].into(),
        access_level: AccessLevel::ReadWrite,
        start_time: None,
        end: End::After(Span::hours(1)),
        reason: Note::default(),
        ticket: Ticket::default(),
    }
}
