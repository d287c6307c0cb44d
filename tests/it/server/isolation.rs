//! Isolation: a tenant observes nothing of the activity of other tenants and of the vendor.
//!
//! Two servers play the same calls of one tenant. In between, one of them plays random activity of
//! another tenant and of the vendor, too. Every response and every error must be the same. Only
//! values that are random by design may differ: UUIDs and hashes are replaced by the order of their
//! first appearance, and consistency tokens by a constant. Times come from a manual clock, apart
//! from those that depend on a node's lease.

use std::time::Duration;

use proptest::{collection::vec, prelude::*, test_runner::Config as RunnerConfig};

use crate::server::harness::stop;
use calls::{Call, Foreign, calls, foreign};
use world::World;

mod calls;
mod play;
mod requests;
mod world;

const TENANT: &str = "acme";
const OTHER: &str = "globex";

/// The transcript of the tenant's calls.
async fn transcript(script: &[(Call, Vec<Foreign>)], has_foreign_calls: bool) -> Vec<String> {
    let mut world = World::new().await;
    for (call, foreign) in script {
        if has_foreign_calls {
            for call in foreign {
                world.play_foreign(call).await;
            }
        }
        world.play(call).await;
        world.clock.pass(Duration::from_millis(1));
    }
    stop(world.running).await.unwrap();
    world.transcript
}

proptest! {
    #![proptest_config(RunnerConfig { cases: 12, ..RunnerConfig::default() })]

    #[test]
    fn a_tenant_observes_nothing_of_others(
        script in vec((calls(), vec(foreign(), 0..4)), 40..60),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
        let (alone, together) = runtime.block_on(async {
            tokio::join!(transcript(&script, false), transcript(&script, true))
        });
        for (alone, together) in alone.iter().zip(&together) {
            prop_assert_eq!(alone, together);
        }
        prop_assert_eq!(alone.len(), together.len());
    }
}
