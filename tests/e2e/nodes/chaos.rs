//! Every component fails repeatedly while administrators grant, extend and revoke access and
//! gateways check access at every node.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::Mutex,
    task::{AbortHandle, JoinSet, block_in_place},
    time::sleep,
};

use crate::nodes::{
    administrator::Administrator,
    fleet::{FAST, Fleet, Node, grant, grant_with_token, replica, sidecar},
    history::{History, Verdict, log},
    load::Load,
    postgres::Cluster,
    proxy::{Proxy, Target},
    requests::grant_request,
    server::{Launch, eventually},
};

/// The interval between checks at each node.
const PACE: Duration = Duration::from_millis(20);
/// The duration of fault injection in seconds. `NODES_CHAOS_SECONDS` overrides the value.
const SECONDS: u64 = 25;
const REPLICAS: usize = 3;
const SIDECARS: usize = 5;
const ADMINISTRATORS: usize = 8;

/// The components that fail, and the data to restart them.
struct Chaos {
    cluster: Cluster,
    /// Proxies in front of the replicas, for sidecars. Faults are injected here.
    uplinks: Vec<Proxy>,
    /// Proxies in front of the replicas, for administrators. Each proxy keeps its address when the
    /// replica restarts.
    admin_proxies: Vec<Proxy>,
    /// The proxy between replica 0 and its database.
    database: Proxy,
    /// The sockets of sidecars 0 and 1.
    sockets: [PathBuf; 2],
    replicas: Vec<Mutex<Option<RunningNode>>>,
    sidecars: Vec<Mutex<Option<RunningNode>>>,
    fleet: Mutex<Fleet>,
    load: Mutex<Load>,
    history: Arc<History>,
    is_over: AtomicBool,
}

/// A running node and the task that checks access at that node.
struct RunningNode {
    node: Node,
    gateway: AbortHandle,
}

impl Chaos {
    async fn start(tenants: &[String]) -> Arc<Self> {
        let cluster = Cluster::launch();
        cluster.fresh_database();
        let database = Proxy::start(Target::Unix(cluster.socket())).await;
        let nowhere = Target::Unix("/nowhere".into());
        let (mut uplinks, mut admin_proxies) = (vec![], vec![]);
        for _ in 0..REPLICAS {
            uplinks.push(Proxy::start(nowhere.clone()).await);
            admin_proxies.push(Proxy::start(nowhere.clone()).await);
        }
        let fleet = Fleet::new();
        let history = Arc::clone(&fleet.history);
        let chaos = Arc::new(Self {
            cluster,
            uplinks,
            admin_proxies,
            database,
            replicas: (0..REPLICAS).map(|_| Mutex::default()).collect(),
            sidecars: (0..SIDECARS).map(|_| Mutex::default()).collect(),
            load: Mutex::new(Load::new(&history, tenants, PACE)),
            sockets: [0, 1].map(|number| fleet.socket(&format!("sidecar-{number}"))),
            fleet: Mutex::new(fleet),
            history,
            is_over: AtomicBool::new(false),
        });
        join_all((0..REPLICAS).map(|number| chaos.start_replica(number))).await;
        join_all((0..SIDECARS).map(|number| chaos.start_sidecar(number))).await;
        chaos
    }

    /// Starts a replica. The replica exits while its database is unavailable, so the start is
    /// retried.
    async fn start_replica(&self, number: usize) {
        let mut slot = self.replicas[number].lock().await;
        let url = match number {
            0 => format!("postgres://postgres@{}/test_0", self.database.address),
            _ => self.cluster.url("test_0"),
        };
        let running = self.start_node(|| replica(&url, number)).await;
        self.uplinks[number].set_target(Target::Tcp(running.node.server.address()));
        self.admin_proxies[number].set_target(Target::Tcp(running.node.server.address()));
        *slot = Some(running);
    }

    /// Starts a sidecar. Sidecars 0 to 2 follow replicas and each prefers another replica. Sidecars
    /// 3 and 4 follow sidecars 0 and 1 through Unix sockets.
    async fn start_sidecar(&self, number: usize) {
        let mut slot = self.sidecars[number].lock().await;
        let uplinks: Vec<String> = self.uplinks.iter().map(Proxy::url).collect();
        let socket = |number: usize| &self.sockets[number];
        let launch = || match number {
            0 | 1 => {
                sidecar(&[&uplinks[number], &uplinks[number + 1]], number).on_socket(socket(number))
            }
            2 => sidecar(&[&uplinks[2]], number),
            _ => sidecar(&[&format!("unix:{}", socket(number - 3).display())], number),
        };
        *slot = Some(self.start_node(launch).await);
    }

    async fn start_node(&self, launch: impl Fn() -> Launch) -> RunningNode {
        let server = loop {
            if let Some(server) = block_in_place(|| launch().try_start()) {
                break server;
            }
            sleep(Duration::from_millis(200)).await; // restart interval of a supervisor
        };
        let node = self.fleet.lock().await.node(server).await;
        let gateway = self.load.lock().await.add(&node);
        RunningNode { node, gateway }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// Sleeps for the time between two faults, or for the duration of one. Some durations are shorter
/// than `max_staleness` and some are longer.
async fn random_pause(random: &mut StdRng) {
    sleep(Duration::from_millis(random.random_range(50..3_000))).await; // the fault's timing
}

/// Repeatedly kills or pauses one node of the given kind.
async fn inject_node_faults(chaos: Arc<Chaos>, mut random: StdRng, are_replicas: bool) -> usize {
    let slots = if are_replicas { &chaos.replicas } else { &chaos.sidecars };
    let mut faults = 0;
    while !chaos.is_over() {
        random_pause(&mut random).await;
        let number = random.random_range(0..slots.len());
        if random.random_ratio(1, 2) {
            let running = slots[number].lock().await.take().unwrap();
            running.gateway.abort();
            drop(running);
            random_pause(&mut random).await;
            if are_replicas {
                chaos.start_replica(number).await;
            } else {
                chaos.start_sidecar(number).await;
            }
        } else {
            let slot = slots[number].lock().await;
            let server = &slot.as_ref().unwrap().node.server;
            server.pause();
            random_pause(&mut random).await;
            server.resume();
        }
        faults += 1;
    }
    faults
}

/// Slows down, blocks and cuts connections between nodes, and between replica 0 and its database.
async fn inject_network_faults(chaos: Arc<Chaos>, mut random: StdRng) -> usize {
    let mut faults = 0;
    while !chaos.is_over() {
        random_pause(&mut random).await;
        let uplink = match random.random_range(0..=REPLICAS) {
            REPLICAS => &chaos.database,
            number => &chaos.uplinks[number],
        };
        match random.random_range(0..5) {
            0 => uplink.block(),
            1 => uplink.block_to_server(),
            2 => uplink.block_to_client(),
            3 => uplink.cut(),
            _ => uplink.delay(Duration::from_millis(random.random_range(1..300))),
        }
        random_pause(&mut random).await;
        uplink.heal();
        faults += 1;
    }
    faults
}

/// Stops, kills or pauses the database, less often than other components.
async fn inject_database_faults(chaos: Arc<Chaos>, mut random: StdRng) -> usize {
    let mut faults = 0;
    while !chaos.is_over() {
        for _ in 0..3 {
            random_pause(&mut random).await;
        }
        let kind = random.random_range(0..3);
        block_in_place(|| match kind {
            0 => chaos.cluster.stop(),
            1 => chaos.cluster.kill(),
            _ => chaos.cluster.pause(),
        });
        random_pause(&mut random).await;
        block_in_place(|| match kind {
            0 | 1 => chaos.cluster.start(),
            _ => chaos.cluster.resume(),
        });
        faults += 1;
    }
    faults
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn faults_lose_no_change_and_no_node_allows_revoked_access() {
    let from_environment =
        |name| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seed = from_environment("NODES_SEED").unwrap_or_else(rand::random);
    let seconds = from_environment("NODES_CHAOS_SECONDS").unwrap_or(SECONDS);
    println!("NODES_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut fork = || StdRng::seed_from_u64(random.random());
    let tenants: Vec<String> =
        (0..ADMINISTRATORS).map(|number| format!("tenant-{number}")).collect();
    let chaos = Chaos::start(&tenants).await;

    let mut faults = JoinSet::new();
    faults.spawn(inject_node_faults(Arc::clone(&chaos), fork(), true));
    faults.spawn(inject_node_faults(Arc::clone(&chaos), fork(), false));
    faults.spawn(inject_network_faults(Arc::clone(&chaos), fork()));
    faults.spawn(inject_database_faults(Arc::clone(&chaos), fork()));
    let mut work = JoinSet::new();
    for tenant_id in &tenants {
        let admin_proxies = chaos.admin_proxies.iter().map(Proxy::url).collect();
        let administrator =
            Administrator::new(tenant_id, admin_proxies, Arc::clone(&chaos.history), fork());
        work.spawn(administrator.run(Arc::clone(&chaos), Chaos::is_over));
    }
    sleep(Duration::from_secs(seconds)).await; // while faults are injected
    chaos.is_over.store(true, Ordering::Relaxed);
    let faults: usize = faults.join_all().await.into_iter().sum();
    let administrators = work.join_all().await;

    let mut fleet = Fleet::new();
    fleet.history = Arc::clone(&chaos.history);
    for (slots, nodes) in
        [(&chaos.replicas, &mut fleet.replicas), (&chaos.sidecars, &mut fleet.sidecars)]
    {
        for slot in slots {
            nodes.push(slot.lock().await.take().unwrap().node);
        }
    }
    assert_recovered(&fleet, &tenants).await;
    *chaos.load.lock().await = Load::new(&chaos.history, &tenants, PACE);

    let log = log(&mut fleet.admin(0), &tenants).await;
    let acknowledged: usize = administrators
        .iter()
        .map(|administrator| administrator.verify(&log[administrator.tenant_id()]))
        .sum();
    chaos.history.verify(&log);
    let (answers, allowed) = chaos.history.counts();
    println!(
        "{faults} faults, {acknowledged} changes acknowledged, {answers} checks, {allowed} allowed"
    );
    assert!(
        acknowledged > 50 && allowed > 1_000,
        "the run must include enough changes and allowed checks"
    );
}

/// Asserts recovery: changes succeed, every node allows granted access, and all nodes acknowledge
/// revocations quickly.
async fn assert_recovered(fleet: &Fleet, tenants: &[String]) {
    fleet.serving().await;
    for tenant_id in tenants {
        let mut admin = fleet.admin(0);
        let mut granted = None;
        eventually("a change succeeds", async || {
            granted = grant_with_token(&mut admin, grant_request(tenant_id)).await.ok();
            granted.is_some()
        })
        .await;
        let (_, token) = granted.unwrap();
        for node in fleet.nodes() {
            eventually("the node allows access", async || {
                matches!(fleet.check(node, tenant_id, &token).await, Verdict::Allowed(_))
            })
            .await;
        }
    }
    eventually("all nodes acknowledge a revocation quickly", async || {
        let Ok(grant) = grant(&mut fleet.admin(1), &tenants[0]).await else { return false };
        let revoked = fleet.revoke_within_bound(1, &grant).await;
        println!("after the faults: {revoked:?}");
        revoked.elapsed() < FAST && revoked.enforcement.nodes_acknowledged == fleet.count()
    })
    .await;
}
