//! The support policy: what a tenant may choose from. The vendor sets the catalogue, a tenant can only tighten it.

use serde::{Deserialize, Serialize};

use crate::domain::{
    grant::{AccessLevel, Grant},
    overrides::{GroupOverrides, PolicyOverrides},
    request::{ExtendRequest, GrantRequest, START_LEEWAY},
    text::{self, FreeText, GroupId},
    time::{Span, Time, after, between},
    violation::Violations,
};

/// The longest duration that any policy may allow.
pub const LONGEST_DURATION_MAX: Span = Span::days(3_650);
/// The most preset durations in a policy.
pub const PRESETS_MAX: usize = 32;
/// The most groups that a sentence names.
const JOINED_MAX: usize = 10;
/// The most groups in a policy.
pub const GROUPS_MAX: usize = 100;
/// The longest name of a group that people see, in characters.
pub const DISPLAY_NAME_LENGTH_MAX: usize = 128;
/// The longest description of a group, in characters.
pub const DESCRIPTION_LENGTH_MAX: usize = 1_000;

/// A group that a tenant may let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupportGroup {
    /// What grants and checks name it by.
    pub group_id: GroupId,
    /// What people see.
    #[serde(default)]
    pub display_name: String,
    /// Who is in it.
    #[serde(default)]
    pub description: String,
    /// The highest level a grant to it may have.
    pub highest_level: AccessLevel,
}

/// What a grant may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SupportPolicy {
    /// The groups a grant may name. Empty: none.
    pub groups: Vec<SupportGroup>,
    /// Durations to offer, shortest first.
    pub preset_durations: Vec<Span>,
    /// The one to preselect.
    pub default_duration: Span,
    /// The longest time from start to end.
    pub longest_duration: Span,
    /// Whether a grant may last until it is revoked.
    pub until_revoked_allowed: bool,
    /// Whether a grant must say why.
    pub reason_required: bool,
    /// Whether a grant must name a ticket.
    pub ticket_required: bool,
    /// How far ahead a grant may be scheduled.
    pub longest_schedule_ahead: Span,
}

impl Default for SupportPolicy {
    /// The catalogue of a vendor that configures none.
    fn default() -> Self {
        let group = |id, display_name: &str, description: &str| SupportGroup {
            group_id: GroupId::fixed(id),
            display_name: display_name.into(),
            description: description.into(),
            highest_level: AccessLevel::Admin,
        };
        Self {
            groups: vec![
                group("support", "Support", "Support analysts who answer your tickets."),
                group("engineering", "Engineering", "Engineers who look into defects."),
            ],
            preset_durations: vec![
                Span::hours(1),
                Span::hours(8),
                Span::days(1),
                Span::days(7),
                Span::days(30),
            ],
            default_duration: Span::days(7),
            longest_duration: Span::days(90),
            until_revoked_allowed: true,
            reason_required: false,
            ticket_required: false,
            longest_schedule_ahead: Span::days(90),
        }
    }
}

/// Why policy forbids something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A field asks for what the policy does not allow.
    #[error("{0}")]
    Invalid(Violations),
    /// The group is not one that the tenant may let in.
    #[error("group_id: {group_id} is not in the tenant's support policy")]
    GroupNotOffered {
        /// The group that was asked for.
        group_id: GroupId,
        /// The groups there are.
        offered: Vec<GroupId>,
    },
}

impl From<Violations> for Refusal {
    fn from(violations: Violations) -> Self {
        Self::Invalid(violations)
    }
}

/// From when until when a grant holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// The first moment of access.
    pub start_time: Time,
    /// The first moment without; `None`: until revoked.
    pub expire_time: Option<Time>,
}

impl SupportPolicy {
    /// Weighs a new grant, and says when it would hold.
    pub fn admit(&self, request: &GrantRequest, now: Time) -> Result<Period, Refusal> {
        self.admit_group(&request.group_id, request.access_level)?;
        let mut violations = Violations::default();
        if let Err(found) = self.check_reason(&request.reason) {
            violations.add("reason", found);
        }
        if self.ticket_required && request.ticket.is_empty() {
            violations.add("ticket", "must not be empty: the support policy requires a ticket");
        }
        let start_time = self.resolve_start(request.start_time, now).unwrap_or_else(|found| {
            violations.add("start_time", found);
            now
        });
        let expire_time = match request.end.resolve(start_time, now) {
            Ok(expire_time) => expire_time,
            Err(found) => {
                violations.extend(found);
                return Err(violations.into());
            }
        };
        if let Err(found) = self.check_length(start_time, expire_time) {
            violations.add(request.end.field(), found);
        }
        violations.into_result()?;
        Ok(Period { start_time, expire_time })
    }

    /// Weighs moving the end of `grant`, which must not have ended, and says where to. An earlier end is always fine; a
    /// later one must be one that a new grant with the same start could have.
    pub fn admit_extension(
        &self,
        grant: &Grant,
        request: &ExtendRequest,
        now: Time,
    ) -> Result<Option<Time>, Refusal> {
        let start_time = grant.terms.start_time;
        let expire_time = request.end.resolve(start_time.max(now), now)?;
        if !is_later(expire_time, grant.terms.expire_time) {
            return Ok(expire_time);
        }
        self.admit_group(&grant.terms.group_id, grant.terms.access_level)?;
        let mut violations = Violations::default();
        if let Err(found) = self.check_reason(&request.reason) {
            violations.add("reason", found);
        }
        if let Err(found) = self.check_length(start_time, expire_time) {
            violations.add(request.end.field(), found);
        }
        violations.into_result()?;
        Ok(expire_time)
    }

    /// Whether a grant that exists is one this policy would allow: its group, level, and length.
    pub fn covers(&self, grant: &Grant) -> bool {
        let terms = &grant.terms;
        self.admit_group(&terms.group_id, terms.access_level).is_ok()
            && self.check_length(terms.start_time, terms.expire_time).is_ok()
    }

    /// This catalogue as far as `overrides` lets it be: the tighter of the two in everything.
    pub fn tightened(&self, overrides: &PolicyOverrides) -> Self {
        let PolicyOverrides {
            groups,
            preset_durations,
            default_duration,
            longest_duration,
            until_revoked_allowed,
            reason_required,
            ticket_required,
            longest_schedule_ahead,
        } = overrides;
        let longest = longest_duration.unwrap_or(self.longest_duration).min(self.longest_duration);
        let is_preset = |span: &Span| {
            *span <= longest && preset_durations.as_ref().is_none_or(|own| own.contains(span))
        };
        Self {
            groups: self.groups.iter().filter_map(|group| tighten_group(group, groups)).collect(),
            preset_durations: self.preset_durations.iter().copied().filter(is_preset).collect(),
            default_duration: default_duration.unwrap_or(self.default_duration).min(longest),
            longest_duration: longest,
            until_revoked_allowed: self.until_revoked_allowed
                && until_revoked_allowed.unwrap_or(true),
            reason_required: self.reason_required || reason_required.unwrap_or(false),
            ticket_required: self.ticket_required || ticket_required.unwrap_or(false),
            longest_schedule_ahead: longest_schedule_ahead
                .unwrap_or(self.longest_schedule_ahead)
                .min(self.longest_schedule_ahead),
        }
    }

    /// What is wrong with this policy as a vendor's catalogue.
    pub fn check(&self) -> Result<(), Violations> {
        let mut violations = Violations::default();
        if self.groups.len() > GROUPS_MAX {
            violations.add("groups", format!("must be at most {GROUPS_MAX}"));
        }
        for (index, group) in self.groups.iter().enumerate() {
            if self.groups[..index].iter().any(|other| other.group_id == group.group_id) {
                violations.add("groups", format!("names {} twice", group.group_id));
            }
            for (field, text, limit) in [
                ("display_name", &group.display_name, DISPLAY_NAME_LENGTH_MAX),
                ("description", &group.description, DESCRIPTION_LENGTH_MAX),
            ] {
                let field = format!("groups[{index}].{field}");
                violations.keep(&field, text::check_line(text, limit));
            }
        }
        if self.preset_durations.len() > PRESETS_MAX {
            violations.add("preset_durations", format!("must be at most {PRESETS_MAX}"));
        }
        if self.longest_duration.is_zero() || self.longest_duration > LONGEST_DURATION_MAX {
            violations.add("longest_duration", format!("must be up to {LONGEST_DURATION_MAX}"));
        }
        if self.longest_schedule_ahead > LONGEST_DURATION_MAX {
            violations
                .add("longest_schedule_ahead", format!("must be up to {LONGEST_DURATION_MAX}"));
        }
        let is_duration = |span: Span| !span.is_zero() && span <= self.longest_duration;
        if !self.preset_durations.iter().copied().all(is_duration) {
            violations.add("preset_durations", "must be positive and at most longest_duration");
        }
        if !self.preset_durations.is_sorted() {
            violations.add("preset_durations", "must be sorted, shortest first");
        }
        if !is_duration(self.default_duration) {
            violations.add("default_duration", "must be positive and at most longest_duration");
        }
        violations.into_result()
    }

    pub(super) fn admit_group(
        &self,
        group_id: &GroupId,
        level: AccessLevel,
    ) -> Result<(), Refusal> {
        let Some(group) = self.groups.iter().find(|group| group.group_id == *group_id) else {
            return Err(Refusal::GroupNotOffered {
                group_id: group_id.clone(),
                offered: self.groups.iter().map(|group| group.group_id.clone()).collect(),
            });
        };
        if level > group.highest_level {
            let highest = group.highest_level.as_str();
            let description = format!("must be at most {highest} for group {group_id}");
            return Err(Violations::of("access_level", description).into());
        }
        Ok(())
    }

    fn check_reason(&self, reason: &FreeText) -> Result<(), &'static str> {
        if self.reason_required && reason.is_blank() {
            return Err("must not be empty: the support policy requires a reason");
        }
        Ok(())
    }

    fn resolve_start(&self, start_time: Option<Time>, now: Time) -> Result<Time, String> {
        let Some(start) = start_time else { return Ok(now) };
        if between(start, now) > START_LEEWAY {
            return Err("must not be in the past; leave it out to start now".into());
        }
        let latest = after(now, self.longest_schedule_ahead);
        if start > now && latest.is_some_and(|latest| start > latest) {
            let ahead = self.longest_schedule_ahead;
            return Err(format!("must be at most {ahead} ahead, says the support policy"));
        }
        Ok(start.max(now))
    }

    fn check_length(&self, start: Time, expire: Option<Time>) -> Result<(), String> {
        let Some(expire) = expire else {
            let refusal = "is not allowed by the support policy: give an end time or a duration";
            return if self.until_revoked_allowed { Ok(()) } else { Err(refusal.into()) };
        };
        if between(start, expire) > self.longest_duration.0 {
            let longest = self.longest_duration;
            return Err(format!(
                "must be at most {longest} from the start, says the support policy"
            ));
        }
        Ok(())
    }
}

/// Whether the end `new` lets in longer than the end `old`.
fn is_later(new: Option<Time>, old: Option<Time>) -> bool {
    match (new, old) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(new), Some(old)) => new > old,
    }
}

fn tighten_group(
    vendors: &SupportGroup,
    own: &Option<Vec<GroupOverrides>>,
) -> Option<SupportGroup> {
    let Some(own) = own else { return Some(vendors.clone()) };
    let group = own.iter().find(|group| group.group_id == vendors.group_id)?;
    let highest_level = group.highest_level.min(vendors.highest_level);
    Some(SupportGroup { highest_level, ..vendors.clone() })
}

/// Groups for a sentence: `a, b, c`, or `none`. The first ten, since an error has to fit in a header.
pub fn join<'a>(ids: impl ExactSizeIterator<Item = &'a GroupId>) -> String {
    let more = ids.len().saturating_sub(JOINED_MAX);
    let mut names: Vec<&str> = ids.take(JOINED_MAX).map(GroupId::as_str).collect();
    let rest = format!("and {more} more");
    if more > 0 {
        names.push(&rest);
    }
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests;
