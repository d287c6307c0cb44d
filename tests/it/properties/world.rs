//! The service over the memory store, with a manual clock.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use support_access::{
    domain::{
        AccessCheck, AccessLevel, AgentId, AgentKind, AgentKindEntry, AssertedGroups, Caller,
        Clock as _, End, FreeText, GrantRequest, GroupId, NodeId, NodeKind, RevokeRequest, Span,
        SupportPolicy, TenantId, Ticket, Time, clock::ManualClock, time::from_micros,
        token::TokenEvent,
    },
    node::{CheckNode, replica::Replica},
    service::{
        GrantRef, GrantView, Limits, Service,
        check::{CheckResult, Checks},
        grants::RevokeOutcome,
    },
    store::{Store, memory::MemoryStore},
};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

/// Longer than every test. The manual clock stands still unless the test advances the clock.
const MAX_STALENESS: Duration = Duration::from_mins(5);

pub(crate) struct World {
    pub(crate) service: Arc<Service>,
    pub(crate) node: Arc<CheckNode>,
    pub(crate) store: Arc<Store>,
    checks: Checks,
    replica: Arc<Replica>,
    /// The database's clock.
    clock: Arc<ManualClock>,
    /// The node's clock; may be the database's.
    node_clock: Arc<ManualClock>,
    /// Stops the replica when the world is dropped.
    _stop: DropGuard,
}

impl World {
    pub(crate) async fn new() -> Self {
        let clock = Arc::new(ManualClock::at(from_micros(1_700_000_000_000_000).unwrap()));
        let store = Store::new(Arc::new(MemoryStore::new(clock.clone())));
        Self::over(store, clock.clone(), clock).await
    }

    /// A world whose check node has a separate clock, `seconds` behind the database's.
    pub(crate) async fn with_a_node_behind(seconds: i64) -> Self {
        let database = Self::new().await;
        let behind = Arc::new(ManualClock::at(database.now() - TimeDelta::seconds(seconds)));
        Self::over(database.store.clone(), database.clock.clone(), behind).await
    }

    /// Another process on the same store, with the same clock.
    pub(crate) async fn restarted(&self) -> Self {
        Self::over(self.store.clone(), self.clock.clone(), self.clock.clone()).await
    }

    pub(crate) async fn over(
        store: Arc<Store>,
        clock: Arc<ManualClock>,
        node_clock: Arc<ManualClock>,
    ) -> Self {
        let node = CheckNode::new(NodeId(Uuid::new_v4()), NodeKind::Replica, node_clock.clone());
        let replica = Replica::new(node.clone(), store.clone(), MAX_STALENESS);
        replica.join().await.unwrap();
        let stop = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "ended by the token")]
        {
            tokio::spawn(replica.clone().run(stop.clone()));
            tokio::spawn(replica.enforcer().clone().run(stop.clone()));
        }
        let limits = Limits {
            live_grants_per_tenant: 10_000,
            live_grants_per_group: 10_000,
            max_staleness: MAX_STALENESS,
        };
        let service = Arc::new(Service::new(replica.clone(), catalogue(), limits));
        let checks = Checks::new(node.clone(), Some(store.clone()));
        let stop = stop.drop_guard();
        Self { service, node, store, checks, replica, clock, node_clock, _stop: stop }
    }

    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    /// Lets time pass, and renews the node's lease, which carries the time of the database.
    pub(crate) async fn advance(&self, seconds: u64) {
        self.clock.pass(Duration::from_secs(seconds));
        if !Arc::ptr_eq(&self.clock, &self.node_clock) {
            self.node_clock.pass(Duration::from_secs(seconds));
        }
        self.replica.renew_lease().await.unwrap();
    }

    /// Sets back the database's clock, and renews the node's lease.
    pub(crate) async fn set_back(&self, seconds: i64) {
        self.clock.set(-TimeDelta::seconds(seconds));
        self.replica.renew_lease().await.unwrap();
    }

    pub(crate) async fn grant(&self, request: GrantRequest) -> GrantView {
        self.service.grant_access(&admin(), request, soon()).await.unwrap().grant
    }

    pub(crate) async fn revoke(&self, grant: &GrantRef) -> RevokeOutcome {
        let caller = admin();
        let request = RevokeRequest::default();
        let revoked = self.service.revoke_access(&caller, grant, request, soon());
        revoked.await.unwrap()
    }

    /// The result of a check at the end of the log.
    pub(crate) async fn check(&self, check: &AccessCheck) -> CheckResult {
        let head = self.store.log().head().await.unwrap();
        let key = self.node.view().snapshot().token_key().unwrap();
        let token = key.encrypt(TokenEvent::new(head.revision, head.time)).unwrap();
        self.checks.check(check, &token.to_string(), soon()).await.unwrap()
    }
}

pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

pub(crate) fn admin() -> Caller {
    Caller::local(Some("admin@acme")).unwrap()
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

/// A check of agent `ada` in group `support`.
pub(crate) fn mk_check(tenant_id: &TenantId) -> AccessCheck {
    AccessCheck {
        tenant_id: tenant_id.clone(),
        agent_id: Some(agent("ada")),
        groups: AssertedGroups::from_iter([group("support")]),
        required_level: AccessLevel::ReadOnly,
        agent_kind: AgentKind::Human,
        on_behalf_of: None,
    }
}

pub(crate) fn reference(view: &GrantView) -> GrantRef {
    GrantRef { tenant_id: view.grant.tenant_id.clone(), text: view.grant.id().to_string() }
}

/// The default catalogue, and every agent kind.
fn catalogue() -> SupportPolicy {
    let entry = |agent_kind| AgentKindEntry { agent_kind, ..AgentKindEntry::HUMAN };
    let agent_kinds = AgentKind::ALL.map(entry).to_vec();
    SupportPolicy { agent_kinds, ..SupportPolicy::default() }
}

/// A grant to `support` for an hour, from now.
pub(crate) fn mk_request(tenant_id: &TenantId) -> GrantRequest {
    GrantRequest {
        request_id: None,
        tenant_id: tenant_id.clone(),
        group_id: group("support"),
        agent_ids: [].into(),
        access_level: AccessLevel::ReadWrite,
        agent_kinds: None,
        start_time: None,
        end: End::After(Span::hours(1)),
        reason: FreeText::default(),
        ticket: Ticket::default(),
    }
}
