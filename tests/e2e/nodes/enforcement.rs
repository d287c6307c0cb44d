//! Revocations without faults.

use crate::nodes::measure::{Plan, measure};

/// The number of sidecars that two cores can run with the load and PostgreSQL. `NODES_SIDECARS`
/// overrides the value.
const SIDECARS: usize = 30;

#[tokio::test(flavor = "multi_thread")]
async fn no_node_allows_access_after_an_enforced_revocation() {
    let sidecars = std::env::var("NODES_SIDECARS").map_or(SIDECARS, |value| value.parse().unwrap());
    let plan = Plan { replicas: 3, sidecars, revocations: 100, checks_per_second: 1_000 };
    measure(plan).await.print();
}
