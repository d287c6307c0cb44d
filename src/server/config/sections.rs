//! Tables of the configuration file. They have no flags and no environment variables.

use super::{
    limits::CallLimits,
    sources::{Sources, take},
};
use crate::{
    api::{integrations::config::IntegrationConfigs, web::authzen::config::AuthZenConfig},
    auth::bindings::AuthConfig,
    domain::SupportPolicy,
};

const AUTHZEN: &str = "authzen";
const INTEGRATIONS: &str = "integrations";
const LIMITS: &str = "limits";
const POLICY: &str = "policy";
/// The fields of [`AuthConfig`].
const AUTH: [&str; 4] = ["certificates", "users", "issuers", "trust_portal_assertion"];

/// The keys of all sections.
pub(super) const SECTIONS: [&str; 8] =
    [AUTH[0], AUTH[1], AUTH[2], AUTH[3], AUTHZEN, INTEGRATIONS, LIMITS, POLICY];

/// An example of a configuration file with every section and every key of each.
pub const EXAMPLE: &str = r#"listen = ["127.0.0.1:50051", "unix:/run/support-access.sock"]
max_staleness = "2s"
tls_certificate = "server.pem"
tls_key = "server.key"
tls_client_ca = "ca.pem"          # required by [certificates]
trust_portal_assertion = false    # true: a portal may name the administrator without a token

[policy]                          # the vendor's catalogue; tenants can only narrow it
max_duration = "90d"              # at most 3650d
default_duration = "7d"           # at most max_duration
preset_durations = ["1h", "8h", "1d", "7d", "30d"]   # at most 32, shortest first
until_revoked_allowed = true
reason_required = false
ticket_required = false
max_schedule_ahead = "90d"        # 0s: grants start at once

[[policy.groups]]                 # at most 100; default: support and engineering
group_id = "support"
display_name = "Support"
description = "Support analysts who answer your tickets."
max_access_level = "ADMIN"        # READ_ONLY, READ_WRITE or ADMIN

[[policy.agent_kinds]]            # the kinds that grants may admit; default: HUMAN
agent_kind = "HUMAN"              # HUMAN, AI or SERVICE; each at most once

[[policy.agent_kinds]]
agent_kind = "AI"
max_access_level = "READ_ONLY"    # the highest level of this kind; default: the grant's level
on_behalf_of_required = true      # checks must name a human; not for HUMAN

[certificates]                    # names in client certificates, by role: gateway, node,
gateway = ["spiffe://vendor.example/gateway"]        # portal, operator, auditor
[users]                           # user ids at Unix sockets, by role; all others are rejected
gateway = [1000]
[[issuers]]                       # issuers of bearer tokens
issuer = "https://id.example"     # the claim iss
audience = "support-access"       # a value of the claim aud
keys = "https://id.example/jwks.json"   # a JWK set: an https URL or a file; default: the URL
                                  # that the issuer publishes by OpenID Connect discovery
name_claim = "sub"                # the caller's name in the history; /a/b is a JSON pointer
role_claim = "roles"
tenant_claim = "tenants"
leeway = "30s"                    # tolerated difference between clocks; at most 5m
tenants = ["acme"]                # tenants of this issuer; optional for a single issuer
[issuers.roles]                   # values of the role claim, by role
tenant_admin = ["access-admin"]

[integrations.edge]               # how requests at gateways become checks; see gateways.md
callers = ["spiffe://vendor.example/gateway"]   # names of gateways; default: all other gateways
claims = { metadata = { namespace = "envoy.filters.http.jwt_authn", key = "staff" } }
agent = { claim = "email" }       # a claim, header, path variable, extension, value or method
groups = { claim = "groups" }
kind = { value = "HUMAN" }
level = { method = { GET = "READ_ONLY", HEAD = "READ_ONLY", default = "READ_WRITE" } }
[[integrations.edge.routes]]      # the first matching path applies; a route may have sources, too
path = "/t/{tenant}/**"
tenant = { path = "tenant" }
on_behalf_of = { header = "x-on-behalf-of" }
[integrations.edge.mapping]       # values of sources, and our ids
groups = { "/support" = "support" }
tenants = { "org_01" = "acme" }
kinds = { "bot" = "SERVICE" }
[integrations.other]
callers = ["uid:1000"]
claims.token = { header = "authorization", issuer = "https://id.example", audience = "app" }
tenant = { extension = "tenant" }
agent = { claim = "sub" }
groups = { claim = "/realm_access/roles" }
kind = { value = "HUMAN" }
level = { value = "READ_ONLY" }
routes = [{ path = "/**" }]

[authzen]                         # the names of AuthZEN clients; see gateways.md
url = "https://access.vendor.example"   # of --web-listen, for the metadata; default: no metadata
default_groups = []               # the groups of a subject that states none
resource_type = "tenant"
subject_types = { user = "HUMAN", ai_agent = "AI", service = "SERVICE" }
actions = { read = "READ_ONLY", write = "READ_WRITE", admin = "ADMIN" }

[limits]                          # other numbers are at least 1
memory_mib = 0                    # callers may use half; lowers the limits below if they need
                                  # more; 0: the limit of the cgroup, else 4096
connections = 4096                # on all gRPC listeners together
connections_per_address = 2048    # also per user at Unix sockets
calls_per_connection = 1024       # concurrent
calls_per_caller = 512            # concurrent
checks_per_second = 100000        # per caller; bursts may be twice as large
requests_per_second = 2000        # per caller, all other requests; bursts may be twice as large
followers_per_caller = 4096
keepalive_interval = "20s"        # interval of pings on idle connections; 100ms to 5m
keepalive_timeout = "10s"         # for the response to a ping; 100ms to 5m
"#;

/// Reads `[limits]`.
pub(super) fn limits(sources: &Sources<'_>, problems: &mut Vec<String>) -> CallLimits {
    let limits: CallLimits = take(sources.table(LIMITS), problems).flatten().unwrap_or_default();
    for problem in limits.problems() {
        problems.push(format!("{}: {problem}", sources.table_name(LIMITS)));
    }
    limits
}

/// Reads `[policy]`.
pub(super) fn policy(sources: &Sources<'_>, problems: &mut Vec<String>) -> SupportPolicy {
    let policy: SupportPolicy = take(sources.table(POLICY), problems).flatten().unwrap_or_default();
    if let Err(violations) = policy.check() {
        for violation in violations.as_slice() {
            let table = sources.table_name(POLICY);
            problems.push(format!("{table}: {} {}", violation.field, violation.description));
        }
    }
    policy
}

/// Reads `[integrations]`.
pub(super) fn integrations(
    sources: &Sources<'_>,
    problems: &mut Vec<String>,
) -> IntegrationConfigs {
    let integrations: IntegrationConfigs =
        take(sources.table(INTEGRATIONS), problems).flatten().unwrap_or_default();
    for problem in integrations.problems() {
        problems.push(format!("{}: {problem}", sources.file_name()));
    }
    integrations
}

/// Reads `[authzen]`.
pub(super) fn authzen(sources: &Sources<'_>, problems: &mut Vec<String>) -> AuthZenConfig {
    let authzen: AuthZenConfig =
        take(sources.table(AUTHZEN), problems).flatten().unwrap_or_default();
    for problem in authzen.problems() {
        problems.push(format!("{}: {problem}", sources.table_name(AUTHZEN)));
    }
    authzen
}

/// Reads the sections on authentication.
pub(super) fn auth(sources: &Sources<'_>, problems: &mut Vec<String>) -> AuthConfig {
    let auth: AuthConfig = take(sources.fields(&AUTH), problems).flatten().unwrap_or_default();
    for problem in auth.problems() {
        problems.push(format!("{}: {problem}", sources.file_name()));
    }
    auth
}
