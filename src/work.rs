//! Stub: stands in until the use cases are merged.
#![allow(missing_docs, reason = "a stub")]

use std::{sync::Arc, time::Duration};

use crate::{
    domain::{Clock, SupportPolicy},
    node::CheckNode,
    store::Store,
};

pub mod expiry;

#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub live_grants_per_tenant: usize,
    pub max_staleness: Duration,
}

#[derive(Debug)]
pub struct Work {
    pub(crate) store: Arc<dyn Store>,
}

impl Work {
    pub fn new(
        store: Arc<dyn Store>,
        _node: Arc<CheckNode>,
        _clock: Arc<dyn Clock>,
        _catalogue: SupportPolicy,
        _limits: Limits,
    ) -> Self {
        Self { store }
    }

    pub fn sweep_lag(&self) -> Duration {
        Duration::ZERO
    }
}
