//! `SupportAccessAdmin`: for tenant administrators, and the portals that act for them.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use crate::{
    api::{
        grpc::{
            call::{Call, admit},
            convert::{locks, requests, responses},
            status::Failure,
        },
        proto::v1::{self as pb, support_access_admin_server::SupportAccessAdmin},
    },
    service::Service,
};

/// The service, over the use cases.
#[derive(Debug, Clone)]
pub struct Admin {
    work: Arc<Service>,
}

impl Admin {
    /// The service over `work`.
    pub fn new(work: Arc<Service>) -> Self {
        Self { work }
    }
}

type Answered<T> = Result<Response<T>, Status>;

#[async_trait]
impl SupportAccessAdmin for Admin {
    async fn grant_access(
        &self,
        request: Request<pb::GrantAccessRequest>,
    ) -> Answered<pb::GrantAccessResponse> {
        let call = admit(request)?;
        let deadline = call.deadline();
        let Call { caller, message, .. } = call;
        let request = requests::grant_request(message).map_err(Failure::from)?;
        let granted = self.work.grant_access(&caller, request, deadline).await;
        let granted = granted.map_err(Failure::from)?;
        let revision = granted.revision;
        let grant = pb::Grant { revision, ..responses::grant(granted.grant) };
        Ok(Response::new(pb::GrantAccessResponse { grant: Some(grant) }))
    }

    async fn extend_access(
        &self,
        request: Request<pb::ExtendAccessRequest>,
    ) -> Answered<pb::ExtendAccessResponse> {
        let call = admit(request)?;
        let deadline = call.enforcement_deadline();
        let Call { caller, message, .. } = call;
        let (grant, request) = requests::extend_request(message).map_err(Failure::from)?;
        let extended = self.work.extend_access(&caller, &grant, request, deadline).await;
        let extended = extended.map_err(Failure::from)?;
        let revision = extended.enforcement.revision;
        Ok(Response::new(pb::ExtendAccessResponse {
            grant: Some(pb::Grant { revision, ..responses::grant(extended.grant) }),
            enforcement: Some(responses::enforcement(extended.enforcement)),
        }))
    }

    async fn revoke_access(
        &self,
        request: Request<pb::RevokeAccessRequest>,
    ) -> Answered<pb::RevokeAccessResponse> {
        let call = admit(request)?;
        let deadline = call.enforcement_deadline();
        let Call { caller, message, .. } = call;
        let (grant, request) = requests::revoke_request(message).map_err(Failure::from)?;
        let revoked = self.work.revoke_access(&caller, &grant, request, deadline).await;
        let revoked = revoked.map_err(Failure::from)?;
        let revision = revoked.enforcement.revision;
        Ok(Response::new(pb::RevokeAccessResponse {
            grant: Some(pb::Grant { revision, ..responses::grant(revoked.grant) }),
            enforcement: Some(responses::enforcement(revoked.enforcement)),
            remaining_grants: responses::grants(revoked.remaining),
        }))
    }

    async fn revoke_all_access(
        &self,
        request: Request<pb::RevokeAllAccessRequest>,
    ) -> Answered<pb::RevokeAllAccessResponse> {
        let call = admit(request)?;
        let deadline = call.enforcement_deadline();
        let Call { caller, message, .. } = call;
        let (tenant_id, request) = requests::revoke_all_request(message).map_err(Failure::from)?;
        let revoked = self.work.revoke_all_access(&caller, &tenant_id, request, deadline).await;
        let revoked = revoked.map_err(Failure::from)?;
        Ok(Response::new(pb::RevokeAllAccessResponse {
            grants: responses::grants(revoked.grants),
            enforcement: Some(responses::enforcement(revoked.enforcement)),
            revoked_count: revoked.count.try_into().unwrap_or(i32::MAX),
        }))
    }

    async fn get_grant(
        &self,
        request: Request<pb::GetGrantRequest>,
    ) -> Answered<pb::GetGrantResponse> {
        let grant = requests::get_grant_request(admit(request)?.message).map_err(Failure::from)?;
        let grant = self.work.get_grant(&grant).await.map_err(Failure::from)?;
        Ok(Response::new(pb::GetGrantResponse { grant: Some(responses::grant(grant)) }))
    }

    async fn list_grants(
        &self,
        request: Request<pb::ListGrantsRequest>,
    ) -> Answered<pb::ListGrantsResponse> {
        let (filter, page) =
            requests::list_grants_request(admit(request)?.message).map_err(Failure::from)?;
        let page = self.work.list_grants(filter, &page).await.map_err(Failure::from)?;
        Ok(Response::new(pb::ListGrantsResponse {
            grants: responses::grants(page.items),
            next_page_token: page.next_token,
        }))
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> Answered<pb::ListEventsResponse> {
        let (scope, grant, page) =
            requests::list_events_request(admit(request)?.message).map_err(Failure::from)?;
        let page = self.work.list_events(scope, grant.as_ref(), &page).await;
        let page = page.map_err(Failure::from)?;
        Ok(Response::new(pb::ListEventsResponse {
            events: page.items.into_iter().map(responses::recorded).collect(),
            next_page_token: page.next_token,
        }))
    }

    async fn get_support_policy(
        &self,
        request: Request<pb::GetSupportPolicyRequest>,
    ) -> Answered<pb::GetSupportPolicyResponse> {
        let tenant_id =
            requests::get_support_policy_request(admit(request)?.message).map_err(Failure::from)?;
        let policy = self.work.support_policy(&tenant_id).await.map_err(Failure::from)?;
        let support_policy = Some(responses::support_policy(&tenant_id, &policy));
        Ok(Response::new(pb::GetSupportPolicyResponse { support_policy }))
    }

    async fn update_support_policy(
        &self,
        request: Request<pb::UpdateSupportPolicyRequest>,
    ) -> Answered<pb::UpdateSupportPolicyResponse> {
        let call = admit(request)?;
        let deadline = call.enforcement_deadline();
        let Call { caller, message, .. } = call;
        let (tenant_id, request) =
            requests::update_support_policy_request(message).map_err(Failure::from)?;
        let updated = self.work.update_support_policy(&caller, &tenant_id, request, deadline).await;
        let updated = updated.map_err(Failure::from)?;
        Ok(Response::new(pb::UpdateSupportPolicyResponse {
            support_policy: Some(responses::support_policy(&tenant_id, &updated.policy)),
            grants_outside_policy: responses::grants(updated.outside),
            enforcement: Some(responses::enforcement(updated.enforcement)),
        }))
    }

    async fn wait_enforced(
        &self,
        request: Request<pb::WaitEnforcedRequest>,
    ) -> Answered<pb::WaitEnforcedResponse> {
        let call = admit(request)?;
        let deadline = call.enforcement_deadline();
        let message = call.message;
        let revision = requests::wait_enforced_request(message).map_err(Failure::from)?;
        let enforcement = self.work.wait_enforced(revision, deadline).await;
        let enforcement = responses::enforcement(enforcement.map_err(Failure::from)?);
        Ok(Response::new(pb::WaitEnforcedResponse { enforcement: Some(enforcement) }))
    }
    async fn export_history(
        &self,
        request: Request<pb::ExportHistoryRequest>,
    ) -> Answered<pb::ExportHistoryResponse> {
        let (tenant_id, after, page) =
            requests::export_history_request(admit(request)?.message).map_err(Failure::from)?;
        let export = self.work.export_history(tenant_id.as_ref(), after, &page).await;
        let export = export.map_err(Failure::from)?;
        Ok(Response::new(pb::ExportHistoryResponse {
            records: export.records.into_iter().map(|record| record.line).collect(),
            next_after_sequence: export.next,
            has_more: export.has_more,
        }))
    }

    async fn get_checkpoint(
        &self,
        request: Request<pb::GetCheckpointRequest>,
    ) -> Answered<pb::GetCheckpointResponse> {
        let tenant_id =
            requests::get_checkpoint_request(admit(request)?.message).map_err(Failure::from)?;
        let checkpoint = self.work.checkpoint(tenant_id.as_ref()).await.map_err(Failure::from)?;
        Ok(Response::new(pb::GetCheckpointResponse { checkpoint: checkpoint.line() }))
    }

    async fn lock_access(
        &self,
        request: Request<pb::LockAccessRequest>,
    ) -> Answered<pb::LockAccessResponse> {
        let call = admit(request)?;
        let deadline = call.enforcement_deadline();
        let Call { caller, message, .. } = call;
        let request = locks::lock_request(message).map_err(Failure::from)?;
        let locked = self.work.lock_access(&caller, request, deadline).await;
        let locked = locked.map_err(Failure::from)?;
        let revision = locked.enforcement.revision;
        Ok(Response::new(pb::LockAccessResponse {
            lock: Some(pb::Lock { revision, ..locks::lock(locked.lock) }),
            enforcement: Some(responses::enforcement(locked.enforcement)),
        }))
    }

    async fn unlock_access(
        &self,
        request: Request<pb::UnlockAccessRequest>,
    ) -> Answered<pb::UnlockAccessResponse> {
        let call = admit(request)?;
        let deadline = call.deadline();
        let Call { caller, message, .. } = call;
        let (lock, request) = locks::unlock_request(message).map_err(Failure::from)?;
        let unlocked = self.work.unlock_access(&caller, &lock, request, deadline).await;
        let unlocked = unlocked.map_err(Failure::from)?;
        let revision = unlocked.revision;
        let lock = pb::Lock { revision, ..locks::lock(unlocked.lock) };
        Ok(Response::new(pb::UnlockAccessResponse { lock: Some(lock) }))
    }

    async fn list_locks(
        &self,
        request: Request<pb::ListLocksRequest>,
    ) -> Answered<pb::ListLocksResponse> {
        let (filter, page) =
            locks::list_locks_request(admit(request)?.message).map_err(Failure::from)?;
        let page = self.work.list_locks(filter, &page).await.map_err(Failure::from)?;
        Ok(Response::new(pb::ListLocksResponse {
            locks: locks::locks(page.items),
            next_page_token: page.next_token,
        }))
    }
}
