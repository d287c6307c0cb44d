//! What each request asks for, and about whose: what its caller must be permitted. A request that is not here cannot be
//! [admitted](super::call::admit).

use crate::{
    api::proto::v1::{self as pb, lock_access_request},
    domain::{Action, Scope},
};

/// A request's message.
pub(super) trait Guarded {
    /// What it asks for.
    const ACTION: Action;

    /// Scope it is about.
    fn whose(&self) -> Scope<'_>;
}

macro_rules! guarded {
    ($($message:ident: $action:ident, $whose:expr;)*) => {
        $(
            impl Guarded for pb::$message {
                const ACTION: Action = Action::$action;

                fn whose(&self) -> Scope<'_> {
                    let whose: fn(&Self) -> Scope<'_> = $whose;
                    whose(self)
                }
            }
        )*
    };
}

guarded! {
    GrantAccessRequest: GrantAccess, |it| Scope::Tenant(&it.tenant_id);
    ExtendAccessRequest: ExtendAccess, |it| Scope::Tenant(&it.tenant_id);
    RevokeAccessRequest: RevokeAccess, |it| Scope::Tenant(&it.tenant_id);
    RevokeAllAccessRequest: RevokeAllAccess, |it| Scope::Tenant(&it.tenant_id);
    GetGrantRequest: GetGrant, |it| Scope::Tenant(&it.tenant_id);
    ListGrantsRequest: ListGrants, |it| Scope::Tenant(&it.tenant_id);
    ListEventsRequest: ListEvents, |it| tenant_or_vendor(&it.tenant_id);
    GetSupportPolicyRequest: GetSupportPolicy, |it| Scope::Tenant(&it.tenant_id);
    UpdateSupportPolicyRequest: UpdateSupportPolicy, |it| Scope::Tenant(&it.tenant_id);
    ExportHistoryRequest: ExportHistory, |it| tenant_or_vendor(&it.tenant_id);
    GetCheckpointRequest: GetCheckpoint, |it| tenant_or_vendor(&it.tenant_id);
    LockAccessRequest: LockAccess, |it| match &it.target {
        Some(lock_access_request::Target::TenantId(tenant_id)) => Scope::Tenant(tenant_id),
        _ => Scope::Vendor,
    };
    UnlockAccessRequest: UnlockAccess, |it| tenant_or_vendor(&it.tenant_id);
    ListLocksRequest: ListLocks, |it| tenant_or_vendor(&it.tenant_id);
    WaitEnforcedRequest: WaitEnforced, |_| Scope::Global;
    CheckAccessRequest: CheckAccess, |_| Scope::Global;
    BatchCheckAccessRequest: BatchCheckAccess, |_| Scope::Global;
    ExplainAccessRequest: ExplainAccess, |_| Scope::Global;
    ListCheckNodesRequest: ListCheckNodes, |_| Scope::Global;
}

/// Where no tenant is named, the vendor's own is meant.
fn tenant_or_vendor(tenant_id: &str) -> Scope<'_> {
    if tenant_id.is_empty() { Scope::Vendor } else { Scope::Tenant(tenant_id) }
}
