//! The messages of `SupportAccess`.

use crate::{
    api::{
        grpc::convert::{
            enums::ProtoEnum,
            fields::{Fields, Parsed},
            grants, timestamps,
        },
        proto::v1 as pb,
    },
    domain::{
        AccessCheck, AgentId, AssertedGroups, TenantId, ViolationReason, check::GROUPS_MAX,
        explain::ChecklistItem, violation::Violations,
    },
    service::check::{BATCH_MAX, Candidate, CheckResult, Explanation},
};

/// A check with an agent.
pub(in crate::api::grpc) fn check_request(
    message: pb::CheckAccessRequest,
) -> Parsed<(AccessCheck, String)> {
    let pb::CheckAccessRequest { check, consistency_token } = message;
    Ok((required_check(check, true)?, consistency_token))
}

/// A check whose agent may be absent.
pub(in crate::api::grpc) fn explain_request(
    message: pb::ExplainAccessRequest,
) -> Parsed<(AccessCheck, String)> {
    let pb::ExplainAccessRequest { check, consistency_token } = message;
    Ok((required_check(check, false)?, consistency_token))
}

pub(in crate::api::grpc) fn batch_request(
    message: pb::BatchCheckAccessRequest,
) -> Parsed<(Vec<AccessCheck>, String)> {
    let pb::BatchCheckAccessRequest { checks: messages, consistency_token } = message;
    let mut fields = Fields::default();
    if messages.is_empty() {
        fields.add("checks", ViolationReason::Required, "must contain at least one check");
    }
    let is_short = fields.length("checks", messages.len(), BATCH_MAX);
    fields.finish(is_short.then_some(()))?;

    let mut checks = Vec::with_capacity(messages.len());
    let mut violations = Violations::default();
    for (index, message) in messages.into_iter().enumerate() {
        match check(message, true) {
            Ok(check) => checks.push(check),
            Err(found) => violations.extend(found.within(&format!("checks[{index}]."))),
        }
    }
    violations.into_result()?;
    Ok((checks, consistency_token))
}

fn required_check(
    message: Option<pb::AccessCheck>,
    is_agent_required: bool,
) -> Parsed<AccessCheck> {
    let missing = || Violations::of("check", ViolationReason::Required, "must be set");
    let message = message.ok_or_else(missing)?;
    check(message, is_agent_required).map_err(|violations| violations.within("check."))
}

fn check(message: pb::AccessCheck, is_agent_required: bool) -> Parsed<AccessCheck> {
    let pb::AccessCheck {
        tenant_id,
        agent_id,
        group_ids,
        required_level,
        agent_kind,
        on_behalf_of,
    } = message;
    let mut fields = Fields::default();
    let tenant_id = fields.text("tenant_id", &tenant_id, TenantId::new);
    let agent_id = if is_agent_required {
        fields.text("agent_id", &agent_id, AgentId::new)
    } else {
        fields.optional("agent_id", &agent_id, AgentId::new)
    };
    fields.length("group_ids", group_ids.len(), GROUPS_MAX);
    let required_level = fields.level("required_level", required_level);
    let agent_kind = fields.kind("agent_kind", agent_kind);
    let on_behalf_of = fields.optional("on_behalf_of", &on_behalf_of, AgentId::new);
    let parsed = (|| {
        Some(AccessCheck {
            tenant_id: tenant_id?,
            agent_id,
            groups: AssertedGroups::new(group_ids),
            required_level: required_level?,
            agent_kind: agent_kind?,
            on_behalf_of,
        })
    })();
    fields.finish(parsed)
}

pub(in crate::api::grpc) fn result(result: CheckResult) -> pb::CheckAccessResponse {
    let CheckResult {
        reason,
        remedy,
        grant_id,
        lock_id,
        access_level,
        expire_time,
        valid_for,
        message,
        ignored_group_count,
    } = result;
    let decision = if reason.is_allowed() { pb::Decision::Allowed } else { pb::Decision::Denied };
    pb::CheckAccessResponse {
        decision: decision.into(),
        reason: reason.to_proto(),
        grant_id: grant_id.map(|id| id.to_string()).unwrap_or_default(),
        access_level: access_level.map(ProtoEnum::to_proto).unwrap_or_default(),
        expire_time: expire_time.map(timestamps::timestamp),
        valid_for: Some(timestamps::duration(valid_for)),
        message,
        remedy: remedy.to_proto(),
        lock_id: lock_id.map(|id| id.to_string()).unwrap_or_default(),
        ignored_group_count: ignored_group_count.try_into().unwrap_or(i32::MAX),
    }
}

pub(in crate::api::grpc) fn explanation(explanation: Explanation) -> pb::ExplainAccessResponse {
    let Explanation { result, checklist, candidates, is_truncated, ignored_groups } = explanation;
    pb::ExplainAccessResponse {
        result: Some(self::result(result)),
        checklist: checklist.into_iter().map(checklist_item).collect(),
        candidates: candidates.into_iter().map(candidate).collect(),
        candidates_truncated: is_truncated,
        ignored_group_ids: ignored_groups,
    }
}

fn checklist_item(item: ChecklistItem) -> pb::ChecklistItem {
    let ChecklistItem { question, answer, detail } = item;
    pb::ChecklistItem { question: question.to_proto(), answer: answer.to_proto(), detail }
}

fn candidate(candidate: Candidate) -> pb::CandidateGrant {
    let Candidate { tenant_id, terms, state, reasons } = candidate;
    pb::CandidateGrant {
        grant: Some(grants::terms(tenant_id, terms, state)),
        reasons: reasons.into_iter().map(ProtoEnum::to_proto).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_check(group_ids: Vec<String>) -> pb::AccessCheck {
        pb::AccessCheck {
            tenant_id: "acme".to_owned(),
            agent_id: "ann".to_owned(),
            group_ids,
            required_level: pb::AccessLevel::ReadOnly.into(),
            agent_kind: pb::AgentKind::Human.into(),
            on_behalf_of: String::new(),
        }
    }

    #[test]
    fn a_long_group_value_denies_neither_its_check_nor_the_batch() {
        let long = mk_check(vec!["x".repeat(100_000), "support".to_owned()]);
        let checks = vec![mk_check(Vec::new()), long];
        let request = pb::BatchCheckAccessRequest { checks, consistency_token: String::new() };
        let (checks, _) = batch_request(request).unwrap();
        assert_eq!(checks[1].groups.ignored().len(), 1);
        assert_eq!(checks[1].groups.ids().len(), 1);
    }

    #[test]
    fn a_batch_of_invalid_checks_keeps_few_violations() {
        let checks = vec![pb::AccessCheck::default(); BATCH_MAX];
        let request = pb::BatchCheckAccessRequest { checks, consistency_token: String::new() };
        let violations = batch_request(request).unwrap_err();
        assert_eq!(violations.as_slice().len() + violations.omitted(), 4 * BATCH_MAX);
        assert!(violations.as_slice().len() <= 20);
    }
}
