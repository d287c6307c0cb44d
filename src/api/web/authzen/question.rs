//! The question of a request: its entities become checks.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use super::{config::AuthZenConfig, text::Object};
use crate::{
    api::{grpc::ProtoEnum, proto::v1 as pb},
    domain::{
        AccessLevel, AgentId, AgentKind, GroupId, TenantId, ViolationReason, check::GROUPS_MAX,
        ids::TextError, violation::Violations,
    },
};

/// Maximum number of results on a page, and the default.
pub(super) const PAGE_MAX: usize = 100;

/// Why a request or an evaluation is no check.
#[derive(Debug, Clone)]
pub(super) enum Flaw {
    /// The request does not follow the specification.
    Invalid(Violations),
    /// A type, a name or an id does not exist here. So nothing is permitted.
    Unknown(Violations),
}

/// The entities of an evaluation.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entities<'a> {
    subject: Option<&'a Value>,
    action: Option<&'a Value>,
    resource: Option<&'a Value>,
}

/// A page of search results, in the order of their names.
#[derive(Debug, Clone)]
pub(super) struct Page {
    /// The maximum number of results.
    pub(super) limit: usize,
    /// The name before the first result. Empty: the page is the first.
    pub(super) after: String,
}

/// A subject that is an agent.
struct Subject {
    agent_id: String,
    kind: AgentKind,
    groups: Vec<String>,
    on_behalf_of: String,
}

/// Reads entities. Collects every problem.
struct Reader<'a> {
    config: &'a AuthZenConfig,
    invalid: Violations,
    unknown: Violations,
}

// === impl Flaw ===

impl Flaw {
    /// The problems.
    pub(super) fn violations(&self) -> &Violations {
        match self {
            Self::Invalid(violations) | Self::Unknown(violations) => violations,
        }
    }
}

// === impl Entities ===

impl<'a> Entities<'a> {
    pub(super) fn of(request: &'a Object) -> Self {
        Self {
            subject: request.get("subject"),
            action: request.get("action"),
            resource: request.get("resource"),
        }
    }

    /// Adds the entities that are missing. An entity is never merged with its default.
    pub(super) fn or(self, defaults: Self) -> Self {
        Self {
            subject: self.subject.or(defaults.subject),
            action: self.action.or(defaults.action),
            resource: self.resource.or(defaults.resource),
        }
    }

    /// The check of an evaluation.
    pub(super) fn check(self, config: &AuthZenConfig) -> Result<pb::AccessCheck, Flaw> {
        let mut reader = Reader::new(config);
        let subject = reader.subject(self.subject, true);
        let level = reader.level(self.action);
        let tenant_id = reader.tenant(self.resource);
        let parsed = (|| Some(check(subject?, level?, tenant_id?)))();
        reader.finish(parsed)
    }

    /// The check of each configured action, by the names of the actions.
    pub(super) fn checks_of_actions(
        self,
        config: &AuthZenConfig,
    ) -> Result<(Vec<String>, Vec<pb::AccessCheck>), Flaw> {
        let mut reader = Reader::new(config);
        let subject = reader.subject(self.subject, true);
        let tenant_id = reader.tenant(self.resource);
        let parsed = subject.zip(tenant_id);
        let (subject, tenant_id) = reader.finish(parsed)?;
        let any = check(subject, AccessLevel::ReadOnly, tenant_id);
        let with_level = |level: &AccessLevel| pb::AccessCheck {
            required_level: level.to_proto(),
            ..any.clone()
        };
        let checks = config.actions.values().map(with_level).collect();
        Ok((config.actions.keys().cloned().collect(), checks))
    }

    /// The type of the subjects, and the check of an agent that no grant names. The id of the
    /// subject is ignored.
    pub(super) fn check_of_subjects(
        self,
        config: &AuthZenConfig,
        agent_id: &str,
    ) -> Result<(String, pb::AccessCheck), Flaw> {
        let mut reader = Reader::new(config);
        let subject = reader.subject(self.subject, false);
        let level = reader.level(self.action);
        let tenant_id = reader.tenant(self.resource);
        let name = self.subject.and_then(|subject| subject["type"].as_str());
        let parsed = (|| {
            let subject = Subject { agent_id: agent_id.into(), groups: Vec::new(), ..subject? };
            Some((name?.to_owned(), check(subject, level?, tenant_id?)))
        })();
        reader.finish(parsed)
    }
}

fn check(subject: Subject, level: AccessLevel, tenant_id: String) -> pb::AccessCheck {
    pb::AccessCheck {
        tenant_id,
        agent_id: subject.agent_id,
        group_ids: subject.groups,
        required_level: level.to_proto(),
        agent_kind: subject.kind.to_proto(),
        on_behalf_of: subject.on_behalf_of,
    }
}

// === impl Page ===

impl Page {
    /// The page that a request asks for.
    pub(super) fn of(request: &Object) -> Result<Self, Violations> {
        let mut page = Self { limit: PAGE_MAX, after: String::new() };
        let Some(found) = request.get("page") else { return Ok(page) };
        let malformed =
            |field: &str, text: &str| Violations::of(field, ViolationReason::Malformed, text);
        let found = found.as_object().ok_or_else(|| malformed("page", "must be an object"))?;
        if let Some(limit) = found.get("limit") {
            let limit = limit.as_u64().filter(|limit| *limit > 0);
            let limit =
                limit.ok_or_else(|| malformed("page.limit", "must be a number of at least 1"))?;
            page.limit = usize::try_from(limit).unwrap_or(PAGE_MAX).min(PAGE_MAX);
        }
        if let Some(token) = found.get("next_token") {
            let decoded = token.as_str().and_then(|token| URL_SAFE_NO_PAD.decode(token).ok());
            let name = decoded.and_then(|name| String::from_utf8(name).ok());
            let description = "must be the next_token of the previous page, or empty";
            page.after = name.ok_or_else(|| malformed("page.next_token", description))?;
        }
        Ok(page)
    }

    /// The token of the page after the result `name`.
    pub(super) fn token_after(name: &str) -> String {
        URL_SAFE_NO_PAD.encode(name)
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    fn new(config: &'a AuthZenConfig) -> Self {
        Self { config, invalid: Violations::default(), unknown: Violations::default() }
    }

    fn finish<T>(self, parsed: Option<T>) -> Result<T, Flaw> {
        match parsed {
            _ if !self.invalid.is_empty() => Err(Flaw::Invalid(self.invalid)),
            Some(parsed) if self.unknown.is_empty() => Ok(parsed),
            _ => Err(Flaw::Unknown(self.unknown)),
        }
    }

    fn subject(&mut self, found: Option<&Value>, has_id: bool) -> Option<Subject> {
        let subject = self.object("subject", found)?;
        let of_type = self.text("subject.type", subject.get("type"));
        let of_type = of_type.and_then(|name| {
            let kind = self.config.subject_types.get(name).copied();
            self.known("subject.type", "authzen.subject_types", kind)
        });
        let agent_id = if has_id {
            self.text("subject.id", subject.get("id"))
                .and_then(|id| self.id("subject.id", id, AgentId::new))
        } else {
            Some(String::new())
        };
        let empty = Object::new();
        let properties = match subject.get("properties") {
            Some(properties) => self.object("subject.properties", Some(properties))?,
            None => &empty,
        };
        let groups = self.groups(properties.get("groups"));
        let kind = match properties.get("agent_kind") {
            Some(kind) => self.kind(kind),
            None => of_type,
        };
        let on_behalf_of = match properties.get("on_behalf_of") {
            Some(human) => {
                let field = "subject.properties.on_behalf_of";
                self.text(field, Some(human)).and_then(|id| self.id(field, id, AgentId::new))
            }
            None => Some(String::new()),
        };
        of_type?;
        Some(Subject {
            agent_id: agent_id?,
            kind: kind?,
            groups: groups?,
            on_behalf_of: on_behalf_of?,
        })
    }

    fn level(&mut self, found: Option<&Value>) -> Option<AccessLevel> {
        let action = self.object("action", found)?;
        let name = self.text("action.name", action.get("name"))?;
        let level = self.config.actions.get(name).copied();
        self.known("action.name", "authzen.actions", level)
    }

    fn tenant(&mut self, found: Option<&Value>) -> Option<String> {
        let resource = self.object("resource", found)?;
        let name = self.text("resource.type", resource.get("type"));
        let id = self.text("resource.id", resource.get("id"));
        let is_tenant = name? == self.config.resource_type;
        self.known("resource.type", "authzen.resource_type", is_tenant.then_some(()))?;
        self.id("resource.id", id?, TenantId::new)
    }

    /// The groups of the subject. Values that are not ids are left to the check.
    fn groups(&mut self, found: Option<&Value>) -> Option<Vec<String>> {
        let Some(found) = found else {
            let groups = self.config.default_groups.iter().map(GroupId::as_str);
            return Some(groups.map(str::to_owned).collect());
        };
        let field = "subject.properties.groups";
        let texts = found
            .as_array()
            .and_then(|groups| groups.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        let Some(texts) = texts else {
            self.invalid.add(field, ViolationReason::Malformed, "must be an array of strings");
            return None;
        };
        if texts.len() > GROUPS_MAX {
            let description = format!("must have at most {GROUPS_MAX} groups");
            self.invalid.add(field, ViolationReason::OutOfRange, description);
            return None;
        }
        Some(texts.into_iter().map(str::to_owned).collect())
    }

    fn kind(&mut self, found: &Value) -> Option<AgentKind> {
        let kind = AgentKind::ALL.into_iter().find(|kind| found.as_str() == Some(kind.as_str()));
        if kind.is_none() {
            let field = "subject.properties.agent_kind";
            let description = "must be HUMAN, AI or SERVICE";
            self.invalid.add(field, ViolationReason::Malformed, description);
        }
        kind
    }

    fn object<'v>(&mut self, field: &str, found: Option<&'v Value>) -> Option<&'v Object> {
        match found {
            Some(Value::Object(object)) => return Some(object),
            Some(_) => self.invalid.add(field, ViolationReason::Malformed, "must be an object"),
            None => self.invalid.add(field, ViolationReason::Required, "must be set"),
        }
        None
    }

    fn text<'v>(&mut self, field: &str, found: Option<&'v Value>) -> Option<&'v str> {
        match found {
            Some(Value::String(text)) => return Some(text),
            Some(_) => self.invalid.add(field, ViolationReason::Malformed, "must be a string"),
            None => self.invalid.add(field, ViolationReason::Required, "must be set"),
        }
        None
    }

    fn id<T>(
        &mut self,
        field: &str,
        text: &str,
        new: impl FnOnce(&str) -> Result<T, TextError>,
    ) -> Option<String> {
        self.unknown.check_text(field, new(text)).map(|_| text.to_owned())
    }

    /// The value for a name. `None`: the name is not in the configuration.
    fn known<T>(&mut self, field: &str, setting: &str, value: Option<T>) -> Option<T> {
        if value.is_none() {
            let description = format!("must be a name of the setting {setting}");
            self.unknown.add(field, ViolationReason::Malformed, description);
        }
        value
    }
}
