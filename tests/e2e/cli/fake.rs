//! A server that records requests. The responses depend on the name of the tenant.

use std::{net::SocketAddr, path::Path, sync::Arc, thread, time::Duration};

use parking_lot::Mutex;
use support_access::api::proto::v1::{
    self,
    check_nodes_server::{CheckNodes, CheckNodesServer},
    server_info_server::{ServerInfo, ServerInfoServer},
    support_access_admin_server::SupportAccessAdminServer,
    support_access_server::{SupportAccess, SupportAccessServer},
};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Builder,
};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::{
    Code, Request, Response, Status,
    metadata::MetadataMap,
    transport::{Server, server::Router},
};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

mod admin;
pub mod history;

type Reply<T> = Result<Response<T>, Status>;

/// The requests, in order.
#[derive(Debug, Default)]
pub struct Received {
    pub actors: Vec<Option<String>>,
    pub has_deadline: Vec<bool>,
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
    pub clocks: Vec<v1::AcceptClockRequest>,
    pub lock_lists: Vec<v1::ListLocksRequest>,
}

#[derive(Debug, Clone, Default)]
pub struct Fake(pub Arc<Mutex<Received>>);

impl Fake {
    /// Serves on a free port of loopback until the test ends. Returns the address.
    pub fn start(&self) -> String {
        let listener = std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let router = self.router();
        thread::spawn(move || {
            Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
                router.serve_with_incoming(incoming).await.unwrap();
            });
        });
        address
    }

    /// Serves on a Unix socket until the test ends.
    pub fn start_at(&self, path: &Path) {
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let router = self.router();
        thread::spawn(move || {
            Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
                let incoming = UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
                router.serve_with_incoming(incoming).await.unwrap();
            });
        });
    }

    fn router(&self) -> Router {
        Server::builder()
            .add_service(SupportAccessAdminServer::new(self.clone()))
            .add_service(SupportAccessServer::new(self.clone()))
            .add_service(CheckNodesServer::new(self.clone()))
            .add_service(ServerInfoServer::new(self.clone()))
    }

    fn record(&self, metadata: &MetadataMap, record: impl FnOnce(&mut Received)) {
        let mut received = self.0.lock();
        let actor = metadata.get("support-access-actor");
        received.actors.push(actor.map(|actor| actor.to_str().unwrap().to_owned()));
        received.has_deadline.push(metadata.contains_key("grpc-timeout"));
        record(&mut received);
    }
}

/// An error about one field, as from the real server.
fn rejected(code: Code, reason: &str, field: &str, description: &str) -> Status {
    let mut details = ErrorDetails::with_bad_request(vec![FieldViolation::new(field, description)]);
    let metadata = [("max_duration".to_owned(), "2592000s".to_owned())];
    details.set_error_info(reason, "supportaccess.v1", metadata);
    Status::with_error_details(code, description, details)
}

/// The error of a server whose database is unavailable.
fn unavailable() -> Status {
    let mut details = ErrorDetails::with_retry_info(Some(Duration::from_millis(1)));
    let metadata = std::collections::HashMap::new();
    details.set_error_info("DATABASE_UNAVAILABLE", "supportaccess.v1", metadata);
    Status::with_error_details(Code::Unavailable, "the database is unavailable", details)
}

pub fn mk_grant(grant_id: &str) -> v1::Grant {
    v1::Grant {
        grant_id: grant_id.into(),
        tenant_id: "acme".into(),
        group_id: "support".into(),
        state: v1::GrantState::Active.into(),
        expire_time: Some(prost_types::Timestamp { seconds: 1_796_115_600, nanos: 0 }),
        etag: "e1".into(),
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

/// The name of the tenant selects no enforcement.
struct NoCase;

/// The enforcement of a change, by the name of the tenant.
fn mk_enforcement(tenant: &str) -> Result<Option<v1::Enforcement>, NoCase> {
    let state = match tenant {
        "complete" => v1::EnforcementState::Complete.into(),
        "pending" => v1::EnforcementState::Pending.into(),
        "unknown-state" => 9,
        "no-enforcement" => return Ok(None),
        _ => return Err(NoCase),
    };
    let consistency_token = "t7".into();
    Ok(Some(v1::Enforcement { state, consistency_token, ..v1::Enforcement::default() }))
}

#[tonic::async_trait]
impl CheckNodes for Fake {
    async fn list_check_nodes(
        &self,
        _: Request<v1::ListCheckNodesRequest>,
    ) -> Reply<v1::ListCheckNodesResponse> {
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
impl ServerInfo for Fake {
    async fn get_server_info(
        &self,
        _: Request<v1::GetServerInfoRequest>,
    ) -> Reply<v1::GetServerInfoResponse> {
        Ok(Response::new(v1::GetServerInfoResponse {
            version: "0.2.0".into(),
            commit: "0123456789ab".into(),
            kind: v1::NodeKind::Sidecar.into(),
        }))
    }

    async fn get_caller(
        &self,
        request: Request<v1::GetCallerRequest>,
    ) -> Reply<v1::GetCallerResponse> {
        let name = request.metadata().get("support-access-actor").unwrap().to_str().unwrap();
        Ok(Response::new(v1::GetCallerResponse {
            name: name.into(),
            authentication_method: v1::AuthenticationMethod::None.into(),
            roles: vec![v1::Role::TenantAdmin.into(), v1::Role::Operator.into()],
            all_tenants: true,
            ..v1::GetCallerResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl SupportAccess for Fake {
    async fn check_access(
        &self,
        request: Request<v1::CheckAccessRequest>,
    ) -> Reply<v1::CheckAccessResponse> {
        let (metadata, _, message) = request.into_parts();
        let tenant = message.check.clone().unwrap_or_default().tenant_id;
        self.record(&metadata, |received| received.checks.push(message));
        let (decision, reason) = match tenant.as_str() {
            "open" => (v1::Decision::Allowed, v1::DecisionReason::GrantActive),
            "closed" => (v1::Decision::Denied, v1::DecisionReason::NoGrant),
            "stale" => (v1::Decision::Denied, v1::DecisionReason::Stale),
            "slow" => std::future::pending().await,
            _ => return Err(Status::new(Code::Internal, "broken")),
        };
        let message = "the \u{9b}message".into();
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
    ) -> Reply<v1::BatchCheckAccessResponse> {
        Err(Status::unimplemented("no command uses this method"))
    }

    async fn explain_access(
        &self,
        request: Request<v1::ExplainAccessRequest>,
    ) -> Reply<v1::ExplainAccessResponse> {
        let check = request.into_inner().check.unwrap_or_default();
        let checklist = vec![v1::ChecklistItem {
            question: v1::ChecklistQuestion::PeriodNotExpired.into(),
            answer: v1::ChecklistAnswer::No.into(),
            detail: "The grant has expired.".into(),
        }];
        let grant = Some(mk_grant("g1"));
        let reasons = vec![v1::DecisionReason::Expired.into()];
        Ok(Response::new(v1::ExplainAccessResponse {
            result: Some(v1::CheckAccessResponse {
                decision: v1::Decision::Denied.into(),
                reason: v1::DecisionReason::Expired.into(),
                message: format!("{} may not enter", check.agent_id),
                ..v1::CheckAccessResponse::default()
            }),
            checklist,
            candidates: vec![v1::CandidateGrant { grant, reasons }],
            candidates_truncated: true,
            ..v1::ExplainAccessResponse::default()
        }))
    }
}
