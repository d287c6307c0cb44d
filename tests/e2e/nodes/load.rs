//! Continuous checks at many nodes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout_at},
};

use crate::nodes::{
    fleet::{Fleet, Node},
    history::History,
};

/// One task per node that checks access for each tenant in turn, until this value is dropped.
#[derive(Debug)]
pub struct Load {
    history: Arc<History>,
    tenants: Vec<String>,
    pace: Duration,
    /// The number of failed checks.
    failures: Arc<AtomicUsize>,
    gateways: JoinSet<()>,
}

impl Load {
    /// Creates a load without nodes. Each node is checked once per `pace`, and after each enforced
    /// revocation.
    pub fn new(history: &Arc<History>, tenants: &[String], pace: Duration) -> Self {
        Self {
            history: Arc::clone(history),
            tenants: tenants.to_vec(),
            pace,
            failures: Arc::default(),
            gateways: JoinSet::new(),
        }
    }

    /// Starts to check access at all nodes of `fleet`.
    pub fn on(fleet: &Fleet, tenants: &[String], pace: Duration) -> Self {
        let mut load = Self::new(&fleet.history, tenants, pace);
        for node in fleet.nodes() {
            load.add(node);
        }
        load
    }

    /// Starts to check access at `node`. Abort the task before killing the node, because a
    /// restarted node may reuse the address.
    pub fn add(&mut self, node: &Node) -> AbortHandle {
        let (history, tenants) = (Arc::clone(&self.history), self.tenants.clone());
        let (number, client, pace) = (node.number, node.client.clone(), self.pace);
        let failures = Arc::clone(&self.failures);
        self.gateways.spawn(async move {
            let mut revocations = history.watch_revocations();
            for tenant_id in tenants.iter().cycle() {
                let next = Instant::now() + pace;
                if history.check(number, &client, tenant_id, "").await.is_err() {
                    failures.fetch_add(1, Ordering::Relaxed);
                }
                let _ = timeout_at(next, revocations.changed()).await;
            }
        })
    }

    /// Returns the number of failed checks.
    pub fn failures(&self) -> usize {
        self.failures.load(Ordering::Relaxed)
    }
}
