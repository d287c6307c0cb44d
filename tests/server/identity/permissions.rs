//! The permission table, held against the server: every RPC, for every role, in its own tenant and in another.

use std::{collections::BTreeSet, fmt::Write, fs};

use prost::Message;
use prost_types::FileDescriptorSet;
use support_access::{
    api::proto::{self, replication::v1::replication_client::ReplicationClient, v1::*},
    domain::{Action, Role, permission::Cell},
};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

use super::{AUDITOR, GATEWAY, NODE, OPERATOR, PORTAL, World, bearing, reason};
use crate::harness::{a_grant, an_access_check};
use check_nodes_client::CheckNodesClient;
use server_info_client::ServerInfoClient;
use support_access_admin_client::SupportAccessAdminClient;
use support_access_client::SupportAccessClient;

/// Where the table is written down for people.
const DOCUMENT: &str = "docs/permissions.md";

/// Somebody with one role: a connection, and a token where that is what gives it.
struct Holder {
    what: String,
    role: Role,
    channel: Channel,
    token: Option<String>,
}

impl Holder {
    fn request<M>(&self, message: M) -> Request<M> {
        match &self.token {
            Some(token) => bearing(message, token),
            None => Request::new(message),
        }
    }

    #[expect(clippy::needless_update, reason = "some messages have no other fields")]
    /// What the server makes of one call. What is asked for need not make sense: it is about who may ask.
    async fn ask(&self, action: Action, tenant_id: &str) -> Result<(), Status> {
        let tenant_id = tenant_id.to_owned();
        let grant_id = "00000000-0000-7000-8000-000000000000".to_owned();
        let mut admin = SupportAccessAdminClient::new(self.channel.clone());
        let mut checks = SupportAccessClient::new(self.channel.clone());
        let mut nodes = CheckNodesClient::new(self.channel.clone());
        let mut replication = ReplicationClient::new(self.channel.clone());
        let mut info = ServerInfoClient::new(self.channel.clone());
        let check = Some(AccessCheck { tenant_id: tenant_id.clone(), ..an_access_check() });
        // Without a tenant, the vendor.
        let named = Some(tenant_id.clone()).filter(|tenant_id| !tenant_id.is_empty());
        let scope = if named.is_some() { Scope::Tenant } else { Scope::Vendor }.into();
        macro_rules! ask {
            ($client:ident.$method:ident($message:expr)) => {
                $client.$method(self.request($message)).await.map(drop)
            };
            ($client:ident.$method:ident as $message:ident { $($field:ident),* }) => {
                ask!($client.$method($message { $($field,)* ..$message::default() }))
            };
        }
        match action {
            Action::GrantAccess => {
                ask!(admin.grant_access(GrantAccessRequest { tenant_id, ..a_grant() }))
            }
            Action::ExtendAccess => {
                ask!(admin.extend_access as ExtendAccessRequest { tenant_id, grant_id })
            }
            Action::RevokeAccess => {
                ask!(admin.revoke_access as RevokeAccessRequest { tenant_id, grant_id })
            }
            Action::RevokeAllAccess => {
                ask!(admin.revoke_all_access as RevokeAllAccessRequest { tenant_id })
            }
            Action::GetGrant => ask!(admin.get_grant as GetGrantRequest { tenant_id, grant_id }),
            Action::ListTenants => ask!(admin.list_tenants as ListTenantsRequest {}),
            Action::ListGrants => ask!(admin.list_grants as ListGrantsRequest { tenant_id }),
            Action::ListEvents => {
                ask!(admin.list_events as ListEventsRequest { scope, tenant_id })
            }
            Action::ExportHistory => {
                let tenant_id = named;
                ask!(admin.export_history as ExportHistoryRequest { tenant_id })
            }
            Action::GetCheckpoint => {
                let tenant_id = named;
                ask!(admin.get_checkpoint as GetCheckpointRequest { tenant_id })
            }
            Action::GetSupportPolicy => {
                ask!(admin.get_support_policy as GetSupportPolicyRequest { tenant_id })
            }
            Action::UpdateSupportPolicy => {
                ask!(admin.update_support_policy as UpdateSupportPolicyRequest { tenant_id })
            }
            Action::WaitEnforced => {
                let tenant_id = named;
                ask!(admin.wait_enforced as WaitEnforcedRequest { tenant_id })
            }
            Action::LockAccess => {
                let (tenant_id, everything) = (named, true);
                ask!(admin.lock_access as LockAccessRequest { tenant_id, everything })
            }
            Action::UnlockAccess => {
                let (tenant_id, lock_id) = (named, grant_id);
                ask!(admin.unlock_access as UnlockAccessRequest { tenant_id, lock_id })
            }
            Action::ListLocks => ask!(admin.list_locks as ListLocksRequest { scope, tenant_id }),
            Action::CheckAccess => {
                ask!(checks.check_access as CheckAccessRequest { check })
            }
            Action::BatchCheckAccess => {
                let checks_asked = check.into_iter().collect();
                ask!(checks.batch_check_access(BatchCheckAccessRequest {
                    checks: checks_asked,
                    ..BatchCheckAccessRequest::default()
                }))
            }
            Action::ExplainAccess => {
                ask!(checks.explain_access as ExplainAccessRequest { check })
            }
            Action::Follow => ask!(replication.follow(futures::stream::empty())),
            Action::ListCheckNodes => ask!(nodes.list_check_nodes(ListCheckNodesRequest {})),
            Action::GetServerInfo => ask!(info.get_server_info(GetServerInfoRequest {})),
            Action::GetCaller => ask!(info.get_caller(GetCallerRequest {})),
        }
    }
}

/// Everybody, once for each way to get a role. A portal's own role comes with its certificate.
async fn holders(world: &World) -> Vec<Holder> {
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
        holders.push(Holder { what: format!("{role} by certificate"), role, channel, token: None });
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
        // Tenants in a token of the vendor's mean nothing.
        let token = Some(world.issuer.token("somebody", claim, &["acme"]));
        let channel = world.channel(None).await;
        holders.push(Holder { what: format!("{role} by token"), role, channel, token });
    }
    let (role, token) = (Role::TenantAdmin, world.issuer.token("alice", "access-admin", &["acme"]));
    let channel = world.channel(Some(PORTAL)).await;
    holders.push(Holder {
        what: "tenant_admin by portal".to_owned(),
        role,
        channel,
        token: Some(token),
    });
    holders
}

/// Whether an RPC is about the tenant that it names.
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
async fn every_rpc_for_every_role_is_permitted_or_refused_as_the_table_says() {
    let world = World::new().await;
    let (mut cells, mut refusals) = (0, 0);
    for holder in holders(&world).await {
        for action in Action::ALL {
            for (tenant_id, is_own) in [("acme", true), ("other", false)] {
                let expected = match action.cell(holder.role) {
                    Cell::All => None,
                    Cell::Own if is_own && is_scoped(*action) => None,
                    Cell::Own => Some("NOT_OWN_TENANT"),
                    Cell::No => Some("ROLE_MISSING"),
                };
                let what = format!("{} by {} in {tenant_id}", action.name(), holder.what);
                let refused = holder.ask(*action, tenant_id).await.err();
                let refused = refused.filter(|status| {
                    assert_ne!(status.code(), Code::Unauthenticated, "{what}");
                    status.code() == Code::PermissionDenied
                });
                assert_eq!(refused.as_ref().map(reason).as_deref(), expected, "{what}");
                cells += 1;
                refusals += usize::from(expected.is_some());
            }
        }
    }
    println!("{cells} cells tried, {refusals} of them refusals");
}

/// What no tenant is named for is the vendor's own: locks on everything, its history.
#[tokio::test]
async fn what_is_the_vendors_is_not_for_tenants() {
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
            let refused = holder.ask(action, "").await.err();
            let is_refused = refused.is_some_and(|status| status.code() == Code::PermissionDenied);
            let expected = action.cell(holder.role) != Cell::All;
            assert_eq!(is_refused, expected, "{} by {}", action.name(), holder.what);
        }
        let mut admin = SupportAccessAdminClient::new(holder.channel.clone());
        for request in [
            LockAccessRequest { agent_id: "ada".to_owned(), ..LockAccessRequest::default() },
            LockAccessRequest { group_id: "support".to_owned(), ..LockAccessRequest::default() },
            LockAccessRequest { everything: true, ..LockAccessRequest::default() },
        ] {
            let refused = admin.lock_access(holder.request(request)).await.unwrap_err();
            let is_refused = refused.code() == Code::PermissionDenied;
            assert_eq!(is_refused, holder.role != Role::Operator, "{}", holder.what);
        }
    }
}

#[tokio::test]
async fn who_shows_nothing_may_ask_only_whether_the_server_serves() {
    let world = World::new().await;
    let channel = world.channel(None).await;
    let nobody =
        Holder { what: String::new(), role: Role::Node, channel: channel.clone(), token: None };
    for action in Action::ALL {
        let refused = nobody.ask(*action, "acme").await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{}", action.name());
    }
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let request = tonic_health::pb::HealthCheckRequest::default();
    health.check(request.clone()).await.unwrap();
    let watched = health.watch(request).await;
    assert_eq!(watched.unwrap_err().code(), Code::Unauthenticated);
    let mut reflection = ServerReflectionClient::new(channel);
    let asked = reflection.server_reflection_info(futures::stream::empty()).await;
    assert_eq!(asked.unwrap_err().code(), Code::Unauthenticated);
}

#[test]
fn every_rpc_has_a_line_in_the_table_and_every_line_an_rpc() {
    let set = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let ours = set.file.iter().filter(|file| file.package().starts_with("supportaccess."));
    let rpcs = ours.flat_map(|file| &file.service).flat_map(|service| &service.method);
    let rpcs: BTreeSet<&str> = rpcs.map(prost_types::MethodDescriptorProto::name).collect();
    let actions: BTreeSet<&str> = Action::ALL.iter().map(|action| action.name()).collect();
    assert_eq!(rpcs, actions);
}

/// After a change of the table: `UPDATE_DOCS=1 cargo nextest run the_table_is_in_the_docs`.
#[test]
fn the_table_is_in_the_docs() {
    let mut table = String::from("| RPC |");
    for role in Role::ALL {
        write!(table, " `{role}` |").unwrap();
    }
    table += "\n|---|";
    table += &"---|".repeat(Role::ALL.len());
    for action in Action::ALL {
        write!(table, "\n| `{}` |", action.name()).unwrap();
        for role in Role::ALL {
            let cell = match action.cell(role) {
                Cell::No => "",
                Cell::Own => " own",
                Cell::All => " all",
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
        assert_eq!(&text[begin..end], table, "{DOCUMENT} does not say what the code does");
    }
}
