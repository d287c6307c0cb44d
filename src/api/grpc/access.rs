//! `SupportAccess`: checks, for gateways.

use std::sync::Arc;

use tracing::info;

use crate::{
    api::{
        grpc::{call::CheckCall, convert::checks, status::Failure},
        metrics::Metrics,
        proto::v1 as pb,
    },
    domain::{AccessCheck, Action, Party, Reason, ViolationReason, violation::Violations},
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
    fn record(&self, call: &CheckCall<'_>, check: &AccessCheck, result: &CheckResult) {
        self.metrics.check(result.reason);
        if result.reason != Reason::GrantActive {
            info!(
                target: "support_access::audit",
                tenant_id = %check.tenant_id,
                agent_id = check.agent_id.as_ref().map(tracing::field::display),
                reason = result.reason.as_str(),
                grant_id = result.grant_id.map(tracing::field::display),
                lock_id = result.lock_id.map(tracing::field::display),
                actor = %call.caller.author.actor,
                call_id = call.id.map(tracing::field::display),
                "a check was denied"
            );
        }
    }

    /// Answers a check.
    pub(in crate::api) async fn check_access(
        &self,
        call: &CheckCall<'_>,
        message: pb::CheckAccessRequest,
    ) -> Result<pb::CheckAccessResponse, Failure> {
        let (check, token) = checks::check_request(call.admit(message)?)?;
        let result = self.checks.check(&check, &token, call.deadline).await?;
        self.record(call, &check, &result);
        Ok(checks::result(result))
    }

    /// Answers several checks.
    pub(in crate::api) async fn batch_check_access(
        &self,
        call: &CheckCall<'_>,
        message: pb::BatchCheckAccessRequest,
    ) -> Result<pb::BatchCheckAccessResponse, Failure> {
        let (batch, token) = checks::batch_request(call.admit(message)?)?;
        let results = self.checks.check_batch(&batch, &token, call.deadline).await?;
        for (check, result) in batch.iter().zip(&results) {
            self.record(call, check, result);
        }
        let results = results.into_iter().map(checks::result).collect();
        Ok(pb::BatchCheckAccessResponse { results })
    }

    /// Explains the answer to a check.
    pub(in crate::api) async fn explain_access(
        &self,
        call: &CheckCall<'_>,
        message: pb::ExplainAccessRequest,
    ) -> Result<pb::ExplainAccessResponse, Failure> {
        let (check, token) = checks::explain_request(call.admit(message)?)?;
        // Only callers of the tenant may omit the agent. A gateway always knows the agent.
        let party = call.caller.party(Action::ExplainAccess, Some(&check.tenant_id));
        if check.agent_id.is_none() && party == Party::Vendor {
            let (field, description) = ("check.agent_id", "must not be empty");
            return Err(Violations::of(field, ViolationReason::Required, description).into());
        }
        let explanation = self.checks.explain(&check, &token, call.deadline).await?;
        Ok(checks::explanation(explanation))
    }
}
