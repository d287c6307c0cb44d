//! How long a revocation takes to be in force at many nodes, while all of them are asked all the time.

use std::time::{Duration, Instant};

use futures::future::join_all;
use sqlx::{Connection, PgConnection};
use support_access::api::proto::v1::EnforcementState;

use crate::{
    fleet::{Fleet, sidecar},
    history::log,
    load::Load,
    postgres::Cluster,
};

/// What is to be measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub replicas: usize,
    pub sidecars: usize,
    pub revocations: usize,
    /// How many checks are sent a second, to all nodes together, besides those at the end of each revocation.
    pub checks_per_second: u32,
}

/// What was found, each from the shortest to the longest.
#[derive(Debug)]
pub struct Figures {
    /// From the commit until it was known that no node can allow, as the service says.
    pub elapsed: Vec<Duration>,
    /// From the request to the answer, as the caller sees it.
    pub took: Vec<Duration>,
    /// One row changed and committed on the same server, between the revocations.
    pub commit: Vec<Duration>,
}

/// Revokes again and again, through all replicas in turn.
pub async fn measure(plan: Plan) -> Figures {
    let cluster = Cluster::begin();
    let began = Instant::now();
    let fleet = fleet(&cluster, plan).await;
    println!("{} nodes can answer after {:?}", fleet.count(), began.elapsed());

    let mut bare = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
    commit(&mut bare, "CREATE TABLE bare (number bigint); INSERT INTO bare VALUES (0)").await;
    let tenants: Vec<String> = (0..plan.replicas).map(|it| format!("tenant-{it}")).collect();
    let nodes = u32::try_from(fleet.count()).unwrap();
    let pace = Duration::from_secs(1) * nodes / plan.checks_per_second;
    let load = Load::on(&fleet, &tenants, pace);
    let mut figures = Figures { elapsed: vec![], took: vec![], commit: vec![] };
    let began = Instant::now();
    for number in 0..plan.revocations {
        let replica = number % plan.replicas;
        let grant = fleet.granted(replica, &tenants[replica]).await;
        figures.commit.push(commit(&mut bare, "UPDATE bare SET number = number + 1").await);
        let revoked = fleet.revoke(replica, &grant).await.unwrap();
        let enforcement = revoked.enforcement.clone();
        assert_eq!(enforcement.state(), EnforcementState::Complete, "{revoked:?}");
        assert_eq!(enforcement.nodes_acknowledged, fleet.count(), "{revoked:?}");
        assert_eq!(enforcement.nodes_lapsed, 0, "{revoked:?}");
        figures.elapsed.push(revoked.elapsed());
        figures.took.push(revoked.took);
        // In the same moment as all gateways do.
        join_all(fleet.nodes().map(|node| fleet.ask(node, &grant.tenant_id, ""))).await;
    }
    let span = began.elapsed();
    assert_eq!(load.failures(), 0);
    drop(load);

    let log = log(&mut fleet.admin(0), &tenants).await;
    fleet.history.verify(&log);
    let (answers, allowed) = fleet.history.counts();
    println!(
        "{} revocations, {answers} checks, of which {allowed} were allowed, in {span:?}",
        plan.revocations
    );
    assert!(allowed >= plan.revocations * fleet.nodes().count(), "each was let in before");
    figures.sort();
    figures
}

/// Replicas; sidecars that follow them, each the next; and sidecars that follow those. One in four is on a Unix socket.
async fn fleet(cluster: &Cluster, plan: Plan) -> Fleet {
    let mut fleet = Fleet::replicas(&cluster.fresh_database(), plan.replicas).await;
    let direct = plan.sidecars - plan.sidecars / 4;
    let upstreams: Vec<String> = fleet.nodes().map(|node| node.server.url().to_owned()).collect();
    add(&mut fleet, 0..direct, &upstreams).await;
    let upstreams: Vec<String> =
        fleet.sidecars.iter().map(|node| node.server.url().to_owned()).collect();
    add(&mut fleet, direct..plan.sidecars, &upstreams).await;
    fleet.serving().await;
    fleet
}

async fn add(fleet: &mut Fleet, numbers: std::ops::Range<usize>, upstreams: &[String]) {
    let launches = numbers.map(|number| {
        let launch = sidecar(&[&upstreams[number % upstreams.len()]], number);
        let socket = fleet.socket(&format!("{number}.sock"));
        if number % 4 == 0 { launch.on_socket(&socket) } else { launch }
    });
    let launches = launches.collect();
    fleet.add_sidecars(launches).await;
}

async fn commit(connection: &mut PgConnection, sql: &'static str) -> Duration {
    let began = Instant::now();
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
    began.elapsed()
}

impl Figures {
    fn sort(&mut self) {
        for values in [&mut self.elapsed, &mut self.took, &mut self.commit] {
            values.sort();
        }
    }

    /// For people.
    pub fn print(&self) {
        println!("{:32}{:>10}{:>10}{:>10}", "milliseconds", "p50", "p99", "most");
        let rows = [
            ("until in force everywhere", &self.elapsed),
            ("until the caller is answered", &self.took),
            ("a bare UPDATE and COMMIT", &self.commit),
        ];
        for (name, values) in rows {
            let [p50, p99, most] = [50, 99, 100].map(|percent| {
                let rank = (values.len() * percent).div_ceil(100);
                values[rank - 1].as_secs_f64() * 1_000.0
            });
            println!("{name:32}{p50:>10.2}{p99:>10.2}{most:>10.2}");
        }
    }
}
