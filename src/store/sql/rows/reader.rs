//! Authenticates the events that are read from a database.

use std::sync::Arc;

use crate::{
    domain::{
        TenantId,
        authenticity::{EventColumns, LogKeys},
    },
    store::{ForgedHistories, StoreError},
};

/// The only way from the row of an event to the event. Whatever the caller does then, a row that is
/// not authentic is reported.
#[derive(Debug, Clone)]
pub(in crate::store) struct EventReader {
    keys: Arc<LogKeys>,
    forged_histories: Arc<ForgedHistories>,
}

/// The row of an event is not authentic.
#[derive(Debug)]
pub(super) struct Forgery {
    /// The history that contains the event. `None`: that of the vendor, or an unknown one.
    pub(super) history: Option<TenantId>,
}

impl EventReader {
    pub(in crate::store) fn new(
        keys: Arc<LogKeys>,
        forged_histories: Arc<ForgedHistories>,
    ) -> Self {
        Self { keys, forged_histories }
    }

    /// The keys of the log.
    pub(in crate::store) fn keys(&self) -> &LogKeys {
        &self.keys
    }

    /// Where forgeries are reported.
    pub(in crate::store) fn forged_histories(&self) -> &ForgedHistories {
        &self.forged_histories
    }

    /// Reports a history that lacks an event.
    pub(in crate::store) fn report_missing(&self, history: Option<TenantId>) -> StoreError {
        self.forged_histories.report(history);
        StoreError::broken(
            "an event is missing, because another party removed or moved the event; see the \
             runbook SupportAccessDatabaseForged",
        )
    }

    /// Reports a row that is not authentic.
    pub(super) fn verify(
        &self,
        columns: &EventColumns<'_>,
        mac: &[u8],
        owner_mac: &[u8],
    ) -> Result<(), Forgery> {
        if self.keys.is_authentic(columns, mac) {
            return Ok(());
        }
        let is_owner_authentic = self.keys.is_owner_authentic(columns, owner_mac);
        let history = TenantId::new(columns.tenant_id).ok().filter(|_| is_owner_authentic);
        self.forged_histories.report(history.clone());
        Err(Forgery { history })
    }
}
