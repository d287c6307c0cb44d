//! When each node was first seen at each revision of the log.

use std::collections::BTreeMap;

use tokio::time::Instant;

use crate::domain::{NodeId, Revision};

#[derive(Debug, Default)]
pub(crate) struct Observed(BTreeMap<NodeId, BTreeMap<Revision, Instant>>);

impl Observed {
    /// Records that the node is at `revision`.
    pub(crate) fn record(&mut self, node_id: NodeId, revision: Revision) {
        self.0.entry(node_id).or_default().entry(revision).or_insert_with(Instant::now);
    }

    /// When the node was first seen at `revision` or a later one.
    pub(crate) fn since(&self, node_id: NodeId, revision: Revision) -> Option<Instant> {
        let observed = self.0.get(&node_id)?;
        observed.range(revision..).next().map(|(_, since)| *since)
    }

    /// Forgets all revisions after `head`. A restore takes no time from a node that runs, so that
    /// earlier revisions count on.
    pub(crate) fn truncate(&mut self, head: Revision) {
        for observed in self.0.values_mut() {
            observed.split_off(&(head + 1));
        }
    }

    /// Forgets everything: the log is another one.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}
