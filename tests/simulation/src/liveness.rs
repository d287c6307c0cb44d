//! When everything is well again: nodes that deny for ever keep every promise but this one.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    cluster::World,
    domain::{Clock, End, Reason},
    faults::Storms,
    workload::Users,
};

/// How long it may take until everybody answers again.
const RECOVERY: Duration = Duration::from_secs(6);
/// How long those who have gone are remembered, in leases, and a little longer.
const REMEMBERED: u32 = 7;
/// How long a revocation may take.
pub(crate) const PROMPT: Duration = Duration::from_millis(200);

/// Heals everything, and expects that it then works.
pub(crate) async fn expect(world: &Arc<World>, users: &Arc<Users>, storms: &Storms) {
    storms.heal().await;
    sleep(RECOVERY).await;
    for machine in &world.machines {
        if !machine.open_process().is_some_and(|process| process.node.read_view().is_fresh()) {
            world.judge.accuse(format!("{} is still stale", machine.name));
            return;
        }
    }
    let Some(replica) = users.replica() else { return };
    users.unlock_all(&replica);
    sleep(PROMPT).await;
    let subject = users.grant(&replica, End::UntilRevoked, None);
    sleep(PROMPT).await;
    for machine in &world.machines {
        let Some(process) = machine.open_process() else { continue };
        let reason = world.judge.ask(&machine.name, &process.node, &subject);
        if reason != Reason::GrantActive {
            let time = process.node.read_view().now;
            world.judge.accuse(format!(
                "{} answers {reason:?} to a grant that is active: it is {:?}, it thinks {time:?}",
                machine.name,
                world.database.clock.now()
            ));
        }
    }
    sleep(world.lease * REMEMBERED).await;
    revoke(world, users, &subject).await;
}

async fn revoke(world: &Arc<World>, users: &Arc<Users>, subject: &crate::checker::Subject) {
    let live = world.judge.grants().into_iter().find(|(live, ..)| live == subject);
    let (Some((subject, terms, _)), Some(replica)) = (live, users.replica()) else { return };
    let before = world.judge.verdict().2;
    users.revoke(&replica, subject, &terms, Instant::now() + PROMPT);
    sleep(PROMPT + Duration::from_millis(1)).await;
    let after = world.judge.verdict().2;
    if after.acknowledged != before.acknowledged + 1 {
        world.judge.accuse("a revocation is not acknowledged by everybody at once".into());
    }
}
