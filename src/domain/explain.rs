//! Why a check is answered as it is: the troubleshooting checklist, and what stands in the way of each grant.

use crate::domain::{
    decision::{Decision, Question, Reason, message},
    grant::{GrantState, GrantTerms},
    time::Now,
};

/// The lines of the checklist, in the order in which an administrator goes through them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecklistQuestion {
    /// Has support access been granted?
    AccessGranted,
    /// Has the period not expired?
    PeriodNotExpired,
    /// Is the entry active: started, and not revoked?
    EntryActive,
    /// Was the right option selected: group, agents, level?
    CorrectOption,
    /// Is nothing locked? Asked first, and only where something is.
    NotLocked,
}

/// The answer to one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChecklistAnswer {
    /// In order.
    Yes,
    /// This is what stands in the way.
    No,
    /// Does not arise, since another line stands in the way, or nothing can be said.
    NotApplicable,
}

/// One line with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChecklistItem {
    /// What was looked at.
    pub question: ChecklistQuestion,
    /// Whether it is in order.
    pub answer: ChecklistAnswer,
    /// What was found.
    pub detail: String,
}

/// The checklist for a decision. Exactly one line is [`ChecklistAnswer::No`] if the decision is a denial by grants; none if
/// it allows, or if nothing can be said ([`Reason::Stale`]). Before the four lines of an administrator's own stands one for a
/// lock, if that is what is in the way.
pub fn checklist(decision: &Decision<'_>, question: &Question) -> Vec<ChecklistItem> {
    let obstacle = obstacle_line(decision.reason);
    let lines = [
        (ChecklistQuestion::AccessGranted, "Support access has been granted."),
        (ChecklistQuestion::PeriodNotExpired, "The access period has not expired."),
        (ChecklistQuestion::EntryActive, "The access entry is active."),
        (ChecklistQuestion::CorrectOption, "The correct group, agents and level were selected."),
    ];
    let allowed = decision.is_allowed();
    // Of what is granted, a lock says nothing.
    let is_granted = obstacle.is_some_and(|line| line != ChecklistQuestion::NotLocked);
    let lock = (obstacle == Some(ChecklistQuestion::NotLocked))
        .then_some((ChecklistQuestion::NotLocked, ""));
    lock.into_iter()
        .chain(lines)
        .map(|(line, in_order)| {
            let (answer, detail) = if obstacle == Some(line) {
                (ChecklistAnswer::No, message(decision, question))
            } else if allowed || (line == ChecklistQuestion::AccessGranted && is_granted) {
                (ChecklistAnswer::Yes, in_order.into())
            } else {
                (ChecklistAnswer::NotApplicable, String::new())
            };
            ChecklistItem { question: line, answer, detail }
        })
        .collect()
}

const fn obstacle_line(reason: Reason) -> Option<ChecklistQuestion> {
    match reason {
        Reason::GrantActive | Reason::Stale => None,
        Reason::NoGrant => Some(ChecklistQuestion::AccessGranted),
        Reason::Expired => Some(ChecklistQuestion::PeriodNotExpired),
        Reason::Revoked | Reason::NotStarted => Some(ChecklistQuestion::EntryActive),
        Reason::GroupMismatch | Reason::AgentNotNamed | Reason::LevelExceeded => {
            Some(ChecklistQuestion::CorrectOption)
        }
        Reason::Locked => Some(ChecklistQuestion::NotLocked),
    }
}

/// Everything that keeps one grant from letting the agent in; [`Reason::GrantActive`] alone if nothing does.
pub fn obstacles(terms: &GrantTerms, question: &Question, now: Now) -> Vec<Reason> {
    let state = match terms.state(now) {
        GrantState::Active => None,
        GrantState::Scheduled => Some(Reason::NotStarted),
        GrantState::Expired => Some(Reason::Expired),
        GrantState::Revoked => Some(Reason::Revoked),
    };
    let group = !question.group_ids.contains(&terms.group_id);
    let agent = !terms.names(&question.agent_id);
    let level = terms.access_level < question.required_level;
    let found: Vec<Reason> = [
        group.then_some(Reason::GroupMismatch),
        agent.then_some(Reason::AgentNotNamed),
        level.then_some(Reason::LevelExceeded),
        state,
    ]
    .into_iter()
    .flatten()
    .collect();
    if found.is_empty() { vec![Reason::GrantActive] } else { found }
}
