//! Denies everything in histories that another party has changed.

use std::{collections::HashMap, sync::Arc};

use tracing::error;

use crate::{
    domain::{Event, EventKind, GrantId, Time},
    node::{message::Change, replica::Replica},
};

/// The end of a live grant. `None`: the grant has ended.
type Ends = Option<Option<Time>>;

impl Replica {
    /// Denies everything in each history in which this process reads a forged event. The read may
    /// belong to a change, a list, an export or the verification.
    pub(super) async fn deny_forged_histories(&self) {
        loop {
            self.store.forged_histories().reported().await;
            self.node.quarantine(self.store.forged_histories().get());
        }
    }

    /// The changes of the next events. An extension of a grant that has ended, or had another end,
    /// counts as forged: the replica that made the change has not read the last event about the
    /// grant, because another party has removed that event.
    pub(super) fn changes(&self, events: &[Event]) -> Vec<Arc<Change>> {
        let mut ends_after = HashMap::new();
        let change = |event: &Event| {
            if self.is_forged_extension(event, &ends_after) {
                self.store.forged_histories().report(event.tenant_id.clone());
                return Arc::new(Change::from(&Event { kind: EventKind::Forged, ..event.clone() }));
            }
            if let Some(grant) = event.kind.grant() {
                let is_live = !event.kind.is_end();
                ends_after.insert(grant.id(), is_live.then_some(grant.terms.expire_time));
            }
            Arc::new(Change::from(event))
        };
        events.iter().map(change).collect()
    }

    fn is_forged_extension(&self, event: &Event, ends_after: &HashMap<GrantId, Ends>) -> bool {
        let EventKind::Extended { grant, previous_expire_time, .. } = &event.kind else {
            return false;
        };
        let (tenant_id, grant_id) = (&grant.tenant_id, grant.id());
        let known = ends_after.get(&grant_id).copied().unwrap_or_else(|| {
            let view = self.node.view();
            let mut grants = view.snapshot().grants(tenant_id);
            let live = grants.find(|terms| terms.grant_id == grant_id && !terms.has_ended());
            live.map(|terms| terms.expire_time)
        });
        // A rejected grant has a row that differs, and is live by its events.
        let is_rejected = known.is_none() && self.node.view().snapshot().has_rejected(grant_id);
        let is_forged = known != Some(*previous_expire_time) && !is_rejected;
        if is_forged {
            error!(
                %tenant_id,
                %grant_id,
                "an event about a grant is missing before its extension; see the runbook \
                 SupportAccessDatabaseForged"
            );
        }
        is_forged
    }
}
