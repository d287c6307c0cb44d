//! The revocation of all grants of a tenant, in chunks.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use crate::{
    domain::{
        Caller, Event, EventKind, Grant, GrantId, Revision, RevokeRequest, Sequence, TenantId,
    },
    service::{
        Enforcement, GrantView, LISTED_MAX, Service, ServiceError,
        grants::{expiry, listed, revocation},
        idempotency::{earlier_parts, key},
        sharing::{Sharing, retry_alone},
    },
    store::{IdempotencyKey, QueryScope, StoreError, Transaction},
};

/// The most grants that one transaction ends. Other transactions wait for each chunk, and get their
/// turn before the next.
const CHUNK: usize = 200;
/// How long a chunk waits until its node has applied the chunk before.
const APPLY_TIMEOUT: Duration = Duration::from_secs(1);
/// As [`APPLY_TIMEOUT`], while other changes wait for the chunk.
const LOCKED_APPLY_TIMEOUT: Duration = Duration::from_millis(50);
/// The number of grants of the node that one statement compares with their events.
const CANDIDATES: usize = 1_000;

/// The result of `RevokeAllAccess`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokeAllOutcome {
    /// The grants that this call, and earlier calls with the same request id, revoked. Newest
    /// first, at most [`LISTED_MAX`].
    pub grants: Vec<GrantView>,
    /// The number of those grants.
    pub count: usize,
    /// How far the last chunk, and with it all earlier ones, has reached the check nodes.
    pub enforcement: Enforcement,
}

/// The grants that were revoked so far.
#[derive(Default)]
struct Revoked {
    grants: Vec<Grant>,
    count: usize,
}

impl Revoked {
    fn add(&mut self, events: Vec<Event>) {
        for event in events {
            let EventKind::Revoked { grant } = event.kind else { continue };
            self.count += 1;
            if self.grants.len() < LISTED_MAX {
                self.grants.push(grant);
            }
        }
    }
}

impl Service {
    /// Ends all live grants of a tenant that were created before the first event of the first
    /// chunk. After an error, a call with the same request id continues with the remaining grants
    /// of that set.
    pub async fn revoke_all_access(
        &self,
        caller: &Caller,
        tenant_id: &TenantId,
        request: RevokeRequest,
        deadline: Instant,
    ) -> Result<RevokeAllOutcome, ServiceError> {
        let request_id = request.request_id.as_ref();
        let key = key(Some(tenant_id), request_id, "RevokeAllAccess", &request)?;
        retry_alone(|_| self.revoke_rest(caller, tenant_id, &request, &key, deadline)).await
    }

    /// Ends the grants that earlier calls with the same key have left.
    async fn revoke_rest(
        &self,
        caller: &Caller,
        tenant_id: &TenantId,
        request: &RevokeRequest,
        key: &IdempotencyKey,
        deadline: Instant,
    ) -> Result<RevokeAllOutcome, ServiceError> {
        let mut transaction = self.begin(Sharing::Alone).await?;
        let mut now = transaction.now();
        let earlier = earlier_parts(transaction.as_mut(), key, &[]).await?;
        let mut revoked = Revoked::default();
        let mut bound: Option<Sequence> = None;
        let mut last_revision: Option<Revision> = None;
        for part in &earlier {
            let events = self.events_of(part).await?;
            bound = bound.or(events.first().map(|event| event.sequence));
            last_revision = Some(part.last_revision);
            revoked.add(events);
        }
        let mut part = u32::try_from(earlier.len()).unwrap_or(u32::MAX);
        let enforcement = loop {
            let mut live = transaction.live_grants(tenant_id, bound, CHUNK).await?;
            let mut is_last = live.len() < CHUNK;
            // A chunk is short if all other rows have ended, or if rows differ from their events.
            // Only the events show which grants are left.
            if is_last {
                let by_rows: BTreeSet<GrantId> = live.iter().map(Grant::id).collect();
                let left =
                    self.grants_left(transaction.as_mut(), tenant_id, bound, &by_rows).await?;
                is_last = live.len() + left.len() <= CHUNK;
                live.extend(left.into_iter().take(CHUNK - live.len()));
            }
            if live.is_empty() {
                let last = match last_revision {
                    Some(revision) => revision,
                    None => self.last_revision(QueryScope::Tenant(tenant_id.clone())).await?,
                };
                transaction.commit().await?;
                break self.enforce_again(Some(tenant_id), last, deadline).await?;
            }
            let events = end_all(transaction.as_mut(), caller, live, request).await?;
            transaction.record_request(key, part).await?;
            let commit = self.commit(transaction, &events).await?;
            bound = bound.or(events.first().map(|event| event.sequence));
            revoked.add(events);
            if is_last {
                break self.enforce(Some(tenant_id), commit, deadline).await?;
            }
            // Only the last chunk is waited for. The enforcement of every chunk is recorded.
            drop(self.enforcer.enforce(commit));
            last_revision = Some(commit.last);
            part = part.saturating_add(1);
            // Before the head is locked: other changes need not wait for the node.
            self.node.wait_for(commit.last, Instant::now() + APPLY_TIMEOUT).await;
            transaction = self.begin(Sharing::Alone).await?;
            now = transaction.now();
        };
        let Revoked { mut grants, count } = revoked;
        grants.truncate(listed(&grants));
        let grants = grants.into_iter().map(|grant| GrantView::at(grant, now)).collect();
        Ok(RevokeAllOutcome { grants, count, enforcement })
    }

    /// The live grants by events, except those in `by_rows`.
    async fn grants_left(
        &self,
        transaction: &mut dyn Transaction,
        tenant_id: &TenantId,
        before: Option<Sequence>,
        by_rows: &BTreeSet<GrantId>,
    ) -> Result<Vec<Grant>, StoreError> {
        let is_current =
            self.node.wait_for(transaction.head(), Instant::now() + LOCKED_APPLY_TIMEOUT);
        let is_current = is_current.await;
        let read_view = self.node.read_view();
        let snapshot = read_view.view.snapshot();
        if !is_current || snapshot.has_forged_rows() || snapshot.quarantines() > 0 {
            let mut left = transaction.live_grants_by_events(tenant_id, before).await?;
            left.retain(|grant| !by_rows.contains(&grant.id()));
            return Ok(left);
        }
        // The grants of the node are those of the events. Many are left if the tenant has created
        // grants since the first chunk.
        let of_node = snapshot.grants(tenant_id).filter(|terms| !terms.has_ended());
        let of_node = of_node.map(|terms| terms.grant_id);
        let candidates: Vec<GrantId> = of_node.filter(|id| !by_rows.contains(id)).collect();
        let mut left = Vec::new();
        for grant_ids in candidates.chunks(CANDIDATES) {
            left.extend(transaction.live_grants_of(tenant_id, grant_ids).await?);
        }
        left.retain(|grant| before.is_none_or(|before| grant.create_sequence < before));
        Ok(left)
    }
}

/// Appends the events that end the grants.
async fn end_all(
    transaction: &mut dyn Transaction,
    caller: &Caller,
    live: Vec<Grant>,
    request: &RevokeRequest,
) -> Result<Vec<Event>, ServiceError> {
    let now = transaction.now();
    let end = |grant: Grant| {
        if grant.state(now).is_ended() {
            expiry(&grant)
        } else {
            revocation(caller, grant, request.reason.clone(), now)
        }
    };
    Ok(transaction.append_all(live.into_iter().map(end).collect()).await?)
}
