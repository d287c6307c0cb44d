//! Checks at many nodes, all the time.

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

use crate::{
    fleet::{Fleet, Node},
    history::History,
};

/// Gateways that ask one question after the other, of one tenant after the other, until this is dropped.
#[derive(Debug)]
pub struct Load {
    history: Arc<History>,
    tenants: Vec<String>,
    pace: Duration,
    /// Checks that were not answered.
    failures: Arc<AtomicUsize>,
    gateways: JoinSet<()>,
}

impl Load {
    /// Asks nobody yet. A gateway asks once in `pace`, and whenever something was said to have ended.
    pub fn new(history: &Arc<History>, tenants: &[String], pace: Duration) -> Self {
        Self {
            history: Arc::clone(history),
            tenants: tenants.to_vec(),
            pace,
            failures: Arc::default(),
            gateways: JoinSet::new(),
        }
    }

    /// Asks all of them.
    pub fn on(fleet: &Fleet, tenants: &[String], pace: Duration) -> Self {
        let mut load = Self::new(&fleet.history, tenants, pace);
        for node in fleet.nodes() {
            load.add(node);
        }
        load
    }

    /// Asks this node from now on. To be aborted before it is killed: another one may come to the same place.
    pub fn add(&mut self, node: &Node) -> AbortHandle {
        let (history, tenants) = (Arc::clone(&self.history), self.tenants.clone());
        let (number, client, pace) = (node.number, node.client.clone(), self.pace);
        let failures = Arc::clone(&self.failures);
        self.gateways.spawn(async move {
            let mut ends = history.ends();
            for tenant_id in tenants.iter().cycle() {
                let next = Instant::now() + pace;
                if history.ask(number, &client, tenant_id, "").await.is_err() {
                    failures.fetch_add(1, Ordering::Relaxed);
                }
                let _ = timeout_at(next, ends.changed()).await;
            }
        })
    }

    /// How many checks were not answered.
    pub fn failures(&self) -> usize {
        self.failures.load(Ordering::Relaxed)
    }
}
