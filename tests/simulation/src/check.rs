//! The checks: whether a human or an AI agent may use a grant, and the decision of a node.

use crate::{
    domain::{
        AccessCheck, AccessLevel, AgentId, AgentKind, AgentKindEntry, AssertedGroups, GrantId,
        GroupId, Reason, TenantId, Time, decision::decide,
    },
    node::ReadView,
    plan::group_id,
};

/// A grant: each tenant grants access to each group at most once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GrantKey {
    pub(crate) tenant_id: TenantId,
    pub(crate) group_id: GroupId,
}

/// The agent of every check.
pub(crate) fn agent_id() -> AgentId {
    AgentId::new("anna").expect("a valid id")
}

/// The human behind the AI agent.
pub(crate) fn human_id() -> AgentId {
    AgentId::new("dana").expect("a valid id")
}

/// The kinds that a request to grant a group access names. A human is always admitted.
pub(crate) fn requested_kinds(group: &GroupId) -> Option<Vec<AgentKindEntry>> {
    let ai = AgentKindEntry {
        agent_kind: AgentKind::Ai,
        max_access_level: Some(AccessLevel::ReadOnly),
        on_behalf_of_required: *group == group_id(1),
    };
    (*group != group_id(0)).then(|| vec![AgentKindEntry::HUMAN, ai])
}

/// Whether the request to grant a group access named the kind of the check, at that level.
pub(crate) fn is_requested(group: &GroupId, check: &AccessCheck) -> bool {
    let entries = requested_kinds(group).unwrap_or_else(|| vec![AgentKindEntry::HUMAN]);
    entries.into_iter().any(|entry| {
        entry.agent_kind == check.agent_kind
            && entry.max_access_level.is_none_or(|max| check.required_level <= max)
            && (!entry.on_behalf_of_required || check.on_behalf_of.is_some())
    })
}

/// The checks of a grant: of a human, of an AI agent with and without a human behind it, and of an
/// AI agent at a level that no request names for its kind.
pub(crate) fn access_checks(grant: &GrantKey) -> [AccessCheck; 4] {
    let human = access_check(grant);
    let alone = AccessCheck { agent_kind: AgentKind::Ai, ..human.clone() };
    let on_behalf = AccessCheck { on_behalf_of: Some(human_id()), ..alone.clone() };
    let high = AccessCheck { required_level: AccessLevel::ReadWrite, ..on_behalf.clone() };
    [human, alone, on_behalf, high]
}

/// The check of a human.
pub(crate) fn access_check(grant: &GrantKey) -> AccessCheck {
    AccessCheck {
        tenant_id: grant.tenant_id.clone(),
        agent_id: Some(agent_id()),
        groups: AssertedGroups::new([String::from(grant.group_id.clone())]),
        required_level: AccessLevel::ReadOnly,
        agent_kind: AgentKind::Human,
        on_behalf_of: None,
    }
}

/// The decision of a check, with the grant and end time that decided.
pub(crate) fn decision(
    read_view: &ReadView,
    check: &AccessCheck,
) -> (Reason, Option<(GrantId, Option<Time>)>) {
    let Some(time) = read_view.now.filter(|_| read_view.is_fresh()) else {
        return (Reason::Stale, None);
    };
    let snapshot = read_view.view.snapshot();
    let (locks, grants) = (snapshot.locks_on(check), snapshot.candidates(check, time));
    let decision = decide(locks, grants, check, time);
    (decision.reason, decision.terms.map(|terms| (terms.grant_id, terms.expire_time)))
}
