//! A second check node, whose acknowledgements depend on the changes of the tenant alone.

use std::{convert::Infallible, sync::Arc, time::Duration};

use parking_lot::Mutex;
use support_access::{
    domain::{Ack, EventKind, NodeId, Position},
    store::{Notification, Registration, Store},
};
use uuid::Uuid;

use super::TENANT;

/// A row in the membership. It acknowledges every change of the tenant at once, except grants, and
/// no change of others. So the enforcement of grants is pending, and a result that depends on the
/// changes of others differs.
#[derive(Debug, Clone)]
pub(super) struct Member {
    store: Arc<Store>,
    node_id: Arc<Mutex<Option<NodeId>>>,
}

impl Member {
    pub(super) fn new(store: &Arc<Store>) -> Self {
        Self { store: Arc::clone(store), node_id: Arc::default() }
    }

    pub(super) async fn join(&self) {
        let node_id = NodeId(Uuid::new_v4());
        let (version, max_staleness) = ("1.2.3".to_owned(), Duration::from_secs(2));
        let member = Registration { node_id, version, max_staleness, first_heartbeat: 1 };
        self.store.membership().register(&member).await.unwrap();
        self.acknowledge(node_id).await;
        *self.node_id.lock() = Some(node_id);
    }

    pub(super) async fn leave(&self) {
        let node_id = self.node_id.lock().take().unwrap();
        assert!(self.store.membership().evict(node_id, 1).await.unwrap());
    }

    /// Acknowledges changes until the future is dropped.
    pub(super) async fn run(&self) -> Infallible {
        let mut notifications = self.store.notifications().listen().await.unwrap();
        loop {
            let node_id = *self.node_id.lock();
            if let Some(node_id) = node_id {
                self.acknowledge(node_id).await;
            }
            while notifications.next().await.unwrap() != Notification::Log {}
        }
    }

    async fn acknowledge(&self, node_id: NodeId) {
        let epoch = self.store.log().head().await.unwrap().epoch;
        let events = self.store.log().events_after(0, usize::MAX).await.unwrap();
        let mut own = events.iter().rev().filter(|event| {
            event.tenant_id.as_ref().is_some_and(|tenant_id| tenant_id.as_str() == TENANT)
        });
        let Some(last) = own.find(|event| !matches!(event.kind, EventKind::Granted { .. })) else {
            return;
        };
        let (revision, time) = (last.revision, Some(last.time));
        let ack = Ack { revision, nodes: 1, nodes_lapsed: 0 };
        let position = Position { epoch, revision, time };
        self.store.membership().acknowledge(node_id, position, ack).await.unwrap();
    }
}
