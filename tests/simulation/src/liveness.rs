//! Checks that a repaired cluster works. A node that always denies would violate no other
//! guarantee.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    check::GrantKey,
    cluster::Cluster,
    domain::{Clock, End, Reason},
    faults::FaultInjector,
    workload::Workload,
};

/// How long nodes may take to get a lease again.
const RECOVERY: Duration = Duration::from_secs(6);
/// How long dead members may be counted as lapsed, in lease durations, with a margin.
const REPORTED_LEASES: u32 = 7;
/// How long a change may take to reach all nodes.
pub(crate) const PROMPT: Duration = Duration::from_millis(200);

/// Repairs everything, and requires that all nodes allow a new grant, and acknowledge the
/// revocation promptly.
pub(crate) async fn check(
    cluster: &Arc<Cluster>,
    workload: &Arc<Workload>,
    faults: &FaultInjector,
) {
    faults.repair().await;
    sleep(RECOVERY).await;
    for machine in &cluster.machines {
        if !machine.serving_node().is_some_and(|running| running.node.read_view().is_fresh()) {
            cluster.checker.violation(format!("{} is still stale", machine.name));
            return;
        }
    }
    // A replica that started during a step of the clock may have trusted the wrong time.
    let Some(replica) = workload.any_replica_with_trusted_clock() else { return };
    workload.lift_all(&replica);
    sleep(PROMPT).await;
    let grant = workload.grant(&replica, End::UntilRevoked, None);
    sleep(PROMPT).await;
    for machine in &cluster.machines {
        let Some(running) = machine.serving_node() else { continue };
        let reason = cluster.checker.check(&machine.name, &running.node, &grant);
        if reason != Reason::GrantActive {
            let (name, now) = (&machine.name, cluster.database.clock.now());
            let known = running.node.read_view().now;
            cluster.checker.violation(format!(
                "{name} answers {reason:?} for an active grant, at {known:?}; the time is {now:?}"
            ));
        }
    }
    sleep(cluster.max_staleness * REPORTED_LEASES).await;
    revoke(cluster, workload, &grant).await;
}

async fn revoke(cluster: &Arc<Cluster>, workload: &Arc<Workload>, grant: &GrantKey) {
    let live = cluster.checker.grants().into_iter().find(|(live, ..)| live == grant);
    let (Some((grant, terms, _)), Some(replica)) = (live, workload.any_replica()) else { return };
    let before = cluster.checker.counts().acknowledged;
    workload.revoke(&replica, grant, &terms, Instant::now() + PROMPT);
    sleep(PROMPT + Duration::from_millis(1)).await;
    if cluster.checker.counts().acknowledged != before + 1 {
        cluster.checker.violation("a revocation is not acknowledged promptly".into());
    }
}
