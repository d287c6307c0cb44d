//! Requests of both sides.

use support_access::api::proto::v1::*;

use crate::common::requests;

pub(super) fn order(is_oldest_first: bool) -> i32 {
    let order = if is_oldest_first { ListOrder::OldestFirst } else { ListOrder::NewestFirst };
    order.into()
}

/// A request id that is used again by later calls, or none.
pub(super) fn request_id(number: usize, name: &str) -> String {
    if number == 0 { String::new() } else { format!("{name} {number}") }
}

pub(super) fn period(days: i64) -> prost_types::Duration {
    prost_types::Duration { seconds: days * 86_400, nanos: 0 }
}

pub(super) fn grant_request(agents: usize) -> GrantAccessRequest {
    let agent_ids: Vec<String> = (0..agents).map(|number| format!("agent-{number}")).collect();
    GrantAccessRequest {
        group_id: "support".to_owned(),
        named_agents: (!agent_ids.is_empty()).then_some(NamedAgents { agent_ids }),
        access_level: AccessLevel::ReadWrite.into(),
        duration: Some(period(7)),
        ..GrantAccessRequest::default()
    }
}

pub(super) fn update_request(max_days: i64) -> UpdateSupportPolicyRequest {
    let max_duration = Some(period(max_days));
    UpdateSupportPolicyRequest {
        policy_overrides: Some(PolicyOverrides { max_duration, ..PolicyOverrides::default() }),
        ..UpdateSupportPolicyRequest::default()
    }
}

pub(super) fn lock_request(target: usize) -> LockAccessRequest {
    let mut request =
        LockAccessRequest { reason: "an incident".to_owned(), ..LockAccessRequest::default() };
    match target {
        0 => "agent-0".clone_into(&mut request.agent_id),
        1 => "support".clone_into(&mut request.group_id),
        2 => request.agent_kind = AgentKind::Human.into(),
        _ => request.everything = true,
    }
    request
}

pub(super) fn access_check(tenant_id: &str) -> AccessCheck {
    AccessCheck { agent_id: "agent-0".to_owned(), ..requests::access_check(tenant_id) }
}
