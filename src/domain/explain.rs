//! The explanation of a decision: the troubleshooting checklist, and the obstacles of each grant.

use crate::domain::{
    check::AccessCheck,
    decision::{Decision, Reason, message},
    grant::{GrantState, GrantTerms},
    time::Now,
};

/// The questions of the checklist, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecklistQuestion {
    /// Has the tenant granted support access?
    AccessGranted,
    /// Is the grant's end time in the future?
    PeriodNotExpired,
    /// Is the grant active: started, and not revoked?
    EntryActive,
    /// Does the grant cover the agent's group, kind and name, and a sufficient level?
    CorrectOption,
    /// Does no lock match? Listed first, and only if a lock matches.
    NotLocked,
}

/// The answer to a question of the checklist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecklistAnswer {
    /// This is not the obstacle.
    Yes,
    /// This is the obstacle.
    No,
    /// Not evaluated, because of another obstacle or because the data is stale.
    NotApplicable,
}

/// One line of the checklist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChecklistItem {
    /// The question.
    pub question: ChecklistQuestion,
    /// The answer.
    pub answer: ChecklistAnswer,
    /// The finding. Empty: not evaluated.
    pub detail: String,
}

/// The checklist for a decision. Exactly one answer is [`ChecklistAnswer::No`], or none if the
/// check is allowed or [`Reason::Stale`].
pub fn checklist(decision: &Decision<'_>, check: &AccessCheck) -> Vec<ChecklistItem> {
    let obstacle = obstacle(decision);
    let questions = [
        (ChecklistQuestion::AccessGranted, "Support access is granted."),
        (ChecklistQuestion::PeriodNotExpired, "The period of the grant is not over."),
        (ChecklistQuestion::EntryActive, "The grant is active."),
        (ChecklistQuestion::CorrectOption, "The grant covers the agent and the level."),
    ];
    let is_locked = obstacle == Some(ChecklistQuestion::NotLocked);
    let not_locked = is_locked.then_some((ChecklistQuestion::NotLocked, ""));
    not_locked
        .into_iter()
        .chain(questions)
        .map(|(question, finding)| {
            let is_granted =
                question == ChecklistQuestion::AccessGranted && decision.terms.is_some();
            let (answer, detail) = if obstacle == Some(question) {
                (ChecklistAnswer::No, message(decision, check))
            } else if decision.is_allowed() || is_granted {
                (ChecklistAnswer::Yes, finding.into())
            } else {
                (ChecklistAnswer::NotApplicable, String::new())
            };
            ChecklistItem { question, answer, detail }
        })
        .collect()
}

fn obstacle(decision: &Decision<'_>) -> Option<ChecklistQuestion> {
    match decision.reason {
        Reason::GrantActive
        | Reason::Stale
        | Reason::InputMissing
        | Reason::InputAmbiguous
        | Reason::InputInvalid
        | Reason::ClaimOverflow => None,
        Reason::NoGrant => Some(ChecklistQuestion::AccessGranted),
        Reason::Expired => Some(ChecklistQuestion::PeriodNotExpired),
        Reason::Revoked | Reason::NotStarted => Some(ChecklistQuestion::EntryActive),
        Reason::GroupMismatch
        | Reason::AgentNotNamed
        | Reason::LevelExceeded
        | Reason::AgentKindNotAllowed
        | Reason::OnBehalfOfRequired => Some(ChecklistQuestion::CorrectOption),
        Reason::Locked => Some(ChecklistQuestion::NotLocked),
    }
}

/// All obstacles of one grant; [`Reason::GrantActive`] alone if the grant allows the check.
pub fn obstacles(terms: &GrantTerms, check: &AccessCheck, now: Now) -> Vec<Reason> {
    let state = match terms.state(now) {
        GrantState::Active => None,
        GrantState::Scheduled => Some(Reason::NotStarted),
        GrantState::Expired => Some(Reason::Expired),
        GrantState::Revoked => Some(Reason::Revoked),
    };
    let has_group = check.groups.contains(&terms.group_id);
    let is_named = match &check.agent_id {
        Some(agent_id) => terms.names(agent_id),
        None => terms.agent_ids.is_empty(),
    };
    let admission = terms.agent_kinds.get(check.agent_kind);
    let level = terms.level_of(check.agent_kind).unwrap_or(terms.access_level);
    let is_on_behalf_missing = check.on_behalf_of.is_none()
        && admission.is_some_and(|admission| admission.on_behalf_of_required);
    let obstacles: Vec<Reason> = [
        (!has_group).then_some(Reason::GroupMismatch),
        (!is_named).then_some(Reason::AgentNotNamed),
        admission.is_none().then_some(Reason::AgentKindNotAllowed),
        (level < check.required_level).then_some(Reason::LevelExceeded),
        is_on_behalf_missing.then_some(Reason::OnBehalfOfRequired),
        state,
    ]
    .into_iter()
    .flatten()
    .collect();
    if obstacles.is_empty() { vec![Reason::GrantActive] } else { obstacles }
}
