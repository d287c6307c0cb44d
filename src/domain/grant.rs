//! A grant, and where it is in its life.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::{
    event::Revision,
    text::{Actor, AgentId, FreeText, GrantId, GroupId, TenantId, Ticket},
    time::{Now, Time},
};

/// More bytes than anything of a grant takes that is neither an agent nor a reason: ids of up to 128 characters of up to four
/// bytes, and times.
const FIXED_WEIGHT: usize = 2_500;
/// The most agents one grant may name.
pub const AGENTS_MAX: usize = 100;

/// How much an agent may do. Each level includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AccessLevel {
    /// Look.
    ReadOnly,
    /// Look and change.
    ReadWrite,
    /// What the tenant's own administrator may do.
    Admin,
}

impl AccessLevel {
    /// Every level, lowest first.
    pub const ALL: [Self; 3] = [Self::ReadOnly, Self::ReadWrite, Self::Admin];

    /// As people and configuration files write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "READ_ONLY",
            Self::ReadWrite => "READ_WRITE",
            Self::Admin => "ADMIN",
        }
    }
}

/// Where a grant is in its life. Derived from its [`GrantTerms`] and the time, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GrantState {
    /// Starts later.
    Scheduled,
    /// `start <= now < end`, and not revoked.
    Active,
    /// Its end time has come.
    Expired,
    /// Ended by somebody before its end time.
    Revoked,
}

impl GrantState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Scheduled, Self::Active, Self::Expired, Self::Revoked];

    /// Whether the grant is over for good.
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Expired | Self::Revoked)
    }
}

/// Whom a grant lets in, at which level, and when: all that a decision depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantTerms {
    /// The grant these are the terms of.
    pub grant_id: GrantId,
    /// The group that is let in.
    pub group_id: GroupId,
    /// Only these agents of the group; empty: every agent of it.
    pub agent_ids: BTreeSet<AgentId>,
    /// The highest level.
    pub access_level: AccessLevel,
    /// The first moment of access.
    pub start_time: Time,
    /// The first moment without; `None`: until revoked.
    pub expire_time: Option<Time>,
    /// When it was revoked, if it was. Never after `expire_time`.
    pub revoke_time: Option<Time>,
}

impl GrantTerms {
    /// The state at `now`. The start is inclusive, the end exclusive; where the time is not known exactly, a grant is not active
    /// unless it is so at all of the times that it may be.
    pub fn state(&self, now: impl Into<Now>) -> GrantState {
        let Now { earliest, latest } = now.into();
        if self.revoke_time.is_some() {
            GrantState::Revoked
        } else if self.expire_time.is_some_and(|expire| expire <= latest) {
            GrantState::Expired
        } else if earliest < self.start_time {
            GrantState::Scheduled
        } else {
            GrantState::Active
        }
    }

    /// When the grant ended or will end, as far as is known.
    pub fn end_time(&self) -> Option<Time> {
        self.revoke_time.or(self.expire_time)
    }

    /// Whether `agent_id`, as a member of the group, is meant.
    pub fn names(&self, agent_id: &AgentId) -> bool {
        self.agent_ids.is_empty() || self.agent_ids.contains(agent_id)
    }
}

/// How a grant was ended before its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Who ended it.
    pub revoker: Actor,
    /// Why.
    pub reason: FreeText,
}

/// One tenant lets one support group in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Who lets in.
    pub tenant_id: TenantId,
    /// Whom, at which level, when.
    pub terms: GrantTerms,
    /// Why.
    pub reason: FreeText,
    /// The ticket it belongs to.
    pub ticket: Ticket,
    /// When it was made.
    pub create_time: Time,
    /// By whom.
    pub creator: Actor,
    /// By whom and why it was revoked; `Some` exactly when `terms.revoke_time` is.
    pub revocation: Option<Revocation>,
    /// The event that made it: its place in lists.
    pub create_revision: Revision,
    /// The last event that changed it.
    pub revision: Revision,
}

impl Grant {
    /// The grant's id.
    pub fn id(&self) -> GrantId {
        self.terms.grant_id
    }

    /// The state at `now`.
    pub fn state(&self, now: Time) -> GrantState {
        self.terms.state(now)
    }

    /// About how many bytes it takes to tell somebody of it.
    pub fn weight(&self) -> usize {
        let agents: usize = self.terms.agent_ids.iter().map(|agent| agent.as_str().len() + 4).sum();
        let revoke_reason = self.revocation.as_ref().map_or(0, |it| it.reason.as_str().len() + 128);
        FIXED_WEIGHT + agents + self.reason.as_str().len() + revoke_reason
    }

    /// Changes whenever the grant does.
    pub fn etag(&self) -> String {
        format!("r{}", self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::from_micros;

    #[test]
    fn the_start_is_inclusive_and_the_end_exclusive() {
        let at = |micros| from_micros(micros).unwrap();
        let terms = GrantTerms {
            grant_id: GrantId(uuid::Uuid::nil()),
            group_id: GroupId::new("support").unwrap(),
            agent_ids: BTreeSet::new(),
            access_level: AccessLevel::ReadOnly,
            start_time: at(10),
            expire_time: Some(at(20)),
            revoke_time: None,
        };
        assert_eq!(terms.state(at(9)), GrantState::Scheduled);
        assert_eq!(terms.state(at(10)), GrantState::Active);
        assert_eq!(terms.state(at(19)), GrantState::Active);
        assert_eq!(terms.state(at(20)), GrantState::Expired);
        let until_revoked = GrantTerms { expire_time: None, ..terms.clone() };
        assert_eq!(until_revoked.state(at(i64::from(u32::MAX))), GrantState::Active);
        let between = |earliest, latest| Now { earliest: at(earliest), latest: at(latest) };
        assert_eq!(terms.state(between(9, 11)), GrantState::Scheduled, "may not have begun");
        assert_eq!(terms.state(between(19, 21)), GrantState::Expired, "may be over");
        assert_eq!(terms.state(between(10, 19)), GrantState::Active);
        let revoked = GrantTerms { revoke_time: Some(at(15)), ..terms };
        for now in [5, 12, 15, 25] {
            assert_eq!(revoked.state(at(now)), GrantState::Revoked);
        }
    }
}
