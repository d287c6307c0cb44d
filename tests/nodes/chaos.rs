//! Everything fails, again and again, while access is granted, extended and revoked and checks are made at every node.

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

use crate::{
    administrator::Administrator,
    fleet::{FAST, Fleet, Node, grant, grant_with_token, replica, request, sidecar},
    history::{History, Verdict, log},
    load::Load,
    postgres::Cluster,
    proxy::{Proxy, Target},
    server::{Launch, eventually},
};

/// How often each node is asked.
const PACE: Duration = Duration::from_millis(20);
/// How long there is trouble, unless `NODES_CHAOS_SECONDS` says otherwise.
const SECONDS: u64 = 25;
const REPLICAS: usize = 3;
const SIDECARS: usize = 5;
const ADMINISTRATORS: usize = 8;

/// What fails, and what it takes to start it again.
struct World {
    cluster: Cluster,
    /// In front of each replica: for sidecars, which lose them.
    ways: Vec<Proxy>,
    /// In front of each replica: for administrators, so that they need not know where it is now.
    doors: Vec<Proxy>,
    /// Between replica 0 and its database.
    database: Proxy,
    /// Where sidecars 0 and 1 listen.
    sockets: [PathBuf; 2],
    replicas: Vec<Mutex<Option<Life>>>,
    sidecars: Vec<Mutex<Option<Life>>>,
    fleet: Mutex<Fleet>,
    load: Mutex<Load>,
    history: Arc<History>,
    is_over: AtomicBool,
}

/// One life of a node, and the gateway beside it.
struct Life {
    node: Node,
    gateway: AbortHandle,
}

impl World {
    async fn begin(tenants: &[String]) -> Arc<Self> {
        let cluster = Cluster::begin();
        cluster.fresh_database();
        let database = Proxy::start(Target::Unix(cluster.socket())).await;
        let nobody = Target::Unix("/nowhere".into());
        let (mut ways, mut doors) = (vec![], vec![]);
        for _ in 0..REPLICAS {
            ways.push(Proxy::start(nobody.clone()).await);
            doors.push(Proxy::start(nobody.clone()).await);
        }
        let fleet = Fleet::new();
        let history = Arc::clone(&fleet.history);
        let world = Arc::new(Self {
            cluster,
            ways,
            doors,
            database,
            replicas: (0..REPLICAS).map(|_| Mutex::default()).collect(),
            sidecars: (0..SIDECARS).map(|_| Mutex::default()).collect(),
            load: Mutex::new(Load::new(&history, tenants, PACE)),
            sockets: [0, 1].map(|it| fleet.socket(&format!("sidecar-{it}"))),
            fleet: Mutex::new(fleet),
            history,
            is_over: AtomicBool::new(false),
        });
        join_all((0..REPLICAS).map(|number| world.start_replica(number))).await;
        join_all((0..SIDECARS).map(|number| world.start_sidecar(number))).await;
        world
    }

    /// Starts a replica that is not running. While its database is away it does not start, and is started again.
    async fn start_replica(&self, number: usize) {
        let mut slot = self.replicas[number].lock().await;
        let url = match number {
            0 => format!("postgres://postgres@{}/test_0", self.database.address),
            _ => self.cluster.url("test_0"),
        };
        let life = self.start(|| replica(&url, number)).await;
        self.ways[number].lead_to(Target::Tcp(life.node.server.address()));
        self.doors[number].lead_to(Target::Tcp(life.node.server.address()));
        *slot = Some(life);
    }

    /// Sidecars 0 to 2 follow replicas, each another one first; 3 and 4 follow sidecars 0 and 1, which are on Unix sockets.
    async fn start_sidecar(&self, number: usize) {
        let mut slot = self.sidecars[number].lock().await;
        let ways: Vec<String> = self.ways.iter().map(Proxy::url).collect();
        let socket = |number: usize| &self.sockets[number];
        let launch = || match number {
            0 | 1 => sidecar(&[&ways[number], &ways[number + 1]], number).on_socket(socket(number)),
            2 => sidecar(&[&ways[2]], number),
            _ => sidecar(&[&format!("unix:{}", socket(number - 3).display())], number),
        };
        *slot = Some(self.start(launch).await);
    }

    async fn start(&self, launch: impl Fn() -> Launch) -> Life {
        let server = loop {
            if let Some(server) = block_in_place(|| launch().try_start()) {
                break server;
            }
            sleep(Duration::from_millis(200)).await; // as those do who look after servers
        };
        let node = self.fleet.lock().await.node(server).await;
        let gateway = self.load.lock().await.add(&node);
        Life { node, gateway }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// Between two troubles, and how long each lasts: often shorter than nodes can go on without anybody, often longer.
async fn a_while(random: &mut StdRng) {
    sleep(Duration::from_millis(random.random_range(50..3_000))).await; // that is the trouble
}

/// Kills or pauses nodes of one kind, one at a time.
async fn trouble_with_nodes(world: Arc<World>, mut random: StdRng, are_replicas: bool) -> usize {
    let slots = if are_replicas { &world.replicas } else { &world.sidecars };
    let mut troubles = 0;
    while !world.is_over() {
        a_while(&mut random).await;
        let number = random.random_range(0..slots.len());
        if random.random_ratio(1, 2) {
            let life = slots[number].lock().await.take().unwrap();
            life.gateway.abort();
            drop(life);
            a_while(&mut random).await;
            if are_replicas {
                world.start_replica(number).await;
            } else {
                world.start_sidecar(number).await;
            }
        } else {
            let slot = slots[number].lock().await;
            let server = &slot.as_ref().unwrap().node.server;
            server.pause();
            a_while(&mut random).await;
            server.resume();
        }
        troubles += 1;
    }
    troubles
}

/// Slows down, stops and cuts the ways between nodes, and between one of them and its database.
async fn trouble_with_the_network(world: Arc<World>, mut random: StdRng) -> usize {
    let mut troubles = 0;
    while !world.is_over() {
        a_while(&mut random).await;
        let way = match random.random_range(0..=REPLICAS) {
            REPLICAS => &world.database,
            number => &world.ways[number],
        };
        match random.random_range(0..5) {
            0 => way.stop(),
            1 => way.stop_up(),
            2 => way.stop_down(),
            3 => way.cut(),
            _ => way.delay(Duration::from_millis(random.random_range(1..300))),
        }
        a_while(&mut random).await;
        way.heal();
        troubles += 1;
    }
    troubles
}

/// Takes the database away, less often.
async fn trouble_with_the_database(world: Arc<World>, mut random: StdRng) -> usize {
    let mut troubles = 0;
    while !world.is_over() {
        for _ in 0..3 {
            a_while(&mut random).await;
        }
        let kind = random.random_range(0..3);
        block_in_place(|| match kind {
            0 => world.cluster.stop(),
            1 => world.cluster.kill(),
            _ => world.cluster.pause(),
        });
        a_while(&mut random).await;
        block_in_place(|| match kind {
            0 | 1 => world.cluster.start(),
            _ => world.cluster.resume(),
        });
        troubles += 1;
    }
    troubles
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_and_nobody_is_let_in_after_the_end() {
    let from_environment = |name| std::env::var(name).ok().map(|it| it.parse::<u64>().unwrap());
    let seed = from_environment("NODES_SEED").unwrap_or_else(rand::random);
    let seconds = from_environment("NODES_CHAOS_SECONDS").unwrap_or(SECONDS);
    println!("NODES_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut fork = || StdRng::seed_from_u64(random.random());
    let tenants: Vec<String> = (0..ADMINISTRATORS).map(|it| format!("tenant-{it}")).collect();
    let world = World::begin(&tenants).await;

    let mut troubles = JoinSet::new();
    troubles.spawn(trouble_with_nodes(Arc::clone(&world), fork(), true));
    troubles.spawn(trouble_with_nodes(Arc::clone(&world), fork(), false));
    troubles.spawn(trouble_with_the_network(Arc::clone(&world), fork()));
    troubles.spawn(trouble_with_the_database(Arc::clone(&world), fork()));
    let mut work = JoinSet::new();
    for tenant_id in &tenants {
        let doors = world.doors.iter().map(Proxy::url).collect();
        let administrator =
            Administrator::new(tenant_id, doors, Arc::clone(&world.history), fork());
        work.spawn(administrator.work(Arc::clone(&world), World::is_over));
    }
    sleep(Duration::from_secs(seconds)).await; // while everything fails
    world.is_over.store(true, Ordering::Relaxed);
    let troubles: usize = troubles.join_all().await.into_iter().sum();
    let administrators = work.join_all().await;

    let mut fleet = Fleet::new();
    fleet.history = Arc::clone(&world.history);
    for (slots, nodes) in
        [(&world.replicas, &mut fleet.replicas), (&world.sidecars, &mut fleet.sidecars)]
    {
        for slot in slots {
            nodes.push(slot.lock().await.take().unwrap().node);
        }
    }
    all_is_well(&fleet, &tenants).await;
    *world.load.lock().await = Load::new(&world.history, &tenants, PACE);

    let log = log(&mut fleet.admin(0), &tenants).await;
    let acknowledged: usize = administrators.iter().map(|it| it.audit(&log[it.tenant_id()])).sum();
    world.history.verify(&log);
    let (answers, allowed) = world.history.counts();
    println!(
        "{troubles} troubles, {acknowledged} changes acknowledged, {answers} checks, {allowed} allowed"
    );
    assert!(acknowledged > 50 && allowed > 1_000, "too little happened to prove anything");
}

/// What may enter, enters; what may not, does not; nobody is uncertain; and what is revoked is at once.
async fn all_is_well(fleet: &Fleet, tenants: &[String]) {
    fleet.serving().await;
    for tenant_id in tenants {
        let mut admin = fleet.admin(0);
        let mut granted = None;
        eventually("changes are made", async || {
            granted = grant_with_token(&mut admin, request(tenant_id)).await.ok();
            granted.is_some()
        })
        .await;
        let (_, token) = granted.unwrap();
        for node in fleet.nodes() {
            eventually("it lets in", async || {
                matches!(fleet.ask(node, tenant_id, &token).await, Verdict::Allowed(_))
            })
            .await;
        }
    }
    eventually("revocations are fast, and everybody confirms them", async || {
        let Ok(grant) = grant(&mut fleet.admin(1), &tenants[0]).await else { return false };
        let revoked = fleet.revoke_in_time(1, &grant).await;
        println!("after the trouble: {revoked:?}");
        revoked.elapsed() < FAST && revoked.enforcement.nodes_acknowledged == fleet.count()
    })
    .await;
}
