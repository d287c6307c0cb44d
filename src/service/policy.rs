//! What a tenant may choose from, and how it tightens that.

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::{
    domain::{
        Caller, EventKind, FreeText, PolicyOverrides, SupportPolicy, TenantId,
        violation::Violations,
    },
    service::{Enforcement, GrantView, Service, ServiceError, grants::listed},
    store::NewEvent,
};

/// The answer to an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyUpdated {
    /// The policy as it is now.
    pub policy: SupportPolicy,
    /// Grants that have not ended, and that it would not allow. Newest first, at most [`LISTED_MAX`](crate::service::LISTED_MAX).
    pub outside: Vec<GrantView>,
    /// How far the change has reached.
    pub enforcement: Enforcement,
}

/// Changes whenever the policy does.
pub fn etag(policy: &SupportPolicy) -> String {
    let content = serde_json::to_vec(policy).unwrap_or_default();
    let digest: [u8; 32] = Sha256::digest(content).into();
    digest.iter().take(8).fold(String::from("p"), |etag, byte| format!("{etag}{byte:02x}"))
}

impl Service {
    /// What the tenant may choose from now.
    pub async fn support_policy(
        &self,
        tenant_id: &TenantId,
    ) -> Result<SupportPolicy, ServiceError> {
        let overrides = self.store.queries().overrides(tenant_id).await?;
        Ok(self.catalogue.tightened(&overrides))
    }

    /// Sets what `update` has. Grants that exist stay as they are.
    pub async fn update_support_policy(
        &self,
        caller: &Caller,
        tenant_id: &TenantId,
        expected_etag: Option<&str>,
        update: PolicyOverrides,
        reason: FreeText,
        deadline: Instant,
    ) -> Result<PolicyUpdated, ServiceError> {
        let mut change = self.store.log().begin().await?;
        let now = change.now();
        let old = change.overrides(tenant_id).await?;
        if expected_etag.is_some_and(|etag| etag != self::etag(&self.catalogue.tightened(&old))) {
            return Err(ServiceError::EtagMismatch);
        }
        update.check(&self.catalogue).map_err(|found| found.within("support_policy."))?;
        let default_duration = update.default_duration;
        let new = old.clone().updated(update);
        let policy = self.catalogue.tightened(&new);
        if default_duration.is_some_and(|span| span > policy.longest_duration) {
            let longest = policy.longest_duration;
            let description = format!("must be at most {longest}, the tenant's longest_duration");
            return Err(Violations::of("support_policy.default_duration", description).into());
        }
        let mut outside = change.live_grants(tenant_id, usize::MAX).await?;
        outside.retain(|grant| !grant.state(now).is_ended() && !policy.covers(grant));
        outside.truncate(listed(&outside));
        let enforcement = if new == old {
            let head = change.commit().await?;
            self.enforce_again(head, deadline).await?
        } else {
            let kind = EventKind::PolicyUpdated { overrides: new, policy: policy.clone() };
            let author = caller.author.clone();
            let tenant_id = Some(tenant_id.clone());
            let entry = NewEvent { tenant_id, author, reason, kind, request: None };
            let event = change.append(entry).await?;
            let commit = self.commit(change, std::slice::from_ref(&event)).await?;
            self.enforce(commit, deadline).await
        };
        let outside = outside.into_iter().map(|grant| GrantView::at(grant, now)).collect();
        Ok(PolicyUpdated { policy, outside, enforcement })
    }
}
