//! Callers, their roles, and the permission table.
//!
//! `docs/permissions.md` is generated from the table, and a test sends every RPC as every role.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use crate::domain::{
    ids::{Actor, TenantId, TextError},
    time::Time,
};

/// The author of a change, as recorded in the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attribution {
    /// The person or program that acted.
    pub actor: Actor,
    /// The service that forwarded the call, named by its own certificate.
    pub via: Option<Actor>,
    /// Whether `via` only named the actor, without proof such as the actor's token.
    pub is_asserted: bool,
}

/// The function of a caller. The configuration binds roles to certificate names, token claims and
/// local user ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Administers the tenants named by the caller's token.
    TenantAdmin,
    /// Reads the history of the tenants named by the caller's token.
    TenantAuditor,
    /// Forwards the tokens of tenant administrators. Has no permissions without such a token.
    Portal,
    /// Checks access before a support agent enters a tenant.
    Gateway,
    /// Replicates the grants of another check node.
    Node,
    /// Operates the service, and locks access in an emergency.
    Operator,
    /// Reads and verifies every history.
    Auditor,
}

/// The owner of a lock or a role: the tenant or the vendor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Party {
    /// A customer.
    Tenant,
    /// The vendor.
    Vendor,
}

/// The authentication method of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthenticationMethod {
    /// No method is configured, so callers are not authenticated.
    None,
    /// A client certificate.
    Certificate,
    /// A bearer token.
    Token,
    /// The user id of the process at the other end of a Unix socket.
    UnixUser,
}

/// The tenants in which a caller holds its tenant roles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenants {
    /// Every tenant.
    All,
    /// The listed tenants. An empty set means no tenant.
    These(BTreeSet<TenantId>),
}

/// The owner of the data that a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope<'a> {
    /// The tenant named by the request. The name is not validated yet.
    Tenant(&'a str),
    /// The vendor.
    Vendor,
    /// No particular owner, such as the list of check nodes.
    Global,
}

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Recorded with every change that the caller makes.
    pub author: Attribution,
    /// The authentication method of the credentials that hold the roles.
    pub method: AuthenticationMethod,
    /// May be empty: the caller is authenticated, but has no permissions.
    pub roles: BTreeSet<Role>,
    /// The tenants to which [`Permission::Own`] applies.
    pub tenants: Tenants,
    /// Key of rate limits and quotas: authentication method and name. One name under two methods is
    /// two callers.
    pub identity: Arc<str>,
    /// Remaining validity of the credentials. `None`: as long as the connection lasts.
    pub valid_for: Option<Duration>,
    /// When the credentials expire. `None`: never.
    pub expire_time: Option<Time>,
}

/// Permission of a role for an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Denied.
    None,
    /// Allowed in the caller's own tenants.
    Own,
    /// Allowed in every tenant, and for data that belongs to no tenant.
    All,
}

/// Reason why a caller is denied an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No role of the caller permits the action in any tenant.
    #[error("none of the caller's roles may do this")]
    NoRole,
    /// The action is permitted only in the caller's own tenants. Does not reveal whether the named
    /// tenant exists.
    #[error("the caller may do this only in its own tenants")]
    OtherTenant,
}

// === impl Attribution ===

impl Attribution {
    /// A caller that acts directly, without a forwarding service.
    pub fn direct(actor: Actor) -> Self {
        Self { actor, via: None, is_asserted: false }
    }

    /// The service itself, which records expiries.
    pub fn system() -> Self {
        Self::direct(Actor::fixed("system"))
    }
}

// === impl Role ===

names! {
    /// The name used in configuration files, logs and documentation.
    Role {
        TenantAdmin = "tenant_admin",
        TenantAuditor = "tenant_auditor",
        Portal = "portal",
        Gateway = "gateway",
        Node = "node",
        Operator = "operator",
        Auditor = "auditor",
    }
}

impl Role {
    /// The party that the role belongs to. A portal is operated by the vendor.
    pub const fn party(self) -> Party {
        match self {
            Self::TenantAdmin | Self::TenantAuditor => Party::Tenant,
            Self::Portal | Self::Gateway | Self::Node | Self::Operator | Self::Auditor => {
                Party::Vendor
            }
        }
    }

    /// Separation of duties: the reason why no caller may hold both roles, if there is one.
    pub fn conflict(self, other: Self) -> Option<&'static str> {
        let either_is = |role| self == role || other == role;
        if self.party() != other.party() {
            Some("a caller with a tenant's and a vendor's role could grant access to itself")
        } else if either_is(Self::Portal) && (either_is(Self::Operator) || either_is(Self::Gateway))
        {
            Some("the portal forwards the grants of tenants, and must not use these grants")
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

names! {
    /// The name used in the history.
    Party {
        Tenant = "tenant",
        Vendor = "vendor",
    }
}

// === impl Caller ===

impl Caller {
    /// A local caller of a server without authentication. Has every role, under a name of its
    /// choice.
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

    /// Whether the caller may perform `action` on data of `scope`.
    pub fn may(&self, action: Action, scope: Scope<'_>) -> Result<(), Denied> {
        if action.is_for_everyone() {
            return Ok(());
        }
        let is_own = match scope {
            Scope::Tenant(tenant_id) => self.tenants.include(tenant_id),
            Scope::Vendor | Scope::Global => false,
        };
        let mut denied = Denied::NoRole;
        for role in &self.roles {
            match action.permission(*role) {
                Permission::All => return Ok(()),
                Permission::Own if is_own => return Ok(()),
                Permission::Own => denied = Denied::OtherTenant,
                Permission::None => {}
            }
        }
        Err(denied)
    }

    /// The party for which the caller performs `action`. This is the tenant if a tenant role
    /// permits the action and `tenant_id` is one of the caller's own tenants, or else the vendor.
    pub fn party(&self, action: Action, tenant_id: Option<&TenantId>) -> Party {
        let mut tenant_roles = self.roles.iter().filter(|role| role.party() == Party::Tenant);
        let is_permitted = tenant_roles.any(|role| action.permission(*role) != Permission::None);
        let is_own = tenant_id.is_some_and(|id| self.tenants.include(id.as_str()));
        if is_permitted && is_own { Party::Tenant } else { Party::Vendor }
    }

    /// Whether the caller may perform `action` on behalf of `party`.
    pub fn acts_for(&self, party: Party, action: Action, tenant_id: Option<&TenantId>) -> bool {
        let roles = self.roles.iter().filter(|role| role.party() == party);
        roles.map(|role| action.permission(*role)).any(|permission| match permission {
            Permission::All => true,
            Permission::Own => tenant_id.is_some_and(|id| self.tenants.include(id.as_str())),
            Permission::None => false,
        })
    }
}

// === impl Action ===

impl Action {
    /// Whether the action waits until a change is enforced at every check node, or until all grants
    /// are changed.
    pub const fn waits_for_enforcement(self) -> bool {
        matches!(
            self,
            Self::ExtendAccess
                | Self::RevokeAccess
                | Self::RevokeAllAccess
                | Self::UpdateSupportPolicy
                | Self::LockAccess
                | Self::WaitEnforced
                | Self::AcceptClock
        )
    }

    /// Whether every authenticated caller may perform the action, even without any role.
    pub fn is_for_everyone(self) -> bool {
        Role::ALL.iter().all(|role| self.permission(*role) == Permission::All)
    }
}

macro_rules! permission {
    (OWN) => {
        Permission::Own
    };
    (ALL) => {
        Permission::All
    };
    (__) => {
        Permission::None
    };
}

/// One line for each RPC of `supportaccess.v1`, with a column for each role in the order of
/// [`Role::ALL`].
macro_rules! permissions {
    ($($action:ident: $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt;)*) => {
        /// An RPC of `supportaccess.v1`, named after its method.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Action {
            $(
                #[doc = concat!("The RPC `", stringify!($action), "`.")]
                $action,
            )*
        }

        impl Action {
            /// Every action, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$action),*];

            /// The method name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$action => stringify!($action),)*
                }
            }

            /// The permission of `role` for this action.
            pub const fn permission(self, role: Role) -> Permission {
                let row: [Permission; Role::ALL.len()] = match self {
                    $(Self::$action => [
                        permission!($a), permission!($b), permission!($c), permission!($d),
                        permission!($e), permission!($f), permission!($g),
                    ],)*
                };
                row[role as usize]
            }
        }
    };
}

permissions! {
    //                   admin auditor portal gateway node operator auditor
    GrantAccess:         OWN   __      __     __      __   __       __;
    ExtendAccess:        OWN   __      __     __      __   __       __;
    RevokeAccess:        OWN   __      __     __      __   ALL      __;
    RevokeAllAccess:     OWN   __      __     __      __   ALL      __;
    GetGrant:            OWN   OWN     __     __      __   ALL      ALL;
    ListGrants:          OWN   OWN     __     __      __   ALL      ALL;
    ListEvents:          OWN   OWN     __     __      __   ALL      ALL;
    ListTenants:         __    __      __     __      __   ALL      ALL;
    ExportHistory:       OWN   OWN     __     __      __   ALL      ALL;
    GetCheckpoint:       OWN   OWN     __     __      __   ALL      ALL;
    GetSupportPolicy:    OWN   OWN     __     __      __   ALL      ALL;
    UpdateSupportPolicy: OWN   __      __     __      __   __       __;
    WaitEnforced:        OWN   __      __     __      __   ALL      __;
    LockAccess:          OWN   __      __     __      __   ALL      __;
    UnlockAccess:        OWN   __      __     __      __   ALL      __;
    ListLocks:           OWN   OWN     __     __      __   ALL      ALL;
    AcceptClock:         __    __      __     __      __   ALL      __;
    CheckAccess:         __    __      __     ALL     __   __       __;
    BatchCheckAccess:    __    __      __     ALL     __   __       __;
    ExplainAccess:       OWN   OWN     __     ALL     __   __       __;
    Follow:              __    __      __     __      ALL  __       __;
    ListCheckNodes:      __    __      __     __      __   ALL      ALL;
    GetServerInfo:       ALL   ALL     ALL    ALL     ALL  ALL      ALL;
    GetCaller:           ALL   ALL     ALL    ALL     ALL  ALL      ALL;
}
