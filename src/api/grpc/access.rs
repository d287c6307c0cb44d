//! `SupportAccess`: checks, for gateways.

use std::sync::Arc;

use tracing::info;

use crate::{
    api::{
        grpc::{
            call::CheckCall,
            convert::checks,
            envoy,
            status::{Failure, unauthenticated},
        },
        integrations::{
            Integration, Integrations, QuestionError, answer::Answer, request::HttpRequest,
        },
        metrics::Metrics,
        proto::{envoy as pb_envoy, v1 as pb},
    },
    auth::{Authenticator, token::TokenError},
    domain::{AccessCheck, Action, Party, Reason, Remedy, ViolationReason, violation::Violations},
    service::check::{CheckResult, Checks},
};

/// The service, at a replica or a sidecar.
#[derive(Debug, Clone)]
pub struct Access {
    checks: Arc<Checks>,
    metrics: Arc<Metrics>,
    integrations: Arc<Integrations>,
    /// Judges the time of tokens.
    authenticator: Arc<Authenticator>,
}

impl Access {
    /// The service over `checks`. Decisions are counted in `metrics`.
    pub fn new(
        checks: Arc<Checks>,
        metrics: Arc<Metrics>,
        integrations: Arc<Integrations>,
        authenticator: Arc<Authenticator>,
    ) -> Self {
        Self { checks, metrics, integrations, authenticator }
    }

    /// Counts a decision, and logs a denial. `None`: there is no question.
    fn record(&self, call: &CheckCall<'_>, check: Option<&AccessCheck>, result: &CheckResult) {
        self.metrics.check(result.reason);
        if result.reason != Reason::GrantActive {
            let agent_id = check.and_then(|check| check.agent_id.as_ref());
            let is_input = result.remedy == Remedy::CorrectInput;
            info!(
                target: "support_access::audit",
                tenant_id = check.map(|check| tracing::field::display(&check.tenant_id)),
                agent_id = agent_id.map(tracing::field::display),
                reason = result.reason.as_str(),
                problem = is_input.then_some(&*result.message),
                grant_id = result.grant_id.map(tracing::field::display),
                lock_id = result.lock_id.map(tracing::field::display),
                actor = %call.caller.author.actor,
                call_id = call.id.map(tracing::field::display),
                "a check was denied"
            );
        }
    }

    /// Answers Envoy's question about an HTTP request.
    pub(in crate::api) async fn check_for_envoy(
        &self,
        call: &CheckCall<'_>,
        message: pb_envoy::CheckRequest,
    ) -> Result<pb_envoy::CheckResponse, Failure> {
        let attributes = call.admit(message)?.attributes.unwrap_or_default();
        let integration = self.integrations.of(call.caller.author.actor.as_str());
        let metadata = integration.as_ref().ok().and_then(|found| found.metadata());
        let request = envoy::http_request(&attributes, metadata);
        let asked = match (integration, request) {
            (Ok(integration), Ok(request)) => self.ask(integration, &request).await,
            (Err(error), _) | (_, Err(error)) => Err(error.into()),
        };
        let result = self.decide(call, asked).await?;
        Ok(envoy::response(Answer::decision(&result)))
    }

    async fn ask(
        &self,
        integration: &Integration,
        request: &HttpRequest<'_>,
    ) -> Result<AccessCheck, QuestionError> {
        integration.question(request, self.authenticator.now()).await
    }

    /// The decision about a request of an integration.
    async fn decide(
        &self,
        call: &CheckCall<'_>,
        asked: Result<AccessCheck, QuestionError>,
    ) -> Result<CheckResult, Failure> {
        let (check, result) = match asked {
            Ok(check) => {
                let result = self.checks.check(&check, "", call.deadline).await?;
                (Some(check), result)
            }
            Err(QuestionError::Input(error)) => {
                (None, CheckResult::of_input(error.reason, error.message))
            }
            Err(QuestionError::NoKeys) => {
                return Err(unauthenticated(&TokenError::NoKeys.into()).into());
            }
        };
        self.record(call, check.as_ref(), &result);
        Ok(result)
    }

    /// Answers a check.
    pub(in crate::api) async fn check_access(
        &self,
        call: &CheckCall<'_>,
        message: pb::CheckAccessRequest,
    ) -> Result<pb::CheckAccessResponse, Failure> {
        let (check, token) = checks::check_request(call.admit(message)?)?;
        let result = self.checks.check(&check, &token, call.deadline).await?;
        self.record(call, Some(&check), &result);
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
            self.record(call, Some(check), result);
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
