//! Validation of message fields. All violations of a message are collected.

use prost_types::{Duration as ProtoDuration, Timestamp};

use crate::{
    api::{grpc::convert::enums::ProtoEnum, proto::v1 as pb},
    domain::{
        AccessLevel, AgentId, AgentKind, AgentKindEntry, End, FreeText, GrantState, RequestId,
        Span, TenantId, Time, ViolationReason,
        grant::AGENTS_MAX,
        ids::{TextError, check_id},
        time,
        violation::Violations,
    },
    service::{GrantRef, page::PageRequest},
};

/// The longest `google.protobuf.Duration`, in seconds: about 10,000 years.
pub(super) const DURATION_SECONDS_MAX: i64 = 315_576_000_000;
const LEVELS: &str =
    "must be ACCESS_LEVEL_READ_ONLY, ACCESS_LEVEL_READ_WRITE or ACCESS_LEVEL_ADMIN";
const KINDS: &str = "must be AGENT_KIND_HUMAN, AGENT_KIND_AI or AGENT_KIND_SERVICE";

/// The content of a message, or all violations.
pub(in crate::api::grpc) type Parsed<T> = Result<T, Violations>;

/// Collects violations while a message is parsed. An invalid field becomes `None`.
#[derive(Default)]
pub(super) struct Fields(Violations);

impl Fields {
    /// The parsed message, or all violations. `parsed` is `None` only if a violation was added.
    pub(super) fn finish<T>(self, parsed: Option<T>) -> Parsed<T> {
        self.0.into_result()?;
        parsed.ok_or_else(Violations::default)
    }

    pub(super) fn add(&mut self, field: &str, reason: ViolationReason, description: &str) {
        self.0.add(field, reason, description);
    }

    pub(super) fn extend(&mut self, violations: Violations) {
        self.0.extend(violations);
    }

    fn required(&mut self, field: &str, description: &str) {
        self.add(field, ViolationReason::Required, description);
    }

    fn out_of_range(&mut self, field: &str, description: &str) {
        self.add(field, ViolationReason::OutOfRange, description);
    }

    pub(super) fn text<T>(
        &mut self,
        field: &str,
        text: &str,
        new: impl Fn(&str) -> Result<T, TextError>,
    ) -> Option<T> {
        self.0.check_text(field, new(text))
    }

    /// A field that may be empty.
    pub(super) fn optional<T>(
        &mut self,
        field: &str,
        text: &str,
        new: impl Fn(&str) -> Result<T, TextError>,
    ) -> Option<T> {
        if text.is_empty() { None } else { self.text(field, text, new) }
    }

    /// The tenant of a call that is otherwise about the vendor. An empty id is invalid, not absent.
    pub(super) fn tenant(&mut self, tenant_id: Option<&str>) -> Option<TenantId> {
        tenant_id.and_then(|tenant_id| self.text("tenant_id", tenant_id, TenantId::new))
    }

    pub(super) fn free_text(&mut self, field: &str, text: String) -> FreeText {
        self.0.check_text(field, FreeText::new(text)).unwrap_or_default()
    }

    /// A reason that must not be blank.
    pub(super) fn required_reason(&mut self, text: String) -> FreeText {
        let reason = self.0.check_text("reason", FreeText::new(text));
        if reason.as_ref().is_some_and(FreeText::is_blank) {
            self.required("reason", "must not be blank");
        }
        reason.unwrap_or_default()
    }

    pub(super) fn request_id(&mut self, request_id: &str) -> Option<RequestId> {
        self.optional("request_id", request_id, RequestId::new)
    }

    pub(super) fn etag(&mut self, etag: &str) -> Option<String> {
        self.optional("etag", etag, |text| check_id(text).map(|()| text.to_owned()))
    }

    /// Whether a list is not too long.
    pub(super) fn length(&mut self, field: &str, length: usize, max: usize) -> bool {
        if length > max {
            let description = format!("must have at most {max} items, but has {length}");
            self.out_of_range(field, &description);
        }
        length <= max
    }

    /// The named agents of a grant. Empty: every agent.
    pub(super) fn named_agents(&mut self, named: Option<pb::NamedAgents>) -> Vec<AgentId> {
        let Some(pb::NamedAgents { agent_ids }) = named else { return Vec::new() };
        let field = "named_agents.agent_ids";
        if agent_ids.is_empty() {
            let description = "must not be empty; omit named_agents to admit every agent";
            self.required(field, description);
        }
        if !self.length(field, agent_ids.len(), AGENTS_MAX) {
            return Vec::new();
        }
        let mut parsed = Vec::with_capacity(agent_ids.len());
        for (index, text) in agent_ids.iter().enumerate() {
            let field = format!("{field}[{index}]");
            let Some(agent_id) = self.text(&field, text, AgentId::new) else { continue };
            if parsed.contains(&agent_id) {
                self.add(&field, ViolationReason::Conflict, "must be listed only once");
            }
            parsed.push(agent_id);
        }
        parsed
    }

    pub(super) fn agent_kinds(&mut self, kinds: &pb::AgentKinds) -> Vec<AgentKindEntry> {
        let mut parsed: Vec<AgentKindEntry> = Vec::new();
        if !self.length("agent_kinds.entries", kinds.entries.len(), AgentKind::ALL.len()) {
            return parsed;
        }
        for (index, entry) in kinds.entries.iter().enumerate() {
            let field = |name: &str| format!("agent_kinds.entries[{index}].{name}");
            let pb::AgentKindEntry { agent_kind, max_access_level, on_behalf_of_required } = *entry;
            let Some(agent_kind) = self.kind(&field("agent_kind"), agent_kind) else { continue };
            if parsed.iter().any(|earlier| earlier.agent_kind == agent_kind) {
                let field = field("agent_kind");
                self.add(&field, ViolationReason::Conflict, "must be listed only once");
            }
            if on_behalf_of_required && agent_kind == AgentKind::Human {
                let description = "must be false for AGENT_KIND_HUMAN";
                let field = field("on_behalf_of_required");
                self.add(&field, ViolationReason::Conflict, description);
            }
            let max_access_level = match max_access_level {
                0 => None,
                level => self.level(&field("max_access_level"), level),
            };
            parsed.push(AgentKindEntry { agent_kind, max_access_level, on_behalf_of_required });
        }
        parsed
    }

    pub(super) fn level(&mut self, field: &str, level: i32) -> Option<AccessLevel> {
        self.number(field, level, LEVELS)
    }

    pub(super) fn kind(&mut self, field: &str, kind: i32) -> Option<AgentKind> {
        self.number(field, kind, KINDS)
    }

    pub(super) fn state(&mut self, field: &str, state: i32) -> Option<GrantState> {
        self.number(field, state, "must be a state of a grant")
    }

    /// An enum value that must be specified and known.
    fn number<T: ProtoEnum>(&mut self, field: &str, number: i32, description: &str) -> Option<T> {
        let value = T::from_proto(number);
        match (number, &value) {
            (0, None) => self.required(field, description),
            (_, None) => self.add(field, ViolationReason::Malformed, description),
            (_, Some(_)) => {}
        }
        value
    }

    pub(super) fn time(&mut self, field: &str, timestamp: Timestamp) -> Option<Time> {
        let time = time::from_parts(timestamp.seconds, timestamp.nanos);
        if time.is_none() {
            self.out_of_range(field, "must be a valid time in the years 1 to 9999");
        }
        time
    }

    pub(super) fn span(&mut self, field: &str, duration: ProtoDuration) -> Option<Span> {
        let ProtoDuration { seconds, nanos } = duration;
        if seconds < 0 || nanos < 0 {
            self.out_of_range(field, "must not be negative");
            return None;
        }
        if seconds > DURATION_SECONDS_MAX || nanos >= 1_000_000_000 {
            let description = format!("must be valid, and at most {DURATION_SECONDS_MAX} seconds");
            self.out_of_range(field, &description);
            return None;
        }
        let (seconds, micros) = (seconds.unsigned_abs(), nanos.unsigned_abs() / 1_000);
        Some(Span(std::time::Duration::new(seconds, micros * 1_000)))
    }

    /// Exactly one of `alternatives` must be set. A client may send every field of a form, so a
    /// second value is a violation, and not silently ignored.
    pub(super) fn exactly_one(&mut self, alternatives: &[(&str, bool)]) {
        if !alternatives.iter().any(|(_, is_set)| *is_set) {
            let names: Vec<&str> = alternatives.iter().map(|(name, _)| *name).collect();
            let description = format!("is required: set exactly one of {}", names.join(", "));
            self.required(names.first().unwrap_or(&""), &description);
        }
        self.at_most_one(alternatives);
    }

    pub(super) fn at_most_one(&mut self, alternatives: &[(&str, bool)]) {
        let set: Vec<&str> =
            alternatives.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| *name).collect();
        if set.len() > 1 {
            let description = format!("must not be combined: set only one of {}", set.join(", "));
            for field in set {
                self.add(field, ViolationReason::Conflict, &description);
            }
        }
    }

    /// The end of a grant: exactly one of three fields.
    pub(super) fn end(
        &mut self,
        expire_time: Option<Timestamp>,
        duration: Option<ProtoDuration>,
        until_revoked: bool,
    ) -> Option<End> {
        self.exactly_one(&[
            ("expire_time", expire_time.is_some()),
            ("duration", duration.is_some()),
            ("until_revoked", until_revoked),
        ]);
        match (expire_time, duration) {
            (Some(time), _) => self.time("expire_time", time).map(End::At),
            (None, Some(duration)) => self.span("duration", duration).map(End::After),
            (None, None) => until_revoked.then_some(End::UntilRevoked),
        }
    }

    pub(super) fn page(&mut self, size: i32, token: String) -> PageRequest {
        let size = usize::try_from(size).unwrap_or_else(|_| {
            self.out_of_range("page_size", "must not be negative");
            0
        });
        PageRequest { size, token, ..PageRequest::default() }
    }

    pub(super) fn sequence(&mut self, field: &str, sequence: i64) -> i64 {
        if sequence < 0 {
            self.out_of_range(field, "must not be negative");
        }
        sequence
    }

    pub(super) fn grant_ref(&mut self, tenant_id: &str, grant_id: String) -> Option<GrantRef> {
        let tenant_id = self.text("tenant_id", tenant_id, TenantId::new);
        let is_id = self.text("grant_id", &grant_id, check_id);
        is_id.and(tenant_id).map(|tenant_id| GrantRef { tenant_id, text: grant_id })
    }
}
