//! One check: the question whether an agent may use a grant, and the decision of a node.

use crate::{
    domain::{
        AccessLevel, AgentId, GrantId, GroupId, Question, Reason, TenantId, Time, decision::decide,
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

pub(crate) fn question(grant: &GrantKey) -> Question {
    Question {
        tenant_id: grant.tenant_id.clone(),
        agent_id: agent_id(),
        group_ids: [grant.group_id.clone()].into(),
        required_level: AccessLevel::ReadOnly,
    }
}

/// The decision of a check, with the grant and end time that decided.
pub(crate) fn decision(
    read_view: &ReadView,
    grant: &GrantKey,
) -> (Reason, Option<(GrantId, Option<Time>)>) {
    let question = question(grant);
    let Some(time) = read_view.now.filter(|_| read_view.is_fresh()) else {
        return (Reason::Stale, None);
    };
    let snapshot = read_view.view.snapshot();
    let (locks, grants) = (snapshot.locks_on(&question), snapshot.grants(&question.tenant_id));
    let decision = decide(locks, grants, &question, time);
    (decision.reason, decision.terms.map(|terms| (terms.grant_id, terms.expire_time)))
}
