//! Grants and their states.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::{
    admission::{AccessLevel, AdmittedKinds, AgentKind},
    ids::{Actor, AgentId, FreeText, GrantId, GroupId, TenantId, Ticket},
    revision::Sequence,
    time::{Now, Time},
};

/// Upper bound for the size of a grant without its agents and reasons, in bytes. An id has up to
/// 128 characters of up to four bytes.
const FIXED_WEIGHT: usize = 2_500;
/// Estimated memory of a set of named agents, and of each agent without the text, in bytes.
const AGENTS_SIZE: usize = 192;
const AGENT_SIZE: usize = 72;
/// Maximum number of named agents in a grant.
pub const AGENTS_MAX: usize = 100;

/// The state of a grant. Derived from [`GrantTerms`] and the time, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GrantState {
    /// Starts later.
    Scheduled,
    /// `start <= now < end`, and not revoked.
    Active,
    /// The end time was reached. Final.
    Expired,
    /// A caller ended the grant before the end time. Final.
    Revoked,
}

impl GrantState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Scheduled, Self::Active, Self::Expired, Self::Revoked];

    /// Whether the state is final.
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Expired | Self::Revoked)
    }
}

/// The part of a grant that decides checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantTerms {
    /// The grant.
    pub grant_id: GrantId,
    /// The group that may enter.
    pub group_id: GroupId,
    /// The only agents of the group that may enter. Empty: every agent of the group.
    pub agent_ids: BTreeSet<AgentId>,
    /// The highest level.
    pub access_level: AccessLevel,
    /// The admitted agent kinds.
    pub agent_kinds: AdmittedKinds,
    /// When access starts (inclusive).
    pub start_time: Time,
    /// When access ends (exclusive). `None`: until revoked.
    pub expire_time: Option<Time>,
    /// When the grant was revoked. Never after `expire_time`.
    pub revoke_time: Option<Time>,
    /// Whether an event has recorded the expiry. The grant then stays expired, even if an operator
    /// accepts an earlier clock.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_expired: bool,
}

impl GrantTerms {
    /// The size of the grant within the limit on live grants: each named agent counts as a grant.
    pub fn size(&self) -> usize {
        self.agent_ids.len().max(1)
    }

    /// The estimated memory of the named agents, in bytes.
    pub fn agents_memory(&self) -> usize {
        let agents = self.agent_ids.iter().map(|agent| AGENT_SIZE + agent.as_str().len());
        if self.agent_ids.is_empty() { 0 } else { AGENTS_SIZE + agents.sum::<usize>() }
    }

    /// The highest level for agents of this kind. `None`: the kind is not admitted.
    pub fn level_of(&self, kind: AgentKind) -> Option<AccessLevel> {
        let admission = self.agent_kinds.get(kind)?;
        Some(admission.max_access_level.min(self.access_level))
    }

    /// The state at `now`. If the time is known only within bounds, the grant is active only if it
    /// is active at every time within the bounds.
    pub fn state(&self, now: impl Into<Now>) -> GrantState {
        let Now { earliest, latest } = now.into();
        if self.revoke_time.is_some() {
            GrantState::Revoked
        } else if self.is_expired || self.expire_time.is_some_and(|expire| expire <= latest) {
            GrantState::Expired
        } else if earliest < self.start_time {
            GrantState::Scheduled
        } else {
            GrantState::Active
        }
    }

    /// Whether an event has ended the grant.
    pub fn has_ended(&self) -> bool {
        self.revoke_time.is_some() || self.is_expired
    }

    /// When the grant ended or will end. `None`: when a caller revokes the grant.
    pub fn end_time(&self) -> Option<Time> {
        self.revoke_time.or(self.expire_time)
    }

    /// Orders the ended grants of a group: the greatest explains a denial.
    pub fn end_rank(&self) -> (Option<Time>, AccessLevel, GrantId) {
        (self.end_time(), self.access_level, self.grant_id)
    }

    /// Whether the grant admits `agent_id` as a member of the group.
    pub fn names(&self, agent_id: &AgentId) -> bool {
        self.agent_ids.is_empty() || self.agent_ids.contains(agent_id)
    }
}

/// How a grant was ended before the end time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The caller that revoked the grant.
    pub revoker: Actor,
    /// The caller's reason.
    pub reason: FreeText,
}

/// Permission from one tenant for one support group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The tenant.
    pub tenant_id: TenantId,
    /// The part of the grant that decides checks.
    pub terms: GrantTerms,
    /// The creator's reason.
    pub reason: FreeText,
    /// The support ticket.
    pub ticket: Ticket,
    /// When the grant was created.
    pub create_time: Time,
    /// The caller that created the grant.
    pub creator: Actor,
    /// The revocation. `Some` exactly if `terms.revoke_time` is.
    pub revocation: Option<Revocation>,
    /// The event that created the grant, in the tenant's history. Set by the store.
    pub create_sequence: Sequence,
    /// The last event that changed the grant, in the tenant's history. Set by the store.
    pub sequence: Sequence,
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

    /// The approximate size of the grant in a response, in bytes.
    pub fn weight(&self) -> usize {
        let agents: usize = self.terms.agent_ids.iter().map(|agent| agent.as_str().len() + 4).sum();
        let revocation = self.revocation.as_ref();
        let revoke_reason =
            revocation.map_or(0, |revocation| revocation.reason.as_str().len() + 128);
        FIXED_WEIGHT + agents + self.reason.as_str().len() + revoke_reason
    }

    /// Changes with every change of the grant.
    pub fn etag(&self) -> String {
        format!("s{}", self.sequence)
    }
}
