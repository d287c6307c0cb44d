//! Stub: stands in until the handlers are merged. Denies everything; explains by an error.
#![allow(missing_docs, reason = "a stub")]

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::{
    api::{
        metrics::Metrics,
        proto::v1::{
            BatchCheckAccessRequest, BatchCheckAccessResponse, CheckAccessRequest,
            CheckAccessResponse, ExplainAccessRequest, ExplainAccessResponse,
            support_access_server::SupportAccess,
        },
    },
    domain::Reason,
    work::Work,
};

#[derive(Debug)]
pub struct Access(Arc<Metrics>);

impl Access {
    pub fn new(_work: Arc<Work>, metrics: Arc<Metrics>) -> Self {
        Self(metrics)
    }
}

#[tonic::async_trait]
impl SupportAccess for Access {
    async fn check_access(
        &self,
        _request: Request<CheckAccessRequest>,
    ) -> Result<Response<CheckAccessResponse>, Status> {
        self.0.check(Reason::NoGrant);
        Ok(Response::new(CheckAccessResponse::default()))
    }

    async fn batch_check_access(
        &self,
        _request: Request<BatchCheckAccessRequest>,
    ) -> Result<Response<BatchCheckAccessResponse>, Status> {
        Ok(Response::new(BatchCheckAccessResponse::default()))
    }

    async fn explain_access(
        &self,
        _request: Request<ExplainAccessRequest>,
    ) -> Result<Response<ExplainAccessResponse>, Status> {
        Err(Status::invalid_argument("a stub"))
    }
}
