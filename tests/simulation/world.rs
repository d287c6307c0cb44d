//! One random history: three replicas, sidecars two deep, an administrator, a gateway, and everything that can go wrong.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::TimeDelta;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use support_access::{
    api::proto::v1::{
        AccessLevel, CheckAccessRequest, CheckAccessResponse, Decision, EnforcementState,
        GrantAccessRequest, RevokeAccessRequest, grant_access_request::End,
        support_access_admin_client::SupportAccessAdminClient,
        support_access_client::SupportAccessClient,
    },
    domain::NodeId,
    store::{Store, memory::MemoryStore},
};
use tokio::time::timeout;
use tonic::{Request, transport::Channel};
use turmoil::{Builder, Sim};
use uuid::Uuid;

use crate::{
    history::History,
    hosts::{self, HostClock, MAX_STALENESS},
    link::Link,
    net,
};

const REPLICAS: [&str; 3] = ["replica-0", "replica-1", "replica-2"];
const SIDECARS: [(&str, &[&str]); 5] = [
    ("sidecar-0", &["replica-0", "replica-1", "replica-2"]),
    ("sidecar-1", &["replica-1", "replica-2"]),
    ("sidecar-2", &["replica-2", "replica-0"]),
    ("sidecar-3", &["sidecar-0", "sidecar-1"]),
    ("sidecar-4", &["sidecar-1", "replica-0"]),
];
/// For how long things go wrong, and by when everything must be well again.
const TROUBLE: Duration = Duration::from_secs(10);
const HEALED: Duration = Duration::from_secs(18);

/// Runs the history of a seed.
pub(crate) fn run(seed: u64) -> History {
    let mut random = StdRng::seed_from_u64(seed);
    let mut sim = Builder::new()
        .rng_seed(seed)
        .enable_random_order()
        .simulation_duration(Duration::from_mins(2))
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_micros(100))
        .max_message_latency(Duration::from_millis(random.random_range(2..40)))
        .tcp_capacity(1_024)
        .build();
    let database = Arc::new(HostClock { rate_ppm: 0, ahead: TimeDelta::zero() });
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(database));
    let links: Vec<Link> =
        REPLICAS.iter().map(|_| Link::to(Arc::clone(&store), random.random())).collect();
    for (name, link) in REPLICAS.into_iter().zip(&links) {
        let (clock, ids, link) = (clock(&mut random), ids(&mut random), link.clone());
        sim.host(name, move || hosts::replica(ids(), clock, Arc::new(link.clone())));
    }
    for (name, upstreams) in SIDECARS {
        let (clock, ids) = (clock(&mut random), ids(&mut random));
        sim.host(name, move || hosts::sidecar(ids(), clock, upstreams));
    }
    let history = History::default();
    sim.client("administrator", administrator(history.clone(), random.random()));
    sim.client("gateway", gateway(history.clone(), random.random()));
    make_trouble(&mut sim, &links, &mut random);
    history
}

fn clock(random: &mut StdRng) -> HostClock {
    let rate_ppm = *[-10_000, 0, 10_000].choose(random).unwrap();
    HostClock { rate_ppm, ahead: TimeDelta::seconds(random.random_range(-7_200..7_200)) }
}

/// A new name for each start of a host.
fn ids(random: &mut StdRng) -> impl Fn() -> NodeId + 'static + use<> {
    let random = parking_lot::Mutex::new(StdRng::seed_from_u64(random.random()));
    move || NodeId(Uuid::from_u128(random.lock().random()))
}

/// Lets time pass, and breaks things for a while.
fn make_trouble(sim: &mut Sim<'_>, links: &[Link], random: &mut StdRng) {
    let hosts: Vec<&str> = REPLICAS.into_iter().chain(SIDECARS.map(|(name, _)| name)).collect();
    let mut next = Duration::from_millis(500);
    let mut is_healed = false;
    while !sim.step().unwrap() {
        if sim.elapsed() >= TROUBLE {
            if !is_healed {
                is_healed = true;
                heal(sim, links, &hosts);
            }
        } else if sim.elapsed() >= next {
            next += Duration::from_millis(random.random_range(20..700));
            break_something(sim, links, &hosts, random);
        }
    }
}

fn break_something(sim: &mut Sim<'_>, links: &[Link], hosts: &[&str], random: &mut StdRng) {
    let (one, other) = (*hosts.choose(random).unwrap(), *hosts.choose(random).unwrap());
    match random.random_range(0..10) {
        0 => sim.bounce(one),
        1 => links.choose(random).unwrap().cut(true),
        2 | 3 => heal_links(links),
        4 if one != other => sim.partition(one, other),
        5 if one != other => sim.partition_oneway(one, other),
        6 if one != other => sim.hold(one, other),
        7 if one != other => sim.release(one, other),
        8 | 9 if one != other => sim.repair(one, other),
        _ => {}
    }
}

fn heal_links(links: &[Link]) {
    for link in links {
        link.cut(false);
    }
}

fn heal(sim: &mut Sim<'_>, links: &[Link], hosts: &[&str]) {
    heal_links(links);
    for (index, one) in hosts.iter().enumerate() {
        for other in &hosts[index + 1..] {
            sim.release(*one, *other);
            sim.repair(*one, *other);
        }
    }
}

/// Connections to all hosts, made when first needed, and again after a failure.
#[derive(Default)]
struct Channels(HashMap<&'static str, Channel>);

impl Channels {
    async fn to(&mut self, host: &'static str) -> Option<Channel> {
        if let Some(channel) = self.0.get(host) {
            return Some(channel.clone());
        }
        let channel = net::connect(host).await?;
        self.0.insert(host, channel.clone());
        Some(channel)
    }

    /// What `host` answers to a check on `tenant_id`; `None` if it does not.
    async fn check(&mut self, host: &'static str, tenant_id: &str) -> Option<CheckAccessResponse> {
        let question = CheckAccessRequest {
            tenant_id: tenant_id.into(),
            agent_id: "ada".into(),
            group_ids: vec!["support".into()],
            required_level: AccessLevel::ReadOnly.into(),
            at_least_revision: 0,
        };
        let mut client = SupportAccessClient::new(self.to(host).await?);
        let answer = timeout(Duration::from_secs(1), client.check_access(question)).await;
        if !matches!(answer, Ok(Ok(_))) {
            self.0.remove(host);
        }
        Some(answer.ok()?.ok()?.into_inner())
    }

    /// Checks, and writes it down if that was allowed; says whether it was.
    async fn check_and_tell(
        &mut self,
        host: &'static str,
        tenant: &str,
        history: &History,
    ) -> bool {
        let invoked = turmoil::sim_elapsed().unwrap();
        let answer = self.check(host, tenant).await;
        let allowed = answer.filter(|it| it.decision() == Decision::Allowed);
        let Some(allowed) = allowed else { return false };
        history.check_was_allowed(host, allowed.grant_id, invoked);
        true
    }

    /// Grants access; the grant's id, if that was answered.
    async fn grant(&mut self, host: &'static str, tenant_id: &str) -> Option<String> {
        let request = GrantAccessRequest {
            tenant_id: tenant_id.into(),
            group_id: "support".into(),
            access_level: AccessLevel::ReadWrite.into(),
            end: Some(End::UntilRevoked(true)),
            ..GrantAccessRequest::default()
        };
        let mut client = SupportAccessAdminClient::new(self.to(host).await?);
        let answer = timeout(Duration::from_secs(6), client.grant_access(request)).await;
        if !matches!(answer, Ok(Ok(_))) {
            self.0.remove(host);
        }
        answer.ok()?.ok()?.into_inner().grant.map(|grant| grant.grant_id)
    }

    /// Revokes a grant; how many nodes had lapsed, if it was answered as enforced.
    async fn revoke(
        &mut self,
        host: &'static str,
        tenant_id: &str,
        grant: &str,
    ) -> Option<(Duration, i32)> {
        let mut request = Request::new(RevokeAccessRequest {
            tenant_id: tenant_id.into(),
            grant_id: grant.into(),
            ..RevokeAccessRequest::default()
        });
        request.set_timeout(Duration::from_secs(8));
        let mut client = SupportAccessAdminClient::new(self.to(host).await?);
        let answer = timeout(Duration::from_secs(9), client.revoke_access(request)).await;
        if !matches!(answer, Ok(Ok(_))) {
            self.0.remove(host);
        }
        let enforcement = answer.ok()?.ok()?.into_inner().enforcement?;
        let elapsed = enforcement.elapsed.and_then(|it| it.try_into().ok())?;
        (enforcement.state() == EnforcementState::Complete)
            .then_some((elapsed, enforcement.nodes_lapsed))
    }
}

fn nodes() -> impl Iterator<Item = &'static str> {
    REPLICAS.into_iter().chain(SIDECARS.map(|(name, _)| name))
}

/// Asks all the time, everywhere.
async fn gateway(history: History, seed: u64) -> turmoil::Result {
    let mut random = StdRng::seed_from_u64(seed);
    let mut channels = Channels::default();
    let nodes: Vec<_> = nodes().collect();
    while turmoil::sim_elapsed().unwrap() < HEALED {
        let tenant = format!("tenant-{}", random.random_range(0..3));
        channels.check_and_tell(nodes.choose(&mut random).unwrap(), &tenant, &history).await;
        let pause = Duration::from_millis(random.random_range(1..20));
        tokio::time::sleep(pause).await; // between two questions
    }
    Ok(())
}

/// Grants and revokes, first in trouble; then all must be well.
async fn administrator(history: History, seed: u64) -> turmoil::Result {
    let mut random = StdRng::seed_from_u64(seed);
    let mut channels = Channels::default();
    while turmoil::sim_elapsed().unwrap() < TROUBLE {
        let tenant = format!("tenant-{}", random.random_range(0..3));
        let host = REPLICAS.choose(&mut random).unwrap();
        let Some(grant) = channels.grant(host, &tenant).await else { continue };
        let pause = Duration::from_millis(random.random_range(1..1_500));
        tokio::time::sleep(pause).await; // while the grant is in force
        let host = REPLICAS.choose(&mut random).unwrap();
        if let Some((elapsed, _)) = channels.revoke(host, &tenant, &grant).await {
            history.revocation_was_enforced(grant);
            if elapsed > MAX_STALENESS * 11 / 10 {
                history.is_unwell(format!("a revocation was enforced only after {elapsed:?}"));
            }
            for node in nodes() {
                channels.check_and_tell(node, &tenant, &history).await;
            }
        }
    }
    while turmoil::sim_elapsed().unwrap() < HEALED {
        tokio::time::sleep(Duration::from_millis(100)).await; // until all had time to recover
    }
    all_is_well(&history).await;
    Ok(())
}

/// What is granted is allowed at every node, and a revocation is acknowledged by all of them at once.
async fn all_is_well(history: &History) {
    let mut channels = Channels::default();
    for host in REPLICAS {
        let Some(grant) = channels.grant(host, "tenant-0").await else {
            history.is_unwell(format!("{host} does not grant"));
            continue;
        };
        tokio::time::sleep(Duration::from_millis(500)).await; // until every node knows
        for node in nodes() {
            if !channels.check_and_tell(node, "tenant-0", history).await {
                history.is_unwell(format!("{node} does not allow what {host} has granted"));
            }
        }
        match channels.revoke(host, "tenant-0", &grant).await {
            Some((elapsed, 0)) if elapsed < Duration::from_millis(600) => {}
            other => history.is_unwell(format!("{host} revokes like this: {other:?}")),
        }
        history.revocation_was_enforced(grant);
    }
}
