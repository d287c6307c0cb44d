//! Request ids: a retry with the same id does not repeat the change. A request without an id gets
//! one, because the service itself makes a change again if the outcome of a commit is unknown.

use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    domain::{Event, Grant, RequestId, TenantId},
    node::enforcement::Commit,
    service::{Service, ServiceError},
    store::{IdempotencyKey, NewEvent, Read, RequestPart, StoreError, Transaction},
};

/// The key of a request of `method` with this content.
pub(super) fn key(
    tenant_id: Option<&TenantId>,
    request_id: Option<&RequestId>,
    method: &'static str,
    content: impl Serialize,
) -> Result<IdempotencyKey, StoreError> {
    let request_id = request_id.cloned().unwrap_or_else(RequestId::random);
    let content = serde_json::to_vec(&(method, content));
    let content = content.map_err(|error| StoreError::Broken(error.into()))?;
    let fingerprint = Sha256::digest(content).into();
    Ok(IdempotencyKey { tenant_id: tenant_id.cloned(), request_id, fingerprint })
}

/// The parts of earlier calls with the same key. Also reads ahead what the change needs: the end of
/// the history that has the owner of the key, and `reads`.
pub(super) async fn earlier_parts(
    transaction: &mut dyn Transaction,
    key: &IdempotencyKey,
    reads: &[Read<'_>],
) -> Result<Vec<RequestPart>, ServiceError> {
    let (owner, request_id) = (key.tenant_id.as_ref(), &key.request_id);
    let all = [&[Read::Request(owner, request_id), Read::History(owner)], reads].concat();
    transaction.read_ahead(&all).await?;
    let parts = transaction.request(owner, request_id).await?;
    if parts.iter().any(|part| part.fingerprint != key.fingerprint) {
        return Err(ServiceError::RequestIdReused);
    }
    Ok(parts)
}

impl Service {
    /// Appends one event, records the request, and commits.
    pub(super) async fn append_and_commit(
        &self,
        mut transaction: Box<dyn Transaction>,
        new: NewEvent,
        key: &IdempotencyKey,
    ) -> Result<(Event, Commit), ServiceError> {
        let event = transaction.append(new).await?;
        transaction.record_request(key, 0).await?;
        let commit = self.commit(transaction, std::slice::from_ref(&event)).await?;
        Ok((event, commit))
    }

    /// The event of an earlier call that `transaction` has found. After the commit, the event is
    /// durable.
    pub(super) async fn replay(
        &self,
        transaction: Box<dyn Transaction>,
        part: RequestPart,
    ) -> Result<Event, ServiceError> {
        transaction.commit().await?;
        let event = self.events_of(&part).await?.pop();
        let missing = || StoreError::Broken("a request refers to an event that is missing".into());
        Ok(event.ok_or_else(missing)?)
    }

    /// The events of one part of a request.
    pub(super) async fn events_of(&self, part: &RequestPart) -> Result<Vec<Event>, StoreError> {
        let RequestPart { first_revision, last_revision, .. } = *part;
        let count = usize::try_from(last_revision - first_revision + 1).unwrap_or(0);
        self.store.log().events_after(first_revision - 1, count).await
    }

    /// The current grant of an event.
    pub(super) async fn current_grant(&self, event: &Event) -> Result<Grant, ServiceError> {
        let grant = grant_of(event)?;
        let current = self.store.queries().grant(&grant.tenant_id, grant.id()).await?;
        let missing = || StoreError::Broken("an event is about a grant that is missing".into());
        Ok(current.ok_or_else(missing)?)
    }
}

/// The grant after the event.
pub(super) fn grant_of(event: &Event) -> Result<Grant, StoreError> {
    let grant = event.kind.grant().cloned();
    grant.ok_or_else(|| StoreError::Broken("an event about a grant lacks the grant".into()))
}
