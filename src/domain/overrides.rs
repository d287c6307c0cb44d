//! A tenant's policy overrides: the tenant's own choices, which narrow the vendor's catalogue.

use serde::{Deserialize, Serialize};

use crate::domain::{
    admission::{AccessLevel, AgentKindEntry},
    ids::{FreeText, GroupId, RequestId},
    policy::{Forbidden, SupportPolicy, join, join_kinds},
    time::Span,
    violation::ViolationReason as Reason,
};

/// A tenant's choice of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupOverride {
    /// The group.
    pub group_id: GroupId,
    /// The highest level of a grant to this group.
    pub max_access_level: AccessLevel,
}

/// Declares the overrides and the names of their fields at once.
macro_rules! overrides {
    ($($(#[$doc:meta])* $field:ident: $variant:ident, $type:ty;)*) => {
        /// A tenant's own choices. `None` inherits the vendor's catalogue, including later changes.
        /// The catalogue is applied whenever a policy is read. A tenant is therefore never more
        /// permissive than the vendor, even if the catalogue was narrowed after the choice.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct PolicyOverrides {
            $($(#[$doc])* pub $field: Option<$type>,)*
        }

        /// A field of [`PolicyOverrides`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
        pub enum OverrideField {
            $(
                #[doc = concat!("`", stringify!($field), "`.")]
                $variant,
            )*
        }

        impl OverrideField {
            /// Every field, in the order of the API.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name of the field in the API.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($field),)*
                }
            }
        }

        impl PolicyOverrides {
            /// These overrides after an update. A field is cleared if `update.fields` names the
            /// field and `update.overrides` lacks a value.
            pub fn merged(mut self, update: &OverridesUpdate) -> Self {
                for field in &update.fields {
                    match field {
                        $(OverrideField::$variant => {
                            self.$field.clone_from(&update.overrides.$field);
                        })*
                    }
                }
                self
            }
        }
    };
}

overrides! {
    /// The groups that a grant may name.
    groups: Groups, Vec<GroupOverride>;
    /// The durations to offer.
    preset_durations: PresetDurations, Vec<Span>;
    /// The duration to preselect.
    default_duration: DefaultDuration, Span;
    /// The longest time from start to end.
    max_duration: MaxDuration, Span;
    /// `Some(false)` forbids grants until revoked.
    until_revoked_allowed: UntilRevokedAllowed, bool;
    /// `Some(true)` requires a reason.
    reason_required: ReasonRequired, bool;
    /// `Some(true)` requires a ticket.
    ticket_required: TicketRequired, bool;
    /// How far in the future a grant may start.
    max_schedule_ahead: MaxScheduleAhead, Span;
    /// The agent kinds that a grant may admit.
    agent_kinds: AgentKinds, Vec<AgentKindEntry>;
}

/// New values of some overrides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct OverridesUpdate {
    /// The fields to change.
    pub fields: Vec<OverrideField>,
    /// The new values. Fields that are not in `fields` are ignored.
    pub overrides: PolicyOverrides,
}

/// The request of `UpdateSupportPolicy`. Each field is valid by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyRequest {
    /// The idempotency key.
    pub request_id: Option<RequestId>,
    /// The etag of the policy as known to the caller. `None`: the last writer wins.
    pub etag: Option<String>,
    /// The overrides to change.
    pub update: OverridesUpdate,
    /// The caller's reason.
    pub reason: FreeText,
}

impl PolicyOverrides {
    /// Checks that no field is less strict than the vendor's `catalogue`.
    pub fn check(&self, catalogue: &SupportPolicy) -> Result<(), Forbidden> {
        let mut forbidden = Forbidden::default();
        let mut exceeds = |field: &str, limit: (&'static str, String), description: String| {
            forbidden.add(field, Reason::ExceedsCatalogue, limit, description);
        };
        for (index, own) in self.groups.iter().flatten().enumerate() {
            let id = &own.group_id;
            match catalogue.group(id).map(|group| group.max_access_level) {
                None => {
                    let groups = join(catalogue.groups.iter().map(|group| &group.group_id));
                    let description = format!("{id} is not in the catalogue, which has: {groups}");
                    let field = format!("groups.groups[{index}].group_id");
                    exceeds(&field, ("groups", groups), description);
                }
                Some(max) if own.max_access_level > max => {
                    let (name, max) = ("max_access_level", max.as_str());
                    let field = format!("groups.groups[{index}].{name}");
                    exceeds(&field, (name, max.into()), format!("must be at most {max} for {id}"));
                }
                Some(_) => {}
            }
        }
        for (index, own) in self.preset_durations.iter().flatten().enumerate() {
            let presets = &catalogue.preset_durations;
            if !presets.contains(own) {
                let limit: Vec<String> = presets.iter().map(|span| span.to_proto_json()).collect();
                let description = format!("{own} is not one of the catalogue's preset durations");
                let field = format!("preset_durations.durations[{index}]");
                exceeds(&field, ("preset_durations", limit.join(", ")), description);
            }
        }
        let (max, ahead) = (catalogue.max_duration, catalogue.max_schedule_ahead);
        for (field, own, name, limit) in [
            ("default_duration", self.default_duration, "max_duration", max),
            ("max_duration", self.max_duration, "max_duration", max),
            ("max_schedule_ahead", self.max_schedule_ahead, "max_schedule_ahead", ahead),
        ] {
            if own.is_some_and(|span| span > limit) {
                let description = format!("must be at most {limit}, the catalogue's {name}");
                exceeds(field, (name, limit.to_proto_json()), description);
            }
        }
        let required = [catalogue.reason_required, catalogue.ticket_required];
        for (field, own, is_fixed, value) in [
            (
                "until_revoked_allowed",
                self.until_revoked_allowed,
                !catalogue.until_revoked_allowed,
                false,
            ),
            ("reason_required", self.reason_required, required[0], true),
            ("ticket_required", self.ticket_required, required[1], true),
        ] {
            if is_fixed && own == Some(!value) {
                let description = format!("must be {value}, as in the catalogue");
                exceeds(field, (field, value.to_string()), description);
            }
        }
        self.check_kinds(catalogue, &mut forbidden);
        forbidden.into_result()
    }

    fn check_kinds(&self, catalogue: &SupportPolicy, forbidden: &mut Forbidden) {
        for (index, own) in self.agent_kinds.iter().flatten().enumerate() {
            let kind = own.agent_kind.as_str();
            let allowed = catalogue.kind(own.agent_kind);
            let max = allowed.and_then(|allowed| allowed.max_access_level);
            let max = max.filter(|max| own.max_access_level.is_some_and(|own| own > *max));
            let (name, limit, description) = if allowed.is_none() {
                let kinds = join_kinds(&catalogue.agent_kinds);
                let description = format!("{kind} is not in the catalogue, which has: {kinds}");
                ("agent_kind", ("agent_kinds", kinds), description)
            } else if let Some(max) = max.map(AccessLevel::as_str) {
                let name = "max_access_level";
                (name, (name, max.into()), format!("must be at most {max} for {kind}"))
            } else {
                continue;
            };
            let field = format!("agent_kinds.entries[{index}].{name}");
            forbidden.add(&field, Reason::ExceedsCatalogue, limit, description);
        }
    }
}
