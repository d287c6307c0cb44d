//! A fleet of check nodes, and helpers to change and check access.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::future::join_all;
use support_access::api::proto::v1::{
    Enforcement, EnforcementState, Grant, GrantAccessRequest, ListCheckNodesRequest,
    check_nodes_client::CheckNodesClient, support_access_admin_client::SupportAccessAdminClient,
    support_access_client::SupportAccessClient,
};
use tempfile::TempDir;
use tonic::{Status, transport::Channel};

use crate::nodes::{
    history::{History, Verdict},
    requests::grant_request,
    server::{Launch, Server, eventually},
};

pub type Admin = SupportAccessAdminClient<Channel>;

/// The default `max_staleness`.
pub const MAX_STALENESS: Duration = Duration::from_secs(2);
/// The guaranteed upper bound of a revocation: `max_staleness` plus 200 ms.
pub const ENFORCEMENT_BOUND: Duration = Duration::from_millis(2_200);
/// The longest revocation while all nodes respond, on a busy machine.
pub const FAST: Duration = Duration::from_secs(1);

/// A node that has not responded after this time is considered paused.
const SILENT: Duration = Duration::from_millis(300);

/// A check node, and a gateway's connection to the node.
#[derive(Debug)]
pub struct Node {
    pub server: Server,
    /// Distinguishes the processes of one node. A restarted node has another number.
    pub number: usize,
    pub client: SupportAccessClient<Channel>,
    pub channel: Channel,
}

/// Check nodes and the record of their answers.
#[derive(Debug)]
pub struct Fleet {
    // Sidecars are dropped before their upstreams, so that no sidecar logs a lost upstream.
    pub sidecars: Vec<Node>,
    pub replicas: Vec<Node>,
    pub history: Arc<History>,
    /// The directory of the Unix sockets.
    directory: TempDir,
    processes: usize,
}

/// The response to a revocation, and the duration of the call.
#[derive(Debug, Clone)]
pub struct Revoked {
    pub grant: Grant,
    pub enforcement: Enforcement,
    pub took: Duration,
}

impl Fleet {
    /// Creates an empty fleet.
    pub fn new() -> Self {
        let directory = TempDir::with_prefix("support-access-").unwrap();
        Self {
            replicas: vec![],
            sidecars: vec![],
            history: Arc::default(),
            directory,
            processes: 0,
        }
    }

    /// Starts `count` replicas on one database.
    pub async fn replicas(database_url: &str, count: usize) -> Self {
        let mut fleet = Self::new();
        let launches = (0..count).map(|number| replica(database_url, number));
        fleet.add_replicas(launches.collect()).await;
        fleet
    }

    /// Starts replicas at the same time.
    pub async fn add_replicas(&mut self, launches: Vec<Launch>) {
        for server in Launch::start_all(launches) {
            let node = self.node(server).await;
            self.replicas.push(node);
        }
    }

    /// Starts a sidecar that follows `upstreams`. Does not wait until the sidecar can answer.
    pub async fn add_sidecar(&mut self, upstreams: &[&str]) -> &Node {
        self.add_sidecars(vec![sidecar(upstreams, self.sidecars.len())]).await;
        self.sidecars.last().unwrap()
    }

    /// Starts sidecars at the same time.
    pub async fn add_sidecars(&mut self, launches: Vec<Launch>) {
        for server in Launch::start_all(launches) {
            let node = self.node(server).await;
            self.sidecars.push(node);
        }
    }

    /// Connects to a process that has just started.
    pub async fn node(&mut self, server: Server) -> Node {
        self.processes += 1;
        let channel = server.connect().await;
        let client = SupportAccessClient::new(channel.clone());
        Node { server, number: self.processes, client, channel }
    }

    /// Returns a path for a Unix socket.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Returns all nodes, replicas first.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.replicas.iter().chain(&self.sidecars)
    }

    /// Returns the number of nodes that acknowledge a change. A sidecar that follows another
    /// sidecar counts together with it.
    pub fn count(&self) -> i32 {
        let relays = || self.sidecars.iter().flat_map(|node| &node.server.urls);
        let follows_replica =
            |node: &&Node| !node.server.upstreams.iter().any(|url| relays().any(|of| of == url));
        let sidecars = self.sidecars.iter().filter(follows_replica).count();
        i32::try_from(self.replicas.len() + sidecars).unwrap()
    }

    /// Asserts that no process has exited.
    pub fn assert_running(&mut self) {
        for node in self.replicas.iter_mut().chain(&mut self.sidecars) {
            assert!(node.server.is_running(), "{} has exited", node.server.name);
        }
    }

    /// Waits until every node can answer.
    pub async fn serving(&self) {
        join_all(self.nodes().map(|node| node.server.serving())).await;
    }

    /// Returns an admin client of one replica.
    pub fn admin(&self, replica: usize) -> Admin {
        SupportAccessAdminClient::new(self.replicas[replica].channel.clone())
    }

    /// Returns the latest revision of the log.
    pub async fn head_revision(&self, replica: usize) -> i64 {
        let mut client = CheckNodesClient::new(self.replicas[replica].channel.clone());
        let mut head = None;
        eventually("the head revision is readable", async || {
            let nodes = client.list_check_nodes(ListCheckNodesRequest {}).await.ok();
            head = nodes.map(|nodes| nodes.into_inner().head_revision);
            head.is_some()
        })
        .await;
        head.unwrap()
    }

    /// Grants access and waits until every node allows it.
    pub async fn grant_everywhere(&self, replica: usize, tenant_id: &str) -> Grant {
        let (grant, token) =
            grant_with_token(&mut self.admin(replica), grant_request(tenant_id)).await.unwrap();
        let answers = join_all(self.nodes().map(|node| {
            eventually("every node allows access", async || {
                self.check(node, tenant_id, &token).await.is_allowed_by(&grant)
            })
        }));
        answers.await;
        grant
    }

    /// Revokes a grant and records when the revocation was enforced.
    pub async fn revoke(&self, replica: usize, grant: &Grant) -> Result<Revoked, Status> {
        self.history.revoke(&mut self.admin(replica), grant).await
    }

    /// Revokes a grant within [`ENFORCEMENT_BOUND`], and asserts that no node allows access
    /// afterwards.
    pub async fn revoke_within_bound(&self, replica: usize, grant: &Grant) -> Revoked {
        let revoked = self.revoke(replica, grant).await.unwrap();
        revoked.assert_within_bound();
        self.assert_denied(grant).await;
        revoked
    }

    /// Revokes until a revocation is fast again, which means that all silent nodes have been
    /// evicted.
    pub async fn revoke_until_fast(&self, replica: usize) {
        eventually("revocations are fast again", async || {
            let grant = grant(&mut self.admin(replica), "interim").await.unwrap();
            self.revoke_within_bound(replica, &grant).await.elapsed() < FAST
        })
        .await;
    }

    /// Waits until every node acknowledges a revocation quickly.
    pub async fn wait_until_all_acknowledge(&self, replica: usize) {
        eventually("every node acknowledges a revocation", async || {
            let mut admin = self.admin(replica);
            let Ok(grant) = grant(&mut admin, "interim").await else { return false };
            let revoked = self.revoke_within_bound(replica, &grant).await;
            revoked.enforcement.nodes_acknowledged == self.count() && revoked.elapsed() < FAST
        })
        .await;
    }

    /// Checks access at all responsive nodes concurrently, and asserts that none allows it.
    pub async fn assert_denied(&self, grant: &Grant) {
        let checks = self.nodes().map(|node| async {
            let check = self.history.check(node.number, &node.client, &grant.tenant_id, "");
            // Paused and killed nodes do not respond.
            if let Ok(Ok(verdict)) = tokio::time::timeout(SILENT, check).await {
                assert!(!verdict.is_allowed_by(grant), "{} allows access", node.server.name);
            }
        });
        join_all(checks).await;
    }

    /// Checks access at one node and records the answer.
    pub async fn check(&self, node: &Node, tenant_id: &str, token: &str) -> Verdict {
        self.history.check(node.number, &node.client, tenant_id, token).await.unwrap()
    }

    /// Waits until a node allows access through `grant`.
    pub async fn wait_until_allowed(&self, node: &Node, grant: &Grant) {
        let description = format!("{} allows access through the live grant", node.server.name);
        eventually(&description, async || {
            self.check(node, &grant.tenant_id, "").await.is_allowed_by(grant)
        })
        .await;
    }
}

/// A replica that does not log calls.
pub fn replica(database_url: &str, number: usize) -> Launch {
    quiet(Launch::replica(database_url)).named(format!("replica {number}"))
}

/// A sidecar that does not log calls.
pub fn sidecar(upstreams: &[&str], number: usize) -> Launch {
    quiet(Launch::sidecar(upstreams)).named(format!("sidecar {number}"))
}

fn quiet(launch: Launch) -> Launch {
    launch.env("SUPPORT_ACCESS_LOG", "info,support_access::rpc=off,support_access::audit=off")
}

impl Revoked {
    pub fn elapsed(&self) -> Duration {
        self.enforcement.elapsed.unwrap().try_into().unwrap()
    }

    pub fn assert_within_bound(&self) {
        assert_eq!(self.enforcement.state(), EnforcementState::Complete, "{self:?}");
        assert!(self.elapsed() <= ENFORCEMENT_BOUND, "{self:?}");
        assert!(self.took <= ENFORCEMENT_BOUND, "{self:?}");
    }
}

/// Grants access until revoked.
pub async fn grant(admin: &mut Admin, tenant_id: &str) -> Result<Grant, Status> {
    Ok(grant_with_token(admin, grant_request(tenant_id)).await?.0)
}

/// Grants access and returns the grant with its consistency token.
pub async fn grant_with_token(
    admin: &mut Admin,
    request: GrantAccessRequest,
) -> Result<(Grant, String), Status> {
    let granted = admin.grant_access(request).await?.into_inner();
    Ok((granted.grant.unwrap(), granted.consistency_token))
}
