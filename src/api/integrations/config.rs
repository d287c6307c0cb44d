//! The tables `[integrations.NAME]` of the configuration file.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    auth::bindings::Leeway,
    domain::{AgentKind, GroupId, TenantId},
};

/// The namespace of the dynamic metadata that Envoy's `jwt_authn` filter writes.
const JWT_AUTHN: &str = "envoy.filters.http.jwt_authn";

/// All integrations, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct IntegrationConfigs(pub BTreeMap<String, IntegrationConfig>);

/// How the requests of some gateways become checks. A source that a route lacks is that of the
/// integration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct IntegrationConfig {
    /// The names of the gateways. Empty: every other gateway.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub callers: BTreeSet<String>,
    /// The claims about the agent. `None`: no source reads a claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claims: Option<ClaimsConfig>,
    /// The tenant to enter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Source>,
    /// The agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<Source>,
    /// The groups of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Source>,
    /// The kind of the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Source>,
    /// The required level.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<Source>,
    /// The human behind the agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<Source>,
    /// The routes. The first one whose path matches applies.
    pub routes: Vec<RouteConfig>,
    /// Translates values to ids.
    pub mapping: MappingConfig,
}

/// A route of an integration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// A template such as `/t/{tenant}/**`.
    pub path: String,
    /// See [`IntegrationConfig::tenant`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Source>,
    /// See [`IntegrationConfig::agent`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Source>,
    /// See [`IntegrationConfig::groups`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Source>,
    /// See [`IntegrationConfig::kind`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Source>,
    /// See [`IntegrationConfig::level`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Source>,
    /// See [`IntegrationConfig::on_behalf_of`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<Source>,
}

/// Where a part of the question comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A claim. A name that starts with a slash is a JSON pointer (RFC 6901).
    Claim(String),
    /// A header, which the gateway must remove from the requests of its clients.
    Header(String),
    /// A variable of the path of the route.
    Path(String),
    /// A context extension, from the configuration of the gateway.
    Extension(String),
    /// A constant.
    Value(String),
    /// The level of each HTTP method, and of all other methods as `default`.
    Method(BTreeMap<String, String>),
}

/// Where claims come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimsConfig {
    /// The gateway has verified a token.
    Metadata(MetadataConfig),
    /// This service verifies the token of the request.
    Token(TokenConfig),
}

/// Claims in the dynamic metadata of Envoy.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MetadataConfig {
    /// The name of the filter that has verified the token.
    #[serde(default = "default_namespace")]
    pub namespace: String,
    /// The setting `payload_in_metadata` of the filter.
    pub key: String,
}

/// A token in a header of the request.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// The header with the token. The scheme `Bearer` is optional.
    #[serde(default = "default_header")]
    pub header: String,
    /// The claim `iss`, compared byte for byte.
    pub issuer: String,
    /// A value of the claim `aud`.
    pub audience: String,
    /// The issuer's keys, as for the issuers of callers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<String>,
    /// Tolerated difference between the issuer's clock and this host's.
    #[serde(default)]
    pub leeway: Leeway,
}

/// Translates values of sources, except constants, to ids. An absent table translates nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MappingConfig {
    /// Support groups. Other values are ignored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<BTreeMap<String, GroupId>>,
    /// Tenants. Other values deny.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenants: Option<BTreeMap<String, TenantId>>,
    /// Kinds of agents. Other values deny.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kinds: Option<BTreeMap<String, AgentKind>>,
}

fn default_namespace() -> String {
    JWT_AUTHN.into()
}

fn default_header() -> String {
    "authorization".into()
}

impl IntegrationConfigs {
    /// The tokens that this service verifies, by the name of the integration.
    pub fn tokens(&self) -> impl Iterator<Item = (&String, &TokenConfig)> {
        self.0.iter().filter_map(|(name, integration)| match &integration.claims {
            Some(ClaimsConfig::Token(token)) => Some((name, token)),
            _ => None,
        })
    }
}
