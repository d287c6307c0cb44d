//! Requests about agent `ada` and the group `support`.

use support_access::api::proto::v1::{
    AccessCheck, AccessLevel, AgentKind, CheckAccessRequest, GrantAccessRequest,
};

/// A request for access until revoked.
pub fn grant_request(tenant_id: &str) -> GrantAccessRequest {
    GrantAccessRequest {
        tenant_id: tenant_id.into(),
        group_id: "support".into(),
        access_level: AccessLevel::ReadOnly.into(),
        until_revoked: true,
        ..Default::default()
    }
}

/// A check whether agent `ada` may read.
pub fn check_request(tenant_id: &str, consistency_token: &str) -> CheckAccessRequest {
    CheckAccessRequest {
        check: Some(access_check(tenant_id)),
        consistency_token: consistency_token.into(),
    }
}

/// The access check in [`check_request`].
pub fn access_check(tenant_id: &str) -> AccessCheck {
    AccessCheck {
        tenant_id: tenant_id.into(),
        agent_id: "ada".into(),
        group_ids: vec!["support".into()],
        required_level: AccessLevel::ReadOnly.into(),
        agent_kind: AgentKind::Human.into(),
        on_behalf_of: String::new(),
    }
}
