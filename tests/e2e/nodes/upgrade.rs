//! A rolling upgrade and its rollback, as a Deployment with `maxUnavailable: 0` performs them.
//!
//! Each process is replaced by a process that is ready first. In between, the migration of a later
//! version runs. The program is the same before and after. The test covers the rollout order and a
//! schema that is newer than the program.

use std::{
    collections::BTreeMap,
    mem,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sqlx::{ConnectOptions, Connection, postgres::PgConnectOptions};
use support_access::api::proto::v1::{DecisionReason, Grant, event::Payload};
use tokio::task::{AbortHandle, JoinSet, block_in_place};

use crate::nodes::{
    administrator::Administrator,
    fleet::{ENFORCEMENT_BOUND, Fleet, Node, grant, grant_with_token, replica, sidecar},
    history::{Verdict, log},
    later::{self, EXPAND},
    load::Load,
    postgres::Cluster,
    proxy::{Proxy, Target},
    requests::grant_request,
    server::Launch,
};

/// The interval between checks at each sidecar.
const PACE: Duration = Duration::from_millis(10);
/// The number of changes to wait for before the upgrade, and between two replacements.
const STEADY: usize = 5;
const REPLICAS: usize = 3;
const SIDECARS: usize = 5;
const ADMINISTRATORS: usize = 8;
/// The checked tenants besides those of the administrators.
const TENANTS: [&str; 4] = ["granted", "never", "revoked midway", "granted midway"];

/// The fleet under upgrade.
struct Rollout {
    url: String,
    fleet: Fleet,
    /// Checks access at the sidecars.
    load: Load,
    /// The check task of each sidecar. The task stops before the sidecar does, like a gateway in
    /// the same pod.
    gateways: Vec<AbortHandle>,
    /// A proxy for each replica, with an address that survives the process.
    proxies: Vec<Proxy>,
    /// A proxy with one address for all replicas. New connections lead to a ready replica.
    service: Proxy,
    /// A proxy for sidecar 1, which sidecar 3 follows.
    relay: Proxy,
    /// The longest time from SIGTERM to the end of a process.
    slowest_exit: Duration,
}

impl Rollout {
    async fn start(url: &str, tenants: &[String]) -> Self {
        let fleet = Fleet::replicas(url, REPLICAS).await;
        let mut proxies = vec![];
        for node in &fleet.replicas {
            proxies.push(Proxy::start(Target::Tcp(node.server.address())).await);
        }
        let service = Proxy::start(Target::Tcp(fleet.replicas[0].server.address())).await;
        let relay = Proxy::start(Target::Unix(fleet.socket("relay-0"))).await;
        let load = Load::new(&fleet.history, tenants, PACE);
        let slowest_exit = Duration::ZERO;
        let (url, gateways) = (url.to_owned(), vec![]);
        let mut rollout =
            Self { url, fleet, load, gateways, proxies, service, relay, slowest_exit };
        for number in 0..SIDECARS {
            let node = rollout.start_node(rollout.sidecar(number, 0)).await;
            rollout.fleet.sidecars.push(node);
        }
        for node in &rollout.fleet.sidecars {
            rollout.gateways.push(rollout.load.add(node));
        }
        rollout
    }

    /// Returns the command line of a sidecar. Sidecars 0, 1 and 4 know all replicas, in different
    /// orders. Sidecar 2 knows the service address. Sidecar 3 follows sidecar 1 through a Unix
    /// socket.
    fn sidecar(&self, number: usize, generation: usize) -> Launch {
        let url = |replica: usize| self.proxies[replica % REPLICAS].url();
        let all = [url(number), url(number + 1), url(number + 2)];
        let all = all.each_ref().map(String::as_str);
        match number {
            1 => sidecar(&all, number).on_socket(&self.socket(generation)),
            2 => sidecar(&[&self.service.url()], number),
            3 => {
                let mut launch = sidecar(&[&self.relay.url()], number);
                // The URL behind the proxy.
                launch.upstreams.push(format!("unix:{}", self.socket(generation).display()));
                launch
            }
            _ => sidecar(&all, number),
        }
    }

    /// Returns the socket in the pod's volume. Each generation of pods has a new volume.
    fn socket(&self, generation: usize) -> PathBuf {
        self.fleet.socket(&format!("relay-{generation}"))
    }

    /// Starts a process and waits until the process is ready.
    async fn start_node(&mut self, launch: Launch) -> Node {
        let server = block_in_place(|| launch.start());
        server.ready().await;
        self.fleet.node(server).await
    }

    /// Stops a replaced process and asserts a successful exit.
    fn end(&mut self, mut node: Node) {
        let started = Instant::now();
        let status = block_in_place(|| node.server.stop());
        assert!(status.success(), "{}: {status}", node.server.name);
        self.slowest_exit = self.slowest_exit.max(started.elapsed());
    }

    /// Replaces a replica: the new process is ready before the old one stops. Returns the startup
    /// log of the new process.
    async fn replace_replica(&mut self, number: usize) -> Vec<String> {
        let node = self.start_node(replica(&self.url, number)).await;
        for proxy in [&self.proxies[number], &self.service] {
            proxy.set_target(Target::Tcp(node.server.address()));
        }
        let startup_logs = node.server.startup_logs.clone();
        let old = mem::replace(&mut self.fleet.replicas[number], node);
        self.end(old);
        self.fleet.history.wait_for_changes(STEADY).await;
        startup_logs
    }

    /// Replaces a sidecar and its check task, which share a pod. The new pair is ready, then the
    /// old check task stops, then the old sidecar.
    async fn replace_sidecar(&mut self, number: usize, generation: usize) {
        let node = self.start_node(self.sidecar(number, generation)).await;
        if number == 1 {
            self.relay.set_target(Target::Unix(self.socket(generation)));
        }
        let gateway = self.load.add(&node);
        mem::replace(&mut self.gateways[number], gateway).abort();
        let old = mem::replace(&mut self.fleet.sidecars[number], node);
        self.end(old);
    }

    /// Runs the migration job of a later version.
    async fn migrate(&self) {
        let options: PgConnectOptions = self.url.parse().unwrap();
        let mut connection = options.connect().await.unwrap();
        later::migrate("postgres", &mut connection, &[EXPAND]).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Grants access and asserts that every sidecar allows it from then on.
    async fn grant(&self, replica: usize, tenant_id: &str) -> Grant {
        let mut admin = self.fleet.admin(replica);
        let (granted, token) =
            grant_with_token(&mut admin, grant_request(tenant_id)).await.unwrap();
        for node in &self.fleet.sidecars {
            let verdict = self.fleet.check(node, tenant_id, &token).await;
            assert!(verdict.is_allowed_by(&granted), "{}: {verdict:?}", node.server.name);
        }
        granted
    }

    /// Asserts that no check failed or was uncertain, and that the answers for unchanged tenants
    /// were constant.
    fn assert_no_disruption(&self) {
        assert_eq!(self.load.failures(), 0, "no check may fail");
        let stale = self.fleet.history.answers(|answer| answer.verdict == Verdict::Stale);
        assert!(stale.is_empty(), "{} STALE, of which the first: {:?}", stale.len(), stale[0]);
        for answer in self.fleet.history.answers(|_| true) {
            let is_correct = match answer.tenant_id.as_str() {
                "granted" => matches!(answer.verdict, Verdict::Allowed(_)),
                "never" => answer.verdict == Verdict::Denied(DecisionReason::NoGrant),
                _ => true,
            };
            assert!(is_correct, "{answer:?}");
        }
    }
}

/// Starts administrators that make changes at all replicas until the returned flag is set.
fn administrators(
    rollout: &Rollout,
    tenants: &[String],
    random: &mut StdRng,
) -> (JoinSet<Administrator>, Arc<AtomicBool>) {
    let is_over = Arc::<AtomicBool>::default();
    let mut tasks = JoinSet::new();
    for tenant_id in tenants {
        let proxies = rollout.proxies.iter().map(Proxy::url).collect();
        let history = Arc::clone(&rollout.fleet.history);
        let random = StdRng::seed_from_u64(random.random());
        let administrator = Administrator::new(tenant_id, proxies, history, random);
        tasks.spawn(
            administrator.run(Arc::clone(&is_over), |is_over| is_over.load(Ordering::Relaxed)),
        );
    }
    (tasks, is_over)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rolling_upgrade_and_rollback_disrupt_no_check() {
    let seed =
        std::env::var("NODES_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("NODES_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let own: Vec<String> = (0..ADMINISTRATORS).map(|number| format!("tenant-{number}")).collect();
    let tenants: Vec<String> = TENANTS.map(str::to_owned).into_iter().chain(own.clone()).collect();
    let cluster = Cluster::launch();
    let url = cluster.fresh_database();
    // These grants exist before the first check, so their answers are constant from the start.
    let before = Fleet::replicas(&url, 1).await;
    for tenant_id in ["granted", "revoked midway"] {
        grant(&mut before.admin(0), tenant_id).await.unwrap();
    }
    let mut events = log(&mut before.admin(0), &["revoked midway".into()]).await;
    let Some(Payload::Granted(midway)) =
        events.remove("revoked midway").unwrap()[0].payload.clone()
    else {
        panic!("the first event must be a grant")
    };
    let midway = midway.grant.unwrap();
    drop(before);

    let mut rollout = Rollout::start(&url, &tenants).await;
    let (tasks, is_over) = administrators(&rollout, &own, &mut random);
    rollout.fleet.history.wait_for_changes(STEADY).await;
    let started = Instant::now();
    rollout.migrate().await;
    let migrated = started.elapsed();
    for number in 0..REPLICAS {
        let startup_logs = rollout.replace_replica(number).await;
        let is_ahead =
            |line: &String| line.contains("the schema is of a later, compatible version");
        assert!(startup_logs.iter().any(is_ahead), "{startup_logs:?}");
        if number == 1 {
            rollout.grant(2, "granted midway").await;
            rollout.fleet.revoke_within_bound(1, &midway).await;
        }
    }
    for number in 0..SIDECARS {
        rollout.replace_sidecar(number, 1).await;
    }
    let upgraded = started.elapsed();
    // Roll back. The later schema stays.
    for number in (0..REPLICAS).rev() {
        rollout.replace_replica(number).await;
    }
    for number in (0..SIDECARS).rev() {
        rollout.replace_sidecar(number, 2).await;
    }
    println!(
        "migrated in {migrated:?}, upgraded in {upgraded:?}, with the rollback {:?}",
        started.elapsed()
    );
    is_over.store(true, Ordering::Relaxed);
    let administrators = tasks.join_all().await;
    report(&rollout, &administrators);

    rollout.assert_no_disruption();
    rollout.fleet.wait_until_all_acknowledge(0).await;
    let log = log(&mut rollout.fleet.admin(0), &tenants).await;
    let acknowledged: usize = administrators
        .iter()
        .map(|administrator| administrator.verify(&log[administrator.tenant_id()]))
        .sum();
    rollout.fleet.history.verify(&log);
    let (answers, allowed) = rollout.fleet.history.counts();
    println!(
        "{answers} checks, of which {allowed} were allowed; {acknowledged} changes acknowledged"
    );
    assert!(
        acknowledged > 50 && allowed > 1_000,
        "the run must include enough changes and allowed checks"
    );
}

/// Prints the measured delays, and asserts the bound of revocations.
fn report(rollout: &Rollout, administrators: &[Administrator]) {
    let mut failures = BTreeMap::<&String, usize>::new();
    for (error, count) in administrators.iter().flat_map(Administrator::failures) {
        *failures.entry(error).or_default() += count;
    }
    let slowest = administrators.iter().map(Administrator::slowest).max().unwrap();
    println!("failed calls, each retried: {failures:?}");
    println!("the slowest revocation was enforced on all nodes after {slowest:?}");
    println!("the slowest process ended {:?} after SIGTERM", rollout.slowest_exit);
    assert!(slowest <= ENFORCEMENT_BOUND, "{slowest:?}");
    let answers = rollout.fleet.history.answers(|_| true);
    let mut latencies: Vec<Duration> =
        answers.iter().map(|answer| answer.answered - answer.invoked).collect();
    latencies.sort();
    let rank = (latencies.len() * 99).div_ceil(100) - 1;
    println!("checks: p99 {:?}, slowest {:?}", latencies[rank], latencies[latencies.len() - 1]);
}
