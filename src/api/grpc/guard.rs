//! The permission that each request requires: an action in a scope. A request that is not listed
//! here cannot be [admitted](super::call::admit).

use crate::{
    api::proto::{envoy, v1 as pb},
    domain::{Action, Scope},
};

/// The message of a request.
pub(super) trait Guarded {
    /// The action.
    const ACTION: Action;

    /// The owner of the data that the request is about.
    fn scope(&self) -> Scope<'_>;
}

macro_rules! guarded {
    ($($message:ident: $action:ident, $scope:expr;)*) => {
        $(
            impl Guarded for pb::$message {
                const ACTION: Action = Action::$action;

                fn scope(&self) -> Scope<'_> {
                    let scope: fn(&Self) -> Scope<'_> = $scope;
                    scope(self)
                }
            }
        )*
    };
}

guarded! {
    GrantAccessRequest: GrantAccess, |request| Scope::Tenant(&request.tenant_id);
    ExtendAccessRequest: ExtendAccess, |request| Scope::Tenant(&request.tenant_id);
    RevokeAccessRequest: RevokeAccess, |request| Scope::Tenant(&request.tenant_id);
    RevokeAllAccessRequest: RevokeAllAccess, |request| Scope::Tenant(&request.tenant_id);
    GetGrantRequest: GetGrant, |request| Scope::Tenant(&request.tenant_id);
    ListGrantsRequest: ListGrants, |request| listed(request.scope, &request.tenant_id);
    ListEventsRequest: ListEvents, |request| listed(request.scope, &request.tenant_id);
    ListTenantsRequest: ListTenants, |_| Scope::Global;
    GetSupportPolicyRequest: GetSupportPolicy, |request| Scope::Tenant(&request.tenant_id);
    UpdateSupportPolicyRequest: UpdateSupportPolicy, |request| Scope::Tenant(&request.tenant_id);
    ExportHistoryRequest: ExportHistory, |request| optional(&request.tenant_id);
    GetCheckpointRequest: GetCheckpoint, |request| optional(&request.tenant_id);
    LockAccessRequest: LockAccess, |request| optional(&request.tenant_id);
    UnlockAccessRequest: UnlockAccess, |request| optional(&request.tenant_id);
    ListLocksRequest: ListLocks, |request| listed(request.scope, &request.tenant_id);
    AcceptClockRequest: AcceptClock, |_| Scope::Vendor;
    WaitEnforcedRequest: WaitEnforced, |request| optional(&request.tenant_id);
    CheckAccessRequest: CheckAccess, |_| Scope::Global;
    BatchCheckAccessRequest: BatchCheckAccess, |_| Scope::Global;
    ExplainAccessRequest: ExplainAccess, |request| checked(request.check.as_ref());
    ListCheckNodesRequest: ListCheckNodes, |_| Scope::Global;
    GetServerInfoRequest: GetServerInfo, |_| Scope::Global;
    GetCallerRequest: GetCaller, |_| Scope::Global;
}

/// The request does not name the tenant in a fixed place.
impl Guarded for envoy::CheckRequest {
    const ACTION: Action = Action::CheckAccess;

    fn scope(&self) -> Scope<'_> {
        Scope::Global
    }
}

/// Without a tenant, a request is about the vendor.
fn optional(tenant_id: &Option<String>) -> Scope<'_> {
    tenant_id.as_deref().map_or(Scope::Vendor, Scope::Tenant)
}

/// Every scope except one tenant includes data of the vendor or of all tenants.
fn listed(scope: i32, tenant_id: &str) -> Scope<'_> {
    match pb::Scope::try_from(scope) {
        Ok(pb::Scope::Unspecified | pb::Scope::Tenant) => Scope::Tenant(tenant_id),
        Ok(pb::Scope::Vendor | pb::Scope::All) | Err(_) => Scope::Vendor,
    }
}

fn checked(check: Option<&pb::AccessCheck>) -> Scope<'_> {
    Scope::Tenant(check.map_or("", |check| &check.tenant_id))
}
