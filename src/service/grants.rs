//! Changes: grant, extend, revoke, revoke all.

use sha2::{Digest, Sha256};
use tokio::time::Instant;
use uuid::{NoContext, Timestamp, Uuid};

use crate::{
    domain::{
        Attribution, Caller, EventKind, ExtendRequest, FreeText, Grant, GrantId, GrantRequest,
        GrantState, GrantTerms, Revocation, TenantId, Time, policy::Period,
    },
    node::enforcement::Commit,
    service::{Enforcement, GrantRef, GrantView, LISTED_MAX, Service, ServiceError, page::fitting},
    store::{IdempotencyKey, NewEvent, StoreError, Transaction},
};

/// The answer to a revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// The grant as it is now.
    pub grant: GrantView,
    /// How far the revocation has reached.
    pub enforcement: Enforcement,
    /// What still lets somebody in, newest first.
    pub remaining: Vec<GrantView>,
}

/// The answer to the revocation of everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedAll {
    /// The grants that were ended, newest first, at most [`LISTED_MAX`].
    pub grants: Vec<GrantView>,
    /// How many that were.
    pub count: usize,
    /// How far the revocation has reached.
    pub enforcement: Enforcement,
}

impl Service {
    /// Lets a support group in. When this answers, the process's own checks know the grant, unless `deadline` came first.
    pub async fn grant_access(
        &self,
        caller: &Caller,
        request: GrantRequest,
        deadline: Instant,
    ) -> Result<GrantView, ServiceError> {
        let mark = mark(&request)?;
        let mut change = self.store.log().begin().await?;
        let now = change.now();
        if let Some(mark) = &mark
            && let Some(first) = change.remembered(&request.tenant_id, &mark.request_id).await?
        {
            if first.fingerprint != mark.fingerprint {
                return Err(ServiceError::RequestIdReused);
            }
            change.commit().await?;
            let created = first.grant.create_time;
            return Ok(GrantView::at(first.grant, created));
        }
        let overrides = change.overrides(&request.tenant_id).await?;
        let period = self.catalogue.tightened(&overrides).admit(&request, now)?;
        let limit = self.limits.live_grants_per_tenant;
        if change.count_live_grants(&request.tenant_id).await? >= limit {
            return Err(ServiceError::TooManyLiveGrants { limit });
        }
        let grant = new_grant(caller, request, period, now);
        let entry = NewEvent {
            tenant_id: Some(grant.tenant_id.clone()),
            author: caller.author.clone(),
            reason: grant.reason.clone(),
            kind: EventKind::Granted { grant },
            request: mark,
        };
        let (grant, commit) = self.append_and_commit(change, entry).await?;
        self.node.wait_for(commit.last, deadline).await;
        Ok(GrantView::at(grant, now))
    }

    /// Moves the end of a grant, either way. Moving it to where it is changes nothing.
    pub async fn extend_access(
        &self,
        caller: &Caller,
        grant: &GrantRef,
        etag: Option<&str>,
        request: ExtendRequest,
        deadline: Instant,
    ) -> Result<(GrantView, Enforcement), ServiceError> {
        let mut change = self.store.log().begin().await?;
        let now = change.now();
        let mut grant = find(change.as_mut(), grant).await?;
        check_etag(&grant, etag)?;
        if grant.state(now).is_ended() {
            let grant_id = grant.id();
            change.commit().await?;
            return Err(ServiceError::GrantEnded { grant_id });
        }
        let overrides = change.overrides(&grant.tenant_id).await?;
        let policy = self.catalogue.tightened(&overrides);
        let expire_time = policy.admit_extension(&grant, &request, now)?;
        let previous_expire_time = grant.terms.expire_time;
        if expire_time == previous_expire_time {
            change.commit().await?;
            let enforcement = self.enforce_again(grant.revision, deadline).await?;
            return Ok((GrantView::at(grant, now), enforcement));
        }
        grant.terms.expire_time = expire_time;
        let entry = NewEvent {
            tenant_id: Some(grant.tenant_id.clone()),
            author: caller.author.clone(),
            reason: request.reason,
            kind: EventKind::Extended { grant, previous_expire_time },
            request: None,
        };
        let (grant, commit) = self.append_and_commit(change, entry).await?;
        let enforcement = self.enforce(commit, deadline).await;
        Ok((GrantView::at(grant, now), enforcement))
    }

    /// Ends a grant. One that has ended already stays as it is.
    pub async fn revoke_access(
        &self,
        caller: &Caller,
        grant: &GrantRef,
        etag: Option<&str>,
        reason: FreeText,
        deadline: Instant,
    ) -> Result<Revoked, ServiceError> {
        let mut change = self.store.log().begin().await?;
        let now = change.now();
        let grant = find(change.as_mut(), grant).await?;
        let mut remaining = change.live_grants(&grant.tenant_id, usize::MAX).await?;
        let is_live = remaining.iter().any(|other| other.id() == grant.id());
        remaining
            .retain(|other| other.id() != grant.id() && other.state(now) == GrantState::Active);
        remaining.truncate(listed(&remaining));
        let (grant, enforcement) = if is_live {
            let entry = if grant.state(now).is_ended() {
                expiry(grant)
            } else {
                check_etag(&grant, etag)?;
                revocation(caller, grant, reason, now)
            };
            let (grant, commit) = self.append_and_commit(change, entry).await?;
            (grant, self.enforce(commit, deadline).await)
        } else {
            change.commit().await?;
            let enforcement = self.enforce_again(grant.revision, deadline).await?;
            (grant, enforcement)
        };
        let remaining = remaining.into_iter().map(|grant| GrantView::at(grant, now)).collect();
        Ok(Revoked { grant: GrantView::at(grant, now), enforcement, remaining })
    }

    /// Ends everything that a tenant has granted, in one transaction.
    pub async fn revoke_all_access(
        &self,
        caller: &Caller,
        tenant_id: &TenantId,
        reason: FreeText,
        deadline: Instant,
    ) -> Result<RevokedAll, ServiceError> {
        let mut change = self.store.log().begin().await?;
        let now = change.now();
        let mut events = Vec::new();
        for grant in change.live_grants(tenant_id, usize::MAX).await? {
            let entry = if grant.state(now).is_ended() {
                expiry(grant)
            } else {
                revocation(caller, grant, reason.clone(), now)
            };
            events.push(change.append(entry).await?);
        }
        let enforcement = if events.is_empty() {
            let head = change.commit().await?;
            self.enforce_again(head, deadline).await?
        } else {
            let commit = self.commit(change, &events).await?;
            self.enforce(commit, deadline).await
        };
        events.retain(|event| matches!(event.kind, EventKind::Revoked { .. }));
        let count = events.len();
        let mut ended: Vec<Grant> =
            events.into_iter().filter_map(|event| event.kind.into_grant()).collect();
        ended.truncate(listed(&ended));
        let grants = ended.into_iter().map(|grant| GrantView::at(grant, now)).collect();
        Ok(RevokedAll { grants, count, enforcement })
    }

    /// Writes one event about a grant, and returns the grant as it left it.
    async fn append_and_commit(
        &self,
        mut change: Box<dyn Transaction>,
        entry: NewEvent,
    ) -> Result<(Grant, Commit), ServiceError> {
        let event = change.append(entry).await?;
        let commit = self.commit(change, std::slice::from_ref(&event)).await?;
        let no_grant = || StoreError::Broken("an event of a grant came back without it".into());
        Ok((event.kind.into_grant().ok_or_else(no_grant)?, commit))
    }
}

/// What is to be remembered of a request that has an id: its content, in short.
fn mark(request: &GrantRequest) -> Result<Option<IdempotencyKey>, StoreError> {
    let Some(request_id) = request.request_id.clone() else { return Ok(None) };
    let content = serde_json::to_vec(request).map_err(|error| StoreError::Broken(error.into()))?;
    Ok(Some(IdempotencyKey { request_id, fingerprint: Sha256::digest(content).into() }))
}

/// A new id, whose time is that of the change that makes the grant.
fn new_id(now: Time) -> GrantId {
    let (seconds, nanos) = (now.timestamp().unsigned_abs(), now.timestamp_subsec_nanos());
    GrantId(Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, nanos)))
}

/// How many of `grants` the answer to a change names.
pub(super) fn listed(grants: &[Grant]) -> usize {
    fitting(grants, Grant::weight).min(LISTED_MAX)
}

fn new_grant(caller: &Caller, request: GrantRequest, period: Period, now: Time) -> Grant {
    Grant {
        tenant_id: request.tenant_id,
        terms: GrantTerms {
            grant_id: new_id(now),
            group_id: request.group_id,
            agent_ids: request.agent_ids,
            access_level: request.access_level,
            start_time: period.start_time,
            expire_time: period.expire_time,
            revoke_time: None,
        },
        reason: request.reason,
        ticket: request.ticket,
        create_time: now,
        creator: caller.author.actor.clone(),
        revocation: None,
        create_revision: 0,
        revision: 0,
    }
}

fn revocation(caller: &Caller, mut grant: Grant, reason: FreeText, now: Time) -> NewEvent {
    grant.terms.revoke_time = Some(now);
    grant.revocation =
        Some(Revocation { revoker: caller.author.actor.clone(), reason: reason.clone() });
    NewEvent {
        tenant_id: Some(grant.tenant_id.clone()),
        author: caller.author.clone(),
        reason,
        kind: EventKind::Revoked { grant },
        request: None,
    }
}

/// The end of a grant whose time has come. A revocation of such a grant records it rather than leave it to the sweep: then
/// it is enforced like a revocation, whatever the clock of a check node says.
pub(super) fn expiry(grant: Grant) -> NewEvent {
    NewEvent {
        tenant_id: Some(grant.tenant_id.clone()),
        author: Attribution::system(),
        reason: FreeText::default(),
        kind: EventKind::Expired { grant },
        request: None,
    }
}

async fn find(change: &mut dyn Transaction, grant: &GrantRef) -> Result<Grant, ServiceError> {
    let found = change.grant(&grant.tenant_id, grant.id()?).await?;
    found.ok_or_else(|| grant.not_found())
}

fn check_etag(grant: &Grant, etag: Option<&str>) -> Result<(), ServiceError> {
    match etag {
        Some(etag) if etag != grant.etag() => Err(ServiceError::EtagMismatch),
        Some(_) | None => Ok(()),
    }
}
