//! Plays calls.

use std::time::Duration;

use support_access::api::proto::v1::*;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{
    OTHER, TENANT,
    calls::{Call, Foreign},
    requests::{
        access_check, grant_request, lock_request, order, period, request_id, update_request,
    },
    world::World,
};

/// Timeout of a change of the tenant, whose enforcement may be pending.
const OWN_TIMEOUT: Duration = Duration::from_secs(2);
/// Timeout of a change of others, whose enforcement is always pending. The test does not
/// compare responses to others.
const FOREIGN_TIMEOUT: Duration = Duration::from_millis(60);

impl World {
    #[expect(clippy::too_many_lines, reason = "one arm for each call")]
    pub(super) async fn play(&mut self, call: &Call) {
        let tenant_id = TENANT.to_owned();
        self.transcript.push(format!("{call:?}"));
        match *call {
            Call::Grant { level, days, agents, request } => {
                let message = GrantAccessRequest {
                    tenant_id,
                    access_level: level,
                    duration: Some(period(days)),
                    request_id: request_id(request, "grant"),
                    ..grant_request(agents)
                };
                let result = self.admin.grant_access(message).await;
                let response = self.observe(result, "GrantAccessResponse");
                if let Some(GrantAccessResponse { grant, consistency_token }) = response {
                    self.grants.extend(grant);
                    self.tokens.push(consistency_token);
                }
            }
            Call::Extend { grant, days, has_etag, request } => {
                let (grant_id, etag) = self.own_grant(grant);
                let message = ExtendAccessRequest {
                    tenant_id,
                    grant_id,
                    etag: if has_etag { etag } else { String::new() },
                    duration: Some(period(days)),
                    request_id: request_id(request, "extend"),
                    ..ExtendAccessRequest::default()
                };
                let result = self.admin.extend_access(within(message, OWN_TIMEOUT)).await;
                if let Some(response) = self.observe(result, "ExtendAccessResponse") {
                    self.tokens.push(response.consistency_token);
                }
            }
            Call::Revoke { grant, has_etag, request } => {
                let (grant_id, etag) = self.own_grant(grant);
                let message = RevokeAccessRequest {
                    tenant_id,
                    grant_id,
                    etag: if has_etag { etag } else { String::new() },
                    request_id: request_id(request, "revoke"),
                    ..RevokeAccessRequest::default()
                };
                let result = self.admin.revoke_access(within(message, OWN_TIMEOUT)).await;
                if let Some(response) = self.observe(result, "RevokeAccessResponse") {
                    self.tokens.extend(
                        response.enforcement.map(|enforcement| enforcement.consistency_token),
                    );
                }
            }
            Call::RevokeAll { request } => {
                let request_id = request_id(request, "all");
                let message =
                    RevokeAllAccessRequest { tenant_id, request_id, reason: String::new() };
                let result = self.admin.revoke_all_access(within(message, OWN_TIMEOUT)).await;
                if let Some(response) = self.observe(result, "RevokeAllAccessResponse") {
                    self.tokens.extend(
                        response.enforcement.map(|enforcement| enforcement.consistency_token),
                    );
                }
            }
            Call::Get { grant, is_foreign } => {
                let foreign = self.foreign_grants.last().map(|grant| grant.grant_id.clone());
                let unknown = || Uuid::now_v7().to_string();
                let grant_id = if is_foreign {
                    foreign.unwrap_or_else(unknown)
                } else {
                    self.own_grant(grant).0
                };
                let result = self.admin.get_grant(GetGrantRequest { tenant_id, grant_id }).await;
                self.observe(result, "GetGrantResponse");
            }
            Call::ListGrants { size, is_oldest_first, has_token } => {
                let message = ListGrantsRequest {
                    tenant_id,
                    page_size: size,
                    order: order(is_oldest_first),
                    page_token: if has_token { self.grant_token.clone() } else { String::new() },
                    ..ListGrantsRequest::default()
                };
                let result = self.admin.list_grants(message).await;
                if let Some(page) = self.observe(result, "ListGrantsResponse") {
                    self.grant_token = [page.next_page_token, page.resume_token].concat();
                }
            }
            Call::ListEvents { size, is_oldest_first, has_token } => {
                let message = ListEventsRequest {
                    tenant_id,
                    page_size: size,
                    order: order(is_oldest_first),
                    page_token: if has_token { self.event_token.clone() } else { String::new() },
                    ..ListEventsRequest::default()
                };
                self.wait_for_records().await;
                let result = self.admin.list_events(message).await;
                if let Some(page) = self.observe(result, "ListEventsResponse") {
                    self.event_token = [page.next_page_token, page.resume_token].concat();
                }
            }
            Call::Export => {
                let tenant_id = Some(tenant_id);
                let message = ExportHistoryRequest { tenant_id, after_sequence: 0 };
                let mut stream = self.admin.export_history(message).await.unwrap().into_inner();
                while let Some(page) = stream.message().await.unwrap() {
                    self.observe(Ok(Response::new(page)), "ExportHistoryResponse");
                }
            }
            Call::Checkpoint => {
                let message = GetCheckpointRequest { tenant_id: Some(tenant_id) };
                let result = self.admin.get_checkpoint(message).await;
                self.observe(result, "GetCheckpointResponse");
            }
            Call::Policy => {
                let message = GetSupportPolicyRequest { tenant_id };
                let result = self.admin.get_support_policy(message).await;
                self.observe(result, "GetSupportPolicyResponse");
            }
            Call::Update { days, request } => {
                let request_id = request_id(request, "update");
                let message =
                    UpdateSupportPolicyRequest { tenant_id, request_id, ..update_request(days) };
                let result = self.admin.update_support_policy(within(message, OWN_TIMEOUT)).await;
                self.observe(result, "UpdateSupportPolicyResponse");
            }
            Call::Lock { target, request } => {
                let message = LockAccessRequest {
                    tenant_id: Some(tenant_id),
                    request_id: request_id(request, "lock"),
                    ..lock_request(target)
                };
                let result = self.admin.lock_access(within(message, OWN_TIMEOUT)).await;
                if let Some(response) = self.observe(result, "LockAccessResponse") {
                    self.locks.extend(response.lock);
                    self.tokens.push(response.consistency_token);
                }
            }
            Call::Unlock { lock, is_foreign } => {
                let own = self.locks.get(lock).map(|lock| lock.lock_id.clone());
                let foreign = self.foreign_locks.last().map(|lock| lock.lock_id.clone());
                let lock_id = if is_foreign { foreign } else { own };
                let message = UnlockAccessRequest {
                    tenant_id: Some(tenant_id),
                    lock_id: lock_id.unwrap_or_else(|| Uuid::now_v7().to_string()),
                    reason: "over".to_owned(),
                    ..UnlockAccessRequest::default()
                };
                let result = self.admin.unlock_access(message).await;
                if let Some(response) = self.observe(result, "UnlockAccessResponse") {
                    self.tokens.push(response.consistency_token);
                }
            }
            Call::ListLocks { include_ended, size } => {
                let message = ListLocksRequest {
                    tenant_id,
                    include_ended,
                    page_size: size,
                    ..ListLocksRequest::default()
                };
                let result = self.admin.list_locks(message).await;
                self.observe(result, "ListLocksResponse");
            }
            Call::Wait { change } => {
                let token = self.tokens.iter().rev().nth(change).cloned().unwrap_or_default();
                let tenant_id = Some(tenant_id);
                let message = WaitEnforcedRequest { tenant_id, consistency_token: token };
                let result = self.admin.wait_enforced(within(message, OWN_TIMEOUT)).await;
                self.observe(result, "WaitEnforcedResponse");
            }
            Call::Check { has_token, kind } => {
                let token = self.tokens.last().filter(|_| has_token).cloned();
                let message = CheckAccessRequest {
                    check: Some(AccessCheck { agent_kind: kind, ..access_check(TENANT) }),
                    consistency_token: token.unwrap_or_default(),
                };
                let result = self.checks.check_access(message).await;
                self.observe(
                    without_lease(result, |response| Some(response)),
                    "CheckAccessResponse",
                );
            }
            Call::Explain { has_agent } => {
                let mut check = access_check(TENANT);
                if !has_agent {
                    check.agent_id = String::new();
                }
                let message =
                    ExplainAccessRequest { check: Some(check), consistency_token: String::new() };
                let result = self.explain.explain_access(message).await;
                let result = without_lease(result, |it| it.result.as_mut());
                self.observe(result, "ExplainAccessResponse");
            }
            Call::Pass { days } => self.pass(Duration::from_hours(24 * days)).await,
        }
    }

    fn own_grant(&self, index: usize) -> (String, String) {
        let grant = self.grants.iter().rev().nth(index);
        let unknown = || (Uuid::now_v7().to_string(), String::new());
        grant.map_or_else(unknown, |grant| (grant.grant_id.clone(), grant.etag.clone()))
    }

    pub(super) async fn play_foreign(&mut self, call: &Foreign) {
        let tenant_id = OTHER.to_owned();
        let grant = self.foreign_grants.last().cloned().unwrap_or_default();
        match *call {
            Foreign::Grant { agents } => {
                let message = GrantAccessRequest { tenant_id, ..grant_request(agents) };
                let granted = self.other.grant_access(message).await;
                self.foreign_grants.extend(granted.ok().and_then(|it| it.into_inner().grant));
            }
            Foreign::Extend { days } => {
                let duration = Some(period(days));
                let grant_id = grant.grant_id;
                let message =
                    ExtendAccessRequest { tenant_id, grant_id, duration, ..Default::default() };
                drop(self.other.extend_access(within(message, FOREIGN_TIMEOUT)).await);
            }
            Foreign::Revoke => {
                let grant_id = grant.grant_id;
                let message = RevokeAccessRequest { tenant_id, grant_id, ..Default::default() };
                drop(self.other.revoke_access(within(message, FOREIGN_TIMEOUT)).await);
            }
            Foreign::RevokeAll => {
                let message = RevokeAllAccessRequest { tenant_id, ..Default::default() };
                drop(self.other.revoke_all_access(within(message, FOREIGN_TIMEOUT)).await);
            }
            Foreign::Update { days } => {
                let message = UpdateSupportPolicyRequest { tenant_id, ..update_request(days) };
                drop(self.other.update_support_policy(within(message, FOREIGN_TIMEOUT)).await);
            }
            Foreign::Lock { target } => {
                let message =
                    LockAccessRequest { tenant_id: Some(tenant_id), ..lock_request(target) };
                let locked = self.other.lock_access(within(message, FOREIGN_TIMEOUT)).await;
                self.foreign_locks.extend(locked.ok().and_then(|it| it.into_inner().lock));
            }
            Foreign::VendorLock { target } => {
                let [agent_id, group_id] =
                    [["mallory", ""], ["", "billing"]][target].map(str::to_owned);
                let reason = "an incident".to_owned();
                let message =
                    LockAccessRequest { agent_id, group_id, reason, ..Default::default() };
                let locked = self.vendor.lock_access(within(message, FOREIGN_TIMEOUT)).await;
                self.vendor_locks.extend(locked.ok().and_then(|it| it.into_inner().lock));
            }
            Foreign::Unlock => {
                let lock = self.foreign_locks.pop();
                self.lift(lock).await;
            }
            Foreign::VendorUnlock => {
                let lock = self.vendor_locks.pop();
                self.lift(lock).await;
            }
            Foreign::Check => {
                let message = CheckAccessRequest {
                    check: Some(access_check(OTHER)),
                    consistency_token: String::new(),
                };
                self.checks.check_access(message).await.unwrap();
            }
        }
    }

    async fn lift(&mut self, lock: Option<Lock>) {
        let Some(Lock { tenant_id, lock_id, .. }) = lock else { return };
        let reason = "over".to_owned();
        let message = UnlockAccessRequest { tenant_id, lock_id, reason, ..Default::default() };
        let admin = if message.tenant_id.is_some() { &mut self.other } else { &mut self.vendor };
        admin.unlock_access(message).await.unwrap();
    }
}

/// The rest of a lease depends on when the node has renewed the lease.
fn without_lease<M>(
    mut result: Result<Response<M>, Status>,
    check: impl Fn(&mut M) -> Option<&mut CheckAccessResponse>,
) -> Result<Response<M>, Status> {
    if let Ok(response) = &mut result
        && let Some(check) = check(response.get_mut())
        && check.decision() == Decision::Allowed
    {
        check.valid_for = None;
    }
    result
}

fn within<M>(message: M, timeout: Duration) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}
