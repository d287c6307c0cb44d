//! The shape of a cluster: machines, clocks and upstreams.

use std::time::Duration;

use chrono::TimeDelta;

use crate::{
    clocks::DRIFT_MAX,
    domain::{AccessLevel, AgentKind, AgentKindEntry, GroupId, SupportPolicy},
    random::Random,
};

/// The number of groups in the catalogue.
pub(crate) const GROUPS: usize = 3;
/// The number of replicas in a random cluster, which are the first machines.
pub(crate) const REPLICAS: usize = 3;

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Error of the rate of the database clock, in millionths.
    pub(crate) database_drift: i64,
    pub(crate) machines: Vec<MachinePlan>,
}

#[derive(Debug, Clone)]
pub(crate) struct MachinePlan {
    /// The machines that a sidecar follows, in this order. Empty for a replica.
    pub(crate) upstreams: Vec<usize>,
    /// Error of the rate of the boot clock, in millionths.
    pub(crate) drift: i64,
    /// Error of the wall clock.
    pub(crate) wall_offset: TimeDelta,
    /// The lease duration of a replica.
    pub(crate) max_staleness: Duration,
}

impl Plan {
    /// Replicas with accurate clocks.
    pub(crate) fn replicas(count: usize, max_staleness: Duration) -> Self {
        let (upstreams, wall_offset) = (Vec::new(), TimeDelta::zero());
        let machine = MachinePlan { upstreams, drift: 0, wall_offset, max_staleness };
        Self { database_drift: 0, machines: vec![machine; count] }
    }

    /// Adds a sidecar.
    pub(crate) fn with_sidecar(mut self, upstreams: Vec<usize>) -> Self {
        let machine = MachinePlan { upstreams, ..self.machines[0].clone() };
        self.machines.push(machine);
        self
    }

    pub(crate) fn random(random: &Random) -> Self {
        let choice = random.pick(&[400, 600, 1_000, 1_000, 2_000]);
        let max_staleness = Duration::from_millis(*choice.unwrap_or(&400));
        let is_mixed = random.chance(30);
        let machine = |upstreams: Vec<usize>| MachinePlan {
            upstreams,
            drift: drift(random),
            wall_offset: wall_offset(random),
            max_staleness: if is_mixed && random.chance(50) {
                max_staleness * 2
            } else {
                max_staleness
            },
        };
        let mut machines: Vec<_> = (0..REPLICAS).map(|_| machine(Vec::new())).collect();
        let (near, far) = (random.between(2, 4), random.between(1, 3));
        for _ in 0..near {
            machines.push(machine(upstreams(random, 0, REPLICAS)));
        }
        let near = machines.len();
        for _ in 0..far {
            let first = if random.chance(30) { 0 } else { REPLICAS };
            machines.push(machine(upstreams(random, first, near)));
        }
        Self { database_drift: drift(random), machines }
    }
}

/// One to three machines from `first` to before `end`, in any order.
fn upstreams(random: &Random, first: usize, end: usize) -> Vec<usize> {
    let mut upstreams = Vec::new();
    for _ in 0..random.between(1, 3) {
        let number = random.between(first as u64, end as u64 - 1);
        let number = usize::try_from(number).unwrap_or(first);
        if !upstreams.contains(&number) {
            upstreams.push(number);
        }
    }
    upstreams
}

/// The maximum error in two of three cases.
fn drift(random: &Random) -> i64 {
    let most = DRIFT_MAX.unsigned_abs();
    match random.between(0, 5) {
        0 | 1 => DRIFT_MAX,
        2 | 3 => -DRIFT_MAX,
        4 => 0,
        _ => i64::try_from(random.between(0, 2 * most)).unwrap_or(0) - DRIFT_MAX,
    }
}

/// From nothing to several hours, either way.
pub(crate) fn wall_offset(random: &Random) -> TimeDelta {
    let most = *random.pick(&[0, 500, 3_600_000, 20_000_000]).unwrap_or(&0);
    let offset = i64::try_from(random.between(0, 2 * most)).unwrap_or(0);
    TimeDelta::milliseconds(offset - i64::try_from(most).unwrap_or(0))
}

/// The support policy of the vendor: some groups, up to the highest level, and humans and AI
/// agents.
pub(crate) fn catalogue() -> SupportPolicy {
    let mut policy = SupportPolicy::default();
    policy.agent_kinds.push(AgentKindEntry { agent_kind: AgentKind::Ai, ..AgentKindEntry::HUMAN });
    let template = policy.groups[0].clone();
    policy.groups = (0..GROUPS)
        .map(|number| {
            let mut group = template.clone();
            group.group_id = group_id(number);
            group.max_access_level = AccessLevel::Admin;
            group
        })
        .collect();
    policy
}

pub(crate) fn group_id(number: usize) -> GroupId {
    GroupId::new(&format!("g{number}")).expect("a valid id")
}
