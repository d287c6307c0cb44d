//! Requests of lists, histories and enforcement.

use crate::{
    api::{
        grpc::convert::fields::{Fields, Parsed},
        proto::v1 as pb,
    },
    domain::{AgentId, GrantState, GroupId, Sequence, TenantId, ViolationReason},
    service::{GrantRef, page::PageRequest},
    store::{GrantFilter, ListOrder, LockFilter, QueryScope},
};

pub(in crate::api::grpc) fn list_grants_request(
    message: pb::ListGrantsRequest,
) -> Parsed<(GrantFilter, PageRequest)> {
    let pb::ListGrantsRequest {
        scope,
        tenant_id,
        states,
        group_id,
        agent_id,
        overlap_start,
        overlap_end,
        order,
        page_size,
        page_token,
    } = message;
    let mut fields = Fields::default();
    let scope = query_scope(&mut fields, scope, &tenant_id);
    if scope == Some(QueryScope::Vendor) {
        let description = "must be SCOPE_TENANT or SCOPE_ALL: the vendor has no grants";
        fields.add("scope", ViolationReason::Malformed, description);
    }
    let is_short = fields.length("states", states.len(), GrantState::ALL.len());
    let numbered = states.iter().enumerate().filter(|_| is_short);
    let mut states: Vec<GrantState> = numbered
        .filter_map(|(index, state)| fields.state(&format!("states[{index}]"), *state))
        .collect();
    states.sort_unstable_by_key(|state| *state as u8);
    states.dedup();
    let group_id = fields.optional("group_id", &group_id, GroupId::new);
    let agent_id = fields.optional("agent_id", &agent_id, AgentId::new);
    let overlap_start = overlap_start.and_then(|start| fields.time("overlap_start", start));
    let overlap_end = overlap_end.and_then(|end| fields.time("overlap_end", end));
    if overlap_start.zip(overlap_end).is_some_and(|(start, end)| end <= start) {
        fields.add("overlap_end", ViolationReason::Conflict, "must be after overlap_start");
    }
    let order = list_order(&mut fields, order);
    let page = PageRequest { order, ..fields.page(page_size, page_token) };
    fields.finish(scope.map(|scope| {
        (GrantFilter { scope, states, group_id, agent_id, overlap_start, overlap_end }, page)
    }))
}

pub(in crate::api::grpc) fn list_events_request(
    message: pb::ListEventsRequest,
) -> Parsed<(QueryScope, Option<GrantRef>, PageRequest)> {
    let pb::ListEventsRequest { scope, tenant_id, grant_id, order, page_size, page_token } =
        message;
    let mut fields = Fields::default();
    let scope = query_scope(&mut fields, scope, &tenant_id);
    let order = list_order(&mut fields, order);
    let page = PageRequest { order, ..fields.page(page_size, page_token) };
    let is_named = !grant_id.is_empty();
    let grant = match &scope {
        Some(QueryScope::Tenant(tenant_id)) if is_named => {
            fields.grant_ref(tenant_id.as_str(), grant_id)
        }
        Some(QueryScope::Vendor | QueryScope::All) if is_named => {
            let description = "requires SCOPE_TENANT: set tenant_id to the tenant of the grant";
            fields.add("grant_id", ViolationReason::Conflict, description);
            None
        }
        Some(_) | None => None,
    };
    fields.finish(scope.map(|scope| (scope, grant, page)))
}

pub(in crate::api::grpc) fn list_locks_request(
    message: pb::ListLocksRequest,
) -> Parsed<(LockFilter, PageRequest)> {
    let pb::ListLocksRequest { scope, tenant_id, include_ended, page_size, page_token } = message;
    let mut fields = Fields::default();
    let scope = query_scope(&mut fields, scope, &tenant_id);
    let page = fields.page(page_size, page_token);
    fields.finish(scope.map(|scope| (LockFilter { scope, include_ended }, page)))
}

pub(in crate::api::grpc) fn list_tenants_request(
    message: pb::ListTenantsRequest,
) -> Parsed<PageRequest> {
    let pb::ListTenantsRequest { page_size, page_token } = message;
    let mut fields = Fields::default();
    let page = fields.page(page_size, page_token);
    fields.finish(Some(page))
}

pub(in crate::api::grpc) fn wait_enforced_request(
    message: pb::WaitEnforcedRequest,
) -> Parsed<(Option<TenantId>, String)> {
    let pb::WaitEnforcedRequest { tenant_id, consistency_token } = message;
    let mut fields = Fields::default();
    let tenant_id = fields.tenant(tenant_id.as_deref());
    if consistency_token.is_empty() {
        let description = "must be the consistency token of a change";
        fields.add("consistency_token", ViolationReason::Required, description);
    }
    fields.finish(Some((tenant_id, consistency_token)))
}

pub(in crate::api::grpc) fn export_history_request(
    message: pb::ExportHistoryRequest,
) -> Parsed<(Option<TenantId>, Sequence)> {
    let pb::ExportHistoryRequest { tenant_id, after_sequence } = message;
    let mut fields = Fields::default();
    let tenant_id = fields.tenant(tenant_id.as_deref());
    let after = fields.sequence("after_sequence", after_sequence);
    fields.finish(Some((tenant_id, after)))
}

pub(in crate::api::grpc) fn get_checkpoint_request(
    message: pb::GetCheckpointRequest,
) -> Parsed<Option<TenantId>> {
    let pb::GetCheckpointRequest { tenant_id } = message;
    let mut fields = Fields::default();
    let tenant_id = fields.tenant(tenant_id.as_deref());
    fields.finish(Some(tenant_id))
}

fn query_scope(fields: &mut Fields, scope: i32, tenant_id: &str) -> Option<QueryScope> {
    let scope = pb::Scope::try_from(scope).ok();
    if scope.is_none() {
        let description = "must be SCOPE_TENANT, SCOPE_VENDOR or SCOPE_ALL";
        fields.add("scope", ViolationReason::Malformed, description);
    }
    match scope? {
        pb::Scope::Unspecified if tenant_id.is_empty() => {
            let description = "must be set, or tenant_id must be set";
            fields.add("scope", ViolationReason::Required, description);
            None
        }
        pb::Scope::Unspecified | pb::Scope::Tenant => {
            fields.text("tenant_id", tenant_id, TenantId::new).map(QueryScope::Tenant)
        }
        _ if !tenant_id.is_empty() => {
            let description = "must be empty, or scope must be SCOPE_TENANT";
            fields.add("tenant_id", ViolationReason::Conflict, description);
            None
        }
        pb::Scope::Vendor => Some(QueryScope::Vendor),
        pb::Scope::All => Some(QueryScope::All),
    }
}

fn list_order(fields: &mut Fields, order: i32) -> ListOrder {
    match pb::ListOrder::try_from(order) {
        Ok(pb::ListOrder::Unspecified | pb::ListOrder::NewestFirst) => ListOrder::NewestFirst,
        Ok(pb::ListOrder::OldestFirst) => ListOrder::OldestFirst,
        Err(_) => {
            let description = "must be LIST_ORDER_NEWEST_FIRST or LIST_ORDER_OLDEST_FIRST";
            fields.add("order", ViolationReason::Malformed, description);
            ListOrder::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_states_is_limited_before_they_are_parsed() {
        let request = |states| pb::ListGrantsRequest {
            tenant_id: "acme".to_owned(),
            states,
            ..pb::ListGrantsRequest::default()
        };
        let violations = list_grants_request(request(vec![99; 1_000_000])).unwrap_err();
        let fields: Vec<_> = violations.as_slice().iter().map(|found| &found.field).collect();
        assert_eq!(fields, ["states"]);
        assert_eq!(violations.omitted(), 0);
        assert!(list_grants_request(request(vec![1, 2, 3, 4])).is_ok());
    }
}
