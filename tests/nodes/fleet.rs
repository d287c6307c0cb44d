//! Many nodes, and how they are asked and told.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::future::join_all;
use support_access::api::proto::v1::{
    AccessCheck, AccessLevel, AgentKind, CheckAccessRequest, Enforcement, EnforcementState, Grant,
    GrantAccessRequest, ListCheckNodesRequest, check_nodes_client::CheckNodesClient,
    support_access_admin_client::SupportAccessAdminClient,
    support_access_client::SupportAccessClient,
};
use tempfile::TempDir;
use tonic::{Status, transport::Channel};

use crate::{
    history::{History, Verdict},
    server::{Launch, Server, eventually},
};

pub type Admin = SupportAccessAdminClient<Channel>;

/// For how long nodes answer from one lease: the default.
pub const MAX_STALENESS: Duration = Duration::from_secs(2);
/// No revocation takes longer: a promise of the product.
pub const IN_TIME: Duration = Duration::from_millis(2_200);
/// How long one may take that waits for nobody who is silent, on a machine that is busy.
pub const FAST: Duration = Duration::from_secs(1);

/// After how long a node that has not answered is taken to be paused.
const SILENT: Duration = Duration::from_millis(300);

/// A check node, as the gateway beside it sees it.
#[derive(Debug)]
pub struct Node {
    pub server: Server,
    /// Tells the lives of nodes apart.
    pub number: usize,
    pub client: SupportAccessClient<Channel>,
    pub channel: Channel,
}

/// Check nodes, and everything that they were seen to do.
#[derive(Debug)]
pub struct Fleet {
    // Dropped before those that they follow, so that nobody cries.
    pub sidecars: Vec<Node>,
    pub replicas: Vec<Node>,
    pub history: Arc<History>,
    /// Where Unix sockets are.
    folder: TempDir,
    lives: usize,
}

/// The answer to a revocation, and how long the caller waited for it.
#[derive(Debug, Clone)]
pub struct Revoked {
    pub grant: Grant,
    pub enforcement: Enforcement,
    pub took: Duration,
}

impl Fleet {
    /// Nobody.
    pub fn new() -> Self {
        let folder = TempDir::with_prefix("support-access-").unwrap();
        Self { replicas: vec![], sidecars: vec![], history: Arc::default(), folder, lives: 0 }
    }

    /// Replicas on one database.
    pub async fn replicas(database_url: &str, count: usize) -> Self {
        let mut fleet = Self::new();
        let launches = (0..count).map(|number| replica(database_url, number));
        fleet.add_replicas(launches.collect()).await;
        fleet
    }

    /// Starts replicas, all at the same time.
    pub async fn add_replicas(&mut self, launches: Vec<Launch>) {
        for server in Launch::start_all(launches) {
            let node = self.node(server).await;
            self.replicas.push(node);
        }
    }

    /// Starts a sidecar of those upstreams, and does not wait until it can answer.
    pub async fn add_sidecar(&mut self, upstreams: &[&str]) -> &Node {
        self.add_sidecars(vec![sidecar(upstreams, self.sidecars.len())]).await;
        self.sidecars.last().unwrap()
    }

    /// Starts sidecars, all at the same time.
    pub async fn add_sidecars(&mut self, launches: Vec<Launch>) {
        for server in Launch::start_all(launches) {
            let node = self.node(server).await;
            self.sidecars.push(node);
        }
    }

    /// A node for a process that has just begun.
    pub async fn node(&mut self, server: Server) -> Node {
        self.lives += 1;
        let channel = server.connect().await;
        let client = SupportAccessClient::new(channel.clone());
        Node { server, number: self.lives, client, channel }
    }

    /// A place for a Unix socket.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// All nodes, replicas first.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.replicas.iter().chain(&self.sidecars)
    }

    /// How many there are.
    pub fn count(&self) -> i32 {
        i32::try_from(self.replicas.len() + self.sidecars.len()).unwrap()
    }

    /// Whether all of them are the processes that they were.
    pub fn assert_running(&mut self) {
        for node in self.replicas.iter_mut().chain(&mut self.sidecars) {
            assert!(node.server.is_running(), "{} has ended", node.server.name);
        }
    }

    /// Waits until every node can answer.
    pub async fn serving(&self) {
        join_all(self.nodes().map(|node| node.server.serving())).await;
    }

    /// A client for administrators at one of the replicas.
    pub fn admin(&self, replica: usize) -> Admin {
        SupportAccessAdminClient::new(self.replicas[replica].channel.clone())
    }

    /// The revision at the end of the log.
    pub async fn head_revision(&self, replica: usize) -> i64 {
        let mut client = CheckNodesClient::new(self.replicas[replica].channel.clone());
        let nodes = client.list_check_nodes(ListCheckNodesRequest {}).await.unwrap();
        nodes.into_inner().head_revision
    }

    /// Grants, and waits until every node answers from there.
    pub async fn granted(&self, replica: usize, tenant_id: &str) -> Grant {
        let (grant, token) =
            grant_with_token(&mut self.admin(replica), request(tenant_id)).await.unwrap();
        let answers = join_all(self.nodes().map(|node| {
            eventually("the grant is everywhere", async || {
                self.ask(node, tenant_id, &token).await.is_allowed_by(&grant)
            })
        }));
        answers.await;
        grant
    }

    /// Revokes, and notes what was promised.
    pub async fn revoke(&self, replica: usize, grant: &Grant) -> Result<Revoked, Status> {
        self.history.revoke(&mut self.admin(replica), grant).await
    }

    /// Revokes with everybody's word, or everybody's silence: the product promises how long that takes.
    pub async fn revoke_in_time(&self, replica: usize, grant: &Grant) -> Revoked {
        let revoked = self.revoke(replica, grant).await.unwrap();
        revoked.assert_in_time();
        self.nobody_is_let_in(grant).await;
        revoked
    }

    /// Revokes until that is fast again: those who are silent were struck off.
    pub async fn revoke_until_fast(&self, replica: usize) {
        eventually("revocations are fast again", async || {
            let grant = grant(&mut self.admin(replica), "in between").await.unwrap();
            self.revoke_in_time(replica, &grant).await.elapsed() < FAST
        })
        .await;
    }

    /// Waits until every node confirms a revocation, and at once.
    pub async fn all_confirm(&self, replica: usize) {
        eventually("every node confirms a revocation", async || {
            let mut admin = self.admin(replica);
            let Ok(grant) = grant(&mut admin, "in between").await else { return false };
            let revoked = self.revoke_in_time(replica, &grant).await;
            revoked.enforcement.nodes_acknowledged == self.count() && revoked.elapsed() < FAST
        })
        .await;
    }

    /// Asks every node that can be asked, at the same time.
    pub async fn nobody_is_let_in(&self, grant: &Grant) {
        let asking = self.nodes().map(|node| async {
            let asked = self.history.ask(node.number, &node.client, &grant.tenant_id, "");
            // Who is paused does not answer, nor who was killed.
            if let Ok(Ok(verdict)) = tokio::time::timeout(SILENT, asked).await {
                assert!(!verdict.is_allowed_by(grant), "{} has let in", node.server.name);
            }
        });
        join_all(asking).await;
    }

    /// Asks one node, and notes the answer.
    pub async fn ask(&self, node: &Node, tenant_id: &str, token: &str) -> Verdict {
        self.history.ask(node.number, &node.client, tenant_id, token).await.unwrap()
    }

    /// Waits until a node lets in by `grant` again.
    pub async fn lets_in(&self, node: &Node, grant: &Grant) {
        let what = format!("{} lets in by what was never revoked", node.server.name);
        eventually(&what, async || self.ask(node, &grant.tenant_id, "").await.is_allowed_by(grant))
            .await;
    }
}

/// A replica with the lines of calls left out of its log.
pub fn replica(database_url: &str, number: usize) -> Launch {
    quiet(Launch::replica(database_url)).named(format!("replica {number}"))
}

/// As [`replica`].
pub fn sidecar(upstreams: &[&str], number: usize) -> Launch {
    quiet(Launch::sidecar(upstreams)).named(format!("sidecar {number}"))
}

fn quiet(launch: Launch) -> Launch {
    launch.flags(&["--log", "info,support_access::rpc=off,support_access::audit=off"])
}

impl Revoked {
    pub fn elapsed(&self) -> Duration {
        self.enforcement.elapsed.unwrap().try_into().unwrap()
    }

    pub fn assert_in_time(&self) {
        assert_eq!(self.enforcement.state(), EnforcementState::Complete, "{self:?}");
        assert!(self.elapsed() <= IN_TIME, "{self:?}");
        assert!(self.took <= IN_TIME, "{self:?}");
    }
}

/// A grant until revoked.
pub async fn grant(admin: &mut Admin, tenant_id: &str) -> Result<Grant, Status> {
    Ok(grant_with_token(admin, request(tenant_id)).await?.0)
}

/// A grant, and the consistency token of its event.
pub async fn grant_with_token(
    admin: &mut Admin,
    request: GrantAccessRequest,
) -> Result<(Grant, String), Status> {
    let granted = admin.grant_access(request).await?.into_inner();
    Ok((granted.grant.unwrap(), granted.consistency_token))
}

/// What is asked for such a grant.
pub fn request(tenant_id: &str) -> GrantAccessRequest {
    GrantAccessRequest {
        tenant_id: tenant_id.into(),
        group_id: "support".into(),
        access_level: AccessLevel::ReadOnly.into(),
        until_revoked: true,
        ..Default::default()
    }
}

/// May Ada enter?
pub fn question(tenant_id: &str, consistency_token: &str) -> CheckAccessRequest {
    CheckAccessRequest {
        check: Some(access_check(tenant_id)),
        consistency_token: consistency_token.into(),
    }
}

/// The check in [`question`].
pub fn access_check(tenant_id: &str) -> AccessCheck {
    AccessCheck {
        tenant_id: tenant_id.into(),
        agent_id: "ada".into(),
        group_ids: vec!["support".into()],
        required_level: AccessLevel::ReadOnly.into(),
        agent_kind: AgentKind::Human.into(),
        on_behalf_of: String::new(),
    }
}
