//! `SupportAccess`: checks, for gateways.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};
use tracing::info;

use crate::{
    api::{
        grpc::{
            call::{Call, admit},
            convert::checks,
        },
        metrics::Metrics,
        proto::v1::{self as pb, support_access_server::SupportAccess},
    },
    domain::{AccessCheck, Action, Caller, Party, Reason, ViolationReason, violation::Violations},
    service::check::{CheckResult, Checks},
};

/// The service, at a replica or a sidecar.
#[derive(Debug, Clone)]
pub struct Access {
    checks: Arc<Checks>,
    metrics: Arc<Metrics>,
}

impl Access {
    /// The service over `checks`. Decisions are counted in `metrics`.
    pub fn new(checks: Arc<Checks>, metrics: Arc<Metrics>) -> Self {
        Self { checks, metrics }
    }

    /// Counts a decision, and logs a denial.
    fn record(&self, caller: &Caller, check: &AccessCheck, result: &CheckResult) {
        self.metrics.check(result.reason);
        if result.reason != Reason::GrantActive {
            info!(
                target: "support_access::audit",
                tenant_id = %check.tenant_id,
                agent_id = check.agent_id.as_ref().map(tracing::field::display),
                reason = result.reason.as_str(),
                grant_id = result.grant_id.map(tracing::field::display),
                lock_id = result.lock_id.map(tracing::field::display),
                actor = %caller.author.actor,
                "a check was denied"
            );
        }
    }
}

type RpcResult<T> = Result<Response<T>, Status>;

#[async_trait]
impl SupportAccess for Access {
    async fn check_access(
        &self,
        request: Request<pb::CheckAccessRequest>,
    ) -> RpcResult<pb::CheckAccessResponse> {
        let Call { caller, message, deadline } = admit(request)?;
        let (check, token) = checks::check_request(message)?;
        let result = self.checks.check(&check, &token, deadline).await?;
        self.record(&caller, &check, &result);
        Ok(Response::new(checks::result(result)))
    }

    async fn batch_check_access(
        &self,
        request: Request<pb::BatchCheckAccessRequest>,
    ) -> RpcResult<pb::BatchCheckAccessResponse> {
        let Call { caller, message, deadline } = admit(request)?;
        let (batch, token) = checks::batch_request(message)?;
        let results = self.checks.check_batch(&batch, &token, deadline).await?;
        for (check, result) in batch.iter().zip(&results) {
            self.record(&caller, check, result);
        }
        let results = results.into_iter().map(checks::result).collect();
        Ok(Response::new(pb::BatchCheckAccessResponse { results }))
    }

    async fn explain_access(
        &self,
        request: Request<pb::ExplainAccessRequest>,
    ) -> RpcResult<pb::ExplainAccessResponse> {
        let Call { caller, message, deadline } = admit(request)?;
        let (check, token) = checks::explain_request(message)?;
        // Only callers of the tenant may omit the agent. A gateway always knows the agent.
        let party = caller.party(Action::ExplainAccess, Some(&check.tenant_id));
        if check.agent_id.is_none() && party == Party::Vendor {
            let (field, description) = ("check.agent_id", "must not be empty");
            let violations = Violations::of(field, ViolationReason::Required, description);
            return Err(violations.into());
        }
        let explanation = self.checks.explain(&check, &token, deadline).await?;
        Ok(Response::new(checks::explanation(explanation)))
    }
}
