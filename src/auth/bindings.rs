//! Who is what: names in certificates, users of the host and claims of tokens, bound to roles in the configuration file.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde::Deserialize;

use crate::domain::{Role, Span, TenantId, ids::ID_LENGTH_MAX};

/// What the configuration file says of callers. A table that is there but empty means nobody; what is not there at all is not a
/// way to tell callers apart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Names in client certificates, by role: SPIFFE URIs or DNS names, as they stand there.
    pub certificates: Option<BTreeMap<Role, Vec<String>>>,
    /// Users of this host, by role: their numeric ids, as the kernel tells them of who is at a Unix socket. Nobody
    /// else may use the sockets then.
    pub users: Option<BTreeMap<Role, Vec<u32>>>,
    /// Scope tokens are taken.
    pub issuers: Option<Vec<IssuerConfig>>,
    /// Whether a portal may name the administrator that it acts for, without the administrator's own token.
    pub trust_portal_assertion: bool,
}

/// Somebody who issues tokens.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuerConfig {
    /// The claim `iss`, exactly.
    pub issuer: String,
    /// What must be in the claim `aud`.
    pub audience: String,
    /// The issuer's keys, a JWK set (RFC 7517): an https URL, http on this host, or a file.
    pub keys: String,
    /// The claim with the name that the history keeps.
    #[serde(default = "default_name_claim")]
    pub name_claim: String,
    /// The claim with the caller's roles at the issuer: a list of texts, or one text of words. A JSON Pointer (RFC 6901), if it
    /// begins with a slash.
    #[serde(default = "default_role_claim")]
    pub role_claim: String,
    /// The claim with the caller's tenants: a list of texts, or one text. As above.
    #[serde(default = "default_tenant_claim")]
    pub tenant_claim: String,
    /// By how much the issuer's clock may differ from this host's.
    #[serde(default)]
    pub leeway: Leeway,
    /// The tenants that it may speak for; those that are not here count for nothing in its tokens. `None`: all, which only the one
    /// issuer of tenants' roles may.
    #[serde(default)]
    pub tenants: Option<BTreeSet<TenantId>>,
    /// What is in the claim, by role.
    pub roles: BTreeMap<Role, Vec<String>>,
}

/// A tolerance of clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Leeway(pub Span);

/// Who is what, looked up by what they show.
#[derive(Debug, Default)]
pub struct Bindings {
    certificates: BTreeMap<String, BTreeSet<Role>>,
    /// `None`: the sockets' permissions alone say who may use them.
    users: Option<BTreeMap<u32, BTreeSet<Role>>>,
    pub(super) trust_portal_assertion: bool,
}

/// The roles of customers.
const TENANT_ROLES: [Role; 2] = [Role::TenantAdmin, Role::TenantAuditor];
/// The most that clocks may differ.
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

/// Two of the roles that nobody may have together, and why.
pub(super) fn conflict(roles: &BTreeSet<Role>) -> Option<(Role, Role, &'static str)> {
    let pairs = roles.iter().flat_map(|a| roles.range(*a..).skip(1).map(move |b| (*a, *b)));
    let mut conflicts = pairs.filter_map(|(a, b)| a.conflict(b).map(|why| (a, b, why)));
    conflicts.next()
}

// === impl AuthConfig ===

impl AuthConfig {
    /// Whether anything is configured to tell callers apart.
    pub fn is_empty(&self) -> bool {
        self.certificates.is_none() && self.users.is_none() && self.issuers.is_none()
    }

    /// What is wrong with it, in a sentence for an operator.
    pub fn check(&self) -> Result<(), String> {
        let (certificates, users) = (self.certificates(), self.users());
        for role in TENANT_ROLES {
            for (table, has) in [
                ("certificates", certificates.contains_key(&role)),
                ("users", users.contains_key(&role)),
            ] {
                if has {
                    return Err(format!(
                        "{table}.{role} is not possible: {role} comes from a token, which names its tenants"
                    ));
                }
            }
        }
        if users.contains_key(&Role::Portal) {
            return Err("users.portal is not possible: a portal shows a certificate".into());
        }
        check_names("certificates", &inverted(&certificates))?;
        check_names("users", &inverted(&users))?;
        if let Some(name) = certificates.values().flatten().find(|name| !is_name(name)) {
            return Err(format!(
                "certificates has {name:?}, which is neither a SPIFFE URI such as spiffe://vendor.example/gateway \
                 nor a DNS name such as gateway.vendor.example"
            ));
        }
        let mut seen = BTreeSet::new();
        let speak =
            |issuer: &&IssuerConfig| issuer.roles.keys().any(|role| TENANT_ROLES.contains(role));
        let are_several = self.issuers().filter(speak).count() > 1;
        for issuer in self.issuers() {
            issuer.check()?;
            if !seen.insert(&issuer.issuer) {
                return Err(format!("issuers has {:?} twice", issuer.issuer));
            }
        }
        let mut speakers = self.issuers().filter(speak).filter(|_| are_several);
        if let Some(issuer) = speakers.find(|issuer| issuer.tenants.is_none()) {
            return Err(format!(
                "issuers needs tenants for {:?}: of several that speak for tenants, each must be told for which",
                issuer.issuer
            ));
        }
        if self.trust_portal_assertion && !certificates.contains_key(&Role::Portal) {
            return Err("trust_portal_assertion is of no use without certificates.portal".into());
        }
        Ok(())
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

    /// As it is looked up.
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
    fn check(&self) -> Result<(), String> {
        let Self { issuer, audience, name_claim, role_claim, tenant_claim, leeway, roles, .. } =
            self;
        let texts = [
            ("issuer", issuer),
            ("audience", audience),
            ("name_claim", name_claim),
            ("role_claim", role_claim),
            ("tenant_claim", tenant_claim),
        ];
        if let Some((key, _)) = texts.into_iter().find(|(_, text)| text.is_empty()) {
            return Err(format!("issuers.{key} must not be empty"));
        }
        if leeway.0 > LEEWAY_MAX {
            return Err(format!(
                "issuers.leeway must be at most {LEEWAY_MAX}, but is {}",
                leeway.0
            ));
        }
        if roles.contains_key(&Role::Portal) {
            return Err("issuers.roles.portal is not possible: a portal shows a certificate".into());
        }
        check_names("issuers.roles", &inverted(roles))
    }

    /// What is in the claim, and what that makes of the caller.
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

fn check_names<N: fmt::Display>(
    table: &str,
    by_name: &BTreeMap<N, BTreeSet<Role>>,
) -> Result<(), String> {
    for (name, roles) in by_name {
        if let Some((first, second, why)) = conflict(roles) {
            return Err(format!("{table} binds {name} to both {first} and {second}, but {why}"));
        }
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
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
    /// All that any of a certificate's names is bound to.
    pub(super) fn of_certificate(&self, names: &[String]) -> BTreeSet<Role> {
        names.iter().filter_map(|name| self.certificates.get(name)).flatten().copied().collect()
    }

    pub(super) fn of_user(&self, uid: u32) -> BTreeSet<Role> {
        self.users.as_ref().and_then(|users| users.get(&uid)).cloned().unwrap_or_default()
    }

    /// The name of a certificate that makes it somebody: the first that is bound, or else the first.
    pub(super) fn name_of_certificate<'a>(&self, names: &'a [String]) -> Option<&'a str> {
        let bound = names.iter().find(|name| self.certificates.contains_key(*name));
        bound.or(names.first()).map(String::as_str)
    }

    /// Whether a user may use the sockets at all.
    pub(super) fn admits_user(&self, uid: u32) -> bool {
        self.users.as_ref().is_none_or(|users| users.contains_key(&uid))
    }
}
