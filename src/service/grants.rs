//! Changes of single grants: grant, extend, revoke.

use tokio::time::Instant;
use uuid::{NoContext, Timestamp, Uuid};

use crate::{
    domain::{
        Attribution, Caller, EventKind, ExtendRequest, FreeText, Grant, GrantId, GrantRequest,
        GrantTerms, Revision, Revocation, RevokeRequest, Time, policy::NewTerms,
        token::ConsistencyToken,
    },
    service::{
        Enforcement, GrantRef, GrantView, LISTED_MAX, Service, ServiceError,
        idempotency::{earlier_parts, grant_of, key},
        page::fitting,
    },
    store::{NewEvent, Read, Transaction},
};

/// The result of `GrantAccess`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantOutcome {
    /// The current grant.
    pub grant: GrantView,
    /// Identifies the change.
    pub token: ConsistencyToken,
}

/// The result of `ExtendAccess`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtendOutcome {
    /// The current grant.
    pub grant: GrantView,
    /// The previous end. `None`: until revoked.
    pub previous_expire_time: Option<Time>,
    /// How far the change has reached the check nodes.
    pub enforcement: Enforcement,
}

/// The result of `RevokeAccess`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokeOutcome {
    /// The current grant.
    pub grant: GrantView,
    /// How far the revocation has reached the check nodes.
    pub enforcement: Enforcement,
    /// The tenant's other scheduled and active grants, newest first.
    pub remaining: Vec<GrantView>,
}

impl Service {
    /// Grants access to a support group. When this method returns, this node has applied the grant,
    /// unless `deadline` came first.
    pub async fn grant_access(
        &self,
        caller: &Caller,
        request: GrantRequest,
        deadline: Instant,
    ) -> Result<GrantOutcome, ServiceError> {
        let (tenant_id, request_id) = (Some(&request.tenant_id), request.request_id.as_ref());
        let key = key(tenant_id, request_id, "GrantAccess", &request)?;
        let (request, key) = (&request, &key);
        self.change(|mut transaction| async move {
            let now = transaction.now();
            let tenant_id = &request.tenant_id;
            let reads = [Read::Overrides(tenant_id), Read::SizeOfLiveGrants(tenant_id)];
            if let Some(part) = earlier_parts(transaction.as_mut(), key, &reads).await?.pop() {
                let event = self.replay(transaction, part).await?;
                self.node.wait_for(event.revision, deadline).await;
                let grant = GrantView::at(self.current_grant(&event).await?, now);
                let token = self.token(event.revision, Some(event.time))?;
                return Ok(GrantOutcome { grant, token });
            }
            self.check_clock()?;
            let overrides = transaction.overrides(tenant_id).await?;
            let new_terms = self.catalogue.narrowed_by(&overrides).check_grant(request, now)?;
            let size = transaction.size_of_live_grants(tenant_id).await?;
            let (group_id, limit) = (&request.group_id, self.limits.live_grants_per_group);
            // Few grants in total are few grants to the group.
            if size >= limit && transaction.count_live_grants(tenant_id, group_id).await? >= limit {
                let group_id = group_id.clone();
                return Err(ServiceError::TooManyLiveGrantsToGroup { group_id, limit });
            }
            let grant = new_grant(caller, request.clone(), new_terms, now);
            let limit = self.limits.live_grants_per_tenant;
            if size + grant.terms.size() > limit {
                let is_named = !grant.terms.agent_ids.is_empty();
                let field = if is_named { "named_agents" } else { "tenant_id" };
                return Err(ServiceError::TooManyLiveGrants { limit, field });
            }
            let reason = grant.reason.clone();
            let kind = EventKind::Granted { grant: grant.clone() };
            let new = grant_event(&grant, caller.author.clone(), reason, kind);
            let (event, commit) = self.append_and_commit(transaction, new, key).await?;
            self.node.wait_for(commit.last, deadline).await;
            let grant = GrantView::at(grant_of(&event)?, now);
            Ok(GrantOutcome { grant, token: self.token(commit.last, Some(commit.time))? })
        })
        .await
    }

    /// Moves the end of a grant, later or earlier. A move to the current end changes nothing.
    pub async fn extend_access(
        &self,
        caller: &Caller,
        grant: &GrantRef,
        request: ExtendRequest,
        deadline: Instant,
    ) -> Result<ExtendOutcome, ServiceError> {
        let (tenant_id, request_id) = (Some(&grant.tenant_id), request.request_id.as_ref());
        let key = key(tenant_id, request_id, "ExtendAccess", (&grant.text, &request))?;
        let grant_id = grant.id()?;
        let (request, key) = (&request, &key);
        self.change(|mut transaction| async move {
            let now = transaction.now();
            let reads =
                [Read::Grant(&grant.tenant_id, grant_id), Read::Overrides(&grant.tenant_id)];
            if let Some(part) = earlier_parts(transaction.as_mut(), key, &reads).await?.pop() {
                let event = self.replay(transaction, part).await?;
                let previous_expire_time = match &event.kind {
                    EventKind::Extended { previous_expire_time, .. } => *previous_expire_time,
                    _ => None,
                };
                let grant = GrantView::at(self.current_grant(&event).await?, now);
                let enforcement = self.enforce_again(tenant_id, event.revision, deadline).await?;
                return Ok(ExtendOutcome { grant, previous_expire_time, enforcement });
            }
            let found = transaction.grant(&grant.tenant_id, grant_id).await?;
            let mut grant = found.ok_or_else(|| grant.not_found())?;
            check_etag(&grant.etag(), request.etag.as_deref())?;
            if grant.state(now).is_ended() {
                let grant_id = grant.id();
                transaction.commit().await?;
                return Err(ServiceError::GrantEnded { grant_id });
            }
            let overrides = transaction.overrides(&grant.tenant_id).await?;
            let policy = self.catalogue.narrowed_by(&overrides);
            let expire_time = policy.check_extension(&grant, request, now)?;
            let previous_expire_time = grant.terms.expire_time;
            if expire_time == previous_expire_time {
                let revision = last_revision(transaction.as_mut(), &grant).await?;
                transaction.commit().await?;
                let enforcement = self.enforce_again(tenant_id, revision, deadline).await?;
                let grant = GrantView::at(grant, now);
                return Ok(ExtendOutcome { grant, previous_expire_time, enforcement });
            }
            let is_later = match (previous_expire_time, expire_time) {
                (Some(previous), Some(end)) => end > previous,
                (previous, _) => previous.is_some(),
            };
            if is_later {
                self.check_clock()?;
            }
            grant.terms.expire_time = expire_time;
            let kind = EventKind::Extended {
                grant: grant.clone(),
                previous_expire_time,
                clock_step_ms: None,
            };
            let reason = request.reason.clone();
            let new = grant_event(&grant, caller.author.clone(), reason, kind);
            let (event, commit) = self.append_and_commit(transaction, new, key).await?;
            let enforcement = self.enforce(tenant_id, commit, deadline).await?;
            let grant = GrantView::at(grant_of(&event)?, now);
            Ok(ExtendOutcome { grant, previous_expire_time, enforcement })
        })
        .await
    }

    /// Ends a grant. A grant that has ended already stays as it is.
    pub async fn revoke_access(
        &self,
        caller: &Caller,
        grant: &GrantRef,
        request: RevokeRequest,
        deadline: Instant,
    ) -> Result<RevokeOutcome, ServiceError> {
        let (tenant_id, request_id) = (Some(&grant.tenant_id), request.request_id.as_ref());
        let key = key(tenant_id, request_id, "RevokeAccess", (&grant.text, &request))?;
        let grant_id = grant.id()?;
        let (request, key) = (&request, &key);
        self.change(|mut transaction| async move {
            let now = transaction.now();
            let reads =
                [Read::Grant(&grant.tenant_id, grant_id), Read::LiveGrants(&grant.tenant_id)];
            let earlier = earlier_parts(transaction.as_mut(), key, &reads).await?.pop();
            let found = transaction.grant(&grant.tenant_id, grant_id).await?;
            let found = found.ok_or_else(|| grant.not_found())?;
            let mut remaining = transaction.live_grants(&found.tenant_id, None, usize::MAX).await?;
            // By the last event, whatever the row says.
            let is_live = found.terms.revoke_time.is_none() && !found.terms.is_expired;
            remaining.retain(|other| other.id() != found.id() && !other.state(now).is_ended());
            remaining.truncate(listed(&remaining));
            let (grant, enforcement) = if let Some(part) = earlier {
                transaction.commit().await?;
                (found, self.enforce_again(tenant_id, part.last_revision, deadline).await?)
            } else if is_live {
                let new = if found.state(now).is_ended() {
                    expiry(&found)
                } else {
                    check_etag(&found.etag(), request.etag.as_deref())?;
                    revocation(caller, found, request.reason.clone(), now)
                };
                let (event, commit) = self.append_and_commit(transaction, new, key).await?;
                (grant_of(&event)?, self.enforce(tenant_id, commit, deadline).await?)
            } else {
                let revision = last_revision(transaction.as_mut(), &found).await?;
                transaction.commit().await?;
                (found, self.enforce_again(tenant_id, revision, deadline).await?)
            };
            let remaining = remaining.into_iter().map(|grant| GrantView::at(grant, now)).collect();
            Ok(RevokeOutcome { grant: GrantView::at(grant, now), enforcement, remaining })
        })
        .await
    }
}

/// The revision of the last event about a grant.
async fn last_revision(
    transaction: &mut dyn Transaction,
    grant: &Grant,
) -> Result<Revision, ServiceError> {
    Ok(transaction.revision_of(Some(&grant.tenant_id), grant.sequence).await?)
}

/// A new id, which contains the time of the transaction.
pub(super) fn new_id(now: Time) -> Uuid {
    let (seconds, nanos) = (now.timestamp().unsigned_abs(), now.timestamp_subsec_nanos());
    Uuid::new_v7(Timestamp::from_unix(NoContext, seconds, nanos))
}

/// How many of `grants` the response to a change contains.
pub(super) fn listed(grants: &[Grant]) -> usize {
    fitting(grants, Grant::weight).min(LISTED_MAX)
}

fn new_grant(caller: &Caller, request: GrantRequest, new_terms: NewTerms, now: Time) -> Grant {
    Grant {
        tenant_id: request.tenant_id,
        terms: GrantTerms {
            grant_id: GrantId(new_id(now)),
            group_id: request.group_id,
            agent_ids: request.agent_ids,
            access_level: request.access_level,
            agent_kinds: new_terms.agent_kinds,
            start_time: new_terms.start_time,
            expire_time: new_terms.expire_time,
            revoke_time: None,
            is_expired: false,
        },
        reason: request.reason,
        ticket: request.ticket,
        create_time: now,
        creator: caller.author.actor.clone(),
        revocation: None,
        create_sequence: 0,
        sequence: 0,
    }
}

pub(super) fn grant_event(
    grant: &Grant,
    author: Attribution,
    reason: FreeText,
    kind: EventKind,
) -> NewEvent {
    NewEvent { tenant_id: Some(grant.tenant_id.clone()), author, reason, kind }
}

pub(super) fn revocation(
    caller: &Caller,
    mut grant: Grant,
    reason: FreeText,
    now: Time,
) -> NewEvent {
    let revoker = caller.author.actor.clone();
    grant.terms.revoke_time = Some(now);
    grant.revocation = Some(Revocation { revoker, reason: reason.clone() });
    let kind = EventKind::Revoked { grant: grant.clone() };
    grant_event(&grant, caller.author.clone(), reason, kind)
}

/// The event that ends a grant whose end time was reached. A revocation of such a grant appends
/// this event without waiting for the sweep. The end is then enforced like a revocation, and does
/// not depend on the clocks of the check nodes.
pub(super) fn expiry(grant: &Grant) -> NewEvent {
    let kind = EventKind::Expired { grant: grant.clone() };
    grant_event(grant, Attribution::system(), FreeText::default(), kind)
}

/// Compares the current etag with the one that the caller expects.
pub(super) fn check_etag(current: &str, expected: Option<&str>) -> Result<(), ServiceError> {
    match expected {
        Some(expected) if expected != current => Err(ServiceError::EtagMismatch),
        Some(_) | None => Ok(()),
    }
}
