//! Records and checkpoints of histories, for verification.

use std::sync::Arc;

use futures::{Stream, stream::try_unfold};

use crate::{
    domain::{
        Sequence, TenantId,
        chain::{Checkpoint, Record},
    },
    service::{Service, ServiceError, page::fitting},
    store::StoreError,
};

/// The maximum number of records that are read at once. Most records are short, but one may contain
/// a whole catalogue.
const RECORDS_MAX: usize = 200;

impl Service {
    /// The records after `after` in a tenant's history, or in the vendor's own, up to the head at
    /// the time of the call. In batches, oldest first.
    pub async fn export_history(
        self: Arc<Self>,
        tenant_id: Option<TenantId>,
        after: Sequence,
    ) -> Result<impl Stream<Item = Result<Vec<String>, ServiceError>> + Send, ServiceError> {
        let head = self.store.history().chain_head(tenant_id.as_ref()).await?.link.sequence;
        Ok(try_unfold((self, tenant_id, after), move |(service, tenant_id, after)| async move {
            let limit = usize::try_from(head - after).unwrap_or(0).min(RECORDS_MAX);
            if limit == 0 {
                return Ok(None);
            }
            let history = service.store.history();
            let mut records = history.records(tenant_id.as_ref(), after, limit).await?;
            check_authentic(&records)?;
            records.truncate(fitting(&records, |record| record.line.len()));
            let Some(last) = records.last() else { return Ok(None) };
            let next = last.link.sequence;
            let lines = records.into_iter().map(|record| record.line).collect();
            Ok(Some((lines, (service, tenant_id, next))))
        }))
    }

    /// The head of a tenant's history, or of the vendor's own; signed if there is a key.
    pub async fn checkpoint(
        &self,
        tenant_id: Option<&TenantId>,
    ) -> Result<Checkpoint, ServiceError> {
        // Read before the head, so that the head includes everything up to this time.
        let earliest = self.node.read_view().now.map(|now| now.earliest);
        let time = earliest.unwrap_or_else(|| self.now());
        let head = self.store.history().chain_head(tenant_id).await?;
        if self.store.forged_histories().contains(tenant_id) {
            let problem = "the history has a forged or missing event, so no checkpoint is made; \
                           see the runbook SupportAccessDatabaseForged";
            return Err(StoreError::Broken(problem.into()).into());
        }
        // An event that can be read need not be durable. After a later commit, it is.
        self.store.begin_alone().await?.commit().await?;
        Ok(Checkpoint::new(tenant_id, head, time, self.checkpoint_key.as_ref())?)
    }
}

fn check_authentic(records: &[Record]) -> Result<(), StoreError> {
    let Some(forged) = records.iter().find(|record| !record.is_authentic) else { return Ok(()) };
    let problem = format!(
        "event {} of this history is not authentic, so the export ends; see the runbook \
         SupportAccessDatabaseForged",
        forged.link.sequence
    );
    Err(StoreError::Broken(problem.into()))
}
