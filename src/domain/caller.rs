//! Who is asking, what proves it, and what they may do.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::domain::{
    ids::{Actor, TenantId, TextError},
    permission::{Action, Cell, Denied},
    time::Time,
};

/// Who did something, as the history keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribution {
    /// Who acted.
    pub actor: Actor,
    /// The service through which they did, by the name in its own certificate.
    pub via: Option<Actor>,
    /// Whether that service has only *named* the actor, and shown no proof of it.
    pub is_asserted: bool,
}

/// What a caller is to this service. Bound in the configuration to names in certificates, claims of tokens, and users of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Decides for the tenants in its token.
    TenantAdmin,
    /// Reviews what happened in the tenants in its token.
    TenantAuditor,
    /// Acts for the tenant administrator whose own token it forwards.
    Portal,
    /// Asks before a support agent enters a tenant.
    Gateway,
    /// A check node that follows another.
    Node,
    /// Looks after the service, and locks in an emergency.
    Operator,
    /// Reads and verifies everything.
    Auditor,
}

/// Who sets and lifts locks: the customer, or the vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// The tenant.
    Tenant,
    /// The vendor.
    Vendor,
}

/// How a caller was authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthenticationMethod {
    /// Not at all: no method is configured.
    None,
    /// By a client certificate.
    Certificate,
    /// By a bearer token.
    Token,
    /// By the user id of the process at the other end of a Unix socket.
    UnixUser,
}

/// Which tenants a caller's own ones are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenants {
    /// All of them.
    All,
    /// Only these; none: nobody's.
    These(BTreeSet<TenantId>),
}

/// Scope something is that a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// The tenant's that the request names, whether or not it can be one.
    Tenant(&'a str),
    /// The vendor's own.
    Vendor,
    /// Nobody's in particular.
    Global,
}

/// Who sent a request, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// What the history keeps of them.
    pub author: Attribution,
    /// How the caller was authenticated.
    pub method: AuthenticationMethod,
    /// What they are to this service. Empty: nobody.
    pub roles: BTreeSet<Role>,
    /// Scope tenants' roles they have.
    pub tenants: Tenants,
    /// What limits count them by: how they have proven who they are, and their name there. Two of one name are two.
    pub identity: Arc<str>,
    /// For how long what they have shown still holds; `None`: as long as they are there.
    pub valid_for: Option<Duration>,
    /// When the credentials expire. `None`: they do not.
    pub expire_time: Option<Time>,
}

// === impl Attribution ===

impl Attribution {
    /// Somebody who acts by themselves.
    pub fn direct(actor: Actor) -> Self {
        Self { actor, via: None, is_asserted: false }
    }

    /// The service itself, when something ends by its own time.
    pub fn system() -> Self {
        Self::direct(Actor::fixed("system"))
    }
}

// === impl Role ===

impl Role {
    /// Every role, in the order of the permission table.
    pub const ALL: [Self; 7] = [
        Self::TenantAdmin,
        Self::TenantAuditor,
        Self::Portal,
        Self::Gateway,
        Self::Node,
        Self::Operator,
        Self::Auditor,
    ];

    /// As configuration files, logs and the permission table write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TenantAdmin => "tenant_admin",
            Self::TenantAuditor => "tenant_auditor",
            Self::Portal => "portal",
            Self::Gateway => "gateway",
            Self::Node => "node",
            Self::Operator => "operator",
            Self::Auditor => "auditor",
        }
    }

    /// Scope side it is on. A portal is the vendor's, but acts for tenants.
    pub const fn side(self) -> Party {
        match self {
            Self::TenantAdmin | Self::TenantAuditor => Party::Tenant,
            Self::Portal | Self::Gateway | Self::Node | Self::Operator | Self::Auditor => {
                Party::Vendor
            }
        }
    }

    /// Why nobody may have both roles, if nobody may: separation of duties.
    pub fn conflict(self, other: Self) -> Option<&'static str> {
        let has = |role| self == role || other == role;
        if self.side() != other.side() {
            Some(
                "a customer's role and a vendor's in one hand would let the vendor grant access to itself",
            )
        } else if has(Self::Portal) && (has(Self::Operator) || has(Self::Gateway)) {
            Some("who carries the customers' decisions must not also be the one who is let in")
        } else {
            None
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Tenants ===

impl Tenants {
    fn include(&self, tenant_id: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(own) => own.contains(tenant_id),
        }
    }
}

// === impl Party ===

impl Party {
    /// As the history writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Vendor => "vendor",
        }
    }
}

// === impl Caller ===

impl Caller {
    /// Somebody on this host, where no way to tell callers apart is configured: may do everything, under the name that they give
    /// themselves.
    pub fn local(name: Option<&str>) -> Result<Self, TextError> {
        let actor = name.map_or(Ok(Actor::fixed("anonymous")), Actor::new)?;
        if actor == Attribution::system().actor {
            return Err(TextError::Reserved);
        }
        Ok(Self {
            roles: BTreeSet::from(Role::ALL),
            tenants: Tenants::All,
            identity: format!("local {actor}").into(),
            valid_for: None,
            expire_time: None,
            author: Attribution::direct(actor),
            method: AuthenticationMethod::None,
        })
    }

    /// Whether this caller may do something with what is somebody's.
    pub fn may(&self, action: Action, whose: Scope<'_>) -> Result<(), Denied> {
        if action.is_for_everyone() {
            return Ok(());
        }
        let is_own = match whose {
            Scope::Tenant(tenant_id) => self.tenants.include(tenant_id),
            Scope::Vendor | Scope::Global => false,
        };
        let mut nearest = Denied::NoRole;
        for role in &self.roles {
            match action.cell(*role) {
                Cell::All => return Ok(()),
                Cell::Own if is_own => return Ok(()),
                Cell::Own => nearest = Denied::OtherTenant,
                Cell::No => {}
            }
        }
        Err(nearest)
    }

    /// On which side this caller may do something: a tenant's wherever one is named that it decides for.
    pub fn side(&self, action: Action, tenant_id: Option<&TenantId>) -> Party {
        let mut of_tenant = self.roles.iter().filter(|role| role.side() == Party::Tenant);
        let decides = of_tenant.any(|role| action.cell(*role) != Cell::No);
        let is_own = tenant_id.is_some_and(|id| self.tenants.include(id.as_str()));
        if decides && is_own { Party::Tenant } else { Party::Vendor }
    }

    /// Whether this caller may do something as one of that side: of a tenant, in its own tenants only.
    pub fn is_on(&self, side: Party, action: Action, tenant_id: Option<&TenantId>) -> bool {
        let of_side = self.roles.iter().filter(|role| role.side() == side);
        of_side.map(|role| action.cell(*role)).any(|cell| match cell {
            Cell::All => true,
            Cell::Own => tenant_id.is_some_and(|id| self.tenants.include(id.as_str())),
            Cell::No => false,
        })
    }
}
