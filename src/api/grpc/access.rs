//! `SupportAccess`: for gateways.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use crate::{
    api::{
        grpc::{
            call::deadline,
            convert::{questions, responses},
            status::Failure,
        },
        metrics::Metrics,
        proto::v1::{self as pb, support_access_server::SupportAccess},
    },
    work::check::Checks,
};

/// The service, at a replica or a sidecar.
#[derive(Debug, Clone)]
pub struct Access {
    checks: Arc<Checks>,
    metrics: Arc<Metrics>,
}

impl Access {
    /// The service over `checks`; decisions are counted in `metrics`.
    pub fn new(checks: Arc<Checks>, metrics: Arc<Metrics>) -> Self {
        Self { checks, metrics }
    }
}

type Answered<T> = Result<Response<T>, Status>;

#[async_trait]
impl SupportAccess for Access {
    async fn check_access(
        &self,
        request: Request<pb::CheckAccessRequest>,
    ) -> Answered<pb::CheckAccessResponse> {
        let (metadata, _, message) = request.into_parts();
        let (question, at_least) = questions::check_request(message).map_err(Failure::from)?;
        let answer = self.checks.check(&question, at_least, deadline(&metadata)).await;
        self.metrics.check(answer.reason);
        Ok(Response::new(responses::answer(answer)))
    }

    async fn batch_check_access(
        &self,
        request: Request<pb::BatchCheckAccessRequest>,
    ) -> Answered<pb::BatchCheckAccessResponse> {
        let (metadata, _, message) = request.into_parts();
        let (questions, at_least) = questions::batch_request(message).map_err(Failure::from)?;
        let (answers, revision) =
            self.checks.check_batch(&questions, at_least, deadline(&metadata)).await;
        for answer in &answers {
            self.metrics.check(answer.reason);
        }
        let results = answers.into_iter().map(responses::answer).collect();
        Ok(Response::new(pb::BatchCheckAccessResponse { results, revision }))
    }

    async fn explain_access(
        &self,
        request: Request<pb::ExplainAccessRequest>,
    ) -> Answered<pb::ExplainAccessResponse> {
        let (metadata, _, message) = request.into_parts();
        let (question, at_least) = questions::explain_request(message).map_err(Failure::from)?;
        let explanation = self.checks.explain(&question, at_least, deadline(&metadata)).await;
        Ok(Response::new(responses::explanation(explanation)))
    }
}
