//! A server that remembers what it was asked, and answers by the tenant's name.

use std::{net::SocketAddr, path::Path, sync::Arc, thread, time::Duration};

use parking_lot::Mutex;
use support_access::api::proto::v1::{
    self,
    check_nodes_server::{CheckNodes, CheckNodesServer},
    support_access_admin_server::{SupportAccessAdmin, SupportAccessAdminServer},
    support_access_server::{SupportAccess, SupportAccessServer},
};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Builder,
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::{Code, Request, Response, Status, metadata::MetadataMap, transport::Server};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

pub mod history;

type Services = (SupportAccessAdminServer<Fake>, SupportAccessServer<Fake>, CheckNodesServer<Fake>);
type Answer<T> = Result<Response<T>, Status>;

/// What the server was asked, in order.
#[derive(Debug, Default)]
pub struct Heard {
    pub actors: Vec<Option<String>>,
    pub timeouts: Vec<bool>,
    pub grants: Vec<v1::GrantAccessRequest>,
    pub extensions: Vec<v1::ExtendAccessRequest>,
    pub revocations: Vec<v1::RevokeAccessRequest>,
    pub lists: Vec<v1::ListGrantsRequest>,
    pub events: Vec<v1::ListEventsRequest>,
    pub exports: Vec<v1::ExportHistoryRequest>,
    pub policies: Vec<v1::UpdateSupportPolicyRequest>,
    pub waits: Vec<v1::WaitEnforcedRequest>,
    pub checks: Vec<v1::CheckAccessRequest>,
    pub locks: Vec<v1::LockAccessRequest>,
    pub unlocks: Vec<v1::UnlockAccessRequest>,
    pub lock_lists: Vec<v1::ListLocksRequest>,
}

#[derive(Debug, Clone, Default)]
pub struct Fake(pub Arc<Mutex<Heard>>);

impl Fake {
    /// Serves on a free port of loopback until the test ends, and says its URL.
    pub fn start(&self) -> String {
        let listener = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (admin, checks, nodes) = self.services();
        thread::spawn(move || {
            Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
                let server = Server::builder().add_service(admin);
                let router = server.add_service(checks).add_service(nodes);
                router.serve_with_incoming(incoming).await.unwrap();
            });
        });
        url
    }

    /// Serves on a Unix socket until the test ends.
    pub fn start_at(&self, path: &Path) {
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (admin, checks, nodes) = self.services();
        thread::spawn(move || {
            Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let incoming = UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
                let server = Server::builder().add_service(admin);
                let router = server.add_service(checks).add_service(nodes);
                router.serve_with_incoming(incoming).await.unwrap();
            });
        });
    }

    fn services(&self) -> Services {
        let admin = SupportAccessAdminServer::new(self.clone());
        (admin, SupportAccessServer::new(self.clone()), CheckNodesServer::new(self.clone()))
    }

    fn note(&self, metadata: &MetadataMap, note: impl FnOnce(&mut Heard)) {
        let mut heard = self.0.lock();
        let actor = metadata.get("support-access-actor");
        heard.actors.push(actor.map(|actor| actor.to_str().unwrap().to_owned()));
        heard.timeouts.push(metadata.contains_key("grpc-timeout"));
        note(&mut heard);
    }
}

fn refused(field: &str, description: &str) -> Status {
    let violation = FieldViolation::new(field, description);
    let details = ErrorDetails::with_bad_request(vec![violation]);
    Status::with_error_details(Code::FailedPrecondition, "refused", details)
}

/// As a server answers while its database is away.
fn busy() -> Status {
    let details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1)));
    Status::with_error_details(Code::Unavailable, "the database is not available", details)
}

pub fn mk_grant(grant_id: &str) -> v1::Grant {
    v1::Grant {
        grant_id: grant_id.into(),
        group_id: "support".into(),
        state: v1::GrantState::Active.into(),
        ..v1::Grant::default()
    }
}

pub fn mk_lock(lock_id: &str) -> v1::Lock {
    v1::Lock {
        lock_id: lock_id.into(),
        target: Some(v1::lock::Target::AgentId("bob".into())),
        party: v1::Party::Vendor.into(),
        state: v1::LockState::Active.into(),
        ..v1::Lock::default()
    }
}

/// A tenant that no case is about.
struct Stranger;

/// How far a change has come, by the tenant's name.
fn mk_enforcement(tenant: &str) -> Result<Option<v1::Enforcement>, Stranger> {
    let state = match tenant {
        "complete" => v1::EnforcementState::Complete.into(),
        "pending" => v1::EnforcementState::Pending.into(),
        "unheard-of" => 9,
        "silent" => return Ok(None),
        _ => return Err(Stranger),
    };
    let consistency_token = "t7".into();
    Ok(Some(v1::Enforcement { state, consistency_token, ..v1::Enforcement::default() }))
}

#[tonic::async_trait]
impl SupportAccessAdmin for Fake {
    type ExportHistoryStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<v1::ExportHistoryResponse, Status>>>;

    async fn grant_access(
        &self,
        request: Request<v1::GrantAccessRequest>,
    ) -> Answer<v1::GrantAccessResponse> {
        let (metadata, _, message) = request.into_parts();
        let tenant = message.tenant_id.clone();
        self.note(&metadata, |heard| heard.grants.push(message));
        match tenant.as_str() {
            "strict" => Err(refused("duration", "must be at most 30d\u{1b}[31m")),
            "busy" => Err(busy()),
            "busy once" if self.0.lock().grants.len() == 1 => Err(busy()),
            _ => Ok(Response::new(v1::GrantAccessResponse {
                grant: Some(mk_grant("g1")),
                consistency_token: "t7".into(),
            })),
        }
    }

    async fn extend_access(
        &self,
        request: Request<v1::ExtendAccessRequest>,
    ) -> Answer<v1::ExtendAccessResponse> {
        let (metadata, _, message) = request.into_parts();
        let enforcement = mk_enforcement(&message.tenant_id);
        self.note(&metadata, |heard| heard.extensions.push(message));
        let grant = Some(mk_grant("g1"));
        enforcement
            .map(|enforcement| {
                Response::new(v1::ExtendAccessResponse { grant, enforcement, ..Default::default() })
            })
            .map_err(|Stranger| busy())
    }

    async fn revoke_access(
        &self,
        request: Request<v1::RevokeAccessRequest>,
    ) -> Answer<v1::RevokeAccessResponse> {
        let (metadata, _, message) = request.into_parts();
        let enforcement = mk_enforcement(&message.tenant_id);
        self.note(&metadata, |heard| heard.revocations.push(message));
        let enforcement = enforcement.map_err(|Stranger| Status::not_found("no such grant"))?;
        let grant = Some(mk_grant("g1"));
        Ok(Response::new(v1::RevokeAccessResponse { grant, enforcement, ..Default::default() }))
    }

    async fn revoke_all_access(
        &self,
        request: Request<v1::RevokeAllAccessRequest>,
    ) -> Answer<v1::RevokeAllAccessResponse> {
        let enforcement = mk_enforcement(&request.get_ref().tenant_id)
            .map_err(|Stranger| Status::not_found("no such tenant"))?;
        Ok(Response::new(v1::RevokeAllAccessResponse {
            revoked_count: 2,
            enforcement,
            ..Default::default()
        }))
    }

    async fn get_grant(&self, _: Request<v1::GetGrantRequest>) -> Answer<v1::GetGrantResponse> {
        Ok(Response::new(v1::GetGrantResponse { grant: Some(mk_grant("g1")) }))
    }

    /// A tenant with 2,500 grants.
    async fn list_grants(
        &self,
        request: Request<v1::ListGrantsRequest>,
    ) -> Answer<v1::ListGrantsResponse> {
        let (metadata, _, message) = request.into_parts();
        let from: usize = message.page_token.parse().unwrap_or(0);
        let to = 2_500.min(from + usize::try_from(message.page_size).unwrap());
        self.note(&metadata, |heard| heard.lists.push(message));
        let grants = (from..to).map(|number| mk_grant(&format!("g{number}"))).collect();
        let next_page_token = if to == 2_500 { String::new() } else { to.to_string() };
        Ok(Response::new(v1::ListGrantsResponse { grants, next_page_token, ..Default::default() }))
    }

    async fn list_events(
        &self,
        request: Request<v1::ListEventsRequest>,
    ) -> Answer<v1::ListEventsResponse> {
        let (metadata, _, message) = request.into_parts();
        self.note(&metadata, |heard| heard.events.push(message));
        Ok(Response::new(v1::ListEventsResponse::default()))
    }

    async fn list_tenants(
        &self,
        _: Request<v1::ListTenantsRequest>,
    ) -> Answer<v1::ListTenantsResponse> {
        Err(Status::unimplemented(""))
    }

    async fn get_support_policy(
        &self,
        _: Request<v1::GetSupportPolicyRequest>,
    ) -> Answer<v1::GetSupportPolicyResponse> {
        let default_duration = Some(prost_types::Duration { seconds: 4_321, nanos: 0 });
        let policy = v1::SupportPolicy { default_duration, ..Default::default() };
        Ok(Response::new(v1::GetSupportPolicyResponse {
            support_policy: Some(policy),
            policy_overrides: None,
        }))
    }

    async fn update_support_policy(
        &self,
        request: Request<v1::UpdateSupportPolicyRequest>,
    ) -> Answer<v1::UpdateSupportPolicyResponse> {
        let (metadata, _, message) = request.into_parts();
        let enforcement = mk_enforcement(&message.tenant_id);
        self.note(&metadata, |heard| heard.policies.push(message));
        let enforcement = enforcement.map_err(|Stranger| busy())?;
        Ok(Response::new(v1::UpdateSupportPolicyResponse { enforcement, ..Default::default() }))
    }

    /// Token t7 is in force at the second request, t8 never, and other tokens are unknown.
    async fn wait_enforced(
        &self,
        request: Request<v1::WaitEnforcedRequest>,
    ) -> Answer<v1::WaitEnforcedResponse> {
        let (metadata, _, message) = request.into_parts();
        let consistency_token = message.consistency_token.clone();
        self.note(&metadata, |heard| heard.waits.push(message));
        let state = match consistency_token.as_str() {
            "t7" if self.0.lock().waits.len() > 1 => v1::EnforcementState::Complete,
            "t7" | "t8" => v1::EnforcementState::Pending,
            _ => {
                let violation = FieldViolation::new("consistency_token", "there is no such event");
                let details = ErrorDetails::with_bad_request(vec![violation]);
                return Err(Status::with_error_details(Code::NotFound, "not there", details));
            }
        };
        let state = state.into();
        let enforcement = Some(v1::Enforcement { state, consistency_token, ..Default::default() });
        Ok(Response::new(v1::WaitEnforcedResponse { enforcement }))
    }
    async fn export_history(
        &self,
        request: Request<v1::ExportHistoryRequest>,
    ) -> Answer<Self::ExportHistoryStream> {
        let (metadata, _, message) = request.into_parts();
        let pages = history::export(&message);
        self.note(&metadata, |heard| heard.exports.push(message));
        Ok(Response::new(tokio_stream::iter(pages)))
    }

    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Answer<v1::GetCheckpointResponse> {
        let checkpoint = history::checkpoint(request.get_ref().tenant_id());
        Ok(Response::new(v1::GetCheckpointResponse { checkpoint }))
    }

    /// How far it has come is said of a tenant by its name; everything else is in force.
    async fn lock_access(
        &self,
        request: Request<v1::LockAccessRequest>,
    ) -> Answer<v1::LockAccessResponse> {
        let (metadata, _, message) = request.into_parts();
        let tenant = message.tenant_id.clone().unwrap_or_else(|| "complete".into());
        self.note(&metadata, |heard| heard.locks.push(message));
        let enforcement = mk_enforcement(&tenant).map_err(|Stranger| busy())?;
        Ok(Response::new(v1::LockAccessResponse {
            lock: Some(mk_lock("l1")),
            enforcement,
            consistency_token: "t7".into(),
        }))
    }

    /// The tenant "other" has a lock that only the vendor may lift.
    async fn unlock_access(
        &self,
        request: Request<v1::UnlockAccessRequest>,
    ) -> Answer<v1::UnlockAccessResponse> {
        let (metadata, _, message) = request.into_parts();
        let is_other = message.tenant_id() == "other";
        self.note(&metadata, |heard| heard.unlocks.push(message));
        if is_other {
            let violation = FieldViolation::new("lock_id", "only the vendor may lift it");
            let details = ErrorDetails::with_bad_request(vec![violation]);
            return Err(Status::with_error_details(Code::PermissionDenied, "no", details));
        }
        Ok(Response::new(v1::UnlockAccessResponse {
            lock: Some(mk_lock("l1")),
            consistency_token: "t7".into(),
        }))
    }

    /// There are 1,200 locks.
    async fn list_locks(
        &self,
        request: Request<v1::ListLocksRequest>,
    ) -> Answer<v1::ListLocksResponse> {
        let (metadata, _, message) = request.into_parts();
        let from: usize = message.page_token.parse().unwrap_or(0);
        let to = 1_200.min(from + usize::try_from(message.page_size).unwrap());
        self.note(&metadata, |heard| heard.lock_lists.push(message));
        let locks = (from..to).map(|number| mk_lock(&format!("l{number}"))).collect();
        let next_page_token = if to == 1_200 { String::new() } else { to.to_string() };
        Ok(Response::new(v1::ListLocksResponse { locks, next_page_token }))
    }
}

#[tonic::async_trait]
impl CheckNodes for Fake {
    async fn list_check_nodes(
        &self,
        _: Request<v1::ListCheckNodesRequest>,
    ) -> Answer<v1::ListCheckNodesResponse> {
        let node = v1::CheckNode {
            node_id: "n1".into(),
            kind: v1::NodeKind::Replica.into(),
            version: "0.1.0".into(),
            revision: 7,
            ..v1::CheckNode::default()
        };
        let check_nodes = vec![node];
        Ok(Response::new(v1::ListCheckNodesResponse { check_nodes, ..Default::default() }))
    }
}

#[tonic::async_trait]
impl SupportAccess for Fake {
    async fn check_access(
        &self,
        request: Request<v1::CheckAccessRequest>,
    ) -> Answer<v1::CheckAccessResponse> {
        let (metadata, _, message) = request.into_parts();
        let tenant = message.check.clone().unwrap_or_default().tenant_id;
        self.note(&metadata, |heard| heard.checks.push(message));
        let (decision, reason) = match tenant.as_str() {
            "open" => (v1::Decision::Allowed, v1::DecisionReason::GrantActive),
            "closed" => (v1::Decision::Denied, v1::DecisionReason::NoGrant),
            "stale" => (v1::Decision::Denied, v1::DecisionReason::Stale),
            "slow" => std::future::pending().await,
            _ => return Err(Status::new(Code::Internal, "broken")),
        };
        let message = "What it \u{9b}means".into();
        let (decision, reason) = (decision.into(), reason.into());
        Ok(Response::new(v1::CheckAccessResponse {
            decision,
            reason,
            message,
            ..Default::default()
        }))
    }

    async fn batch_check_access(
        &self,
        _: Request<v1::BatchCheckAccessRequest>,
    ) -> Answer<v1::BatchCheckAccessResponse> {
        Err(Status::unimplemented(""))
    }

    async fn explain_access(
        &self,
        _: Request<v1::ExplainAccessRequest>,
    ) -> Answer<v1::ExplainAccessResponse> {
        Err(Status::unimplemented("not here"))
    }
}
