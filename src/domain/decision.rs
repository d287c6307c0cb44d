//! The decision: may this agent enter this tenant, now, at this level?

use std::{collections::BTreeSet, fmt::Write};

use crate::domain::{
    caller::Party,
    grant::{AccessLevel, AgentKind, GrantState, GrantTerms},
    lock::{LockTarget, LockTerms, matching_lock},
    text::{AgentId, GrantId, GroupId, TenantId},
    time::{Now, Time},
};

/// The most groups one question may name.
pub const GROUPS_MAX: usize = 100;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The tenant to enter.
    pub tenant_id: TenantId,
    /// Who wants to.
    pub agent_id: AgentId,
    /// What kind of agent that is.
    pub agent_kind: AgentKind,
    /// The groups the agent is in. Empty: none, and so the answer is a denial.
    pub group_ids: BTreeSet<GroupId>,
    /// The level the agent needs.
    pub required_level: AccessLevel,
}

/// Why a check was answered as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// An active grant lets the agent in. The only reason that allows.
    GrantActive,
    /// Nothing comes near.
    NoGrant,
    /// A grant would, but starts later.
    NotStarted,
    /// The last grant to the agent's group has reached its end.
    Expired,
    /// The last grant to the agent's group was revoked.
    Revoked,
    /// Another group is let in.
    GroupMismatch,
    /// Other agents of the group are let in.
    AgentNotNamed,
    /// The group is let in at a lower level.
    LevelExceeded,
    /// What is known may be too old to answer from.
    Stale,
    /// The tenant, the agent, one of its groups or everything is locked. Beats every grant.
    Locked,
}

impl Reason {
    /// As logs and metrics write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GrantActive => "GRANT_ACTIVE",
            Self::NoGrant => "NO_GRANT",
            Self::NotStarted => "NOT_STARTED",
            Self::Expired => "EXPIRED",
            Self::Revoked => "REVOKED",
            Self::GroupMismatch => "GROUP_MISMATCH",
            Self::AgentNotNamed => "AGENT_NOT_NAMED",
            Self::LevelExceeded => "LEVEL_EXCEEDED",
            Self::Stale => "STALE",
            Self::Locked => "LOCKED",
        }
    }
}

/// The answer to a [`Question`], by the locks there are and the grants of its tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Why.
    pub reason: Reason,
    /// The grant that decided: the one that allows, or the one that came nearest.
    pub terms: Option<&'a GrantTerms>,
    /// The lock that keeps the agent out, whatever is granted.
    pub lock: Option<&'a LockTerms>,
}

impl Decision<'_> {
    /// What cannot be answered is denied.
    pub const STALE: Self = Self { reason: Reason::Stale, terms: None, lock: None };
    const NO_GRANT: Self = Self { reason: Reason::NoGrant, terms: None, lock: None };

    /// Whether the agent may enter.
    pub fn is_allowed(&self) -> bool {
        self.reason == Reason::GrantActive
    }
}

/// Decides by `locks`, any that may matter, and then by `grants`, all of the question's tenant: what is locked stays out, whatever is granted.
pub fn decide<'a>(
    locks: impl IntoIterator<Item = &'a LockTerms>,
    grants: impl IntoIterator<Item = &'a GrantTerms>,
    question: &Question,
    now: impl Into<Now>,
) -> Decision<'a> {
    let now = now.into();
    match matching_lock(locks, question, now) {
        Some(lock) => Decision { reason: Reason::Locked, terms: None, lock: Some(lock) },
        None => decide_by_grants(grants, question, now),
    }
}

/// Decides by the union of `grants`, all of the question's tenant: the agent may enter if any of them lets it in. Of
/// several that do, the one that lets in longest answers. A denial names the nearest reason, in this order:
///
/// 1. a grant that covers the agent and the level, but starts later;
/// 2. a grant to the agent's group that is too low;
/// 3. a grant to the agent's group that names other agents;
/// 4. the grant to one of the agent's groups that ended last;
/// 5. a grant to another group;
/// 6. nothing of the kind.
///
/// Of ended grants only the latest to each group can matter. So the answer is the same whether or not older ones are
/// still among `grants`, and whether or not an expiry has been recorded yet.
fn decide_by_grants<'a>(
    grants: impl IntoIterator<Item = &'a GrantTerms>,
    question: &Question,
    now: impl Into<Now>,
) -> Decision<'a> {
    let now = now.into();
    grants
        .into_iter()
        .filter_map(|terms| weigh(terms, question, now).map(|(reason, rank)| (rank, reason, terms)))
        .max_by_key(|(rank, ..)| *rank)
        .map_or(Decision::NO_GRANT, |(_, reason, terms)| Decision {
            reason,
            terms: Some(terms),
            lock: None,
        })
}

/// How near a grant comes; the greater, the nearer. Within a rank: whether it is active; then what is preferred, in
/// microseconds since 1970; then the higher level; then the newer grant, so that there is always exactly one answer.
type Nearness = (u8, bool, i64, AccessLevel, GrantId);

fn weigh(terms: &GrantTerms, question: &Question, now: Now) -> Option<(Reason, Nearness)> {
    let state = terms.state(now);
    let last_to_end = || terms.end_time().map_or(i64::MAX, |end| end.timestamp_micros());
    let (reason, rank, preferred) = if !question.group_ids.contains(&terms.group_id) {
        if state.is_ended() {
            return None;
        }
        (Reason::GroupMismatch, 1, last_to_end())
    } else if state == GrantState::Expired {
        (Reason::Expired, 2, last_to_end())
    } else if state == GrantState::Revoked {
        (Reason::Revoked, 2, last_to_end())
    } else if !terms.names(&question.agent_id) {
        (Reason::AgentNotNamed, 3, 0)
    } else if terms.access_level < question.required_level {
        (Reason::LevelExceeded, 4, 0)
    } else if state == GrantState::Scheduled {
        (Reason::NotStarted, 5, -terms.start_time.timestamp_micros())
    } else {
        (Reason::GrantActive, 6, last_to_end())
    };
    let is_active = state == GrantState::Active;
    Some((reason, (rank, is_active, preferred, terms.access_level, terms.grant_id)))
}

/// The answer in a sentence or two, in the words of an administrator's checklist: what holds, and what would help.
pub fn message(decision: &Decision<'_>, question: &Question) -> String {
    let Question { tenant_id, agent_id, group_ids, required_level, agent_kind: _ } = question;
    if let Some(lock) = decision.lock {
        return locked(lock);
    }
    let mut text = String::with_capacity(160);
    let written = match (decision.reason, decision.terms) {
        (Reason::GrantActive, Some(terms)) => {
            let group = &terms.group_id;
            match terms.expire_time {
                Some(end) => {
                    write!(text, "Access is granted to group {group} until {}.", plain(end))
                }
                None => write!(text, "Access is granted to group {group} until revoked."),
            }
        }
        (Reason::NotStarted, Some(terms)) => write!(
            text,
            "The access entry is not active yet: it starts at {}. Wait, or create one that starts now.",
            plain(terms.start_time)
        ),
        (Reason::Expired, Some(terms)) => write!(
            text,
            "The access period for group {} is over{}. Create a new entry with a suitable duration.",
            terms.group_id,
            terms.expire_time.map(|end| format!(" since {}", plain(end))).unwrap_or_default(),
        ),
        (Reason::Revoked, Some(terms)) => write!(
            text,
            "The access entry for group {} is not active: it was revoked{}. Create a new entry.",
            terms.group_id,
            terms.revoke_time.map(|end| format!(" at {}", plain(end))).unwrap_or_default(),
        ),
        (Reason::GroupMismatch, Some(terms)) => write!(
            text,
            "The wrong group was selected: the access entry is for {}, but agent {agent_id} is in {}. \
             Create an entry for the agent's group.",
            terms.group_id,
            crate::domain::policy::join(group_ids.iter()),
        ),
        (Reason::AgentNotNamed, Some(terms)) => write!(
            text,
            "The access entry for group {} is only for the agents that it names, and {agent_id} is not \
             one of them. Create an entry that names the agent, or the whole group.",
            terms.group_id,
        ),
        (Reason::LevelExceeded, Some(terms)) => write!(
            text,
            "The access entry for group {} allows {}, but {} is required. Create an entry with a higher \
             level, or ask for less.",
            terms.group_id,
            terms.access_level.as_str(),
            required_level.as_str(),
        ),
        (Reason::Stale, _) => write!(
            text,
            "This check node cannot prove that it is up to date, so it denies. Ask again shortly."
        ),
        (Reason::NoGrant | Reason::Locked, _) | (_, None) => write!(
            text,
            "Nothing is granted: tenant {tenant_id} has no support access entry for this agent's \
             groups. Ask the tenant's administrator to create one."
        ),
    };
    debug_assert!(written.is_ok(), "writing to a String cannot fail");
    text
}

/// What a gateway needs to know of a lock. Why it was set is for those who look after it.
fn locked(lock: &LockTerms) -> String {
    let mut what = String::from("Support access");
    let mut add = |part: &str, id: &str| {
        what.push_str(part);
        what.push_str(id);
    };
    match &lock.target {
        LockTarget::Agent(agent_id) => add(" of agent ", agent_id.as_str()),
        LockTarget::Group(group_id) => add(" of group ", group_id.as_str()),
        LockTarget::AgentKind(kind) => add(" of agents of kind ", kind.as_str()),
        LockTarget::Everything => {}
    }
    if let Some(tenant_id) = &lock.tenant_id {
        add(" to tenant ", tenant_id.as_str());
    }
    if lock.target == LockTarget::Everything && lock.tenant_id.is_none() {
        what = "All support access".into();
    }
    let by = match lock.party {
        Party::Tenant => "the tenant",
        Party::Vendor => "the vendor",
    };
    let until = match lock.expire_time {
        Some(end) => format!("until {}", plain(end)),
        None => "until they unlock it".to_owned(),
    };
    format!("{what} is locked by {by}, {until}. No entry lets anybody in before that.")
}

/// A moment as people read it, to the second.
fn plain(time: Time) -> impl std::fmt::Display {
    time.format("%Y-%m-%d %H:%M:%S UTC")
}
