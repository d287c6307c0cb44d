//! Stub: stands in until the check node is merged.
#![allow(missing_docs, reason = "a stub")]

use std::sync::Arc;

use parking_lot::Mutex;

use crate::store::{Store, StoreError};

pub mod follower;

#[derive(Debug, Default)]
pub struct CheckNode(Mutex<Gauges>);

#[derive(Debug, Clone, Copy, Default)]
pub struct Gauges {
    pub revision: i64,
    pub live_grants: u64,
    pub tenants: u64,
    pub snapshot_bytes: u64,
}

impl CheckNode {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub async fn load(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut live_grants = 0;
        let revision = store.load(&mut |_, _| live_grants += 1).await?;
        *self.0.lock() = Gauges { revision, live_grants, tenants: 0, snapshot_bytes: 0 };
        Ok(())
    }

    pub fn gauges(&self) -> Gauges {
        *self.0.lock()
    }
}
