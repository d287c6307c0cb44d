//! The load of a healthy cluster on the database.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    Settings, database::Statements, domain::End, fixture::Fixture, plan::Plan, service::Enforcement,
};

/// The default lease duration.
const MAX_STALENESS: Duration = Duration::from_secs(2);
/// Time until all nodes have reached a steady state.
const SETTLED: Duration = Duration::from_secs(4);

/// The costs of a healthy cluster in which one grant a second is made and revoked.
#[derive(Debug, Default)]
pub struct Costs {
    /// The first violation of a guarantee.
    pub violation: Option<String>,
    /// The statements in the measured time.
    pub statements: Statements,
    /// The enforcement of each revocation.
    pub enforcements: Vec<Enforcement>,
}

/// Measures a cluster of replicas, each with some sidecars.
pub fn costs(replicas: usize, sidecars_per_replica: usize, seconds: u32) -> Costs {
    let sidecars = (0..replicas * sidecars_per_replica).map(|sidecar| sidecar % replicas);
    let plan = Plan::replicas(replicas, MAX_STALENESS);
    let plan = sidecars.fold(plan, |plan, upstream| plan.with_sidecar(vec![upstream]));
    let costs = Arc::new(Mutex::new(Costs::default()));
    let measured = Arc::clone(&costs);
    let outcome = crate::run(Settings::default(), async move {
        let fixture = Fixture::new(plan, 1).await;
        (Arc::clone(&fixture.cluster), measure(fixture, replicas, seconds, measured))
    });
    let costs = std::mem::take(&mut *costs.lock());
    Costs { violation: outcome.violation, ..costs }
}

async fn measure(fixture: Fixture, replicas: usize, seconds: u32, costs: Arc<Mutex<Costs>>) {
    fixture.start_all(fixture.cluster.machines.len()).await;
    sleep(SETTLED).await;
    let (before, start) = (fixture.cluster.database.statements(), Instant::now());
    for second in 0..seconds {
        let replica = second as usize % replicas;
        let grant = fixture.grant(replica, End::UntilRevoked).await;
        let enforcement = fixture.revoke(replica, &grant).await.ok().flatten();
        costs.lock().enforcements.extend(enforcement);
        sleep_until(start + Duration::from_secs(1) * (second + 1)).await;
    }
    costs.lock().statements = fixture.cluster.database.statements() - before;
}
