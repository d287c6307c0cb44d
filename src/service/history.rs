//! A history that can be verified: its records, and checkpoints of it.

use crate::{
    domain::{
        Sequence, TenantId,
        chain::{Checkpoint, Record},
    },
    service::{
        Service, ServiceError,
        page::{PageRequest, fitting},
    },
};

/// The most records that are read at a time: one may be a whole catalogue.
const EXPORTED_MAX: usize = 200;

/// Some records of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// The records, oldest first.
    pub records: Vec<Record>,
    /// The sequence that the next ones come after.
    pub next: Sequence,
    /// Whether there are more.
    pub has_more: bool,
}

impl Service {
    /// The records of a tenant's history, or of the vendor's own, that come after `sequence`.
    pub async fn export_history(
        &self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
        page: &PageRequest,
    ) -> Result<Export, ServiceError> {
        let limit = page.size().min(EXPORTED_MAX) + 1;
        let mut records = self.store.history().records(tenant_id, sequence, limit).await?;
        let fitting = fitting(&records, |record| record.line.len());
        let size = fitting.min(limit - 1);
        let has_more = records.len() > size;
        records.truncate(size);
        let next = records.last().map_or(sequence, |record| record.link.sequence);
        Ok(Export { records, next, has_more })
    }

    /// How far a tenant's history goes, or the vendor's own; signed, if there is a key.
    pub async fn checkpoint(
        &self,
        tenant_id: Option<&TenantId>,
    ) -> Result<Checkpoint, ServiceError> {
        // Before the head is read: everything up to this time is in it.
        let earliest = self.node.read_view().now.map(|now| now.earliest);
        let time = earliest.unwrap_or_else(|| self.now());
        let head = self.store.history().chain_head(tenant_id).await?;
        // What can be read need not be permanent, and what is signed must be.
        self.store.log().begin().await?.commit().await?;
        Ok(Checkpoint::new(tenant_id, head, time, self.checkpoint_key.as_ref())?)
    }
}
