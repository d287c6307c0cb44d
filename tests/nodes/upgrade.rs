//! An upgrade, and how it is taken back, as a Deployment with `maxUnavailable: 0` does it: one process after the other is replaced by
//! one that is ready first, with a migration of the later version in the middle. The program is the same before and after; what
//! is rehearsed is the roll, and the schema that is ahead.

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

use crate::{
    administrator::Administrator,
    fleet::{Fleet, IN_TIME, Node, grant, grant_with_token, replica, request, sidecar},
    history::{Verdict, log},
    later::{self, EXPAND},
    load::Load,
    postgres::Cluster,
    proxy::{Proxy, Target},
    server::Launch,
};

/// How often each sidecar is asked.
const PACE: Duration = Duration::from_millis(10);
/// How many events are made before anything begins, and between two replacements.
const STEADY: usize = 5;
const REPLICAS: usize = 3;
const SIDECARS: usize = 5;
const ADMINISTRATORS: usize = 8;
/// Who is asked about, besides the tenants of the administrators.
const TENANTS: [&str; 4] = ["granted", "never", "revoked midway", "granted midway"];

/// What is rolled.
struct Membership {
    url: String,
    fleet: Fleet,
    /// Asks the sidecars.
    load: Load,
    /// The gateway beside each sidecar: it goes before its sidecar does.
    gateways: Vec<AbortHandle>,
    /// The name of each replica, which outlives the process behind it.
    names: Vec<Proxy>,
    /// One name for all replicas: new connections lead to one that is ready.
    service: Proxy,
    /// The name of sidecar 1, which sidecar 3 follows.
    relay: Proxy,
    /// How long the slowest took to end, once told to.
    slowest_end: Duration,
}

impl Membership {
    async fn begin(url: &str, tenants: &[String]) -> Self {
        let fleet = Fleet::replicas(url, REPLICAS).await;
        let mut names = vec![];
        for node in &fleet.replicas {
            names.push(Proxy::start(Target::Tcp(node.server.address())).await);
        }
        let service = Proxy::start(Target::Tcp(fleet.replicas[0].server.address())).await;
        let relay = Proxy::start(Target::Unix(fleet.socket("relay-0"))).await;
        let load = Load::new(&fleet.history, tenants, PACE);
        let slowest_end = Duration::ZERO;
        let (url, gateways) = (url.to_owned(), vec![]);
        let mut roll = Self { url, fleet, load, gateways, names, service, relay, slowest_end };
        for number in 0..SIDECARS {
            let node = roll.start(roll.sidecar(number, 0)).await;
            roll.fleet.sidecars.push(node);
        }
        for node in &roll.fleet.sidecars {
            roll.gateways.push(roll.load.add(node));
        }
        roll
    }

    /// Sidecars 0, 1 and 4 know all replicas, in another order each; 2 knows one name for all, 3 follows 1, which is on a socket.
    fn sidecar(&self, number: usize, generation: usize) -> Launch {
        let name = |replica: usize| self.names[replica % REPLICAS].url();
        let all = [name(number), name(number + 1), name(number + 2)];
        let all = all.each_ref().map(String::as_str);
        match number {
            1 => sidecar(&all, number).on_socket(&self.socket(generation)),
            2 => sidecar(&[&self.service.url()], number),
            3 => sidecar(&[&self.relay.url()], number),
            _ => sidecar(&all, number),
        }
    }

    /// In a volume of its pod, which is another one for the next.
    fn socket(&self, generation: usize) -> PathBuf {
        self.fleet.socket(&format!("relay-{generation}"))
    }

    /// Starts a process, and waits until it is ready.
    async fn start(&mut self, launch: Launch) -> Node {
        let server = block_in_place(|| launch.start());
        server.ready().await;
        self.fleet.node(server).await
    }

    /// Tells one to stop that has been replaced, and sees that it ends well.
    fn end(&mut self, mut node: Node) {
        let began = Instant::now();
        let status = block_in_place(|| node.server.stop());
        assert!(status.success(), "{}: {status}", node.server.name);
        self.slowest_end = self.slowest_end.max(began.elapsed());
    }

    /// The new one is ready before the old is told to stop. Answers what the new one has said.
    async fn replace_replica(&mut self, number: usize) -> Vec<String> {
        let node = self.start(replica(&self.url, number)).await;
        for name in [&self.names[number], &self.service] {
            name.lead_to(Target::Tcp(node.server.address()));
        }
        let said = node.server.said_first.clone();
        let old = mem::replace(&mut self.fleet.replicas[number], node);
        self.end(old);
        self.fleet.history.goes_on(STEADY).await;
        said
    }

    /// With its gateway, as both are in one pod: the new pair is ready, the old gateway goes, and then its sidecar.
    async fn replace_sidecar(&mut self, number: usize, generation: usize) {
        let node = self.start(self.sidecar(number, generation)).await;
        if number == 1 {
            self.relay.lead_to(Target::Unix(self.socket(generation)));
        }
        let gateway = self.load.add(&node);
        mem::replace(&mut self.gateways[number], gateway).abort();
        let old = mem::replace(&mut self.fleet.sidecars[number], node);
        self.end(old);
    }

    /// What the migration job of a later version does.
    async fn migrate(&self) {
        let options: PgConnectOptions = self.url.parse().unwrap();
        let mut connection = options.connect().await.unwrap();
        later::migrate("postgres", &mut connection, &[EXPAND]).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Granted, and from then on every sidecar lets in.
    async fn grant(&self, replica: usize, tenant_id: &str) -> Grant {
        let mut admin = self.fleet.admin(replica);
        let (granted, token) = grant_with_token(&mut admin, request(tenant_id)).await.unwrap();
        for node in &self.fleet.sidecars {
            let verdict = self.fleet.ask(node, tenant_id, &token).await;
            assert!(verdict.is_allowed_by(&granted), "{}: {verdict:?}", node.server.name);
        }
        granted
    }

    /// No check has failed, and none was uncertain; who is let in always, and who never.
    fn nobody_has_noticed(&self) {
        assert_eq!(self.load.failures(), 0, "checks that were not answered");
        let stale = self.fleet.history.answers(|answer| answer.verdict == Verdict::Stale);
        assert!(stale.is_empty(), "{} STALE, of which the first: {:?}", stale.len(), stale[0]);
        for answer in self.fleet.history.answers(|_| true) {
            let is_right = match answer.tenant_id.as_str() {
                "granted" => matches!(answer.verdict, Verdict::Allowed(_)),
                "never" => answer.verdict == Verdict::Denied(DecisionReason::NoGrant),
                _ => true,
            };
            assert!(is_right, "{answer:?}");
        }
    }
}

/// Makes changes at all replicas, by their names, until told to end.
fn administrators(
    roll: &Membership,
    tenants: &[String],
    random: &mut StdRng,
) -> (JoinSet<Administrator>, Arc<AtomicBool>) {
    let is_over = Arc::<AtomicBool>::default();
    let mut work = JoinSet::new();
    for tenant_id in tenants {
        let names = roll.names.iter().map(Proxy::url).collect();
        let history = Arc::clone(&roll.fleet.history);
        let random = StdRng::seed_from_u64(random.random());
        let administrator = Administrator::new(tenant_id, names, history, random);
        work.spawn(administrator.work(Arc::clone(&is_over), |it| it.load(Ordering::Relaxed)));
    }
    (work, is_over)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_upgrade_and_its_way_back_are_not_noticed_by_checks() {
    let seed =
        std::env::var("NODES_SEED").map_or_else(|_| rand::random(), |it| it.parse().unwrap());
    println!("NODES_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let own: Vec<String> = (0..ADMINISTRATORS).map(|it| format!("tenant-{it}")).collect();
    let tenants: Vec<String> = TENANTS.map(str::to_owned).into_iter().chain(own.clone()).collect();
    let cluster = Cluster::begin();
    let url = cluster.fresh_database();
    // Before the first check: those who are asked about are let in, or not, from the beginning.
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

    let mut roll = Membership::begin(&url, &tenants).await;
    let (work, is_over) = administrators(&roll, &own, &mut random);
    roll.fleet.history.goes_on(STEADY).await;
    let began = Instant::now();
    roll.migrate().await;
    let migrated = began.elapsed();
    for number in 0..REPLICAS {
        let said = roll.replace_replica(number).await;
        let is_ahead = |line: &String| line.contains("the schema is of a later version");
        assert!(said.iter().any(is_ahead), "{said:?}");
        if number == 1 {
            roll.grant(2, "granted midway").await;
            roll.fleet.revoke_in_time(1, &midway).await;
        }
    }
    for number in 0..SIDECARS {
        roll.replace_sidecar(number, 1).await;
    }
    let rolled = began.elapsed();
    // Back again, and the later schema stays.
    for number in (0..REPLICAS).rev() {
        roll.replace_replica(number).await;
    }
    for number in (0..SIDECARS).rev() {
        roll.replace_sidecar(number, 2).await;
    }
    println!(
        "migrated in {migrated:?}, rolled in {rolled:?}, with the way back {:?}",
        began.elapsed()
    );
    is_over.store(true, Ordering::Relaxed);
    let administrators = work.join_all().await;
    report(&roll, &administrators);

    roll.nobody_has_noticed();
    roll.fleet.all_confirm(0).await;
    let log = log(&mut roll.fleet.admin(0), &tenants).await;
    let acknowledged: usize = administrators.iter().map(|it| it.audit(&log[it.tenant_id()])).sum();
    roll.fleet.history.verify(&log);
    let (answers, allowed) = roll.fleet.history.counts();
    println!(
        "{answers} checks, of which {allowed} were allowed; {acknowledged} changes acknowledged"
    );
    assert!(acknowledged > 50 && allowed > 1_000, "too little happened to prove anything");
}

/// What administrators and those who look after servers have noticed.
fn report(roll: &Membership, administrators: &[Administrator]) {
    let mut refused = BTreeMap::<&String, usize>::new();
    for (why, count) in administrators.iter().flat_map(Administrator::refused) {
        *refused.entry(why).or_default() += count;
    }
    let slowest = administrators.iter().map(Administrator::slowest).max().unwrap();
    println!("changes that were asked for again: {refused:?}");
    println!("the slowest revocation was in force everywhere after {slowest:?}");
    println!("the slowest process ended {:?} after it was told to", roll.slowest_end);
    assert!(slowest <= IN_TIME, "{slowest:?}");
    let answers = roll.fleet.history.answers(|_| true);
    let mut waits: Vec<Duration> = answers.iter().map(|it| it.answered - it.invoked).collect();
    waits.sort();
    let rank = (waits.len() * 99).div_ceil(100) - 1;
    println!("checks: p99 {:?}, slowest {:?}", waits[rank], waits[waits.len() - 1]);
}
