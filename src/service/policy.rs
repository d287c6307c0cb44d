//! The support policy of a tenant, and the overrides that narrow the policy.

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::{
    domain::{
        Caller, EventKind, PolicyOverrides, PolicyRequest, SupportPolicy, TenantId,
        ViolationReason, violation::Violations,
    },
    service::{
        Enforcement, GrantView, Service, ServiceError,
        grants::{check_etag, listed},
        idempotency::{earlier_parts, key},
    },
    store::{NewEvent, QueryScope, Read},
};

/// The result of `UpdateSupportPolicy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyOutcome {
    /// The effective policy.
    pub policy: SupportPolicy,
    /// The tenant's overrides.
    pub overrides: PolicyOverrides,
    /// Live grants that the policy would not allow. Newest first, at most
    /// [`LISTED_MAX`](crate::service::LISTED_MAX).
    pub outside: Vec<GrantView>,
    /// How far the change has reached the check nodes.
    pub enforcement: Enforcement,
}

/// The etag of a policy. Different policies have different etags.
pub fn etag(policy: &SupportPolicy) -> String {
    let content = serde_json::to_vec(policy).unwrap_or_default();
    let digest: [u8; 32] = Sha256::digest(content).into();
    digest.iter().take(8).fold(String::from("p"), |etag, byte| format!("{etag}{byte:02x}"))
}

impl Service {
    /// The effective policy of a tenant, and the overrides.
    pub async fn support_policy(
        &self,
        tenant_id: &TenantId,
    ) -> Result<(SupportPolicy, PolicyOverrides), ServiceError> {
        let overrides = self.store.queries().overrides(tenant_id).await?;
        Ok((self.catalogue.narrowed_by(&overrides), overrides))
    }

    /// Changes the overrides that `request.update` contains. Existing grants stay as they are.
    pub async fn update_support_policy(
        &self,
        caller: &Caller,
        tenant_id: &TenantId,
        request: PolicyRequest,
        deadline: Instant,
    ) -> Result<PolicyOutcome, ServiceError> {
        let request_id = request.request_id.as_ref();
        let key = key(Some(tenant_id), request_id, "UpdateSupportPolicy", &request)?;
        let (request, key) = (&request, &key);
        self.change(|mut transaction| async move {
            let now = transaction.now();
            let reads = [Read::Overrides(tenant_id), Read::LiveGrants(tenant_id)];
            let earlier = earlier_parts(transaction.as_mut(), key, &reads).await?.pop();
            let old = transaction.overrides(tenant_id).await?;
            let new = match earlier {
                Some(_) => old.clone(),
                None => self.updated(&old, request)?,
            };
            let policy = self.catalogue.narrowed_by(&new);
            let mut outside = transaction.live_grants(tenant_id, None, usize::MAX).await?;
            outside.retain(|grant| !grant.state(now).is_ended() && !policy.allows(grant));
            outside.truncate(listed(&outside));
            let enforcement = if new == old {
                transaction.commit().await?;
                // Read after the commit of the group, which may contain the last event.
                let last = match earlier {
                    Some(part) => part.last_revision,
                    None => self.last_revision(QueryScope::Tenant(tenant_id.clone())).await?,
                };
                self.enforce_again(Some(tenant_id), last, deadline).await?
            } else {
                let event = NewEvent {
                    tenant_id: Some(tenant_id.clone()),
                    author: caller.author.clone(),
                    reason: request.reason.clone(),
                    kind: EventKind::PolicyUpdated {
                        policy_overrides: new.clone(),
                        support_policy: policy.clone(),
                    },
                };
                let (_, commit) = self.append_and_commit(transaction, event, key).await?;
                self.enforce(Some(tenant_id), commit, deadline).await?
            };
            let outside = outside.into_iter().map(|grant| GrantView::at(grant, now)).collect();
            Ok(PolicyOutcome { policy, overrides: new, outside, enforcement })
        })
        .await
    }

    /// The overrides after an update, if the update is valid.
    fn updated(
        &self,
        old: &PolicyOverrides,
        request: &PolicyRequest,
    ) -> Result<PolicyOverrides, ServiceError> {
        let update = &request.update;
        check_etag(&etag(&self.catalogue.narrowed_by(old)), request.etag.as_deref())?;
        let checked = update.overrides.check(&self.catalogue);
        checked.map_err(|forbidden| forbidden.within("policy_overrides."))?;
        let new = old.clone().merged(update);
        let max = self.catalogue.narrowed_by(&new).max_duration;
        if update.overrides.default_duration.is_some_and(|duration| duration > max) {
            let field = "policy_overrides.default_duration";
            let description = format!("must be at most {max}, the tenant's max_duration");
            return Err(Violations::of(field, ViolationReason::Conflict, description).into());
        }
        Ok(new)
    }
}
