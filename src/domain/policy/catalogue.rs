//! The vendor's catalogue: its validation, and how the overrides of a tenant narrow it.

use crate::domain::{
    admission::{AgentKind, AgentKindEntry},
    ids::check_line,
    overrides::{GroupOverride, PolicyOverrides},
    policy::{
        DESCRIPTION_LENGTH_MAX, DISPLAY_NAME_LENGTH_MAX, DURATION_MAX, GROUPS_MAX, PRESETS_MAX,
        SupportGroup, SupportPolicy,
    },
    time::Span,
    violation::{ViolationReason, Violations},
};

impl SupportPolicy {
    /// This catalogue, narrowed by the overrides of a tenant. In each field, the stricter value
    /// applies.
    pub fn narrowed_by(&self, overrides: &PolicyOverrides) -> Self {
        let PolicyOverrides {
            groups,
            preset_durations,
            default_duration,
            max_duration,
            until_revoked_allowed,
            reason_required,
            ticket_required,
            max_schedule_ahead,
            agent_kinds,
        } = overrides;
        let longest = max_duration.unwrap_or(self.max_duration).min(self.max_duration);
        let is_preset = |span: &Span| {
            *span <= longest && preset_durations.as_ref().is_none_or(|own| own.contains(span))
        };
        let ahead = max_schedule_ahead.unwrap_or(self.max_schedule_ahead);
        Self {
            groups: self.groups.iter().filter_map(|group| narrow_group(group, groups)).collect(),
            preset_durations: self.preset_durations.iter().copied().filter(is_preset).collect(),
            default_duration: default_duration.unwrap_or(self.default_duration).min(longest),
            max_duration: longest,
            until_revoked_allowed: self.until_revoked_allowed
                && until_revoked_allowed.unwrap_or(true),
            reason_required: self.reason_required || reason_required.unwrap_or(false),
            ticket_required: self.ticket_required || ticket_required.unwrap_or(false),
            max_schedule_ahead: ahead.min(self.max_schedule_ahead),
            agent_kinds: narrow_kinds(&self.agent_kinds, agent_kinds),
        }
    }

    /// Checks this policy as a vendor's catalogue.
    pub fn check(&self) -> Result<(), Violations> {
        let mut violations = Violations::default();
        let mut add = |field: &str, description: String| {
            violations.add(field, ViolationReason::OutOfRange, description);
        };
        if self.groups.len() > GROUPS_MAX {
            add("groups", format!("must have at most {GROUPS_MAX} entries"));
        }
        for (index, group) in self.groups.iter().enumerate() {
            if self.groups[..index].iter().any(|earlier| earlier.group_id == group.group_id) {
                add("groups", format!("must name {} only once", group.group_id));
            }
            for (field, text, limit) in [
                ("display_name", &group.display_name, DISPLAY_NAME_LENGTH_MAX),
                ("description", &group.description, DESCRIPTION_LENGTH_MAX),
            ] {
                if let Err(error) = check_line(text, limit) {
                    add(&format!("groups[{index}].{field}"), error.to_string());
                }
            }
        }
        if self.preset_durations.len() > PRESETS_MAX {
            add("preset_durations", format!("must have at most {PRESETS_MAX} entries"));
        }
        if self.max_duration.is_zero() || self.max_duration > DURATION_MAX {
            add("max_duration", format!("must be positive and at most {DURATION_MAX}"));
        }
        if self.max_schedule_ahead > DURATION_MAX {
            add("max_schedule_ahead", format!("must be at most {DURATION_MAX}"));
        }
        let is_duration = |span: Span| !span.is_zero() && span <= self.max_duration;
        if !self.preset_durations.iter().copied().all(is_duration) {
            add("preset_durations", "must be positive and at most max_duration".into());
        }
        if !self.preset_durations.is_sorted() {
            add("preset_durations", "must be sorted, shortest first".into());
        }
        if !is_duration(self.default_duration) {
            add("default_duration", "must be positive and at most max_duration".into());
        }
        if self.agent_kinds.is_empty() {
            add("agent_kinds", "must not be empty; omit it to allow HUMAN only".into());
        }
        for (index, entry) in self.agent_kinds.iter().enumerate() {
            let kind = entry.agent_kind;
            if self.agent_kinds[..index].iter().any(|earlier| earlier.agent_kind == kind) {
                add("agent_kinds", format!("must name {} only once", kind.as_str()));
            }
            if kind == AgentKind::Human && entry.on_behalf_of_required {
                let field = format!("agent_kinds[{index}].on_behalf_of_required");
                add(&field, "must be false for HUMAN".into());
            }
        }
        violations.into_result()
    }
}

fn narrow_group(
    catalogue: &SupportGroup,
    own: &Option<Vec<GroupOverride>>,
) -> Option<SupportGroup> {
    let Some(own) = own else { return Some(catalogue.clone()) };
    let own = own.iter().find(|group| group.group_id == catalogue.group_id)?;
    let max_access_level = own.max_access_level.min(catalogue.max_access_level);
    Some(SupportGroup { max_access_level, ..catalogue.clone() })
}

fn narrow_kinds(
    catalogue: &[AgentKindEntry],
    own: &Option<Vec<AgentKindEntry>>,
) -> Vec<AgentKindEntry> {
    let Some(own) = own else { return catalogue.to_vec() };
    let narrow = |entry: &AgentKindEntry| {
        let own = own.iter().find(|own| own.agent_kind == entry.agent_kind)?;
        let levels = [entry.max_access_level, own.max_access_level];
        Some(AgentKindEntry {
            agent_kind: entry.agent_kind,
            max_access_level: levels.into_iter().flatten().min(),
            on_behalf_of_required: entry.on_behalf_of_required || own.on_behalf_of_required,
        })
    };
    catalogue.iter().filter_map(narrow).collect()
}
