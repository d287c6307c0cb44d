//! Access checks: the questions of gateways.

use crate::domain::{
    admission::{AccessLevel, AgentKind},
    ids::{AgentId, GroupId, TenantId, shown_id},
};

/// The maximum number of group values in one check.
pub const GROUPS_MAX: usize = 500;
/// The maximum reported length of a group value that is not an id, in bytes.
const IGNORED_LENGTH_MAX: usize = 1_024;

/// One question of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessCheck {
    /// The tenant to enter.
    pub tenant_id: TenantId,
    /// The agent. `None`: an agent that no grant and no lock names.
    pub agent_id: Option<AgentId>,
    /// The agent's groups. Without groups, the check is denied.
    pub groups: AssertedGroups,
    /// The level that the agent needs.
    pub required_level: AccessLevel,
    /// The kind of the agent.
    pub agent_kind: AgentKind,
    /// The human behind the agent.
    pub on_behalf_of: Option<AgentId>,
}

/// The groups that a gateway asserts. The values come from an identity provider, so some may not be
/// ids. Such a value matches no grant. A lock on a group still matches a value that looks like the
/// id of the group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AssertedGroups {
    /// Sorted, without duplicates.
    ids: Vec<GroupId>,
    /// Sorted, without duplicates.
    shown: Vec<GroupId>,
    ignored: Vec<String>,
}

// === impl AccessCheck ===

impl AccessCheck {
    /// Whether the check is about this agent, or about another agent that acts on behalf of this
    /// one.
    pub fn involves_agent(&self, agent_id: &AgentId) -> bool {
        self.agent_id.as_ref() == Some(agent_id) || self.on_behalf_of.as_ref() == Some(agent_id)
    }
}

// === impl AssertedGroups ===

impl AssertedGroups {
    /// Sorts the values of a token into ids and other values.
    pub fn new(values: impl IntoIterator<Item = String>) -> Self {
        let mut groups = Self::default();
        for value in values {
            if let Ok(group_id) = GroupId::new(&value) {
                groups.ids.push(group_id);
            } else {
                groups.shown.extend(shown_id(&value, GroupId::new));
                groups.ignored.push(shortened(value));
            }
        }
        sort(&mut groups.ids);
        sort(&mut groups.shown);
        groups
    }

    /// Whether a grant to this group can apply.
    pub fn contains(&self, group_id: &GroupId) -> bool {
        self.ids.binary_search(group_id).is_ok()
    }

    /// The groups that can have grants.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = &GroupId> {
        self.ids.iter()
    }

    /// Whether a lock on this group applies.
    pub fn shows(&self, group_id: &GroupId) -> bool {
        self.contains(group_id) || self.shown.binary_search(group_id).is_ok()
    }

    /// The groups that can be locked. May contain duplicates.
    pub fn lockable(&self) -> impl Iterator<Item = &GroupId> {
        self.ids.iter().chain(&self.shown)
    }

    /// The values that are not ids, in the order of the check. Long values are cut.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }
}

impl FromIterator<GroupId> for AssertedGroups {
    fn from_iter<I: IntoIterator<Item = GroupId>>(ids: I) -> Self {
        let mut ids = ids.into_iter().collect();
        sort(&mut ids);
        Self { ids, ..Self::default() }
    }
}

fn sort(ids: &mut Vec<GroupId>) {
    ids.sort_unstable();
    ids.dedup();
}

fn shortened(mut value: String) -> String {
    if value.len() > IGNORED_LENGTH_MAX {
        value.truncate(value.floor_char_boundary(IGNORED_LENGTH_MAX));
        value.shrink_to_fit();
    }
    value
}
