//! Silent nodes: paused, partitioned or killed.
//!
//! A revocation waits for a silent node no longer than the guaranteed bound, and later revocations
//! do not wait for the node. A node that returns allows no access through the revoked grant.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use prost_types::FieldMask;
use support_access::api::proto::v1::{
    ExtendAccessRequest, Grant, PolicyOverrides, RevokeAllAccessRequest, UpdateSupportPolicyRequest,
};

use crate::nodes::{
    fleet::{FAST, Fleet, Node, Revoked, grant, replica, sidecar},
    history::{Verdict, log},
    load::Load,
    postgres::Cluster,
    proxy::{Proxy, Target},
    server::{Launch, eventually},
};

/// The interval between checks at each node.
const PACE: Duration = Duration::from_millis(20);
/// The number of checks in a node's socket buffers when the node resumes.
const CHECKS: usize = 5;
/// The tenants: never revoked, revoked while a node is silent, and revoked in between.
const TENANTS: [&str; 3] = ["kept", "revoked", "interim"];

/// Three replicas and four sidecars.
///
/// Sidecar 0 follows replica 0 through `uplink`. Sidecar 1 follows sidecar 0 through a Unix socket.
/// Sidecar 2 follows replica 1. Sidecar 3 prefers replica 0 and falls back to replica 2. Replica 0
/// reaches the database through `database`.
struct Topology {
    fleet: Fleet,
    uplink: Proxy,
    database: Proxy,
    kept: Grant,
    revoked_grant: Grant,
    load: Load,
    /// Dropped last, because the servers use the database until they end.
    cluster: Cluster,
}

impl Topology {
    async fn start() -> Self {
        let cluster = Cluster::launch();
        let url = cluster.fresh_database();
        let database = Proxy::start(Target::Unix(cluster.socket())).await;
        let by_proxy = format!("postgres://postgres@{}/test_0", database.address);
        let mut fleet = Fleet::new();
        let urls = [by_proxy.as_str(), &url, &url].into_iter().enumerate();
        let mut replicas: Vec<Launch> = urls.map(|(number, url)| replica(url, number)).collect();
        // Replica 1 makes the changes, and logs each after the database has answered the commit.
        let changing = replicas.remove(1).env("SUPPORT_ACCESS_LOG", "info,support_access::rpc=off");
        replicas.insert(1, changing);
        fleet.add_replicas(replicas).await;
        let urls: Vec<String> =
            fleet.replicas.iter().map(|node| node.server.url().into()).collect();
        let uplink = Proxy::start(Target::Tcp(fleet.replicas[0].server.address())).await;
        let socket = fleet.socket("sidecar-0");
        let socket_url = format!("unix:{}", socket.display());
        fleet
            .add_sidecars(vec![
                sidecar(&[&uplink.url()], 0).on_socket(&socket),
                sidecar(&[&socket_url], 1),
                sidecar(&[&urls[1]], 2),
                sidecar(&[&urls[0], &urls[2]], 3),
            ])
            .await;
        fleet.serving().await;
        let kept = fleet.grant_everywhere(1, TENANTS[0]).await;
        let revoked_grant = fleet.grant_everywhere(1, TENANTS[1]).await;
        let load = Load::on(&fleet, &TENANTS.map(str::to_owned), PACE);
        let topology = Self { fleet, uplink, database, kept, revoked_grant, load, cluster };
        topology.wait_for_recovery().await;
        topology
    }

    /// Waits until every node allows access through the live grant, and acknowledges a fast
    /// revocation.
    async fn wait_for_recovery(&self) {
        self.fleet.serving().await;
        for node in self.fleet.nodes() {
            self.fleet.wait_until_allowed(node, &self.kept).await;
        }
        eventually("every node acknowledges a revocation", async || {
            let grant = grant(&mut self.fleet.admin(2), TENANTS[2]).await.unwrap();
            let revoked = self.fleet.revoke_within_bound(2, &grant).await;
            revoked.enforcement.nodes_acknowledged == self.fleet.count()
                && revoked.enforcement.nodes_lapsed == 0
                && revoked.elapsed() < FAST
        })
        .await;
    }

    /// Revokes a grant while a node is silent.
    async fn revoke(&self) {
        let revoked = self.fleet.revoke_within_bound(1, &self.revoked_grant).await;
        println!("with a silent node: {revoked:?}");
        assert!(revoked.enforcement.nodes_lapsed > 0, "a lease must expire: {revoked:?}");
        self.fleet.revoke_until_fast(1).await;
        self.fleet.revoke_until_fast(2).await;
    }

    /// Sends checks to silent nodes, resumes the nodes with `resume`, and asserts that the first
    /// answers deny access.
    async fn resume(&self, silent: &[&Node], resume: impl FnOnce(&Self)) {
        let checks: Vec<_> = silent
            .iter()
            .flat_map(|node| (0..CHECKS).map(|_| (node.number, node.client.clone())))
            .map(|(number, client)| {
                let (history, tenant) = (Arc::clone(&self.fleet.history), TENANTS[1]);
                tokio::spawn(async move { history.check(number, &client, tenant, "").await })
            })
            .collect();
        tokio::task::yield_now().await;
        resume(self);
        for answer in join_all(checks).await {
            let verdict = answer.unwrap().unwrap();
            assert!(
                !verdict.is_allowed_by(&self.revoked_grant),
                "the first answer must deny access: {verdict:?}"
            );
        }
    }

    /// Asserts that the fleet has recovered, and that all answers were correct.
    async fn end(self) {
        self.wait_for_recovery().await;
        drop(self.load);
        let log = log(&mut self.fleet.admin(1), &TENANTS.map(str::to_owned)).await;
        self.fleet.history.verify(&log);
        println!("{:?}: checks, and allowed checks", self.fleet.history.counts());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_sidecar_allows_no_revoked_access() {
    let topology = Topology::start().await;
    let sidecar = &topology.fleet.sidecars[0];
    sidecar.server.pause();
    topology.revoke().await;
    topology.resume(&[sidecar], |_| sidecar.server.resume()).await;
    topology.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_replica_allows_no_revoked_access() {
    let topology = Topology::start().await;
    let replica = &topology.fleet.replicas[0];
    replica.server.pause();
    topology.revoke().await;
    // The replica's sidecar was not paused, but has no other upstream.
    let orphan = &topology.fleet.sidecars[0];
    assert_eq!(topology.fleet.check(orphan, TENANTS[0], "").await, Verdict::Stale);
    topology.resume(&[replica, orphan], |_| replica.server.resume()).await;
    topology.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_replica_with_its_followers_allows_no_revoked_access() {
    let topology = Topology::start().await;
    let paused =
        [&topology.fleet.replicas[0], &topology.fleet.sidecars[0], &topology.fleet.sidecars[1]];
    for node in &paused {
        node.server.pause();
    }
    topology.revoke().await;
    topology.resume(&paused, |_| paused.iter().for_each(|node| node.server.resume())).await;
    topology.end().await;
}

/// Partitions nodes with `partition`. The nodes must answer `STALE` during the partition and deny
/// revoked access after it.
async fn partition(partition: impl FnOnce(&Topology), silent: impl Fn(&Fleet) -> Vec<&Node>) {
    let topology = Topology::start().await;
    partition(&topology);
    topology.revoke().await;
    let silent = silent(&topology.fleet);
    let stale = || join_all(silent.iter().map(|node| topology.fleet.check(node, TENANTS[0], "")));
    eventually("all partitioned nodes answer STALE", async || {
        stale().await.iter().all(|verdict| *verdict == Verdict::Stale)
    })
    .await;
    let heal = |topology: &Topology| {
        topology.uplink.heal();
        topology.database.heal();
    };
    topology.resume(&silent, heal).await;
    topology.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_sidecar_allows_no_revoked_access() {
    partition(|topology| topology.uplink.block(), |fleet| fleet.sidecars[..2].iter().collect())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_cannot_send_allows_no_revoked_access() {
    partition(
        |topology| topology.uplink.block_to_server(),
        |fleet| fleet.sidecars[..2].iter().collect(),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_cannot_receive_allows_no_revoked_access() {
    partition(
        |topology| topology.uplink.block_to_client(),
        |fleet| fleet.sidecars[..2].iter().collect(),
    )
    .await;
}

/// Returns replica 0 and its followers that have no other upstream.
fn replica_0_and_followers(fleet: &Fleet) -> Vec<&Node> {
    vec![&fleet.replicas[0], &fleet.sidecars[0], &fleet.sidecars[1]]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_partitioned_from_the_database_allows_no_revoked_access() {
    partition(|topology| topology.database.block(), replica_0_and_followers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_cannot_send_to_the_database_allows_no_revoked_access() {
    partition(|topology| topology.database.block_to_server(), replica_0_and_followers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_cannot_receive_from_the_database_allows_no_revoked_access() {
    partition(|topology| topology.database.block_to_client(), replica_0_and_followers).await;
}

/// The database is paused after the commit. The revocation is complete once all leases expired.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_completes_while_the_database_is_paused() {
    let topology = Topology::start().await;
    let sidecar = &topology.fleet.sidecars[0];
    sidecar.server.pause();
    let (history, revoked_grant) =
        (Arc::clone(&topology.fleet.history), topology.revoked_grant.clone());
    let mut admin = topology.fleet.admin(1);
    let revoking = tokio::spawn(async move { history.revoke(&mut admin, &revoked_grant).await });
    topology.fleet.replicas[1].server.wait_for_log("\"event\":\"revoked\"");
    topology.cluster.pause();
    let revoked = revoking.await.unwrap().unwrap();
    println!("while the database is paused: {revoked:?}");
    revoked.assert_within_bound();
    assert!(revoked.enforcement.nodes_lapsed > 0, "{revoked:?}");
    topology
        .resume(&[sidecar], |topology| {
            sidecar.server.resume();
            topology.cluster.resume();
        })
        .await;
    topology.end().await;
}

/// Other changes that end or narrow access wait in the same way.
#[tokio::test(flavor = "multi_thread")]
async fn narrowing_access_waits_for_a_paused_sidecar() {
    let topology = Topology::start().await;
    let sidecar = &topology.fleet.sidecars[0];
    let (tenant_id, grant_id) = (TENANTS[1].to_owned(), topology.revoked_grant.grant_id.clone());
    let mut admin = topology.fleet.admin(1);
    let hour = prost_types::Duration { seconds: 3_600, nanos: 0 };
    for change in 0..3 {
        sidecar.server.pause();
        let (started, tenant_id) = (Instant::now(), tenant_id.clone());
        let enforcement = match change {
            0 => {
                let (grant_id, duration) = (grant_id.clone(), Some(hour));
                let request =
                    ExtendAccessRequest { tenant_id, grant_id, duration, ..Default::default() };
                admin.extend_access(request).await.unwrap().into_inner().enforcement
            }
            1 => {
                let policy_overrides =
                    Some(PolicyOverrides { ticket_required: Some(true), ..Default::default() });
                let update_mask = Some(FieldMask { paths: vec!["ticket_required".into()] });
                let request = UpdateSupportPolicyRequest {
                    tenant_id,
                    policy_overrides,
                    update_mask,
                    ..Default::default()
                };
                admin.update_support_policy(request).await.unwrap().into_inner().enforcement
            }
            _ => {
                let request = RevokeAllAccessRequest { tenant_id, ..Default::default() };
                admin.revoke_all_access(request).await.unwrap().into_inner().enforcement
            }
        };
        let narrowed = Revoked {
            grant: Grant::default(),
            enforcement: enforcement.unwrap(),
            took: started.elapsed(),
        };
        println!("change {change}: {narrowed:?}");
        narrowed.assert_within_bound();
        assert!(narrowed.enforcement.nodes_lapsed > 0, "a lease must expire: {narrowed:?}");
        sidecar.server.resume();
        topology.wait_for_recovery().await;
    }
    topology.fleet.assert_denied(&topology.revoked_grant).await;
    topology.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_sidecar_does_not_delay_later_revocations() {
    let mut topology = Topology::start().await;
    topology.fleet.sidecars[2].server.kill();
    topology.revoke().await;
    let upstream = topology.fleet.replicas[1].server.url().to_owned();
    topology.fleet.sidecars[2] = topology.fleet.node(sidecar(&[&upstream], 2).start()).await;
    topology.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replica_does_not_delay_later_revocations() {
    let mut topology = Topology::start().await;
    topology.fleet.replicas[0].server.kill();
    topology.revoke().await;
    let server = replica(&topology.cluster.url("test_0"), 0).start();
    topology.uplink.set_target(Target::Tcp(server.address()));
    topology.fleet.replicas[0] = topology.fleet.node(server).await;
    topology.end().await;
}

/// A node that stops gracefully leaves the membership, so no revocation waits for the node.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_nodes_do_not_delay_revocations() {
    let mut topology = Topology::start().await;
    assert!(topology.fleet.sidecars[2].server.stop().success());
    assert!(topology.fleet.replicas[1].server.stop().success());
    let revoked = topology.fleet.revoke_within_bound(2, &topology.revoked_grant).await;
    println!("after two nodes left: {revoked:?}");
    assert!(revoked.elapsed() < FAST, "{revoked:?}");
    assert_eq!(revoked.enforcement.nodes_acknowledged, topology.fleet.count() - 2, "{revoked:?}");
    let server = replica(&topology.cluster.url("test_0"), 1).start();
    topology.fleet.replicas[1] = topology.fleet.node(server).await;
    let server = sidecar(&[topology.fleet.replicas[1].server.url()], 2).start();
    topology.fleet.sidecars[2] = topology.fleet.node(server).await;
    topology.end().await;
}
