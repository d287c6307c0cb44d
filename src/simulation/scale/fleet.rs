//! A fleet, from its start until it has been measured.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chrono::TimeDelta;
use tokio::{
    runtime::Builder,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    domain::{
        AccessLevel, Caller, Clock, End, GrantRequest, NodeId, NodeKind, Note, TenantId, Ticket,
    },
    node::{
        CheckNode,
        following::{self, Upstream},
        replica::Replica,
    },
    simulation::{
        clocks::{DatabaseClock, MachineClock},
        random::Random,
        scale::{
            database::Database,
            meter::{Enforced, Figures, Meter},
            plan::{Plan, REGIONS, latency},
            store::MeteredStore,
            wire::Way,
        },
        world::{catalogue, group_id},
    },
    store::Store,
    work::{EnforcementState, GrantRef, Limits, Work, expiry},
};

pub(super) const MAX_STALENESS: Duration = Duration::from_secs(2);
/// How long the nodes have to start, so that they do not renew and ask all at the same time.
const START: Duration = Duration::from_secs(2);
/// How long until everybody has settled.
const SETTLED: Duration = Duration::from_secs(4);
/// How often all nodes are looked at. Not a part of any interval of theirs.
const LOOK_INTERVAL: Duration = Duration::from_millis(370);
/// How long a caller waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// Nodes, their clocks and what they live on.
struct Fleet {
    plan: Plan,
    random: Random,
    meter: Arc<Meter>,
    database: Arc<Database>,
    tasks: TaskTracker,
    replicas: Vec<(usize, Arc<Work>)>,
    nodes: Vec<Arc<CheckNode>>,
}

/// Plays a plan, in virtual time.
pub(super) fn play(plan: Plan) -> Figures {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O needs nothing");
    runtime.block_on(async {
        let mut fleet = Fleet::new(plan);
        fleet.start().await;
        Arc::new(fleet).measure().await
    })
}

impl Fleet {
    fn new(plan: Plan) -> Self {
        let meter = Arc::new(Meter::default());
        let clock: Arc<dyn Clock> = Arc::new(DatabaseClock::new(0));
        Self {
            plan,
            random: Random::new(1),
            database: Database::new(clock, Arc::clone(&meter)),
            meter,
            tasks: TaskTracker::new(),
            replicas: Vec::new(),
            nodes: Vec::new(),
        }
    }

    fn node(&mut self, kind: NodeKind) -> Arc<CheckNode> {
        let boot = self.random.millis(0, 100_000_000);
        let clock = Arc::new(MachineClock::new(0, boot, TimeDelta::zero()));
        let node = CheckNode::new(NodeId(self.random.uuid()), kind, clock);
        self.nodes.push(Arc::clone(&node));
        node
    }

    /// When a node starts.
    fn start_at(&self) -> Instant {
        let most = u64::try_from(START.as_millis()).unwrap_or(0);
        Instant::now() + self.random.millis(0, most)
    }

    async fn start(&mut self) {
        let Plan { replicas, relays, sidecars, .. } = self.plan;
        let mut feeders = Vec::new();
        for number in 0..replicas {
            let region = self.plan.region(number);
            let replica = self.replica(region);
            for relay in 0..relays {
                let region = relay % REGIONS.len();
                feeders.push((region, self.sidecar(region, &replica, 0)));
            }
            if relays == 0 {
                feeders.push((region, replica));
            }
        }
        // All replicas have a row before distances count: far away, each registration holds the head for a second.
        sleep(START + Duration::from_secs(1)).await;
        self.database.begin();
        for (region, feeder) in feeders {
            for _ in 0..sidecars {
                self.sidecar(region, &feeder, region);
            }
        }
        sleep(START + SETTLED).await;
    }

    fn replica(&mut self, region: usize) -> Arc<CheckNode> {
        let node = self.node(NodeKind::Replica);
        let latency = REGIONS[region].latency;
        let store: Arc<dyn Store> =
            Arc::new(MeteredStore { database: Arc::clone(&self.database), latency });
        let replica = Replica::new(Arc::clone(&node), store, MAX_STALENESS);
        let limits = Limits { live_grants_per_tenant: 100, max_staleness: MAX_STALENESS };
        let work = Arc::new(Work::new(Arc::clone(&replica), catalogue(), limits));
        self.replicas.push((region, Arc::clone(&work)));
        let start_at = self.start_at();
        self.tasks.spawn(async move {
            sleep_until(start_at).await;
            replica.join().await.expect("all is well");
            let stop = CancellationToken::new();
            let enforcer = Arc::clone(replica.enforcer());
            tokio::join!(
                replica.run(stop.clone()),
                enforcer.run(stop.clone()),
                expiry::run(work, stop)
            );
        });
        node
    }

    fn sidecar(&mut self, region: usize, feeder: &Arc<CheckNode>, of: usize) -> Arc<CheckNode> {
        let node = self.node(NodeKind::Sidecar);
        let (start_at, following) = (self.start_at(), Arc::clone(&node));
        let upstream = Arc::new(Way {
            node: Arc::clone(feeder),
            latency: latency(region, of),
            meter: Arc::clone(&self.meter),
            tasks: self.tasks.clone(),
        });
        self.tasks.spawn(async move {
            sleep_until(start_at).await;
            let upstreams = vec![upstream as Arc<dyn Upstream>];
            let _ = following::run(following, upstreams, CancellationToken::new()).await;
        });
        node
    }

    /// Revokes what it has granted before, at the replicas in turn, and looks at all nodes.
    async fn measure(self: Arc<Self>) -> Figures {
        let count = f64::from(self.plan.seconds) * self.plan.revocations;
        let pause = Duration::from_secs(1).div_f64(self.plan.revocations);
        let tenant = |number: usize| {
            TenantId::new(&format!("tenant-{number}")).expect("it is short and plain")
        };
        let mut granted = Vec::new();
        for number in 0..count.ceil() as usize {
            granted.extend(self.grant(tenant(number)).await);
        }
        sleep(Duration::from_secs(3)).await;
        drop(self.meter.take());
        let begin = Instant::now();
        let looking = self.tasks.spawn(Arc::clone(&self).look());
        for (number, grant) in (0_u32..).zip(granted) {
            sleep_until(begin + pause * number).await;
            let replica = number as usize % self.replicas.len();
            let fleet = Arc::clone(&self);
            self.tasks.spawn(async move {
                fleet.revoke(replica, grant).await;
                fleet.grant(tenant(number as usize)).await;
            });
        }
        sleep_until(begin + Duration::from_secs(1) * self.plan.seconds).await;
        looking.abort();
        let mut figures = self.meter.take();
        // Those that are under way; nothing else of what comes now counts.
        sleep(PATIENCE).await;
        let rest = self.meter.take();
        figures.enforced.extend(rest.enforced);
        figures.failed += rest.failed;
        figures
    }

    /// At home, as are most of those who grant.
    async fn grant(&self, tenant_id: TenantId) -> Option<GrantRef> {
        let request = GrantRequest {
            request_id: None,
            tenant_id: tenant_id.clone(),
            group_id: group_id(0),
            agent_ids: BTreeSet::new(),
            access_level: AccessLevel::Admin,
            start_time: None,
            end: End::UntilRevoked,
            reason: Note::default(),
            ticket: Ticket::default(),
        };
        let caller = Caller::local(None).ok()?;
        let deadline = Instant::now() + PATIENCE;
        let granted = self.replicas[0].1.grant_access(&caller, request, deadline).await;
        let Ok(granted) = granted else {
            self.meter.count(|figures| figures.failed += 1);
            return None;
        };
        Some(GrantRef { tenant_id, text: granted.grant.id().to_string() })
    }

    async fn revoke(&self, replica: usize, grant: GrantRef) {
        let (region, work) = &self.replicas[replica];
        let Ok(caller) = Caller::local(None) else { return };
        let asked = Instant::now();
        let deadline = asked + PATIENCE;
        let revoked = work.revoke_access(&caller, &grant, None, Note::default(), deadline).await;
        let now = Instant::now();
        self.meter.count(|figures| {
            let enforcement = revoked.ok().map(|revoked| revoked.enforcement);
            let complete = enforcement.filter(|it| it.state == EnforcementState::Complete);
            let Some(enforcement) = complete else {
                figures.failed += 1;
                return;
            };
            let committed = figures.committed.get(&enforcement.revision);
            figures.enforced.push(Enforced {
                region: *region,
                took: now.duration_since(asked),
                since_commit: committed.map_or(Duration::ZERO, |at| now.duration_since(*at)),
                acknowledged: enforcement.nodes_acknowledged,
                lapsed: enforcement.nodes_lapsed,
            });
        });
    }

    /// Looks at all nodes, again and again.
    async fn look(self: Arc<Self>) {
        loop {
            sleep(LOOK_INTERVAL).await;
            self.meter.count(|figures| {
                for node in &self.nodes {
                    let age = node.gauges().proof_age.unwrap_or(Duration::MAX);
                    let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
                    let kind = usize::from(node.kind() == NodeKind::Sidecar);
                    *figures.ages[kind].entry(millis).or_default() += 1;
                    figures.stale += u64::from(!node.sight().is_fresh());
                }
            });
        }
    }
}
