//! The support policy: the choices of a tenant that grants access. The vendor sets the catalogue,
//! and a tenant can only narrow it.

use serde::{Deserialize, Serialize};

use crate::domain::{
    admission::{AccessLevel, AdmittedKinds, AgentKind, AgentKindEntry},
    grant::Grant,
    ids::{FreeText, GroupId},
    request::{ExtendRequest, GrantRequest, START_LEEWAY},
    time::{Span, Time, after, between},
    violation::{ViolationReason as Reason, Violations},
};

mod catalogue;
mod forbidden;

pub use forbidden::{Forbidden, PolicyError};

/// The longest duration that a policy may allow.
pub const DURATION_MAX: Span = Span::days(3_650);
/// The maximum number of preset durations in a policy.
pub const PRESETS_MAX: usize = 32;
/// The maximum number of groups in a policy.
pub const GROUPS_MAX: usize = 100;
/// The maximum length of a group's display name, in characters.
pub const DISPLAY_NAME_LENGTH_MAX: usize = 128;
/// The maximum length of a group's description, in characters.
pub const DESCRIPTION_LENGTH_MAX: usize = 1_000;
/// The maximum number of groups that an error lists. An error must fit into a header.
const LISTED_GROUPS_MAX: usize = 10;

/// A group that a tenant may grant access to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SupportGroup {
    /// The id, in grants and checks.
    pub group_id: GroupId,
    /// The name for people.
    #[serde(default)]
    pub display_name: String,
    /// A sentence about the group's members.
    #[serde(default)]
    pub description: String,
    /// The highest level of a grant to this group.
    pub max_access_level: AccessLevel,
}

/// The choices of a tenant. Its names are those of the `[policy]` section in configuration files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SupportPolicy {
    /// The groups that a grant may name. Empty: none.
    pub groups: Vec<SupportGroup>,
    /// The durations to offer, shortest first.
    pub preset_durations: Vec<Span>,
    /// The duration to preselect.
    pub default_duration: Span,
    /// The longest time from start to end.
    pub max_duration: Span,
    /// Whether a grant may last until a revocation.
    pub until_revoked_allowed: bool,
    /// Whether a grant must state a reason.
    pub reason_required: bool,
    /// Whether a grant must state a ticket.
    pub ticket_required: bool,
    /// How far in the future a grant may start.
    pub max_schedule_ahead: Span,
    /// The agent kinds that a grant may admit. Empty: none.
    pub agent_kinds: Vec<AgentKindEntry>,
}

/// The terms of a new grant that depend on the policy or on the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewTerms {
    /// The start (inclusive).
    pub start_time: Time,
    /// The end (exclusive). `None`: until revoked.
    pub expire_time: Option<Time>,
    /// The admitted agent kinds, with the requirements of the policy.
    pub agent_kinds: AdmittedKinds,
}

impl Default for SupportPolicy {
    /// The catalogue of a vendor that configures none.
    fn default() -> Self {
        let group = |id, display_name: &str, description: &str| SupportGroup {
            group_id: GroupId::fixed(id),
            display_name: display_name.into(),
            description: description.into(),
            max_access_level: AccessLevel::Admin,
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
            max_duration: Span::days(90),
            until_revoked_allowed: true,
            reason_required: false,
            ticket_required: false,
            max_schedule_ahead: Span::days(90),
            agent_kinds: vec![AgentKindEntry::HUMAN],
        }
    }
}

impl SupportPolicy {
    /// Checks a new grant, and returns its terms.
    pub fn check_grant(&self, request: &GrantRequest, now: Time) -> Result<NewTerms, PolicyError> {
        let mut invalid = Violations::default();
        let start_time = match request.start_time {
            Some(start) if between(start, now) > START_LEEWAY => {
                let description = "must not be in the past; omit it to start now";
                invalid.add("start_time", Reason::OutOfRange, description);
                now
            }
            start => start.unwrap_or(now).max(now),
        };
        let expire_time = request.end.resolve(start_time, now).unwrap_or_else(|violations| {
            invalid.extend(violations);
            None
        });
        invalid.into_result()?;

        let mut forbidden = Forbidden::default();
        let level = request.access_level;
        self.check_group(&mut forbidden, "group_id", &request.group_id);
        self.check_level(&mut forbidden, "access_level", &request.group_id, level);
        let mut kinds = request.agent_kinds.clone().unwrap_or_else(|| vec![AgentKindEntry::HUMAN]);
        for (index, entry) in kinds.iter_mut().enumerate() {
            let field = format!("agent_kinds.entries[{index}]");
            let field = if request.agent_kinds.is_some() { &field } else { "agent_kinds" };
            entry.on_behalf_of_required |= self.is_on_behalf_of_required(entry.agent_kind);
            self.check_kind(&mut forbidden, field, *entry, level);
        }
        let agent_kinds = AdmittedKinds::new(kinds)
            .map_err(|error| Violations::of("agent_kinds.entries", Reason::Malformed, error))?;
        self.check_reason(&mut forbidden, &request.reason);
        if self.ticket_required && request.ticket.is_empty() {
            let limit = ("ticket_required", "true".into());
            let description = "must not be empty, because the support policy requires a ticket";
            forbidden.add("ticket", Reason::TicketRequired, limit, description);
        }
        self.check_start(&mut forbidden, start_time, now);
        self.check_length(&mut forbidden, request.end.field(), start_time, expire_time);
        forbidden.into_result()?;
        Ok(NewTerms { start_time, expire_time, agent_kinds })
    }

    /// Checks a new end of `grant`, which must not have ended, and returns that end. An earlier end
    /// is always allowed. A later end must be one that a new grant with the same start could have.
    pub fn check_extension(
        &self,
        grant: &Grant,
        request: &ExtendRequest,
        now: Time,
    ) -> Result<Option<Time>, PolicyError> {
        let terms = &grant.terms;
        let expire_time = request.end.resolve(terms.start_time.max(now), now)?;
        if !is_later(expire_time, terms.expire_time) {
            return Ok(expire_time);
        }
        let mut forbidden = Forbidden::default();
        self.check_group(&mut forbidden, "grant_id", &terms.group_id);
        self.check_level(&mut forbidden, "grant_id", &terms.group_id, terms.access_level);
        for entry in terms.agent_kinds.entries() {
            self.check_kind(&mut forbidden, "grant_id", entry, terms.access_level);
        }
        self.check_reason(&mut forbidden, &request.reason);
        self.check_length(&mut forbidden, request.end.field(), terms.start_time, expire_time);
        forbidden.into_result()?;
        Ok(expire_time)
    }

    /// Whether the policy would allow an existing grant: its group, level, kinds and length.
    pub fn allows(&self, grant: &Grant) -> bool {
        let terms = &grant.terms;
        let mut forbidden = Forbidden::default();
        self.check_group(&mut forbidden, "", &terms.group_id);
        self.check_level(&mut forbidden, "", &terms.group_id, terms.access_level);
        for entry in terms.agent_kinds.entries() {
            self.check_kind(&mut forbidden, "", entry, terms.access_level);
        }
        self.check_length(&mut forbidden, "", terms.start_time, terms.expire_time);
        forbidden.into_result().is_ok()
    }

    pub(super) fn group(&self, group_id: &GroupId) -> Option<&SupportGroup> {
        self.groups.iter().find(|group| group.group_id == *group_id)
    }

    fn check_group(&self, forbidden: &mut Forbidden, field: &str, group_id: &GroupId) {
        if self.group(group_id).is_none() {
            let groups = join(self.groups.iter().map(|group| &group.group_id));
            let description = format!(
                "group {group_id} is not in the tenant's support policy, which has: {groups}"
            );
            let limit = ("groups", groups);
            forbidden.add(field, Reason::GroupNotAllowed, limit, description);
        }
    }

    fn check_level(
        &self,
        forbidden: &mut Forbidden,
        field: &str,
        group_id: &GroupId,
        level: AccessLevel,
    ) {
        let max = self.group(group_id).map(|group| group.max_access_level);
        if let Some(max) = max.filter(|max| level > *max) {
            let limit = ("max_access_level", max.as_str().into());
            let description = format!("must be at most {} for group {group_id}", max.as_str());
            forbidden.add(field, Reason::LevelNotAllowed, limit, description);
        }
    }

    pub(super) fn kind(&self, kind: AgentKind) -> Option<&AgentKindEntry> {
        self.agent_kinds.iter().find(|entry| entry.agent_kind == kind)
    }

    fn is_on_behalf_of_required(&self, kind: AgentKind) -> bool {
        self.kind(kind).is_some_and(|allowed| allowed.on_behalf_of_required)
    }

    /// Checks an agent kind of a grant at `level`.
    fn check_kind(
        &self,
        forbidden: &mut Forbidden,
        field: &str,
        entry: AgentKindEntry,
        level: AccessLevel,
    ) {
        let kind = entry.agent_kind.as_str();
        let level = entry.max_access_level.map_or(level, |max| max.min(level));
        let allowed = self.kind(entry.agent_kind);
        let max = allowed.and_then(|allowed| allowed.max_access_level);
        let (limit, description) = if allowed.is_none() {
            let kinds = join_kinds(&self.agent_kinds);
            let description = format!("{kind} agents are not allowed; allowed: {kinds}");
            (("agent_kinds", kinds), description)
        } else if let Some(max) = max.filter(|max| level > *max) {
            let max = max.as_str();
            let description = format!(
                "{kind} agents are allowed up to {max}, by the support policy; \
                 set max_access_level of the kind to at most {max}"
            );
            (("max_access_level", max.into()), description)
        } else if !entry.on_behalf_of_required && self.is_on_behalf_of_required(entry.agent_kind) {
            let description = format!(
                "{kind} agents are allowed only on behalf of a human, by the support policy"
            );
            (("on_behalf_of_required", "true".into()), description)
        } else {
            return;
        };
        forbidden.add(field, Reason::AgentKindNotAllowed, limit, description);
    }

    fn check_reason(&self, forbidden: &mut Forbidden, reason: &FreeText) {
        if self.reason_required && reason.is_blank() {
            let limit = ("reason_required", "true".into());
            let description = "must not be empty, because the support policy requires a reason";
            forbidden.add("reason", Reason::ReasonRequired, limit, description);
        }
    }

    fn check_start(&self, forbidden: &mut Forbidden, start: Time, now: Time) {
        let ahead = self.max_schedule_ahead;
        if after(now, ahead).is_some_and(|latest| start > latest) {
            let limit = ("max_schedule_ahead", ahead.to_proto_json());
            let description = format!("must be at most {ahead} from now, by the support policy");
            forbidden.add("start_time", Reason::StartNotAllowed, limit, description);
        }
    }

    fn check_length(
        &self,
        forbidden: &mut Forbidden,
        field: &str,
        start: Time,
        expire: Option<Time>,
    ) {
        let max = self.max_duration;
        match expire {
            None if !self.until_revoked_allowed => {
                let limit = ("until_revoked_allowed", "false".into());
                let description = "is not allowed by the support policy; \
                    set an end time or a duration";
                forbidden.add(field, Reason::UntilRevokedNotAllowed, limit, description);
            }
            Some(expire) if between(start, expire) > max.0 => {
                let limit = ("max_duration", max.to_proto_json());
                let description =
                    format!("must be at most {max} from the start, by the support policy");
                forbidden.add(field, Reason::DurationNotAllowed, limit, description);
            }
            _ => {}
        }
    }
}

/// Whether the end `new` is later than the end `old`.
fn is_later(new: Option<Time>, old: Option<Time>) -> bool {
    match (new, old) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(new), Some(old)) => new > old,
    }
}

/// Group ids for an error: `a, b, c`, or `none`. At most the first ten.
pub fn join<'a>(ids: impl ExactSizeIterator<Item = &'a GroupId>) -> String {
    let more = ids.len().saturating_sub(LISTED_GROUPS_MAX);
    let mut names: Vec<&str> = ids.take(LISTED_GROUPS_MAX).map(GroupId::as_str).collect();
    let rest = format!("and {more} more");
    if more > 0 {
        names.push(&rest);
    }
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

pub(super) fn join_kinds(kinds: &[AgentKindEntry]) -> String {
    let names: Vec<&str> = kinds.iter().map(|entry| entry.agent_kind.as_str()).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}
