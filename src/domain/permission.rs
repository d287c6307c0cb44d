//! Who may do what: one table. `docs/permissions.md` is made from it, and a test walks every call of it.

use crate::domain::caller::Role;

/// What a role may do with an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Nothing.
    No,
    /// In the caller's own tenants.
    Own,
    /// In all tenants; or whatever it is about is no tenant's.
    All,
}

/// Why somebody may not do what they asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// None of the caller's roles may do it.
    #[error("none of the caller's roles may do this")]
    NoRole,
    /// The caller may do it in its own tenants, and has named another. Says nothing of whether there is such a tenant.
    #[error("the caller may do this only in its own tenants")]
    OtherTenant,
}

macro_rules! cell {
    (OWN) => {
        Cell::Own
    };
    (ALL) => {
        Cell::All
    };
    (__) => {
        Cell::No
    };
}

/// One line for each RPC, by the name of its method, with a cell for each role in the order of [`Role::ALL`].
macro_rules! permissions {
    ($($action:ident: $a:tt $b:tt $c:tt $d:tt $e:tt $f:tt $g:tt;)*) => {
        /// Something that can be asked for: the RPC of that name.
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

            /// The name of its RPC.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$action => stringify!($action),)*
                }
            }

            /// What a role may do with it.
            pub const fn cell(self, role: Role) -> Cell {
                let row = match self {
                    $(Self::$action => [
                        cell!($a), cell!($b), cell!($c), cell!($d), cell!($e), cell!($f), cell!($g)
                    ],)*
                };
                row[role as usize]
            }
        }
    };
}

impl Action {
    /// Whether every authenticated caller may perform the action, even without any role.
    pub fn is_for_everyone(self) -> bool {
        Role::ALL.iter().all(|role| self.cell(*role) == Cell::All)
    }
}

// A portal may do nothing in its own name: it acts as the administrator whose token it forwards.
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
    CheckAccess:         __    __      __     ALL     __   __       __;
    BatchCheckAccess:    __    __      __     ALL     __   __       __;
    ExplainAccess:       OWN   OWN     __     ALL     __   __       __;
    Follow:              __    __      __     __      ALL  __       __;
    ListCheckNodes:      __    __      __     __      __   ALL      ALL;
    GetServerInfo:       ALL   ALL     ALL    ALL     ALL  ALL      ALL;
    GetCaller:           ALL   ALL     ALL    ALL     ALL  ALL      ALL;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_tenants_administrator_can_create_or_widen_access() {
        use Action::{ExtendAccess, GrantAccess, UpdateSupportPolicy};
        for action in [GrantAccess, ExtendAccess, UpdateSupportPolicy] {
            for role in Role::ALL {
                let expected = if role == Role::TenantAdmin { Cell::Own } else { Cell::No };
                assert_eq!(action.cell(role), expected, "{} {role}", action.name());
            }
        }
    }

    #[test]
    fn roles_stand_in_the_order_of_the_table() {
        for (index, role) in Role::ALL.into_iter().enumerate() {
            assert_eq!(role as usize, index);
        }
    }
}
