//! The messages of `SupportAccess` become words.

use crate::{
    api::{
        grpc::convert::fields::{Fields, Parsed},
        proto::v1 as pb,
    },
    domain::{
        AgentId, AgentKind, GroupId, Question, Revision, TenantId, decision, violation::Violations,
    },
    service::check::BATCH_MAX,
};

/// The words of `CheckAccess`: the question, and the revision that the answer must be from or after.
pub(in crate::api::grpc) fn check_request(
    message: pb::CheckAccessRequest,
) -> Parsed<(Question, Revision)> {
    check_fields("", message)
}

/// The words of `ExplainAccess`, which asks what a check asks.
pub(in crate::api::grpc) fn explain_request(
    message: pb::ExplainAccessRequest,
) -> Parsed<(Question, Revision)> {
    let pb::ExplainAccessRequest {
        tenant_id,
        agent_id,
        group_ids,
        required_level,
        at_least_revision,
    } = message;
    check_request(pb::CheckAccessRequest {
        tenant_id,
        agent_id,
        group_ids,
        required_level,
        at_least_revision,
    })
}

/// The words of `BatchCheckAccess`: the questions, and the highest revision that any of them asks for.
pub(in crate::api::grpc) fn batch_request(
    message: pb::BatchCheckAccessRequest,
) -> Parsed<(Vec<Question>, Revision)> {
    let pb::BatchCheckAccessRequest { checks } = message;
    if checks.len() > BATCH_MAX {
        let description = format!("must be at most {BATCH_MAX}, but are {}", checks.len());
        return Err(Violations::of("checks", description));
    }
    let mut questions = Vec::with_capacity(checks.len());
    let mut at_least = 0;
    let mut violations = Violations::default();
    for (index, check) in checks.into_iter().enumerate() {
        match check_fields(&format!("checks[{index}]."), check) {
            Ok((question, revision)) => {
                questions.push(question);
                at_least = at_least.max(revision);
            }
            Err(found) => violations.extend(found),
        }
    }
    violations.into_result()?;
    Ok((questions, at_least))
}

fn check_fields(prefix: &str, message: pb::CheckAccessRequest) -> Parsed<(Question, Revision)> {
    let pb::CheckAccessRequest {
        tenant_id,
        agent_id,
        group_ids,
        required_level,
        at_least_revision,
    } = message;
    let mut fields = Fields::default();
    let tenant_id = fields.text("tenant_id", &tenant_id, TenantId::new);
    let agent_id = fields.text("agent_id", &agent_id, AgentId::new);
    let group_ids = fields.list("group_ids", &group_ids, decision::GROUPS_MAX, GroupId::new);
    let required_level = fields.level("required_level", required_level);
    let at_least = fields.revision("at_least_revision", at_least_revision);
    let words = (|| {
        let question = Question {
            tenant_id: tenant_id?,
            agent_id: agent_id?,
            agent_kind: AgentKind::Human,
            group_ids: group_ids.into_iter().collect(),
            required_level: required_level?,
        };
        Some((question, at_least))
    })();
    fields.finish(words).map_err(|violations| violations.within(prefix))
}
