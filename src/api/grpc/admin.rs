//! `SupportAccessAdmin`: for tenant administrators and their portals, operators and auditors.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use tonic::{Request, Response, Status, async_trait, body::Body, server::NamedService};

use crate::{
    api::{
        grpc::{
            call::{Call, admit},
            convert::{clock, events, grants, lists, locks, policies},
            status::reject_at_sidecar,
        },
        proto::v1::{
            self as pb,
            support_access_admin_server::{SERVICE_NAME, SupportAccessAdmin},
        },
    },
    service::Service,
};

/// The service, over the use cases.
#[derive(Debug, Clone)]
pub struct Admin {
    service: Arc<Service>,
}

/// The service at a sidecar, which rejects every call with `REPLICA_REQUIRED`.
#[derive(Debug, Clone, Copy)]
pub struct AdminAtSidecar;

impl Admin {
    /// The service over `service`.
    pub fn new(service: Arc<Service>) -> Self {
        Self { service }
    }
}

type RpcResult<T> = Result<Response<T>, Status>;

#[async_trait]
impl SupportAccessAdmin for Admin {
    type ExportHistoryStream = BoxStream<'static, Result<pb::ExportHistoryResponse, Status>>;

    async fn grant_access(
        &self,
        request: Request<pb::GrantAccessRequest>,
    ) -> RpcResult<pb::GrantAccessResponse> {
        let Call { caller, message, deadline } = admit(request)?;
        let request = grants::grant_request(message)?;
        let granted = self.service.grant_access(&caller, request, deadline).await?;
        Ok(Response::new(pb::GrantAccessResponse {
            grant: Some(grants::grant(granted.grant)),
            consistency_token: granted.token.to_string(),
        }))
    }

    async fn extend_access(
        &self,
        request: Request<pb::ExtendAccessRequest>,
    ) -> RpcResult<pb::ExtendAccessResponse> {
        let Call { caller, message, deadline } = admit(request)?;
        let (grant, request) = grants::extend_request(message)?;
        let extended = self.service.extend_access(&caller, &grant, request, deadline).await;
        Ok(Response::new(grants::extended(extended?)))
    }

    async fn revoke_access(
        &self,
        request: Request<pb::RevokeAccessRequest>,
    ) -> RpcResult<pb::RevokeAccessResponse> {
        let Call { caller, message, deadline } = admit(request)?;
        let (grant, request) = grants::revoke_request(message)?;
        let revoked = self.service.revoke_access(&caller, &grant, request, deadline).await?;
        Ok(Response::new(pb::RevokeAccessResponse {
            grant: Some(grants::grant(revoked.grant)),
            enforcement: Some(grants::enforcement(revoked.enforcement)),
            remaining_grants: grants::grants(revoked.remaining),
        }))
    }

    async fn revoke_all_access(
        &self,
        request: Request<pb::RevokeAllAccessRequest>,
    ) -> RpcResult<pb::RevokeAllAccessResponse> {
        let Call { caller, message, deadline } = admit(request)?;
        let (tenant_id, request) = grants::revoke_all_request(message)?;
        let revoked =
            self.service.revoke_all_access(&caller, &tenant_id, request, deadline).await?;
        Ok(Response::new(pb::RevokeAllAccessResponse {
            grants: grants::grants(revoked.grants),
            enforcement: Some(grants::enforcement(revoked.enforcement)),
            revoked_count: revoked.count.try_into().unwrap_or(i32::MAX),
        }))
    }

    async fn get_grant(
        &self,
        request: Request<pb::GetGrantRequest>,
    ) -> RpcResult<pb::GetGrantResponse> {
        let grant = grants::get_grant_request(admit(request)?.message)?;
        let grant = self.service.get_grant(&grant).await?;
        Ok(Response::new(pb::GetGrantResponse { grant: Some(grants::grant(grant)) }))
    }

    async fn list_grants(
        &self,
        request: Request<pb::ListGrantsRequest>,
    ) -> RpcResult<pb::ListGrantsResponse> {
        let (filter, page) = lists::list_grants_request(admit(request)?.message)?;
        let page = self.service.list_grants(filter, &page).await?;
        Ok(Response::new(pb::ListGrantsResponse {
            grants: grants::grants(page.items),
            next_page_token: page.next_token,
            resume_token: page.resume_token,
        }))
    }

    async fn list_events(
        &self,
        request: Request<pb::ListEventsRequest>,
    ) -> RpcResult<pb::ListEventsResponse> {
        let (scope, grant, page) = lists::list_events_request(admit(request)?.message)?;
        let page = self.service.list_events(scope, grant.as_ref(), &page).await?;
        Ok(Response::new(pb::ListEventsResponse {
            events: page.items.into_iter().map(events::event).collect(),
            next_page_token: page.next_token,
            resume_token: page.resume_token,
        }))
    }

    async fn list_tenants(
        &self,
        request: Request<pb::ListTenantsRequest>,
    ) -> RpcResult<pb::ListTenantsResponse> {
        let page = lists::list_tenants_request(admit(request)?.message)?;
        let page = self.service.list_tenants(&page).await?;
        let tenant = |tenant_id| pb::Tenant { tenant_id };
        Ok(Response::new(pb::ListTenantsResponse {
            tenants: page.items.into_iter().map(tenant).collect(),
            next_page_token: page.next_token,
        }))
    }

    async fn get_support_policy(
        &self,
        request: Request<pb::GetSupportPolicyRequest>,
    ) -> RpcResult<pb::GetSupportPolicyResponse> {
        let tenant_id = policies::get_support_policy_request(admit(request)?.message)?;
        let (policy, overrides) = self.service.support_policy(&tenant_id).await?;
        Ok(Response::new(pb::GetSupportPolicyResponse {
            support_policy: Some(policies::support_policy(&tenant_id, &policy)),
            policy_overrides: Some(policies::policy_overrides(&overrides)),
        }))
    }

    async fn update_support_policy(
        &self,
        request: Request<pb::UpdateSupportPolicyRequest>,
    ) -> RpcResult<pb::UpdateSupportPolicyResponse> {
        let Call { caller, message, deadline } = admit(request)?;
        let (tenant_id, request) = policies::update_support_policy_request(message)?;
        let updated =
            self.service.update_support_policy(&caller, &tenant_id, request, deadline).await?;
        Ok(Response::new(pb::UpdateSupportPolicyResponse {
            support_policy: Some(policies::support_policy(&tenant_id, &updated.policy)),
            policy_overrides: Some(policies::policy_overrides(&updated.overrides)),
            grants_outside_policy: grants::grants(updated.outside),
            enforcement: Some(grants::enforcement(updated.enforcement)),
        }))
    }

    async fn wait_enforced(
        &self,
        request: Request<pb::WaitEnforcedRequest>,
    ) -> RpcResult<pb::WaitEnforcedResponse> {
        let Call { message, deadline, .. } = admit(request)?;
        let (tenant_id, token) = lists::wait_enforced_request(message)?;
        let enforcement = self.service.wait_enforced(tenant_id.as_ref(), &token, deadline).await;
        let enforcement = grants::enforcement(enforcement?);
        Ok(Response::new(pb::WaitEnforcedResponse { enforcement: Some(enforcement) }))
    }

    async fn export_history(
        &self,
        request: Request<pb::ExportHistoryRequest>,
    ) -> RpcResult<Self::ExportHistoryStream> {
        let (tenant_id, after) = lists::export_history_request(admit(request)?.message)?;
        let export = Arc::clone(&self.service).export_history(tenant_id, after).await;
        let records = export?.map_err(Status::from);
        let responses = records.map_ok(|records| pb::ExportHistoryResponse { records });
        Ok(Response::new(responses.boxed()))
    }

    async fn get_checkpoint(
        &self,
        request: Request<pb::GetCheckpointRequest>,
    ) -> RpcResult<pb::GetCheckpointResponse> {
        let tenant_id = lists::get_checkpoint_request(admit(request)?.message)?;
        let checkpoint = self.service.checkpoint(tenant_id.as_ref()).await?;
        Ok(Response::new(pb::GetCheckpointResponse { checkpoint: checkpoint.line() }))
    }

    async fn lock_access(
        &self,
        request: Request<pb::LockAccessRequest>,
    ) -> RpcResult<pb::LockAccessResponse> {
        let Call { caller, message, deadline } = admit(request)?;
        let request = locks::lock_request(message)?;
        let locked = self.service.lock_access(&caller, request, deadline).await?;
        Ok(Response::new(pb::LockAccessResponse {
            lock: Some(locks::lock(locked.lock)),
            consistency_token: locked.enforcement.token.to_string(),
            enforcement: Some(grants::enforcement(locked.enforcement)),
        }))
    }

    async fn unlock_access(
        &self,
        request: Request<pb::UnlockAccessRequest>,
    ) -> RpcResult<pb::UnlockAccessResponse> {
        let Call { caller, message, deadline } = admit(request)?;
        let (lock, request) = locks::unlock_request(message)?;
        let unlocked = self.service.unlock_access(&caller, &lock, request, deadline).await?;
        Ok(Response::new(pb::UnlockAccessResponse {
            lock: Some(locks::lock(unlocked.lock)),
            consistency_token: unlocked.token.to_string(),
        }))
    }

    async fn list_locks(
        &self,
        request: Request<pb::ListLocksRequest>,
    ) -> RpcResult<pb::ListLocksResponse> {
        let (filter, page) = lists::list_locks_request(admit(request)?.message)?;
        let page = self.service.list_locks(filter, &page).await?;
        Ok(Response::new(pb::ListLocksResponse {
            locks: locks::locks(page.items),
            next_page_token: page.next_token,
        }))
    }

    async fn accept_clock(
        &self,
        request: Request<pb::AcceptClockRequest>,
    ) -> RpcResult<pb::AcceptClockResponse> {
        let Call { caller, message, deadline } = admit(request)?;
        let request = clock::accept_clock_request(message)?;
        let accepted = self.service.accept_clock(&caller, request, deadline).await?;
        Ok(Response::new(clock::accepted(accepted)))
    }
}

impl NamedService for AdminAtSidecar {
    const NAME: &'static str = SERVICE_NAME;
}

impl tower::Service<http::Request<Body>> for AdminAtSidecar {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Request<Body>) -> Self::Future {
        ready(Ok(reject_at_sidecar()))
    }
}
