//! The permission table, compared with the server: every RPC by every role, in the caller's
//! tenant and in another.

use std::{collections::BTreeSet, fmt::Write, fs};

use prost::Message;
use prost_types::FileDescriptorSet;
use support_access::{
    api::proto::{self, replication::v1::replication_client::ReplicationClient, v1::*},
    domain::{Action, Permission, Role},
};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use super::{AUDITOR, GATEWAY, NODE, OPERATOR, PORTAL, World, bearing, reason};
use crate::server::harness::{a_grant, an_access_check};
use check_nodes_client::CheckNodesClient;
use server_info_client::ServerInfoClient;
use support_access_admin_client::SupportAccessAdminClient;
use support_access_client::SupportAccessClient;

const DOCUMENT: &str = "docs/permissions.md";

/// A caller with one role, by its certificate or by a token.
struct RoleHolder {
    name: String,
    role: Role,
    channel: Channel,
    token: Option<String>,
}

impl RoleHolder {
    fn request<M>(&self, message: M) -> Request<M> {
        match &self.token {
            Some(token) => bearing(message, token),
            None => Request::new(message),
        }
    }

    /// The result of one call. The request need not make sense, because the test is about the
    /// caller's permissions.
    #[expect(clippy::needless_update, reason = "some messages have no other fields")]
    #[expect(clippy::too_many_lines, reason = "one arm for each action")]
    async fn call(&self, action: Action, tenant_id: &str) -> Result<(), Status> {
        let tenant_id = tenant_id.to_owned();
        let grant_id = "00000000-0000-7000-8000-000000000000".to_owned();
        let mut admin = SupportAccessAdminClient::new(self.channel.clone());
        let mut checks = SupportAccessClient::new(self.channel.clone());
        let mut nodes = CheckNodesClient::new(self.channel.clone());
        let mut replication = ReplicationClient::new(self.channel.clone());
        let mut info = ServerInfoClient::new(self.channel.clone());
        let check = Some(AccessCheck { tenant_id: tenant_id.clone(), ..an_access_check() });
        // A request without a tenant concerns the vendor.
        let named = Some(tenant_id.clone()).filter(|tenant_id| !tenant_id.is_empty());
        let scope = if named.is_some() { Scope::Tenant } else { Scope::Vendor }.into();
        macro_rules! call {
            ($client:ident.$method:ident($message:expr)) => {
                $client.$method(self.request($message)).await.map(drop)
            };
            ($client:ident.$method:ident as $message:ident { $($field:ident),* }) => {
                call!($client.$method($message { $($field,)* ..$message::default() }))
            };
        }
        match action {
            Action::GrantAccess => {
                call!(admin.grant_access(GrantAccessRequest { tenant_id, ..a_grant() }))
            }
            Action::ExtendAccess => {
                call!(admin.extend_access as ExtendAccessRequest { tenant_id, grant_id })
            }
            Action::RevokeAccess => {
                call!(admin.revoke_access as RevokeAccessRequest { tenant_id, grant_id })
            }
            Action::RevokeAllAccess => {
                call!(admin.revoke_all_access as RevokeAllAccessRequest { tenant_id })
            }
            Action::GetGrant => call!(admin.get_grant as GetGrantRequest { tenant_id, grant_id }),
            Action::ListTenants => call!(admin.list_tenants as ListTenantsRequest {}),
            Action::ListGrants => call!(admin.list_grants as ListGrantsRequest { tenant_id }),
            Action::ListEvents => {
                call!(admin.list_events as ListEventsRequest { scope, tenant_id })
            }
            Action::ExportHistory => {
                let tenant_id = named;
                call!(admin.export_history as ExportHistoryRequest { tenant_id })
            }
            Action::GetCheckpoint => {
                let tenant_id = named;
                call!(admin.get_checkpoint as GetCheckpointRequest { tenant_id })
            }
            Action::GetSupportPolicy => {
                call!(admin.get_support_policy as GetSupportPolicyRequest { tenant_id })
            }
            Action::UpdateSupportPolicy => {
                call!(admin.update_support_policy as UpdateSupportPolicyRequest { tenant_id })
            }
            Action::WaitEnforced => {
                let tenant_id = named;
                call!(admin.wait_enforced as WaitEnforcedRequest { tenant_id })
            }
            Action::LockAccess => {
                let (tenant_id, everything) = (named, true);
                call!(admin.lock_access as LockAccessRequest { tenant_id, everything })
            }
            Action::UnlockAccess => {
                let (tenant_id, lock_id) = (named, grant_id);
                call!(admin.unlock_access as UnlockAccessRequest { tenant_id, lock_id })
            }
            Action::AcceptClock => call!(admin.accept_clock(AcceptClockRequest::default())),
            Action::ListLocks => call!(admin.list_locks as ListLocksRequest { scope, tenant_id }),
            Action::CheckAccess => {
                call!(checks.check_access as CheckAccessRequest { check })
            }
            Action::BatchCheckAccess => {
                let request = BatchCheckAccessRequest {
                    checks: check.into_iter().collect(),
                    ..BatchCheckAccessRequest::default()
                };
                call!(checks.batch_check_access(request))
            }
            Action::ExplainAccess => {
                call!(checks.explain_access as ExplainAccessRequest { check })
            }
            Action::Follow => call!(replication.follow(futures::stream::empty())),
            Action::ListCheckNodes => call!(nodes.list_check_nodes(ListCheckNodesRequest {})),
            Action::GetServerInfo => call!(info.get_server_info(GetServerInfoRequest {})),
            Action::GetCaller => call!(info.get_caller(GetCallerRequest {})),
        }
    }
}

/// A holder of every role for each way to get the role.
async fn holders(world: &World) -> Vec<RoleHolder> {
    let mut holders = Vec::new();
    let certified = [
        (Role::Gateway, GATEWAY),
        (Role::Portal, PORTAL),
        (Role::Operator, OPERATOR),
        (Role::Node, NODE),
        (Role::Auditor, AUDITOR),
    ];
    for (role, name) in certified {
        let channel = world.channel(Some(name)).await;
        holders.push(RoleHolder {
            name: format!("{role} by certificate"),
            role,
            channel,
            token: None,
        });
    }
    let claimed = [
        (Role::TenantAdmin, "access-admin"),
        (Role::TenantAuditor, "access-auditor"),
        (Role::Operator, "vendor-operator"),
        (Role::Gateway, "vendor-gateway"),
        (Role::Node, "vendor-node"),
        (Role::Auditor, "vendor-auditor"),
    ];
    for (role, claim) in claimed {
        // Tenants in a token have no effect on roles of the vendor.
        let token = Some(world.issuer.token("mallory", claim, &["acme"]));
        let channel = world.channel(None).await;
        holders.push(RoleHolder { name: format!("{role} by token"), role, channel, token });
    }
    let (role, token) = (Role::TenantAdmin, world.issuer.token("alice", "access-admin", &["acme"]));
    let channel = world.channel(Some(PORTAL)).await;
    holders.push(RoleHolder {
        name: "tenant_admin by portal".to_owned(),
        role,
        channel,
        token: Some(token),
    });
    holders
}

/// Whether an RPC concerns the tenant in the request.
fn is_scoped(action: Action) -> bool {
    !matches!(
        action,
        Action::ListTenants
            | Action::CheckAccess
            | Action::BatchCheckAccess
            | Action::Follow
            | Action::ListCheckNodes
            | Action::GetServerInfo
            | Action::GetCaller
    )
}

#[tokio::test]
async fn every_rpc_of_every_role_is_permitted_or_rejected_as_in_the_table() {
    let world = World::new().await;
    let (mut cells, mut rejections) = (0, 0);
    for holder in holders(&world).await {
        for action in Action::ALL {
            for (tenant_id, is_own) in [("acme", true), ("other", false)] {
                let expected = match action.permission(holder.role) {
                    Permission::All => None,
                    Permission::Own if is_own && is_scoped(*action) => None,
                    Permission::Own => Some("NOT_OWN_TENANT"),
                    Permission::None => Some("ROLE_MISSING"),
                };
                let name = format!("{} by {} in {tenant_id}", action.name(), holder.name);
                let rejected = holder.call(*action, tenant_id).await.err();
                let rejected = rejected.filter(|status| {
                    assert_ne!(status.code(), Code::Unauthenticated, "{name}");
                    status.code() == Code::PermissionDenied
                });
                assert_eq!(rejected.as_ref().map(reason).as_deref(), expected, "{name}");
                cells += 1;
                rejections += usize::from(expected.is_some());
            }
        }
    }
    println!("{cells} cells, {rejections} of them rejections");
}

/// Requests without a tenant concern the vendor's own history and locks.
#[tokio::test]
async fn tenants_have_no_access_to_the_vendors_data() {
    let world = World::new().await;
    for holder in holders(&world).await {
        for action in [
            Action::ListEvents,
            Action::ExportHistory,
            Action::GetCheckpoint,
            Action::ListLocks,
            Action::UnlockAccess,
            Action::WaitEnforced,
        ] {
            let rejected = holder.call(action, "").await.err();
            let is_rejected =
                rejected.is_some_and(|status| status.code() == Code::PermissionDenied);
            let expected = action.permission(holder.role) != Permission::All;
            assert_eq!(is_rejected, expected, "{} by {}", action.name(), holder.name);
        }
        let mut admin = SupportAccessAdminClient::new(holder.channel.clone());
        for request in [
            LockAccessRequest { agent_id: "ada".to_owned(), ..LockAccessRequest::default() },
            LockAccessRequest { group_id: "support".to_owned(), ..LockAccessRequest::default() },
            LockAccessRequest { everything: true, ..LockAccessRequest::default() },
        ] {
            let rejected = admin.lock_access(holder.request(request)).await.unwrap_err();
            let is_rejected = rejected.code() == Code::PermissionDenied;
            assert_eq!(is_rejected, holder.role != Role::Operator, "{}", holder.name);
        }
    }
}

#[tokio::test]
async fn callers_without_credentials_may_only_check_health() {
    let world = World::new().await;
    let channel = world.channel(None).await;
    let unauthenticated =
        RoleHolder { name: String::new(), role: Role::Node, channel: channel.clone(), token: None };
    for action in Action::ALL {
        let rejected = unauthenticated.call(*action, "acme").await.unwrap_err();
        assert_eq!(rejected.code(), Code::Unauthenticated, "{}", action.name());
    }
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let request = tonic_health::pb::HealthCheckRequest::default();
    health.check(request.clone()).await.unwrap();
    let watched = health.watch(request).await;
    assert_eq!(watched.unwrap_err().code(), Code::Unauthenticated);
    let mut reflection = ServerReflectionClient::new(channel);
    let response = reflection.server_reflection_info(futures::stream::empty()).await;
    assert_eq!(response.unwrap_err().code(), Code::Unauthenticated);
}

#[test]
fn the_table_has_a_line_for_every_rpc() {
    let set = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let ours = set.file.iter().filter(|file| file.package().starts_with("supportaccess."));
    let rpcs = ours.flat_map(|file| &file.service).flat_map(|service| &service.method);
    let rpcs: BTreeSet<&str> = rpcs.map(prost_types::MethodDescriptorProto::name).collect();
    let actions: BTreeSet<&str> = Action::ALL.iter().map(|action| action.name()).collect();
    assert_eq!(rpcs, actions);
}

/// After a change of the table: `UPDATE_DOCS=1 cargo nextest run the_table_is_documented`.
#[test]
fn the_table_is_documented() {
    let mut table = String::from("| RPC |");
    for role in Role::ALL {
        write!(table, " `{role}` |").unwrap();
    }
    table += "\n|---|";
    table += &"---|".repeat(Role::ALL.len());
    for action in Action::ALL {
        write!(table, "\n| `{}` |", action.name()).unwrap();
        for role in Role::ALL {
            let cell = match action.permission(role) {
                Permission::None => "",
                Permission::Own => " own",
                Permission::All => " all",
            };
            write!(table, "{cell} |").unwrap();
        }
    }
    let path = format!("{}/{DOCUMENT}", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap();
    let begin = text.find("| RPC |").unwrap();
    let end = text[begin..].find("\n\n").map_or(text.len(), |length| begin + length);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{}{table}{}", &text[..begin], &text[end..])).unwrap();
    } else {
        assert_eq!(&text[begin..end], table, "run this test with UPDATE_DOCS=1");
    }
}
