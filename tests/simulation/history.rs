//! What happened, by the time of the whole simulation, which no node knows.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

/// What all hosts write into.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    /// When a revocation of a grant was answered as enforced, for the first time.
    enforced: HashMap<String, Duration>,
    allowed: Vec<Allowed>,
    /// Checks that were denied at each node since all is well again, or not answered.
    unwell: Vec<String>,
}

#[derive(Debug)]
struct Allowed {
    node: String,
    grant_id: String,
    invoked: Duration,
}

impl History {
    pub(crate) fn revocation_was_enforced(&self, grant_id: String) {
        let now = turmoil::sim_elapsed().unwrap();
        self.0.lock().enforced.entry(grant_id).or_insert(now);
    }

    pub(crate) fn check_was_allowed(&self, node: &str, grant_id: String, invoked: Duration) {
        self.0.lock().allowed.push(Allowed { node: node.into(), grant_id, invoked });
    }

    /// Something that should not be, though nothing is broken any more.
    pub(crate) fn is_unwell(&self, what: String) {
        self.0.lock().unwell.push(what);
    }

    pub(crate) fn allowed(&self) -> usize {
        self.0.lock().allowed.len()
    }

    pub(crate) fn enforced(&self) -> usize {
        self.0.lock().enforced.len()
    }

    /// No check that was invoked after a revocation had been enforced was allowed by that grant.
    pub(crate) fn check(&self) {
        let entries = self.0.lock();
        for Allowed { node, grant_id, invoked } in &entries.allowed {
            if let Some(enforced) = entries.enforced.get(grant_id) {
                assert!(
                    invoked <= enforced,
                    "{node} allowed by {grant_id} what was asked at {invoked:?}, but that was revoked everywhere at {enforced:?}"
                );
            }
        }
        assert!(entries.unwell.is_empty(), "{:#?}", entries.unwell);
    }
}
