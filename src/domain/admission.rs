//! The agent kinds that grants and policies admit, and their levels.

use serde::{Deserialize, Serialize};

/// The permitted actions of an agent. Each level includes the lower ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AccessLevel {
    /// View the tenant's data.
    ReadOnly,
    /// View and change the tenant's data.
    ReadWrite,
    /// Do everything that a tenant administrator may do.
    Admin,
}

/// The kind of a support agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum AgentKind {
    /// A person.
    Human,
    /// An AI agent, autonomous or on behalf of a human.
    Ai,
    /// A program without an AI model, such as a backup job.
    Service,
}

/// How a grant or a policy admits agents of one kind, as an entry of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentKindEntry {
    /// The kind.
    pub agent_kind: AgentKind,
    /// The highest level for this kind. `None`: the grant's level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_access_level: Option<AccessLevel>,
    /// Whether a check must state `on_behalf_of`. Never set for humans.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_behalf_of_required: bool,
}

impl AgentKindEntry {
    /// Humans, at the grant's level.
    pub const HUMAN: Self =
        Self { agent_kind: AgentKind::Human, max_access_level: None, on_behalf_of_required: false };
}

names! {
    /// The name in messages and configuration files.
    AccessLevel {
        ReadOnly = "READ_ONLY",
        ReadWrite = "READ_WRITE",
        Admin = "ADMIN",
    }
}

names! {
    /// The name in messages, records and the database.
    AgentKind {
        Human = "HUMAN",
        Ai = "AI",
        Service = "SERVICE",
    }
}

/// How a grant admits agents of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admission {
    /// The highest level for this kind. If the grant's level is lower, that level applies.
    pub max_access_level: AccessLevel,
    /// Whether a check must state `on_behalf_of`.
    pub on_behalf_of_required: bool,
}

/// The agent kinds that a grant admits: at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<AgentKindEntry>", into = "Vec<AgentKindEntry>")]
pub struct AdmittedKinds([Option<Admission>; AgentKind::ALL.len()]);

/// The entries are not those of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a grant must admit at least one agent kind, and must list each kind only once")]
pub struct AdmittedKindsError;

impl AdmittedKinds {
    /// Humans, at the grant's level.
    pub const HUMAN: Self = {
        let human =
            Admission { max_access_level: AccessLevel::Admin, on_behalf_of_required: false };
        Self([Some(human), None, None])
    };

    /// The kinds of `entries`. An empty list is an error, because it must never admit every kind.
    pub fn new(
        entries: impl IntoIterator<Item = AgentKindEntry>,
    ) -> Result<Self, AdmittedKindsError> {
        let mut admitted = Self([None; AgentKind::ALL.len()]);
        for entry in entries {
            let AgentKindEntry { agent_kind, max_access_level, on_behalf_of_required } = entry;
            let max_access_level = max_access_level.unwrap_or(AccessLevel::Admin);
            let admission = Admission { max_access_level, on_behalf_of_required };
            if admitted.0[agent_kind as usize].replace(admission).is_some() {
                return Err(AdmittedKindsError);
            }
        }
        if admitted.entries().next().is_none() { Err(AdmittedKindsError) } else { Ok(admitted) }
    }

    /// How agents of this kind are admitted. `None`: not at all.
    pub const fn get(&self, kind: AgentKind) -> Option<Admission> {
        self.0[kind as usize]
    }

    /// One entry for each admitted kind, in the order of [`AgentKind`].
    pub fn entries(&self) -> impl Iterator<Item = AgentKindEntry> {
        AgentKind::ALL.into_iter().zip(self.0).filter_map(|(agent_kind, admission)| {
            let Admission { max_access_level, on_behalf_of_required } = admission?;
            let is_limit = max_access_level < AccessLevel::Admin;
            let max_access_level = is_limit.then_some(max_access_level);
            Some(AgentKindEntry { agent_kind, max_access_level, on_behalf_of_required })
        })
    }
}

impl TryFrom<Vec<AgentKindEntry>> for AdmittedKinds {
    type Error = AdmittedKindsError;

    fn try_from(entries: Vec<AgentKindEntry>) -> Result<Self, Self::Error> {
        Self::new(entries)
    }
}

impl From<AdmittedKinds> for Vec<AgentKindEntry> {
    fn from(kinds: AdmittedKinds) -> Self {
        kinds.entries().collect()
    }
}
