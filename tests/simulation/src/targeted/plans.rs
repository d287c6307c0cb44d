//! The clusters of targeted scenarios.

use std::time::Duration;

use crate::{clocks::DRIFT_MAX, plan::Plan};

/// The lease duration of all scenarios that do not state another.
pub(super) const LEASE: Duration = Duration::from_secs(1);
/// A node may still wait for a response when all of these leases have expired.
pub(super) const SHORT_LEASE: Duration = Duration::from_millis(400);

pub(super) fn one_replica() -> Plan {
    Plan::replicas(1, LEASE)
}

pub(super) fn two_replicas() -> Plan {
    Plan::replicas(2, LEASE)
}

pub(super) fn three_replicas() -> Plan {
    Plan::replicas(3, LEASE)
}

pub(super) fn replica_and_sidecar() -> Plan {
    Plan::replicas(1, LEASE).with_sidecar(vec![0])
}

pub(super) fn two_replicas_and_sidecar() -> Plan {
    Plan::replicas(2, LEASE).with_sidecar(vec![0, 1])
}

pub(super) fn three_replicas_and_sidecar() -> Plan {
    Plan::replicas(3, LEASE).with_sidecar(vec![0, 1, 2])
}

pub(super) fn sidecar_of_second_replica() -> Plan {
    Plan::replicas(2, LEASE).with_sidecar(vec![1])
}

pub(super) fn short_leases() -> Plan {
    Plan::replicas(2, SHORT_LEASE)
}

/// The replica has a fast clock.
pub(super) fn fast_replica_and_sidecar() -> Plan {
    let mut plan = replica_and_sidecar();
    plan.machines[0].drift = DRIFT_MAX;
    plan
}

/// The first replica has a slow clock, and the second has a fast clock.
pub(super) fn different_rates() -> Plan {
    let mut plan = two_replicas();
    (plan.machines[0].drift, plan.machines[1].drift) = (-DRIFT_MAX, DRIFT_MAX);
    plan
}

/// The first replica has leases twice as long.
pub(super) fn different_leases() -> Plan {
    let mut plan = two_replicas();
    plan.machines[0].max_staleness = LEASE * 2;
    plan
}
