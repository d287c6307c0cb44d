//! What each request asks for, and about whose: what its caller must be permitted. A request that is not here cannot be
//! [admitted](super::call::admit).

use crate::{
    api::proto::v1::{self as pb, lock_access_request},
    domain::{Action, Whose},
};

/// A request's message.
pub(super) trait Guarded {
    /// What it asks for.
    const ACTION: Action;

    /// Whose it is about.
    fn whose(&self) -> Whose<'_>;
}

macro_rules! guarded {
    ($($message:ident: $action:ident, $whose:expr;)*) => {
        $(
            impl Guarded for pb::$message {
                const ACTION: Action = Action::$action;

                fn whose(&self) -> Whose<'_> {
                    let whose: fn(&Self) -> Whose<'_> = $whose;
                    whose(self)
                }
            }
        )*
    };
}

guarded! {
    GrantAccessRequest: GrantAccess, |it| Whose::Tenant(&it.tenant_id);
    ExtendAccessRequest: ExtendAccess, |it| Whose::Tenant(&it.tenant_id);
    RevokeAccessRequest: RevokeAccess, |it| Whose::Tenant(&it.tenant_id);
    RevokeAllAccessRequest: RevokeAllAccess, |it| Whose::Tenant(&it.tenant_id);
    GetGrantRequest: GetGrant, |it| Whose::Tenant(&it.tenant_id);
    ListGrantsRequest: ListGrants, |it| Whose::Tenant(&it.tenant_id);
    ListEventsRequest: ListEvents, |it| tenant_or_vendor(&it.tenant_id);
    GetSupportPolicyRequest: GetSupportPolicy, |it| Whose::Tenant(&it.tenant_id);
    UpdateSupportPolicyRequest: UpdateSupportPolicy, |it| Whose::Tenant(&it.tenant_id);
    ExportHistoryRequest: ExportHistory, |it| tenant_or_vendor(&it.tenant_id);
    GetCheckpointRequest: GetCheckpoint, |it| tenant_or_vendor(&it.tenant_id);
    LockAccessRequest: LockAccess, |it| match &it.target {
        Some(lock_access_request::Target::TenantId(tenant_id)) => Whose::Tenant(tenant_id),
        _ => Whose::Vendor,
    };
    UnlockAccessRequest: UnlockAccess, |it| tenant_or_vendor(&it.tenant_id);
    ListLocksRequest: ListLocks, |it| tenant_or_vendor(&it.tenant_id);
    WaitEnforcedRequest: WaitEnforced, |_| Whose::Nobody;
    CheckAccessRequest: CheckAccess, |_| Whose::Nobody;
    BatchCheckAccessRequest: BatchCheckAccess, |_| Whose::Nobody;
    ExplainAccessRequest: ExplainAccess, |_| Whose::Nobody;
    ListCheckNodesRequest: ListCheckNodes, |_| Whose::Nobody;
}

/// Where no tenant is named, the vendor's own is meant.
fn tenant_or_vendor(tenant_id: &str) -> Whose<'_> {
    if tenant_id.is_empty() { Whose::Vendor } else { Whose::Tenant(tenant_id) }
}
