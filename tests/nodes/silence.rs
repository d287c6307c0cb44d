//! Nodes that fall silent: paused, cut off or killed. A revocation waits for them no longer than the product promises, does not
//! wait for them again, and they let nobody in by it when they come back.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::join_all;
use prost_types::FieldMask;
use support_access::api::proto::v1::{
    ExtendAccessRequest, Grant, PolicyOverrides, RevokeAllAccessRequest, UpdateSupportPolicyRequest,
};

use crate::{
    fleet::{FAST, Fleet, Node, Revoked, grant, replica, sidecar},
    history::{Verdict, log},
    load::Load,
    postgres::Cluster,
    proxy::{Proxy, Target},
    server::eventually,
};

/// How often each node is asked.
const PACE: Duration = Duration::from_millis(20);
/// Questions that wait in a node's sockets when it wakes up.
const QUESTIONS: usize = 5;
/// What is never revoked, what is while somebody is silent, and what is in between.
const TENANTS: [&str; 3] = ["kept", "doomed", "in between"];

/// Three replicas. Sidecar 0 follows replica 0 through `uplink`, sidecar 1 follows sidecar 0 through a Unix socket, sidecar 2
/// replica 1, and sidecar 3 replica 0 or, without that, replica 2. Replica 0 reaches its database through `database`.
struct Scene {
    fleet: Fleet,
    uplink: Proxy,
    database: Proxy,
    kept: Grant,
    doomed: Grant,
    load: Load,
    /// Ends last, so that nobody misses it.
    cluster: Cluster,
}

impl Scene {
    async fn begin() -> Self {
        let cluster = Cluster::begin();
        let url = cluster.fresh_database();
        let database = Proxy::start(Target::Unix(cluster.socket())).await;
        let by_proxy = format!("postgres://postgres@{}/test_0", database.address);
        let mut fleet = Fleet::new();
        let urls = [by_proxy.as_str(), &url, &url].into_iter().enumerate();
        fleet.add_replicas(urls.map(|(number, url)| replica(url, number)).collect()).await;
        let urls: Vec<String> = fleet.replicas.iter().map(|it| it.server.url().into()).collect();
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
        let kept = fleet.granted(1, TENANTS[0]).await;
        let doomed = fleet.granted(1, TENANTS[1]).await;
        let load = Load::on(&fleet, &TENANTS.map(str::to_owned), PACE);
        let scene = Self { fleet, uplink, database, kept, doomed, load, cluster };
        scene.all_is_well().await;
        scene
    }

    /// Every node lets in by what was never revoked, and has its say in the next revocation, which is fast.
    async fn all_is_well(&self) {
        self.fleet.serving().await;
        for node in self.fleet.nodes() {
            self.fleet.lets_in(node, &self.kept).await;
        }
        eventually("every node confirms a revocation again", async || {
            let grant = grant(&mut self.fleet.admin(2), TENANTS[2]).await.unwrap();
            let revoked = self.fleet.revoke_in_time(2, &grant).await;
            revoked.enforcement.nodes_acknowledged == self.fleet.count()
                && revoked.enforcement.nodes_lapsed == 0
                && revoked.elapsed() < FAST
        })
        .await;
    }

    /// Revokes while somebody is silent.
    async fn revoke(&self) {
        let revoked = self.fleet.revoke_in_time(1, &self.doomed).await;
        println!("while somebody is silent: {revoked:?}");
        assert!(revoked.enforcement.nodes_lapsed > 0, "somebody was waited for: {revoked:?}");
        self.fleet.revoke_until_fast(1).await;
        self.fleet.revoke_until_fast(2).await;
    }

    /// Wakes up nodes that have questions waiting, and looks at their first answers.
    async fn wake(&self, silent: &[&Node], wake: impl FnOnce(&Self)) {
        let questions: Vec<_> = silent
            .iter()
            .flat_map(|node| (0..QUESTIONS).map(|_| (node.number, node.client.clone())))
            .map(|(number, client)| {
                let (history, tenant) = (Arc::clone(&self.fleet.history), TENANTS[1]);
                tokio::spawn(async move { history.ask(number, &client, tenant, "").await })
            })
            .collect();
        tokio::task::yield_now().await;
        wake(self);
        for answer in join_all(questions).await {
            let verdict = answer.unwrap().unwrap();
            assert!(!verdict.is_allowed_by(&self.doomed), "the first answer lets in: {verdict:?}");
        }
    }

    /// All is well again, and was well all the time.
    async fn end(self) {
        self.all_is_well().await;
        drop(self.load);
        let log = log(&mut self.fleet.admin(1), &TENANTS.map(str::to_owned)).await;
        self.fleet.history.verify(&log);
        println!("{:?} checks, and of these allowed", self.fleet.history.counts());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_paused() {
    let scene = Scene::begin().await;
    let sidecar = &scene.fleet.sidecars[0];
    sidecar.server.pause();
    scene.revoke().await;
    scene.wake(&[sidecar], |_| sidecar.server.resume()).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_paused() {
    let scene = Scene::begin().await;
    let replica = &scene.fleet.replicas[0];
    replica.server.pause();
    scene.revoke().await;
    // The sidecar that it feeds was not paused, and has nobody else.
    let orphan = &scene.fleet.sidecars[0];
    assert_eq!(scene.fleet.ask(orphan, TENANTS[0], "").await, Verdict::Stale);
    scene.wake(&[replica, orphan], |_| replica.server.resume()).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_replica_0_feeds_is_paused_with_it() {
    let scene = Scene::begin().await;
    let paused = [&scene.fleet.replicas[0], &scene.fleet.sidecars[0], &scene.fleet.sidecars[1]];
    for node in &paused {
        node.server.pause();
    }
    scene.revoke().await;
    scene.wake(&paused, |_| paused.iter().for_each(|node| node.server.resume())).await;
    scene.end().await;
}

/// Whom `stop` cuts off is asked while it is, and when it no longer is.
async fn cut_off(stop: impl FnOnce(&Scene), silent: impl Fn(&Fleet) -> Vec<&Node>) {
    let scene = Scene::begin().await;
    stop(&scene);
    scene.revoke().await;
    let silent = silent(&scene.fleet);
    let stale = || join_all(silent.iter().map(|node| scene.fleet.ask(node, TENANTS[0], "")));
    eventually("who is cut off knows it", async || {
        stale().await.iter().all(|verdict| *verdict == Verdict::Stale)
    })
    .await;
    let heal = |scene: &Scene| {
        scene.uplink.heal();
        scene.database.heal();
    };
    scene.wake(&silent, heal).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_cut_off() {
    cut_off(|scene| scene.uplink.stop(), |fleet| fleet.sidecars[..2].iter().collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_not_heard() {
    cut_off(|scene| scene.uplink.stop_up(), |fleet| fleet.sidecars[..2].iter().collect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_hears_nothing() {
    cut_off(|scene| scene.uplink.stop_down(), |fleet| fleet.sidecars[..2].iter().collect()).await;
}

/// The replica, and whoever follows nobody else.
fn of_replica_0(fleet: &Fleet) -> Vec<&Node> {
    vec![&fleet.replicas[0], &fleet.sidecars[0], &fleet.sidecars[1]]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_cut_off_from_its_database() {
    cut_off(|scene| scene.database.stop(), of_replica_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_not_heard_by_its_database() {
    cut_off(|scene| scene.database.stop_up(), of_replica_0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_hears_nothing_of_its_database() {
    cut_off(|scene| scene.database.stop_down(), of_replica_0).await;
}

/// The database is paused after the commit, when only time can tell that the revocation is in force.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_paused_while_a_revocation_waits() {
    let scene = Scene::begin().await;
    let sidecar = &scene.fleet.sidecars[0];
    sidecar.server.pause();
    let (history, doomed) = (Arc::clone(&scene.fleet.history), scene.doomed.clone());
    let mut admin = scene.fleet.admin(1);
    let revoking = tokio::spawn(async move { history.revoke(&mut admin, &doomed).await });
    eventually("the revocation is committed", async || {
        let verdict = scene.fleet.ask(&scene.fleet.replicas[2], TENANTS[1], "").await;
        !verdict.is_allowed_by(&scene.doomed)
    })
    .await;
    scene.cluster.pause();
    let revoked = revoking.await.unwrap().unwrap();
    println!("while the database is paused: {revoked:?}");
    revoked.assert_in_time();
    assert!(revoked.enforcement.nodes_lapsed > 0, "{revoked:?}");
    scene
        .wake(&[sidecar], |scene| {
            sidecar.server.resume();
            scene.cluster.resume();
        })
        .await;
    scene.end().await;
}

/// Whatever else ends or narrows access waits in the same way.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_paused_while_access_is_narrowed() {
    let scene = Scene::begin().await;
    let sidecar = &scene.fleet.sidecars[0];
    let (tenant_id, grant_id) = (TENANTS[1].to_owned(), scene.doomed.grant_id.clone());
    let mut admin = scene.fleet.admin(1);
    let hour = prost_types::Duration { seconds: 3_600, nanos: 0 };
    for change in 0..3 {
        sidecar.server.pause();
        let (began, tenant_id) = (Instant::now(), tenant_id.clone());
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
            took: began.elapsed(),
        };
        println!("change {change}: {narrowed:?}");
        narrowed.assert_in_time();
        assert!(narrowed.enforcement.nodes_lapsed > 0, "somebody was waited for: {narrowed:?}");
        sidecar.server.resume();
        scene.all_is_well().await;
    }
    scene.fleet.nobody_is_let_in(&scene.doomed).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_is_killed() {
    let mut scene = Scene::begin().await;
    scene.fleet.sidecars[2].server.kill();
    scene.revoke().await;
    let upstream = scene.fleet.replicas[1].server.url().to_owned();
    scene.fleet.sidecars[2] = scene.fleet.node(sidecar(&[&upstream], 2).start()).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_killed() {
    let mut scene = Scene::begin().await;
    scene.fleet.replicas[0].server.kill();
    scene.revoke().await;
    let server = replica(&scene.cluster.url("test_0"), 0).start();
    scene.uplink.lead_to(Target::Tcp(server.address()));
    scene.fleet.replicas[0] = scene.fleet.node(server).await;
    scene.end().await;
}

/// Who says that it leaves is not waited for.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_are_stopped() {
    let mut scene = Scene::begin().await;
    assert!(scene.fleet.sidecars[2].server.stop().success());
    assert!(scene.fleet.replicas[1].server.stop().success());
    let revoked = scene.fleet.revoke_in_time(2, &scene.doomed).await;
    println!("after they have left: {revoked:?}");
    assert!(revoked.elapsed() < FAST, "{revoked:?}");
    assert_eq!(revoked.enforcement.nodes_acknowledged, scene.fleet.count() - 2, "{revoked:?}");
    let server = replica(&scene.cluster.url("test_0"), 1).start();
    scene.fleet.replicas[1] = scene.fleet.node(server).await;
    let server = sidecar(&[scene.fleet.replicas[1].server.url()], 2).start();
    scene.fleet.sidecars[2] = scene.fleet.node(server).await;
    scene.end().await;
}
