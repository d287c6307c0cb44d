//! Reads the parts of a question from a request.

use http::HeaderName;
use serde_json::Value;

use crate::{
    api::integrations::{
        config::{MappingConfig, Source},
        request::{HttpRequest, InputError},
        template::Variables,
    },
    auth::claims,
    domain::{
        AccessLevel, AgentId, AgentKind, AssertedGroups, GroupId, TenantId, check::GROUPS_MAX,
        ids::TextError,
    },
};

/// The key of [`Source::Method`] for all methods without a key of their own.
const DEFAULT_METHOD: &str = "default";
/// Headers with which a client may replace the method of a request behind the gateway.
const METHOD_OVERRIDES: [&str; 3] =
    ["x-http-method-override", "x-http-method", "x-method-override"];

/// A part of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Tenant,
    Agent,
    Groups,
    Kind,
    Level,
    OnBehalfOf,
}

/// A request with its claims and the variables of its path.
pub(super) struct Reader<'a> {
    pub(super) request: &'a HttpRequest<'a>,
    /// `None`: the request has no claims.
    pub(super) claims: Option<&'a Value>,
    pub(super) variables: Variables<'a>,
    pub(super) mapping: &'a MappingConfig,
}

/// The sources that an integration offers.
pub(super) struct Offered<'a> {
    pub(super) claims: bool,
    /// Whether the gateways are named.
    pub(super) callers: bool,
    pub(super) variable: &'a dyn Fn(&str) -> bool,
}

// === impl Part ===

impl Part {
    pub(super) const ALL: [Self; 6] =
        [Self::Tenant, Self::Agent, Self::Groups, Self::Kind, Self::Level, Self::OnBehalfOf];

    /// The key in the configuration file.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Agent => "agent",
            Self::Groups => "groups",
            Self::Kind => "kind",
            Self::Level => "level",
            Self::OnBehalfOf => "on_behalf_of",
        }
    }

    /// Whether `text` is valid for this part. The error is the rest of a sentence.
    fn check(self, text: &str) -> Result<(), String> {
        let id = |checked: Result<(), TextError>| checked.map_err(|error| error.to_string());
        match self {
            Self::Tenant => id(TenantId::new(text).map(drop)),
            Self::Agent | Self::OnBehalfOf => id(AgentId::new(text).map(drop)),
            Self::Groups => id(GroupId::new(text).map(drop)),
            Self::Kind => kind(text).map(drop).ok_or("must be HUMAN, AI or SERVICE".into()),
            Self::Level => level(text).map(drop).ok_or_else(|| LEVELS.into()),
        }
    }
}

const LEVELS: &str = "must be READ_ONLY, READ_WRITE or ADMIN";

fn kind(text: &str) -> Option<AgentKind> {
    AgentKind::ALL.into_iter().find(|kind| kind.as_str() == text)
}

fn level(text: &str) -> Option<AccessLevel> {
    AccessLevel::ALL.into_iter().find(|level| level.as_str() == text)
}

// === impl Source ===

impl Source {
    /// The problem of the source of `part` in the configuration: the rest of a sentence.
    pub(super) fn check(&self, part: Part, offered: &Offered<'_>) -> Result<(), String> {
        match self {
            Self::Claim(_) if !offered.claims => {
                Err("reads a claim, so the integration needs claims".into())
            }
            Self::Claim(name) | Self::Extension(name) if name.is_empty() => {
                Err("must not have an empty name".into())
            }
            Self::Header(name) if HeaderName::from_lowercase(name.as_bytes()).is_err() => {
                Err(format!("must name a header in lower case, but names {name:?}"))
            }
            Self::Header(_) if !offered.callers => Err("reads a header, so the integration \
                needs callers: the gateways that remove this header from the requests of their \
                clients"
                .into()),
            Self::Path(name) if !(offered.variable)(name) => {
                Err(format!("reads {{{name}}}, which the path does not contain"))
            }
            Self::Method(_) if part != Part::Level => {
                Err("reads the method, which is possible for level only".into())
            }
            Self::Method(levels) => levels.iter().try_for_each(|(method, text)| {
                let is_method = method == DEFAULT_METHOD
                    || !method.is_empty() && method.bytes().all(|b| b.is_ascii_uppercase());
                if !is_method {
                    return Err(format!(
                        "must name methods in upper case, or default, but names {method:?}"
                    ));
                }
                part.check(text).map_err(|problem| format!("{problem}, but is {text:?}"))
            }),
            Self::Value(text) => {
                part.check(text).map_err(|problem| format!("{problem}, but is {text:?}"))
            }
            Self::Claim(_) | Self::Header(_) | Self::Extension(_) | Self::Path(_) => Ok(()),
        }
    }

    /// The source in a sentence.
    fn shown(&self) -> String {
        match self {
            Self::Claim(name) => format!("the claim {name}"),
            Self::Header(name) => format!("the header {name}"),
            Self::Path(name) => format!("the path variable {name}"),
            Self::Extension(name) => format!("the context extension {name}"),
            Self::Value(_) => "the configured value".into(),
            Self::Method(_) => "the method".into(),
        }
    }
}

// === impl Reader ===

impl Reader<'_> {
    pub(super) fn tenant(&self, source: &Source) -> Result<TenantId, InputError> {
        let text = self.required(Part::Tenant, source)?;
        match &self.mapping.tenants {
            Some(mapped) if is_mapped(source) => {
                mapped.get(&text).cloned().ok_or_else(|| not_mapped(Part::Tenant, source))
            }
            _ => valid(Part::Tenant, source, TenantId::new(&text)),
        }
    }

    pub(super) fn agent(&self, source: &Source) -> Result<AgentId, InputError> {
        let text = self.required(Part::Agent, source)?;
        valid(Part::Agent, source, AgentId::new(&text))
    }

    /// `None`: the agent acts for itself.
    pub(super) fn on_behalf_of(&self, source: &Source) -> Result<Option<AgentId>, InputError> {
        let text = self.single(Part::OnBehalfOf, source)?;
        text.map(|text| valid(Part::OnBehalfOf, source, AgentId::new(&text))).transpose()
    }

    pub(super) fn kind(&self, source: &Source) -> Result<AgentKind, InputError> {
        let text = self.required(Part::Kind, source)?;
        match &self.mapping.kinds {
            Some(mapped) if is_mapped(source) => {
                mapped.get(&text).copied().ok_or_else(|| not_mapped(Part::Kind, source))
            }
            _ => kind(&text)
                .ok_or_else(|| invalid(Part::Kind, source, "must be HUMAN, AI or SERVICE")),
        }
    }

    pub(super) fn level(&self, source: &Source) -> Result<AccessLevel, InputError> {
        let text = self.required(Part::Level, source)?;
        level(&text).ok_or_else(|| invalid(Part::Level, source, LEVELS))
    }

    /// The groups may be an empty list, but not absent.
    pub(super) fn groups(&self, source: &Source) -> Result<AssertedGroups, InputError> {
        let texts = self.texts(Part::Groups, source)?;
        let texts = texts.ok_or_else(|| missing(Part::Groups, source))?;
        let groups: Vec<String> = match &self.mapping.groups {
            Some(mapped) if is_mapped(source) => {
                texts.iter().filter_map(|text| mapped.get(text).map(ToString::to_string)).collect()
            }
            _ => texts,
        };
        if groups.len() > GROUPS_MAX {
            return Err(InputError::overflow(format!(
                "{} has more than {GROUPS_MAX} groups; let the identity provider send the support \
                 groups only",
                source.shown()
            )));
        }
        Ok(AssertedGroups::new(groups))
    }

    fn required(&self, part: Part, source: &Source) -> Result<String, InputError> {
        self.single(part, source)?.ok_or_else(|| missing(part, source))
    }

    /// `None`: the request has no value, or an empty one.
    fn single(&self, part: Part, source: &Source) -> Result<Option<String>, InputError> {
        let mut texts = self.texts(part, source)?.unwrap_or_default();
        // A gateway joins repeated headers with commas.
        let is_joined = |text: &String| matches!(source, Source::Header(_)) && text.contains(',');
        if texts.len() > 1 || texts.iter().any(is_joined) {
            return Err(InputError::ambiguous(format!(
                "{} has several values for {}; send one",
                source.shown(),
                part.as_str()
            )));
        }
        Ok(texts.pop().filter(|text| !text.is_empty()))
    }

    /// The values of a source. `None`: the request does not contain the source.
    fn texts(&self, part: Part, source: &Source) -> Result<Option<Vec<String>>, InputError> {
        match source {
            Source::Value(text) => Ok(Some(vec![text.clone()])),
            Source::Path(name) => {
                Ok(self.variables.get(name.as_str()).map(|text| vec![(*text).to_owned()]))
            }
            Source::Extension(name) => {
                Ok(self.request.extensions.get(name).map(|text| vec![text.clone()]))
            }
            Source::Header(name) => self.header(part, name, source),
            Source::Claim(name) => self.claim(name),
            Source::Method(levels) => {
                let is_replaced = |name| self.request.header(name).next().is_some();
                if METHOD_OVERRIDES.into_iter().any(is_replaced) {
                    return Err(InputError::ambiguous(
                        "a header replaces the method of the request; send the method itself"
                            .into(),
                    ));
                }
                let of_method = levels.get(self.request.method).or(levels.get(DEFAULT_METHOD));
                Ok(of_method.map(|level| vec![level.clone()]))
            }
        }
    }

    fn header(
        &self,
        part: Part,
        name: &str,
        source: &Source,
    ) -> Result<Option<Vec<String>>, InputError> {
        let values: Vec<&str> = self.request.header(name).collect();
        match (part, &*values) {
            (_, []) => Ok(None),
            (Part::Groups, [list]) => {
                let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
                Ok(Some(items.map(str::to_owned).collect()))
            }
            (_, [value]) => Ok(Some(vec![value.trim().to_owned()])),
            _ => Err(InputError::ambiguous(format!(
                "{} occurs more than once; send it once",
                source.shown()
            ))),
        }
    }

    fn claim(&self, name: &str) -> Result<Option<Vec<String>>, InputError> {
        let Some(claims) = self.claims else {
            return Err(InputError::missing(
                "the request has no verified claims; let the gateway require a token, and pass \
                 its claims on"
                    .into(),
            ));
        };
        if claims::is_left_out(claims, name) {
            return Err(InputError::overflow(format!(
                "the identity provider has left out the claim {name}, which was too large for the \
                 token; let the identity provider send the support groups only"
            )));
        }
        Ok(claims::find(claims, name).map(|_| claims::texts(claims, name)))
    }
}

fn is_mapped(source: &Source) -> bool {
    !matches!(source, Source::Value(_) | Source::Method(_))
}

fn valid<T>(part: Part, source: &Source, parsed: Result<T, TextError>) -> Result<T, InputError> {
    parsed.map_err(|error| invalid(part, source, &error.to_string()))
}

fn invalid(part: Part, source: &Source, problem: &str) -> InputError {
    InputError::invalid(format!("{} from {} {problem}", part.as_str(), source.shown()))
}

fn missing(part: Part, source: &Source) -> InputError {
    let message = format!(
        "the request has no value for {}; {} must contain one",
        part.as_str(),
        source.shown()
    );
    InputError::missing(message)
}

fn not_mapped(part: Part, source: &Source) -> InputError {
    let message = format!(
        "the mapping of the integration has no {} for the value of {}; add the value",
        part.as_str(),
        source.shown()
    );
    InputError::missing(message)
}
