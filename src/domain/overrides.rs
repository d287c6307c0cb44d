//! What a tenant makes of the vendor's catalogue: its own settings, each as tight or tighter.

use serde::{Deserialize, Serialize};

use crate::domain::{
    grant::AccessLevel,
    policy::{Refusal, SupportPolicy},
    text::GroupId,
    time::Span,
    violation::Violations,
};

/// A group that the tenant lets be chosen, and how high.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupOverrides {
    /// The group.
    pub group_id: GroupId,
    /// The highest level a grant to it may have.
    pub highest_level: AccessLevel,
}

/// A tenant's own settings. `None`: as the vendor has it, also when the vendor changes it. The vendor's catalogue is applied
/// on top whenever a policy is read, so that a tenant is never looser, whichever of the two changed last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyOverrides {
    /// Only these groups.
    pub groups: Option<Vec<GroupOverrides>>,
    /// Only these presets.
    pub preset_durations: Option<Vec<Span>>,
    /// Preselect another one.
    pub default_duration: Option<Span>,
    /// Nothing longer.
    pub longest_duration: Option<Span>,
    /// `Some(false)`: only grants with an end.
    pub until_revoked_allowed: Option<bool>,
    /// `Some(true)`: say why.
    pub reason_required: Option<bool>,
    /// `Some(true)`: name the ticket.
    pub ticket_required: Option<bool>,
    /// Nothing further ahead.
    pub longest_schedule_ahead: Option<Span>,
}

impl PolicyOverrides {
    /// These settings with those that `update` has in their place.
    pub fn updated(self, update: Self) -> Self {
        Self {
            groups: update.groups.or(self.groups),
            preset_durations: update.preset_durations.or(self.preset_durations),
            default_duration: update.default_duration.or(self.default_duration),
            longest_duration: update.longest_duration.or(self.longest_duration),
            until_revoked_allowed: update.until_revoked_allowed.or(self.until_revoked_allowed),
            reason_required: update.reason_required.or(self.reason_required),
            ticket_required: update.ticket_required.or(self.ticket_required),
            longest_schedule_ahead: update.longest_schedule_ahead.or(self.longest_schedule_ahead),
        }
    }

    /// What in these settings is looser than the vendor's `catalogue`, or cannot be.
    pub fn check(&self, catalogue: &SupportPolicy) -> Result<(), Violations> {
        let mut violations = Violations::default();
        for group in self.groups.iter().flatten() {
            match catalogue.admit_group(&group.group_id, group.highest_level) {
                Ok(()) => {}
                Err(Refusal::GroupNotOffered { group_id, .. }) => {
                    let description = format!("has {group_id}, which the vendor does not offer");
                    violations.add("groups", description);
                }
                Err(Refusal::Invalid(_)) => {
                    let id = &group.group_id;
                    violations
                        .add("groups", format!("has a level above the vendor's highest for {id}"));
                }
            }
        }
        for span in self.preset_durations.iter().flatten() {
            if !catalogue.preset_durations.contains(span) {
                violations.add(
                    "preset_durations",
                    format!("has {span}, which the vendor does not offer"),
                );
            }
        }
        let longest = catalogue.longest_duration;
        let spans = [
            ("default_duration", self.default_duration, longest),
            ("longest_duration", self.longest_duration, longest),
        ];
        for (field, span, limit) in spans {
            if span.is_some_and(|span| span.is_zero() || span > limit) {
                violations.add(
                    field,
                    format!("must be positive and at most {limit}, the vendor's longest_duration"),
                );
            }
        }
        let ahead = catalogue.longest_schedule_ahead;
        if self.longest_schedule_ahead.is_some_and(|span| span > ahead) {
            violations.add(
                "longest_schedule_ahead",
                format!("must be at most {ahead}, as the vendor has it"),
            );
        }
        if self.until_revoked_allowed == Some(true) && !catalogue.until_revoked_allowed {
            violations.add("until_revoked_allowed", "must be false: the vendor does not allow it");
        }
        let requirements = [
            ("reason_required", self.reason_required, catalogue.reason_required),
            ("ticket_required", self.ticket_required, catalogue.ticket_required),
        ];
        for (field, own, vendors) in requirements {
            if own == Some(false) && vendors {
                violations.add(field, "must be true: the vendor requires it");
            }
        }
        violations.into_result()
    }
}
