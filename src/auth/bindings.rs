//! Bindings of names in certificates, local users and token claims to roles, from the configuration
//! file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::domain::{Role, Span, TenantId, ids::ID_LENGTH_MAX};

/// The sections of the configuration file on authentication. A section that is present but empty
/// binds no caller; an absent section disables its method of authentication.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Whether a portal may name the administrator for whom it acts, without the administrator's
    /// own token.
    pub trust_portal_assertion: bool,
    /// Names in client certificates, by role: SPIFFE URIs or DNS names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificates: Option<BTreeMap<Role, Vec<String>>>,
    /// User ids of this host, by role, as the kernel reports them for Unix sockets. All other users
    /// are rejected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<BTreeMap<Role, Vec<u32>>>,
    /// Issuers of bearer tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuers: Option<Vec<IssuerConfig>>,
}

/// An issuer of bearer tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The claim `iss`, compared byte for byte.
    pub issuer: String,
    /// A value of the claim `aud`.
    pub audience: String,
    /// The issuer's keys, a JWK set (RFC 7517): an https URL, an http URL of this host, or a file.
    /// `None`: the issuer publishes the address (OpenID Connect Discovery 1.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<String>,
    /// The claim with the caller's name for the history.
    #[serde(default = "default_name_claim")]
    pub name_claim: String,
    /// The claim with the caller's roles at the issuer: a list, an object whose keys are the roles,
    /// or one string of words. A name that starts with a slash is a JSON pointer (RFC 6901).
    #[serde(default = "default_role_claim")]
    pub role_claim: String,
    /// The claim with the caller's tenants: a list, an object whose keys are the tenants, or one
    /// string. May be a JSON pointer, too.
    #[serde(default = "default_tenant_claim")]
    pub tenant_claim: String,
    /// Tolerated difference between the issuer's clock and this host's.
    #[serde(default)]
    pub leeway: Leeway,
    /// The tenants for which the issuer is trusted; other tenants in its tokens are ignored.
    /// `None`: all tenants, which is allowed only if no other issuer grants tenant roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<BTreeSet<TenantId>>,
    /// Values of the role claim, by role.
    pub roles: BTreeMap<Role, Vec<String>>,
}

/// A tolerated difference between clocks, at most five minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Leeway(pub Span);

/// The roles of each name and user.
#[derive(Debug, Default)]
pub struct Bindings {
    certificates: BTreeMap<String, BTreeSet<Role>>,
    /// `None`: only the permission bits of a socket restrict its users.
    users: Option<BTreeMap<u32, BTreeSet<Role>>>,
    pub(super) trust_portal_assertion: bool,
}

const TENANT_ROLES: [Role; 2] = [Role::TenantAdmin, Role::TenantAuditor];
const LEEWAY_MAX: Span = Span(Duration::from_mins(5));

fn default_name_claim() -> String {
    "sub".into()
}

fn default_role_claim() -> String {
    "roles".into()
}

fn default_tenant_claim() -> String {
    "tenants".into()
}

impl Default for Leeway {
    fn default() -> Self {
        Self(Span(Duration::from_secs(30)))
    }
}

impl Leeway {
    /// A sentence that starts with the key, if the difference is too large.
    pub fn problem(self) -> Option<String> {
        let leeway = self.0;
        let is_long = leeway > LEEWAY_MAX;
        is_long.then(|| format!("leeway must be at most {LEEWAY_MAX}, but is {leeway}"))
    }
}

/// The first two roles that violate the separation of duties, and the reason.
pub(super) fn conflict(roles: &BTreeSet<Role>) -> Option<(Role, Role, &'static str)> {
    let pairs = roles.iter().flat_map(|a| roles.range(*a..).skip(1).map(move |b| (*a, *b)));
    let mut conflicts = pairs.filter_map(|(a, b)| a.conflict(b).map(|reason| (a, b, reason)));
    conflicts.next()
}

// === impl AuthConfig ===

impl AuthConfig {
    /// Whether no method of authentication is configured.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_none() && self.users.is_none() && self.issuers.is_none()
    }

    /// The problems of the sections, a sentence each.
    pub fn problems(&self) -> Vec<String> {
        let (certificates, users) = (self.certificates(), self.users());
        let mut problems = Vec::new();
        for role in TENANT_ROLES {
            for (table, is_bound) in [
                ("certificates", certificates.contains_key(&role)),
                ("users", users.contains_key(&role)),
            ] {
                if is_bound {
                    problems.push(format!(
                        "{table}.{role} is not supported: {role} requires a token, which names \
                         tenants"
                    ));
                }
            }
        }
        if users.contains_key(&Role::Portal) {
            problems.push("users.portal is not supported: a portal needs a certificate".into());
        }
        check_conflicts("certificates", &inverted(&certificates), &mut problems);
        check_conflicts("users", &inverted(&users), &mut problems);
        let names = certificates.values().flatten();
        problems.extend(names.filter(|name| !is_certificate_name(name)).map(|name| {
            format!(
                "certificates contains {name:?}, which is neither a SPIFFE URI such as \
                 spiffe://vendor.example/gateway nor a DNS name such as gateway.vendor.example"
            )
        }));
        self.check_issuers(&mut problems);
        if self.trust_portal_assertion && !certificates.contains_key(&Role::Portal) {
            problems.push("trust_portal_assertion needs certificates.portal".into());
        }
        problems
    }

    fn check_issuers(&self, problems: &mut Vec<String>) {
        let mut names = BTreeSet::new();
        for issuer in self.issuers() {
            issuer.check(problems);
            if !names.insert(&issuer.issuer) {
                problems.push(format!("issuers contains {:?} twice", issuer.issuer));
            }
        }
        let grants_tenant_roles =
            |issuer: &&IssuerConfig| issuer.roles.keys().any(|role| TENANT_ROLES.contains(role));
        let tenant_issuers: Vec<_> = self.issuers().filter(grants_tenant_roles).collect();
        if tenant_issuers.len() > 1 {
            problems.extend(tenant_issuers.iter().filter(|issuer| issuer.tenants.is_none()).map(
                |issuer| {
                    format!(
                        "issuers needs tenants for {:?}: with several issuers of tenant roles, \
                         each must be limited to its tenants",
                        issuer.issuer
                    )
                },
            ));
        }
    }

    /// All issuers.
    pub fn issuers(&self) -> impl Iterator<Item = &IssuerConfig> {
        self.issuers.iter().flatten()
    }

    fn certificates(&self) -> BTreeMap<Role, Vec<String>> {
        self.certificates.clone().unwrap_or_default()
    }

    fn users(&self) -> BTreeMap<Role, Vec<u32>> {
        self.users.clone().unwrap_or_default()
    }

    /// The bindings of certificates and users.
    pub fn bindings(&self) -> Bindings {
        Bindings {
            certificates: inverted(&self.certificates()),
            users: self.users.as_ref().map(inverted),
            trust_portal_assertion: self.trust_portal_assertion,
        }
    }
}

// === impl IssuerConfig ===

impl IssuerConfig {
    fn check(&self, problems: &mut Vec<String>) {
        let Self { issuer, audience, name_claim, role_claim, tenant_claim, leeway, roles, .. } =
            self;
        let texts = [
            ("issuer", issuer),
            ("audience", audience),
            ("name_claim", name_claim),
            ("role_claim", role_claim),
            ("tenant_claim", tenant_claim),
        ];
        let empty = texts.into_iter().filter(|(_, text)| text.is_empty());
        problems.extend(empty.map(|(key, _)| format!("issuers.{key} must not be empty")));
        problems.extend(leeway.problem().map(|problem| format!("issuers.{problem}")));
        if roles.contains_key(&Role::Portal) {
            let problem = "issuers.roles.portal is not supported: a portal needs a certificate";
            problems.push(problem.into());
        }
        check_conflicts("issuers.roles", &inverted(roles), problems);
    }

    /// The roles of each value of the role claim.
    pub(super) fn claimed_roles(&self) -> BTreeMap<String, BTreeSet<Role>> {
        inverted(&self.roles)
    }
}

fn inverted<N: Ord + Clone>(by_role: &BTreeMap<Role, Vec<N>>) -> BTreeMap<N, BTreeSet<Role>> {
    let mut by_name: BTreeMap<N, BTreeSet<Role>> = BTreeMap::new();
    for (role, names) in by_role {
        for name in names {
            by_name.entry(name.clone()).or_default().insert(*role);
        }
    }
    by_name
}

fn check_conflicts<N: fmt::Display>(
    table: &str,
    by_name: &BTreeMap<N, BTreeSet<Role>>,
    problems: &mut Vec<String>,
) {
    for (name, roles) in by_name {
        if let Some((first, second, reason)) = conflict(roles) {
            problems.push(format!(
                "{table} binds {name} to both {first} and {second} (separation of duties): {reason}"
            ));
        }
    }
}

fn is_certificate_name(name: &str) -> bool {
    let is_plain = |text: &str| {
        !text.is_empty()
            && text.len() <= ID_LENGTH_MAX
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    match name.split_once("://") {
        Some((scheme, rest)) => scheme == "spiffe" && is_plain(rest) && is_plain(name),
        None => is_plain(name) && !name.contains(['/', '*', ':', '@']),
    }
}

// === impl Bindings ===

impl Bindings {
    /// The union of the roles of all names in a certificate.
    pub(super) fn roles_of_certificate(&self, names: &[String]) -> BTreeSet<Role> {
        names.iter().filter_map(|name| self.certificates.get(name)).flatten().copied().collect()
    }

    pub(super) fn roles_of_user(&self, uid: u32) -> BTreeSet<Role> {
        self.users.as_ref().and_then(|users| users.get(&uid)).cloned().unwrap_or_default()
    }

    /// The name that identifies the holder of a certificate: the first bound name, or else the
    /// first name.
    pub(super) fn name_of_certificate<'a>(&self, names: &'a [String]) -> Option<&'a str> {
        let bound = names.iter().find(|name| self.certificates.contains_key(*name));
        bound.or(names.first()).map(String::as_str)
    }

    /// Whether a user of this host may connect to Unix sockets.
    pub(super) fn allows_user(&self, uid: u32) -> bool {
        self.users.as_ref().is_none_or(|users| users.contains_key(&uid))
    }
}
