//! Denies everything in histories that another party has changed.

use std::{collections::HashMap, sync::Arc};

use tracing::error;

use crate::{
    domain::{Event, EventKind, GrantId},
    node::{message::Change, replica::Replica},
};

impl Replica {
    /// Denies everything in each history in which this process reads a forged event. The read may
    /// belong to a change, a list, an export or the verification.
    pub(super) async fn deny_forged_histories(&self) {
        loop {
            self.store.forged_histories().reported().await;
            self.node.quarantine(self.store.forged_histories().get());
        }
    }

    /// The changes of the next events.
    ///
    /// An extension of a grant that is not live at this node counts as forged. The replica that
    /// made the change has not read the end of the grant, because another party has removed that
    /// event.
    pub(super) fn changes(&self, events: &[Event]) -> Vec<Arc<Change>> {
        let view = self.node.view();
        // The grants of these events, and whether they are live.
        let mut known: HashMap<GrantId, bool> = HashMap::new();
        let mut change = |event: &Event| {
            let Some(grant) = event.kind.grant() else { return Arc::new(Change::from(event)) };
            let is_live = known.get(&grant.id()).copied().unwrap_or_else(|| {
                let mut grants = view.snapshot().grants(&grant.tenant_id);
                grants.any(|terms| terms.grant_id == grant.id() && !terms.has_ended())
            });
            if matches!(event.kind, EventKind::Extended { .. }) && !is_live {
                let (tenant_id, grant_id) = (&grant.tenant_id, grant.id());
                error!(%tenant_id, %grant_id, "a grant that has ended was extended");
                self.store.forged_histories().report(event.tenant_id.clone());
                return Arc::new(Change::from(&Event { kind: EventKind::Forged, ..event.clone() }));
            }
            known.insert(grant.id(), !event.kind.is_end());
            Arc::new(Change::from(event))
        };
        events.iter().map(&mut change).collect()
    }
}
