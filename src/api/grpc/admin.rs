//! Stub: stands in until the handlers are merged. Begins and commits an empty change, like a real one.
#![allow(missing_docs, reason = "a stub")]

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::{
    api::proto::v1::{support_access_admin_server::SupportAccessAdmin, *},
    work::Work,
};

#[derive(Debug)]
pub struct Admin(Arc<Work>);

impl Admin {
    pub fn new(work: Arc<Work>) -> Self {
        Self(work)
    }

    async fn change(&self) -> Result<(), Status> {
        let unavailable = |error: crate::store::StoreError| Status::unavailable(error.to_string());
        let change = self.0.store.begin().await.map_err(unavailable)?;
        change.commit().await.map_err(unavailable)?;
        Ok(())
    }
}

#[tonic::async_trait]
impl SupportAccessAdmin for Admin {
    async fn grant_access(
        &self,
        _request: Request<GrantAccessRequest>,
    ) -> Result<Response<GrantAccessResponse>, Status> {
        self.change().await?;
        Ok(Response::new(GrantAccessResponse::default()))
    }
    async fn extend_access(
        &self,
        _request: Request<ExtendAccessRequest>,
    ) -> Result<Response<ExtendAccessResponse>, Status> {
        self.change().await?;
        Ok(Response::new(ExtendAccessResponse::default()))
    }
    async fn revoke_access(
        &self,
        _request: Request<RevokeAccessRequest>,
    ) -> Result<Response<RevokeAccessResponse>, Status> {
        self.change().await?;
        Ok(Response::new(RevokeAccessResponse::default()))
    }
    async fn revoke_all_access(
        &self,
        _request: Request<RevokeAllAccessRequest>,
    ) -> Result<Response<RevokeAllAccessResponse>, Status> {
        self.change().await?;
        Ok(Response::new(RevokeAllAccessResponse::default()))
    }
    async fn get_grant(
        &self,
        _request: Request<GetGrantRequest>,
    ) -> Result<Response<GetGrantResponse>, Status> {
        self.change().await?;
        Ok(Response::new(GetGrantResponse::default()))
    }
    async fn list_grants(
        &self,
        _request: Request<ListGrantsRequest>,
    ) -> Result<Response<ListGrantsResponse>, Status> {
        self.change().await?;
        Ok(Response::new(ListGrantsResponse::default()))
    }
    async fn list_events(
        &self,
        _request: Request<ListEventsRequest>,
    ) -> Result<Response<ListEventsResponse>, Status> {
        self.change().await?;
        Ok(Response::new(ListEventsResponse::default()))
    }
    async fn get_support_policy(
        &self,
        _request: Request<GetSupportPolicyRequest>,
    ) -> Result<Response<GetSupportPolicyResponse>, Status> {
        self.change().await?;
        Ok(Response::new(GetSupportPolicyResponse::default()))
    }
    async fn update_support_policy(
        &self,
        _request: Request<UpdateSupportPolicyRequest>,
    ) -> Result<Response<UpdateSupportPolicyResponse>, Status> {
        self.change().await?;
        Ok(Response::new(UpdateSupportPolicyResponse::default()))
    }
}
