//! The sweep that records expiries.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use support_access::{
    domain::{
        AccessLevel, Caller, End, FreeText, GrantRequest, GroupId, NodeId, NodeKind, Span,
        SupportPolicy, TenantId, Ticket, clock::ManualClock, time::from_micros,
    },
    node::{CheckNode, replica::Replica},
    service::{Limits, Service},
    store::{Store, memory::MemoryStore},
};
use tokio::time::Instant;

#[tokio::test]
async fn the_lag_grows_while_the_sweep_does_not_run() {
    let clock = Arc::new(ManualClock::at(from_micros(1_700_000_000_000_000).unwrap()));
    let store = Store::new(Arc::new(MemoryStore::new(clock.clone())));
    let max_staleness = Duration::from_hours(10);
    let limits = Limits { live_grants_per_tenant: 1, live_grants_per_group: 1, max_staleness };
    let node = CheckNode::new(NodeId(uuid::Uuid::nil()), NodeKind::Replica, clock.clone());
    let replica = Replica::new(node, store, max_staleness);
    replica.join().await.unwrap();
    let service = Service::new(replica.clone(), SupportPolicy::default(), limits);
    let request = GrantRequest {
        request_id: None,
        tenant_id: TenantId::new("acme").unwrap(),
        group_id: GroupId::new("support").unwrap(),
        agent_ids: BTreeSet::new(),
        access_level: AccessLevel::ReadOnly,
        agent_kinds: None,
        start_time: None,
        end: End::After(Span(Duration::from_hours(1))),
        reason: FreeText::default(),
        ticket: Ticket::default(),
    };
    service.grant_access(&Caller::local(None).unwrap(), request, Instant::now()).await.unwrap();
    assert_eq!(service.sweep().await.unwrap(), 0);
    assert_eq!(service.sweep_lag(), Duration::ZERO);

    clock.pass(Duration::from_secs(3_600 + 5));
    replica.join().await.unwrap();
    assert_eq!(service.sweep_lag(), Duration::from_secs(5));
    assert_eq!(service.sweep().await.unwrap(), 1);
    assert_eq!(service.sweep_lag(), Duration::ZERO);
}
