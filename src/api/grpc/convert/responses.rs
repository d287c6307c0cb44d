//! Words become messages.

use prost_types::{Duration as ProtoDuration, Timestamp};

use crate::{
    api::{grpc::convert::locks, proto::v1 as pb},
    domain::{
        AccessLevel, Enforced, Event, EventKind, Grant, GrantState, Reason, SupportGroup,
        SupportPolicy, TenantId, Time,
        explain::{ChecklistAnswer, ChecklistItem, ChecklistQuestion},
    },
    service::{
        Enforcement, EnforcementState, GrantView,
        check::{Answer, Candidate, Explanation},
        locks::LockView,
        policy::etag,
    },
    store::HistoryEvent,
};

pub(in crate::api::grpc) fn grant(view: GrantView) -> pb::Grant {
    let GrantView { grant, state } = view;
    let etag = grant.etag();
    let Grant {
        tenant_id,
        terms,
        reason,
        ticket,
        create_time,
        creator,
        revocation,
        create_sequence: _,
        sequence: _,
    } = grant;
    let (revoker, revoke_reason) = revocation.map_or_else(Default::default, |revocation| {
        (revocation.revoker.to_string(), revocation.reason.as_str().to_owned())
    });
    pb::Grant {
        grant_id: terms.grant_id.to_string(),
        tenant_id: tenant_id.to_string(),
        group_id: terms.group_id.to_string(),
        agent_ids: terms.agent_ids.iter().map(ToString::to_string).collect(),
        access_level: access_level(terms.access_level),
        state: grant_state(state),
        start_time: Some(timestamp(terms.start_time)),
        expire_time: terms.expire_time.map(timestamp),
        reason: reason.as_str().to_owned(),
        ticket: ticket.as_str().to_owned(),
        create_time: Some(timestamp(create_time)),
        creator: creator.to_string(),
        revoke_time: terms.revoke_time.map(timestamp),
        revoker,
        revoke_reason,
        etag,
        revision: 0, // known for changes only
    }
}

pub(in crate::api::grpc) fn grants(views: Vec<GrantView>) -> Vec<pb::Grant> {
    views.into_iter().map(grant).collect()
}

pub(in crate::api::grpc) fn enforcement(enforcement: Enforcement) -> pb::Enforcement {
    let Enforcement { state, revision, elapsed, nodes_acknowledged, nodes_lapsed } = enforcement;
    let state = match state {
        EnforcementState::Complete => pb::EnforcementState::Complete,
        EnforcementState::Pending => pb::EnforcementState::Pending,
    };
    pb::Enforcement {
        state: state.into(),
        revision,
        elapsed: Some(duration(elapsed)),
        nodes_acknowledged: nodes_acknowledged.try_into().unwrap_or(i32::MAX),
        nodes_lapsed: nodes_lapsed.try_into().unwrap_or(i32::MAX),
    }
}

pub(in crate::api::grpc) fn support_policy(
    tenant_id: &TenantId,
    policy: &SupportPolicy,
) -> pb::SupportPolicy {
    let etag = etag(policy);
    let SupportPolicy {
        groups,
        preset_durations,
        default_duration,
        longest_duration,
        until_revoked_allowed,
        reason_required,
        ticket_required,
        longest_schedule_ahead,
    } = policy;
    pb::SupportPolicy {
        tenant_id: tenant_id.to_string(),
        groups: groups.iter().map(support_group).collect(),
        preset_durations: preset_durations.iter().map(|span| duration(span.0)).collect(),
        default_duration: Some(duration(default_duration.0)),
        longest_duration: Some(duration(longest_duration.0)),
        until_revoked_allowed: *until_revoked_allowed,
        reason_required: *reason_required,
        ticket_required: *ticket_required,
        longest_schedule_ahead: Some(duration(longest_schedule_ahead.0)),
        etag,
    }
}

fn support_group(group: &SupportGroup) -> pb::SupportGroup {
    let SupportGroup { group_id, display_name, description, highest_level } = group;
    pb::SupportGroup {
        group_id: group_id.to_string(),
        display_name: display_name.clone(),
        description: description.clone(),
        highest_level: access_level(*highest_level),
    }
}

pub(in crate::api::grpc) fn recorded(recorded: HistoryEvent) -> pb::Event {
    let HistoryEvent { event, enforced, hash } = recorded;
    let revision = event.revision;
    let complete = |Enforced { elapsed, nodes_acknowledged, nodes_lapsed }| {
        let state = EnforcementState::Complete;
        Enforcement { state, revision, elapsed, nodes_acknowledged, nodes_lapsed }
    };
    let enforcement = enforced.map(complete).map(enforcement);
    pb::Event { enforcement, hash: hash.0.into(), ..self::event(event) }
}

fn event(event: Event) -> pb::Event {
    let grant_id = event.grant_id().map(|id| id.to_string()).unwrap_or_default();
    let Event { revision, tenant_id, sequence, time, author, reason, kind } = event;
    let kind_type = match &kind {
        EventKind::Granted(_) => pb::EventType::Granted,
        EventKind::Extended(_) => pb::EventType::Extended,
        EventKind::Revoked(_) => pb::EventType::Revoked,
        EventKind::Expired(_) => pb::EventType::Expired,
        EventKind::PolicyUpdated(_) => pb::EventType::PolicyUpdated,
        EventKind::Locked(_) => pb::EventType::Locked,
        EventKind::Unlocked(_) => pb::EventType::Unlocked,
        EventKind::LockExpired(_) => pb::EventType::LockExpired,
    };
    let previous_expire_time = match &kind {
        EventKind::Extended(extended) => extended.previous_expire_time,
        _ => None,
    };
    let policy = match &kind {
        EventKind::PolicyUpdated(update) => {
            let policy = &update.support_policy;
            tenant_id.as_ref().map(|tenant_id| support_policy(tenant_id, policy))
        }
        _ => None,
    };
    let lock = kind
        .lock()
        .map(|left| pb::Lock { revision, ..locks::lock(LockView::at(left.clone(), time)) });
    let grant = kind
        .grant()
        .map(|left| pb::Grant { revision, ..self::grant(GrantView::at(left.clone(), time)) });
    pb::Event {
        revision,
        tenant_id: tenant_id.map(String::from).unwrap_or_default(),
        grant_id,
        r#type: kind_type.into(),
        create_time: Some(timestamp(time)),
        actor: author.actor.into(),
        via: author.via.map(String::from).unwrap_or_default(),
        is_asserted: author.is_asserted,
        reason: reason.as_str().to_owned(),
        grant,
        previous_expire_time: previous_expire_time.map(timestamp),
        support_policy: policy,
        lock,
        enforcement: None,
        sequence,
        hash: Vec::new(),
    }
}

pub(in crate::api::grpc) fn answer(answer: Answer) -> pb::CheckAccessResponse {
    let Answer { reason, grant_id, access_level, expire_time, valid_for, revision, message } =
        answer;
    let decision = match reason {
        Reason::GrantActive => pb::Decision::Allowed,
        Reason::NoGrant
        | Reason::NotStarted
        | Reason::Expired
        | Reason::Revoked
        | Reason::GroupMismatch
        | Reason::AgentNotNamed
        | Reason::LevelExceeded
        | Reason::Stale
        | Reason::Locked => pb::Decision::Denied,
    };
    pb::CheckAccessResponse {
        decision: decision.into(),
        reason: decision_reason(reason),
        grant_id: grant_id.map(|id| id.to_string()).unwrap_or_default(),
        access_level: access_level.map(self::access_level).unwrap_or_default(),
        expire_time: expire_time.map(timestamp),
        valid_for: Some(duration(valid_for)),
        revision,
        message,
    }
}

pub(in crate::api::grpc) fn explanation(explanation: Explanation) -> pb::ExplainAccessResponse {
    let Explanation { answer, checklist, candidates, is_truncated } = explanation;
    pb::ExplainAccessResponse {
        result: Some(self::answer(answer)),
        checklist: checklist.into_iter().map(checklist_item).collect(),
        candidates: candidates.into_iter().map(candidate).collect(),
        candidates_truncated: is_truncated,
    }
}

fn checklist_item(item: ChecklistItem) -> pb::ChecklistItem {
    let ChecklistItem { question, answer, detail } = item;
    let question = match question {
        ChecklistQuestion::AccessGranted => pb::ChecklistQuestion::AccessGranted,
        ChecklistQuestion::PeriodNotExpired => pb::ChecklistQuestion::PeriodNotExpired,
        ChecklistQuestion::EntryActive => pb::ChecklistQuestion::EntryActive,
        ChecklistQuestion::CorrectOption => pb::ChecklistQuestion::CorrectOption,
        ChecklistQuestion::NotLocked => pb::ChecklistQuestion::NotLocked,
    };
    let answer = match answer {
        ChecklistAnswer::Yes => pb::ChecklistAnswer::Yes,
        ChecklistAnswer::No => pb::ChecklistAnswer::No,
        ChecklistAnswer::NotApplicable => pb::ChecklistAnswer::NotApplicable,
    };
    pb::ChecklistItem { question: question.into(), answer: answer.into(), detail }
}

fn candidate(candidate: Candidate) -> pb::CandidateGrant {
    let Candidate { terms, state, reasons } = candidate;
    pb::CandidateGrant {
        grant_id: terms.grant_id.to_string(),
        group_id: terms.group_id.to_string(),
        agent_ids: terms.agent_ids.iter().map(ToString::to_string).collect(),
        access_level: access_level(terms.access_level),
        state: grant_state(state),
        start_time: Some(timestamp(terms.start_time)),
        expire_time: terms.expire_time.map(timestamp),
        revoke_time: terms.revoke_time.map(timestamp),
        reasons: reasons.into_iter().map(decision_reason).collect(),
    }
}

pub(super) fn access_level(level: AccessLevel) -> i32 {
    let level = match level {
        AccessLevel::ReadOnly => pb::AccessLevel::ReadOnly,
        AccessLevel::ReadWrite => pb::AccessLevel::ReadWrite,
        AccessLevel::Admin => pb::AccessLevel::Admin,
    };
    level.into()
}

fn grant_state(state: GrantState) -> i32 {
    let state = match state {
        GrantState::Scheduled => pb::GrantState::Scheduled,
        GrantState::Active => pb::GrantState::Active,
        GrantState::Expired => pb::GrantState::Expired,
        GrantState::Revoked => pb::GrantState::Revoked,
    };
    state.into()
}

fn decision_reason(reason: Reason) -> i32 {
    let reason = match reason {
        Reason::GrantActive => pb::DecisionReason::GrantActive,
        Reason::NoGrant => pb::DecisionReason::NoGrant,
        Reason::NotStarted => pb::DecisionReason::NotStarted,
        Reason::Expired => pb::DecisionReason::Expired,
        Reason::Revoked => pb::DecisionReason::Revoked,
        Reason::GroupMismatch => pb::DecisionReason::GroupMismatch,
        Reason::AgentNotNamed => pb::DecisionReason::AgentNotNamed,
        Reason::LevelExceeded => pb::DecisionReason::LevelExceeded,
        Reason::Stale => pb::DecisionReason::Stale,
        Reason::Locked => pb::DecisionReason::Locked,
    };
    reason.into()
}

pub(super) fn timestamp(time: Time) -> Timestamp {
    Timestamp {
        seconds: time.timestamp(),
        nanos: time.timestamp_subsec_nanos().try_into().unwrap_or_default(),
    }
}

/// Lengths of time here are at most some years, far below what a `google.protobuf.Duration` holds.
pub(in crate::api::grpc) fn duration(duration: std::time::Duration) -> ProtoDuration {
    ProtoDuration {
        seconds: duration.as_secs().try_into().unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().try_into().unwrap_or_default(),
    }
}
