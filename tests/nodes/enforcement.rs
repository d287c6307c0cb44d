//! Revocations while all is well.

use crate::measure::{Plan, measure};

/// Unless `NODES_SIDECARS` says otherwise: so many that two cores can run them, the load, and PostgreSQL.
const SIDECARS: usize = 30;

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_let_in_once_a_revocation_is_in_force() {
    let sidecars = std::env::var("NODES_SIDECARS").map_or(SIDECARS, |it| it.parse().unwrap());
    let plan = Plan { replicas: 3, sidecars, revocations: 100, checks_per_second: 1_000 };
    measure(plan).await.print();
}
