//! Measures how long revocations take to be enforced on many nodes under continuous checks.

use std::{
    fs,
    time::{Duration, Instant},
};

use futures::future::join_all;
use sqlx::{Connection, PgConnection};
use support_access::api::proto::v1::EnforcementState;

use crate::nodes::{
    fleet::{Fleet, sidecar},
    history::log,
    load::Load,
    postgres::Cluster,
};

/// The parameters of a measurement.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub replicas: usize,
    pub sidecars: usize,
    pub revocations: usize,
    /// Checks per second over all nodes, in addition to the checks after each revocation.
    pub checks_per_second: u32,
}

/// The measured durations, in ascending order.
#[derive(Debug)]
pub struct Figures {
    /// From the commit until enforcement is complete, as the service reports it.
    pub elapsed: Vec<Duration>,
    /// From the request to the response, measured by the caller.
    pub took: Vec<Duration>,
    /// The processor time of all sidecars together, with their checks.
    pub sidecars: Duration,
    /// The update and commit of one row in the same database server, between revocations.
    pub commit: Vec<Duration>,
}

/// Revokes grants through all replicas in turn.
pub async fn measure(plan: Plan) -> Figures {
    let cluster = Cluster::launch();
    let started = Instant::now();
    let fleet = fleet(&cluster, plan).await;
    println!("{} nodes are serving after {:?}", fleet.nodes().count(), started.elapsed());

    let mut connection = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
    commit(&mut connection, "CREATE TABLE plain (number bigint); INSERT INTO plain VALUES (0)")
        .await;
    let tenants: Vec<String> =
        (0..plan.replicas).map(|number| format!("tenant-{number}")).collect();
    let nodes = u32::try_from(fleet.nodes().count()).unwrap();
    let pace = Duration::from_secs(1) * nodes / plan.checks_per_second;
    let load = Load::on(&fleet, &tenants, pace);
    let mut figures =
        Figures { elapsed: vec![], took: vec![], sidecars: Duration::ZERO, commit: vec![] };
    let before = used(&fleet);
    let started = Instant::now();
    for number in 0..plan.revocations {
        let replica = number % plan.replicas;
        let grant = fleet.grant_everywhere(replica, &tenants[replica]).await;
        figures.commit.push(commit(&mut connection, "UPDATE plain SET number = number + 1").await);
        let revoked = fleet.revoke(replica, &grant).await.unwrap();
        let enforcement = revoked.enforcement.clone();
        assert_eq!(enforcement.state(), EnforcementState::Complete, "{revoked:?}");
        assert_eq!(enforcement.nodes_acknowledged, fleet.count(), "{revoked:?}");
        assert_eq!(enforcement.nodes_lapsed, 0, "{revoked:?}");
        figures.elapsed.push(revoked.elapsed());
        figures.took.push(revoked.took);
        // Check all nodes at the same time as the load does.
        join_all(fleet.nodes().map(|node| fleet.check(node, &grant.tenant_id, ""))).await;
    }
    let span = started.elapsed();
    figures.sidecars = used(&fleet).saturating_sub(before);
    assert_eq!(load.failures(), 0);
    drop(load);

    let log = log(&mut fleet.admin(0), &tenants).await;
    fleet.history.verify(&log);
    let (answers, allowed) = fleet.history.counts();
    println!(
        "{} revocations, {answers} checks, of which {allowed} were allowed, in {span:?}",
        plan.revocations
    );
    assert!(
        allowed >= plan.revocations * fleet.nodes().count(),
        "every node allows each grant before the revocation"
    );
    figures.sort();
    figures
}

/// Starts replicas, sidecars that follow the replicas, and sidecars that follow those sidecars. A
/// quarter of the sidecars listen on Unix sockets.
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

/// The processor time of all sidecars.
fn used(fleet: &Fleet) -> Duration {
    let of_task = |task: fs::DirEntry| {
        let times = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let time = times.split_whitespace().next().and_then(|time| time.parse().ok());
        Duration::from_nanos(time.unwrap_or(0))
    };
    let of_process = |pid: u32| -> Duration {
        fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten().map(of_task).sum()
    };
    fleet.sidecars.iter().map(|node| of_process(node.server.pid())).sum()
}

async fn commit(connection: &mut PgConnection, sql: &'static str) -> Duration {
    let started = Instant::now();
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
    started.elapsed()
}

impl Figures {
    fn sort(&mut self) {
        for values in [&mut self.elapsed, &mut self.took, &mut self.commit] {
            values.sort();
        }
    }

    /// Prints the durations as a table.
    pub fn print(&self) {
        println!("{:32}{:>10}{:>10}{:>10}", "milliseconds", "p50", "p99", "max");
        let rows = [
            ("until enforced on all nodes", &self.elapsed),
            ("until the caller has the response", &self.took),
            ("a plain UPDATE and COMMIT", &self.commit),
        ];
        for (name, values) in rows {
            let [p50, p99, max] = [50, 99, 100].map(|percent| {
                let rank = (values.len() * percent).div_ceil(100);
                values[rank - 1].as_secs_f64() * 1_000.0
            });
            println!("{name:32}{p50:>10.2}{p99:>10.2}{max:>10.2}");
        }
        let revocations = u32::try_from(self.took.len()).unwrap();
        let milliseconds = (self.sidecars / revocations).as_secs_f64() * 1_000.0;
        println!("processor time of all sidecars, for each revocation: {milliseconds:.3} ms");
    }
}
