//! `SupportAccess`: for gateways.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use crate::{
    api::{
        grpc::{
            call::admit,
            convert::{questions, responses},
            status::Failure,
        },
        metrics::Metrics,
        proto::v1::{self as pb, support_access_server::SupportAccess},
    },
    service::check::Checks,
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
        let call = admit(request)?;
        let deadline = call.deadline();
        let (question, at_least) = questions::check_request(call.message).map_err(Failure::from)?;
        let answer = self.checks.check(&question, at_least, deadline).await;
        self.metrics.check(answer.reason);
        Ok(Response::new(responses::answer(answer)))
    }

    async fn batch_check_access(
        &self,
        request: Request<pb::BatchCheckAccessRequest>,
    ) -> Answered<pb::BatchCheckAccessResponse> {
        let call = admit(request)?;
        let deadline = call.deadline();
        let (questions, at_least) =
            questions::batch_request(call.message).map_err(Failure::from)?;
        let (answers, revision) = self.checks.check_batch(&questions, at_least, deadline).await;
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
        let call = admit(request)?;
        let deadline = call.deadline();
        let (question, at_least) =
            questions::explain_request(call.message).map_err(Failure::from)?;
        let explanation = self.checks.explain(&question, at_least, deadline).await;
        Ok(Response::new(responses::explanation(explanation)))
    }
}
