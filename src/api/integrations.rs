//! Integrations: how the HTTP requests of a gateway become checks. Independent of the protocol
//! between the gateway and this service.

pub mod answer;
pub mod config;
pub mod request;
mod sources;
mod template;

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use serde_json::Value;

use crate::{
    auth::{
        keys::IssuerKeys,
        token::{TokenError, TokenIssuer},
    },
    domain::{AccessCheck, Time},
};
use config::{
    ClaimsConfig, IntegrationConfig, IntegrationConfigs, MetadataConfig, RouteConfig, Source,
    TokenConfig,
};
use request::{HttpRequest, InputError};
use sources::{Offered, Part, Reader};
use template::{Template, segments};

/// Maximum length of the name of an integration, in characters.
const NAME_LENGTH_MAX: usize = 64;

/// All integrations of a process.
#[derive(Debug, Default)]
pub struct Integrations(Vec<Integration>);

/// The integration of some gateways.
#[derive(Debug)]
pub struct Integration {
    config: IntegrationConfig,
    routes: Vec<Route>,
    /// Verifies the tokens of requests, if the gateway does not.
    tokens: Option<TokenIssuer>,
}

/// A route with the sources of each part.
#[derive(Debug)]
struct Route {
    template: Template,
    tenant: Source,
    agent: Source,
    groups: Source,
    kind: Source,
    level: Source,
    on_behalf_of: Option<Source>,
}

/// A request that is no check, because the keys of the issuer of its token are not available.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuestionError {
    /// The request is denied.
    Input(InputError),
    /// The request cannot be decided now.
    NoKeys,
}

// === impl IntegrationConfigs ===

impl IntegrationConfigs {
    /// The problems of the tables, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut of_caller: BTreeMap<&str, &str> = BTreeMap::new();
        let mut of_all_others = None;
        for (name, config) in &self.0 {
            let mut add = |problem| problems.push(format!("integrations.{name}: {problem}"));
            if name.is_empty() || name.len() > NAME_LENGTH_MAX {
                add(format!("the name must have 1 to {NAME_LENGTH_MAX} characters"));
            }
            for problem in routes_of(config).err().into_iter().flatten() {
                add(problem);
            }
            let same_caller = |other: &str| {
                format!("integrations.{other} has the same caller; each needs one integration")
            };
            if config.callers.is_empty()
                && let Some(other) = of_all_others.replace(name)
            {
                add(format!("integrations.{other} has no callers either; name them in one"));
            }
            for caller in &config.callers {
                if let Some(other) = of_caller.insert(caller, name) {
                    add(same_caller(other));
                }
            }
        }
        problems
    }
}

// === impl Integrations ===

impl Integrations {
    /// The integrations of a valid configuration. `keys` has the keys of each issuer of
    /// [`IntegrationConfigs::tokens`].
    pub fn new(configs: &IntegrationConfigs, keys: &BTreeMap<String, Arc<IssuerKeys>>) -> Self {
        let all = configs.0.iter().map(|(name, config)| {
            let tokens = match (&config.claims, keys.get(name)) {
                (Some(ClaimsConfig::Token(token)), Some(keys)) => {
                    Some(token_issuer(token, Arc::clone(keys)))
                }
                _ => None,
            };
            let routes = routes_of(config).unwrap_or_default();
            Integration { config: config.clone(), routes, tokens }
        });
        Self(all.collect())
    }

    /// The integration of the gateway with this name.
    pub fn of(&self, caller: &str) -> Result<&Integration, InputError> {
        let named = self.0.iter().find(|integration| integration.config.callers.contains(caller));
        let other = || self.0.iter().find(|integration| integration.config.callers.is_empty());
        named.or_else(other).ok_or_else(|| {
            let message = "no integration is configured for the gateway; add its name to callers \
                           of a table [integrations.NAME]";
            InputError::missing(message.into())
        })
    }
}

fn token_issuer(config: &TokenConfig, keys: Arc<IssuerKeys>) -> TokenIssuer {
    TokenIssuer {
        name: config.issuer.clone(),
        audience: config.audience.clone(),
        leeway: config.leeway.0,
        keys,
    }
}

// === impl Integration ===

impl Integration {
    /// Where the gateway's metadata has the claims. `None`: elsewhere.
    pub fn metadata(&self) -> Option<&MetadataConfig> {
        match &self.config.claims {
            Some(ClaimsConfig::Metadata(metadata)) => Some(metadata),
            _ => None,
        }
    }

    /// The check about a request. Waits only if the keys of a token must be fetched.
    pub async fn question(
        &self,
        request: &HttpRequest<'_>,
        now: Time,
    ) -> Result<AccessCheck, QuestionError> {
        let path = segments(request.path)?;
        let matching = |route: &'_ Route| route.template.variables(&path).is_some();
        let route = self.routes.iter().find(|route| matching(route)).ok_or_else(|| {
            let message = "no route of the integration matches the path; add a route";
            InputError::missing(message.into())
        })?;
        let claims = self.claims(request, now).await?;
        let reader = Reader {
            request,
            claims: claims.as_deref(),
            variables: route.template.variables(&path).unwrap_or_default(),
            mapping: &self.config.mapping,
        };
        Ok(AccessCheck {
            tenant_id: reader.tenant(&route.tenant)?,
            agent_id: Some(reader.agent(&route.agent)?),
            groups: reader.groups(&route.groups)?,
            required_level: reader.level(&route.level)?,
            agent_kind: reader.kind(&route.kind)?,
            on_behalf_of: match &route.on_behalf_of {
                Some(source) => reader.on_behalf_of(source)?,
                None => None,
            },
        })
    }

    async fn claims<'a>(
        &self,
        request: &'a HttpRequest<'_>,
        now: Time,
    ) -> Result<Option<Cow<'a, Value>>, QuestionError> {
        let (Some(ClaimsConfig::Token(config)), Some(tokens)) = (&self.config.claims, &self.tokens)
        else {
            return Ok(request.verified_claims.as_ref().map(Cow::Borrowed));
        };
        let header = &config.header;
        let mut values = request.header(header);
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() || value.contains(',') {
            let message = format!("the header {header} has several tokens; send one");
            return Err(InputError::ambiguous(message).into());
        }
        let (scheme, token) = value.trim().split_once(' ').unwrap_or(("bearer", value.trim()));
        if !scheme.eq_ignore_ascii_case("bearer") {
            let message = format!("the header {header} must contain a bearer token");
            return Err(InputError::invalid(message).into());
        }
        match tokens.verify(token.trim(), now).await {
            Ok(claims) => Ok(Some(Cow::Owned(claims))),
            Err(TokenError::NoKeys) => Err(QuestionError::NoKeys),
            Err(error) => {
                let message = format!("the token of the agent is rejected: {error}");
                Err(InputError::invalid(message).into())
            }
        }
    }
}

impl From<InputError> for QuestionError {
    fn from(error: InputError) -> Self {
        Self::Input(error)
    }
}

/// The routes of an integration, or all problems.
fn routes_of(config: &IntegrationConfig) -> Result<Vec<Route>, Vec<String>> {
    let mut problems = Vec::new();
    if config.routes.is_empty() {
        problems.push("routes must not be empty; add path = \"/**\" for every path".into());
    }
    if let Some(ClaimsConfig::Token(token)) = &config.claims {
        problems.extend(problems_of_token(token));
    }
    let routes = config.routes.iter().filter_map(|route| {
        let found = route_of(config, route);
        found.map_err(|found| problems.extend(found)).ok()
    });
    let routes = routes.collect();
    if problems.is_empty() { Ok(routes) } else { Err(problems) }
}

fn problems_of_token(token: &TokenConfig) -> Vec<String> {
    let texts =
        [("header", &token.header), ("issuer", &token.issuer), ("audience", &token.audience)];
    let empty = texts.into_iter().filter(|(_, text)| text.is_empty());
    let mut problems: Vec<String> =
        empty.map(|(key, _)| format!("claims.token.{key} must not be empty")).collect();
    problems.extend(token.leeway.problem().map(|problem| format!("claims.token.{problem}")));
    problems
}

fn route_of(config: &IntegrationConfig, route: &RouteConfig) -> Result<Route, Vec<String>> {
    let path = &route.path;
    let template =
        Template::parse(path).map_err(|problem| vec![format!("the path {path:?} {problem}")])?;
    let offered = Offered {
        claims: config.claims.is_some(),
        callers: !config.callers.is_empty(),
        variable: &|name: &str| template.has_variable(name),
    };
    let mut problems = Vec::new();
    let sources = Part::ALL.map(|part| {
        let source = source_of(config, route, part);
        let checked = match &source {
            Some(source) => source.check(part, &offered),
            None if part == Part::OnBehalfOf => Ok(()),
            None => Err("is missing: state its source".into()),
        };
        if let Err(problem) = checked {
            problems.push(format!("{} of the path {path:?} {problem}", part.as_str()));
        }
        source
    });
    let [Some(tenant), Some(agent), Some(groups), Some(kind), Some(level), on_behalf_of] = sources
    else {
        return Err(problems);
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Route { template, tenant, agent, groups, kind, level, on_behalf_of })
}

fn source_of(config: &IntegrationConfig, route: &RouteConfig, part: Part) -> Option<Source> {
    let (own, general) = match part {
        Part::Tenant => (&route.tenant, &config.tenant),
        Part::Agent => (&route.agent, &config.agent),
        Part::Groups => (&route.groups, &config.groups),
        Part::Kind => (&route.kind, &config.kind),
        Part::Level => (&route.level, &config.level),
        Part::OnBehalfOf => (&route.on_behalf_of, &config.on_behalf_of),
    };
    own.as_ref().or(general.as_ref()).cloned()
}

#[cfg(test)]
mod tests;
