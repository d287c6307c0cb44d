//! The support policy: what a tenant may choose from. The vendor sets the catalogue, a tenant can only tighten it.

use serde::{Deserialize, Serialize};

use crate::domain::{
    grant::{AccessLevel, Grant},
    request::{ExtendRequest, GrantRequest, START_LEEWAY},
    text::{GroupId, Note},
    time::{Span, Time, after, between},
    violation::Violations,
};

/// The longest duration that any policy may allow.
pub const LONGEST_DURATION_MAX: Span = Span::days(3_650);
/// The most preset durations in a policy.
pub const PRESETS_MAX: usize = 32;
/// The most groups in a policy.
pub const GROUPS_MAX: usize = 100;

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

    /// This catalogue as far as `tightening` lets it be: the tighter of the two in everything.
    pub fn tightened(&self, tightening: &Tightening) -> Self {
        let Tightening {
            groups,
            preset_durations,
            default_duration,
            longest_duration,
            until_revoked_allowed,
            reason_required,
            ticket_required,
            longest_schedule_ahead,
        } = tightening;
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

    fn admit_group(&self, group_id: &GroupId, level: AccessLevel) -> Result<(), Refusal> {
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

    fn check_reason(&self, reason: &Note) -> Result<(), &'static str> {
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
    own: &Option<Vec<GroupTightening>>,
) -> Option<SupportGroup> {
    let Some(own) = own else { return Some(vendors.clone()) };
    let group = own.iter().find(|group| group.group_id == vendors.group_id)?;
    let highest_level = group.highest_level.min(vendors.highest_level);
    Some(SupportGroup { highest_level, ..vendors.clone() })
}

/// A group that the tenant lets be chosen, and how high.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupTightening {
    /// The group.
    pub group_id: GroupId,
    /// The highest level a grant to it may have.
    pub highest_level: AccessLevel,
}

/// A tenant's own settings. `None`: as the vendor has it, also when the vendor changes it. The vendor's catalogue is applied
/// on top whenever a policy is read, so that a tenant is never looser, whichever of the two changed last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tightening {
    /// Only these groups.
    pub groups: Option<Vec<GroupTightening>>,
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

impl Tightening {
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
                Err(Refusal::GroupNotOffered { group_id, offered }) => {
                    let offered = join(&offered);
                    violations.add(
                        "groups",
                        format!("has {group_id}, but the vendor offers only {offered}"),
                    );
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

/// Ids for a sentence: `a, b, c`, or `none`.
pub fn join(ids: &[GroupId]) -> String {
    if ids.is_empty() {
        return "none".into();
    }
    ids.iter().map(GroupId::as_str).collect::<Vec<_>>().join(", ")
}
