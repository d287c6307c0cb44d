//! `SupportAccessAdmin` of the fake server.

use support_access::api::proto::v1::{self, support_access_admin_server::SupportAccessAdmin};
use tonic::{Code, Request, Response, Status};

use super::{
    Fake, NoCase, Reply, history, mk_enforcement, mk_grant, mk_lock, rejected, unavailable,
};

/// The number of grants of every tenant.
const GRANTS: usize = 2_500;
/// The number of locks.
const LOCKS: usize = 1_200;
/// The number of tenants.
const TENANTS: usize = 1_001;

/// The range of a page, and the token of the next page.
fn page(token: &str, size: i32, length: usize) -> (std::ops::Range<usize>, String) {
    let start = token.parse().unwrap_or(0);
    let end = length.min(start + usize::try_from(size).unwrap());
    (start..end, if end == length { String::new() } else { end.to_string() })
}

fn grant_not_found() -> Status {
    rejected(Code::NotFound, "GRANT_NOT_FOUND", "grant_id", "there is no such grant")
}

#[tonic::async_trait]
impl SupportAccessAdmin for Fake {
    type ExportHistoryStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<v1::ExportHistoryResponse, Status>>>;

    async fn grant_access(
        &self,
        request: Request<v1::GrantAccessRequest>,
    ) -> Reply<v1::GrantAccessResponse> {
        let (metadata, _, message) = request.into_parts();
        let tenant = message.tenant_id.clone();
        self.record(&metadata, |received| received.grants.push(message));
        match tenant.as_str() {
            "strict" => Err(rejected(
                Code::FailedPrecondition,
                "POLICY_VIOLATION",
                "duration",
                "must be at most 30d\u{1b}[31m",
            )),
            "unavailable" => Err(unavailable()),
            "unavailable once" if self.0.lock().grants.len() == 1 => Err(unavailable()),
            _ => Ok(Response::new(v1::GrantAccessResponse {
                grant: Some(mk_grant("g1")),
                consistency_token: "t7".into(),
            })),
        }
    }

    async fn extend_access(
        &self,
        request: Request<v1::ExtendAccessRequest>,
    ) -> Reply<v1::ExtendAccessResponse> {
        let (metadata, _, message) = request.into_parts();
        let enforcement = mk_enforcement(&message.tenant_id);
        let expire_time = message.expire_time;
        self.record(&metadata, |received| received.extensions.push(message));
        let enforcement = enforcement.map_err(|NoCase| unavailable())?;
        let mut grant = mk_grant("g1");
        let previous_expire_time = grant.expire_time;
        grant.expire_time = expire_time.or(previous_expire_time);
        let consistency_token = "t7".into();
        Ok(Response::new(v1::ExtendAccessResponse {
            grant: Some(grant),
            enforcement,
            previous_expire_time,
            consistency_token,
        }))
    }

    async fn revoke_access(
        &self,
        request: Request<v1::RevokeAccessRequest>,
    ) -> Reply<v1::RevokeAccessResponse> {
        let (metadata, _, message) = request.into_parts();
        let enforcement = mk_enforcement(&message.tenant_id);
        self.record(&metadata, |received| received.revocations.push(message));
        let enforcement = enforcement.map_err(|NoCase| grant_not_found())?;
        let grant = Some(mk_grant("g1"));
        Ok(Response::new(v1::RevokeAccessResponse { grant, enforcement, ..Default::default() }))
    }

    async fn revoke_all_access(
        &self,
        request: Request<v1::RevokeAllAccessRequest>,
    ) -> Reply<v1::RevokeAllAccessResponse> {
        let enforcement = mk_enforcement(&request.get_ref().tenant_id)
            .map_err(|NoCase| Status::new(Code::Internal, "broken"))?;
        Ok(Response::new(v1::RevokeAllAccessResponse {
            revoked_count: 2,
            enforcement,
            ..Default::default()
        }))
    }

    /// The tenant "unlimited" has a grant until revoked, "empty" has no grant, and "foreign" is not
    /// the caller's own.
    async fn get_grant(
        &self,
        request: Request<v1::GetGrantRequest>,
    ) -> Reply<v1::GetGrantResponse> {
        let mut grant = mk_grant("g1");
        match request.get_ref().tenant_id.as_str() {
            "unlimited" => grant.expire_time = None,
            "empty" => return Err(grant_not_found()),
            "foreign" => {
                let (code, text) = (Code::PermissionDenied, "the tenant is not the caller's own");
                return Err(rejected(code, "NOT_OWN_TENANT", "tenant_id", text));
            }
            _ => {}
        }
        Ok(Response::new(v1::GetGrantResponse { grant: Some(grant) }))
    }

    async fn list_grants(
        &self,
        request: Request<v1::ListGrantsRequest>,
    ) -> Reply<v1::ListGrantsResponse> {
        let (metadata, _, message) = request.into_parts();
        let (range, next_page_token) = page(&message.page_token, message.page_size, GRANTS);
        self.record(&metadata, |received| received.lists.push(message));
        let grants = range.map(|number| mk_grant(&format!("g{number}"))).collect();
        Ok(Response::new(v1::ListGrantsResponse { grants, next_page_token, ..Default::default() }))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Reply<v1::ListEventsResponse> {
        let (metadata, _, message) = request.into_parts();
        self.record(&metadata, |received| received.events.push(message));
        let grant = Some(mk_grant("g1"));
        let event = v1::Event {
            sequence: 1,
            tenant_id: Some("acme".into()),
            actor: "alice".into(),
            payload: Some(v1::event::Payload::Granted(v1::Granted { grant })),
            ..v1::Event::default()
        };
        Ok(Response::new(v1::ListEventsResponse { events: vec![event], ..Default::default() }))
    }

    async fn list_tenants(
        &self,
        request: Request<v1::ListTenantsRequest>,
    ) -> Reply<v1::ListTenantsResponse> {
        let message = request.into_inner();
        let (range, next_page_token) = page(&message.page_token, message.page_size, TENANTS);
        let tenants = range.map(|number| v1::Tenant { tenant_id: format!("t{number}") }).collect();
        Ok(Response::new(v1::ListTenantsResponse { tenants, next_page_token }))
    }

    async fn get_support_policy(
        &self,
        _: Request<v1::GetSupportPolicyRequest>,
    ) -> Reply<v1::GetSupportPolicyResponse> {
        let default_duration = Some(prost_types::Duration { seconds: 4_321, nanos: 0 });
        let policy = v1::SupportPolicy { default_duration, ..Default::default() };
        Ok(Response::new(v1::GetSupportPolicyResponse {
            support_policy: Some(policy),
            policy_overrides: Some(v1::PolicyOverrides {
                default_duration,
                ..v1::PolicyOverrides::default()
            }),
        }))
    }

    async fn update_support_policy(
        &self,
        request: Request<v1::UpdateSupportPolicyRequest>,
    ) -> Reply<v1::UpdateSupportPolicyResponse> {
        let (metadata, _, message) = request.into_parts();
        let enforcement = mk_enforcement(&message.tenant_id);
        self.record(&metadata, |received| received.policies.push(message));
        let enforcement = enforcement.map_err(|NoCase| unavailable())?;
        let support_policy =
            Some(v1::SupportPolicy { until_revoked_allowed: true, ..Default::default() });
        Ok(Response::new(v1::UpdateSupportPolicyResponse {
            support_policy,
            enforcement,
            ..Default::default()
        }))
    }

    /// The change of token t7 is enforced at the second request, and the change of t8 never. Other
    /// tokens are unknown.
    async fn wait_enforced(
        &self,
        request: Request<v1::WaitEnforcedRequest>,
    ) -> Reply<v1::WaitEnforcedResponse> {
        let (metadata, _, message) = request.into_parts();
        let consistency_token = message.consistency_token.clone();
        self.record(&metadata, |received| received.waits.push(message));
        let state = match consistency_token.as_str() {
            "t7" if self.0.lock().waits.len() > 1 => v1::EnforcementState::Complete,
            "t7" | "t8" => v1::EnforcementState::Pending,
            _ => {
                let (field, text) = ("consistency_token", "there is no such event");
                return Err(rejected(Code::NotFound, "EVENT_NOT_FOUND", field, text));
            }
        };
        let elapsed = Some(prost_types::Duration { seconds: 784, nanos: 0 });
        let enforcement = Some(v1::Enforcement {
            state: state.into(),
            consistency_token,
            elapsed,
            nodes_acknowledged: 3,
            ..v1::Enforcement::default()
        });
        Ok(Response::new(v1::WaitEnforcedResponse { enforcement }))
    }

    async fn export_history(
        &self,
        request: Request<v1::ExportHistoryRequest>,
    ) -> Reply<Self::ExportHistoryStream> {
        let (metadata, _, message) = request.into_parts();
        let pages = history::export(&message);
        self.record(&metadata, |received| received.exports.push(message));
        Ok(Response::new(tokio_stream::iter(pages)))
    }

    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Reply<v1::GetCheckpointResponse> {
        let checkpoint = history::checkpoint(request.get_ref().tenant_id());
        Ok(Response::new(v1::GetCheckpointResponse { checkpoint }))
    }

    /// A lock in all tenants is enforced at once.
    async fn lock_access(
        &self,
        request: Request<v1::LockAccessRequest>,
    ) -> Reply<v1::LockAccessResponse> {
        let (metadata, _, message) = request.into_parts();
        let tenant = message.tenant_id.clone().unwrap_or_else(|| "complete".into());
        self.record(&metadata, |received| received.locks.push(message));
        let enforcement = mk_enforcement(&tenant).map_err(|NoCase| unavailable())?;
        Ok(Response::new(v1::LockAccessResponse {
            lock: Some(mk_lock("l1")),
            enforcement,
            consistency_token: "t7".into(),
        }))
    }

    /// The vendor has created the lock in the tenant "other".
    async fn unlock_access(
        &self,
        request: Request<v1::UnlockAccessRequest>,
    ) -> Reply<v1::UnlockAccessResponse> {
        let (metadata, _, message) = request.into_parts();
        let tenant = message.tenant_id().to_owned();
        self.record(&metadata, |received| received.unlocks.push(message));
        match tenant.as_str() {
            "other" => {
                let (field, text) = ("lock_id", "only the vendor may lift it");
                return Err(rejected(Code::PermissionDenied, "LOCK_OF_OTHER_PARTY", field, text));
            }
            "unavailable" => return Err(unavailable()),
            _ => {}
        }
        Ok(Response::new(v1::UnlockAccessResponse {
            lock: Some(mk_lock("l1")),
            consistency_token: "t7".into(),
        }))
    }

    async fn list_locks(
        &self,
        request: Request<v1::ListLocksRequest>,
    ) -> Reply<v1::ListLocksResponse> {
        let (metadata, _, message) = request.into_parts();
        let (range, next_page_token) = page(&message.page_token, message.page_size, LOCKS);
        self.record(&metadata, |received| received.lock_lists.push(message));
        let locks = range.map(|number| mk_lock(&format!("l{number}"))).collect();
        Ok(Response::new(v1::ListLocksResponse { locks, next_page_token }))
    }

    /// The clock is an hour behind, unless the reason is "trusted" or "unavailable".
    async fn accept_clock(
        &self,
        request: Request<v1::AcceptClockRequest>,
    ) -> Reply<v1::AcceptClockResponse> {
        let (metadata, _, message) = request.into_parts();
        let reason = message.reason.clone();
        self.record(&metadata, |received| received.clocks.push(message));
        let (seconds, moved_count) = match reason.as_str() {
            "unavailable" => return Err(unavailable()),
            "trusted" => (0, 0),
            _ => (-3_600, 12),
        };
        Ok(Response::new(v1::AcceptClockResponse {
            step: Some(prost_types::Duration { seconds, nanos: 0 }),
            moved_count,
            consistency_token: "t7".into(),
        }))
    }
}
