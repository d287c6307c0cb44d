//! The histories in which a process has read a forged event.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::error;

use crate::domain::TenantId;

/// The histories in which a process has read a forged event, or misses one. The vendor's own
/// history is `None`, and so is an unknown history. Everything is then denied in all tenants.
///
/// Every read of an event reports here, so that no caller can ignore a forgery. The check node of
/// the process denies everything in these histories.
#[derive(Debug, Default)]
pub struct ForgedHistories {
    histories: Mutex<BTreeSet<Option<TenantId>>>,
    reported: Notify,
}

impl ForgedHistories {
    /// Reports a forged or missing event in a history. The first report is logged.
    pub fn report(&self, history: Option<TenantId>) {
        if !self.histories.lock().insert(history.clone()) {
            return;
        }
        self.reported.notify_one();
        if let Some(tenant_id) = history {
            error!(
                %tenant_id,
                "an event is not authentic or missing, everything is denied in this tenant; see \
                 the runbook SupportAccessDatabaseForged"
            );
        } else {
            error!(
                "an event is not authentic or missing, everything is denied in all tenants; see \
                 the runbook SupportAccessDatabaseForged"
            );
        }
    }

    /// Waits for a new history. For one waiter.
    pub async fn reported(&self) {
        self.reported.notified().await;
    }

    /// All histories.
    pub fn get(&self) -> BTreeSet<Option<TenantId>> {
        self.histories.lock().clone()
    }

    /// Whether everything is denied in a history.
    pub fn contains(&self, history: Option<&TenantId>) -> bool {
        let histories = self.histories.lock();
        histories.contains(&None) || histories.contains(&history.cloned())
    }

    /// Call after a read of all events. `known`: the reported histories before the read. `found`:
    /// the histories in which the read found a forgery. Forgets each known history that was not
    /// found.
    pub(super) fn confirm(
        &self,
        known: &BTreeSet<Option<TenantId>>,
        found: &BTreeSet<Option<TenantId>>,
    ) {
        self.histories.lock().retain(|history| !known.contains(history) || found.contains(history));
        for history in found {
            self.report(history.clone());
        }
    }
}
