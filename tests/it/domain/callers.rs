//! Roles and permissions.

use support_access::domain::{Action, Permission, Role};

#[test]
fn only_tenant_administrators_can_create_or_widen_access() {
    use Action::{ExtendAccess, GrantAccess, UpdateSupportPolicy};
    for action in [GrantAccess, ExtendAccess, UpdateSupportPolicy] {
        for role in Role::ALL {
            let expected = match role {
                Role::TenantAdmin => Permission::Own,
                _ => Permission::None,
            };
            assert_eq!(action.permission(role), expected, "{} {role}", action.name());
        }
    }
}

#[test]
fn roles_are_declared_in_the_order_of_the_table() {
    for (index, role) in Role::ALL.into_iter().enumerate() {
        assert_eq!(role as usize, index);
    }
}
