//! One check: whether an agent may use a grant, and the decision of a node.

use crate::{
    domain::{
        AccessCheck, AccessLevel, AgentId, AgentKind, AssertedGroups, GrantId, GroupId, Reason,
        TenantId, Time, decision::decide,
    },
    node::ReadView,
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
    grant: &GrantKey,
) -> (Reason, Option<(GrantId, Option<Time>)>) {
    let check = access_check(grant);
    let Some(time) = read_view.now.filter(|_| read_view.is_fresh()) else {
        return (Reason::Stale, None);
    };
    let snapshot = read_view.view.snapshot();
    let (locks, grants) = (snapshot.locks_on(&check), snapshot.candidates(&check, time));
    let decision = decide(locks, grants, &check, time);
    (decision.reason, decision.terms.map(|terms| (terms.grant_id, terms.expire_time)))
}
