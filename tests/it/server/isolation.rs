//! Isolation: a tenant observes nothing of the activity of other tenants and of the vendor.
//!
//! Two servers play the same calls of one tenant. In between, one of them plays random activity of
//! another tenant and of the vendor, too. Every response and every error must be the same, with its
//! headers and trailers. Only values that are random by design may differ: UUIDs, hashes and
//! consistency tokens are replaced by the order of their first appearance. Times come from a manual
//! clock. Times that depend on a node's lease are rounded.
//!
//! A second check node acknowledges changes of the tenant only, so that enforcement can be pending.

use std::time::Duration;

use proptest::{collection::vec, prelude::*, test_runner::Config as RunnerConfig};

use crate::server::harness::stop;
use calls::{Call, Foreign, calls, foreign};
use world::World;

mod calls;
mod member;
mod play;
mod requests;
mod world;

const TENANT: &str = "acme";
const OTHER: &str = "globex";

/// The transcript of the tenant's calls.
async fn transcript(script: &[(Call, Vec<Foreign>)], has_foreign_calls: bool) -> Vec<String> {
    let mut world = World::new().await;
    let member = world.member.clone();
    let play = async {
        // The tenant has the tokens of these changes from the beginning.
        world.play(&Call::Lock { target: 0, request: 0 }).await;
        world.play(&Call::Unlock { lock: 0, is_foreign: false }).await;
        for (call, foreign) in script {
            if has_foreign_calls {
                for call in foreign {
                    world.play_foreign(call).await;
                }
            }
            world.play(call).await;
            world.clock.pass(Duration::from_millis(1));
        }
    };
    tokio::select! {
        () = play => {}
        never = member.run() => match never {},
    }
    stop(world.running).await.unwrap();
    world.transcript
}

/// Plays the script alone and together with others, and compares the transcripts.
async fn transcripts(script: &[(Call, Vec<Foreign>)]) -> (Vec<String>, Vec<String>) {
    tokio::join!(transcript(script, false), transcript(script, true))
}

/// After all leases have expired, the enforcement of a tenant's change names the nodes of the
/// current membership. No change of others makes a server read a membership that is more recent.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_enforcement_reveals_no_reads_for_changes_of_others() {
    let others = || vec![Foreign::Lock { target: 3 }];
    let script = [
        (Call::Grant { level: 1, days: 1, agents: 0, request: 0 }, others()),
        // The other check node leaves, and joins again.
        (Call::Pass { days: 1 }, others()),
        (Call::Wait { change: 0 }, others()),
    ];
    let (alone, together) = transcripts(&script).await;
    assert_eq!(alone, together);
    let last = alone.last().unwrap();
    assert!(last.contains("ENFORCEMENT_STATE_COMPLETE"), "{last}");
    assert!(last.contains(r#""nodes_acknowledged":2"#), "{last}");
}

/// The enforcement of a tenant's change does not depend on later changes of others, which the other
/// check node has not acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn enforcement_reveals_no_changes_of_others() {
    let others = || vec![Foreign::Grant { agents: 0 }, Foreign::Lock { target: 3 }];
    let grant = Call::Grant { level: 1, days: 1, agents: 0, request: 0 };
    let extend = Call::Extend { grant: 0, days: 2, has_etag: false, request: 1 };
    let wait = |change| (Call::Wait { change }, others());
    let script = [
        (grant.clone(), others()),
        (extend.clone(), others()),
        // Complete, and recorded.
        wait(0),
        // The grant was acknowledged with its extension.
        wait(1),
        (extend, others()),
        (grant, others()),
        // The other check node has not acknowledged the grant.
        wait(0),
        // The extension and the revocation of an expired grant change nothing.
        (Call::Pass { days: 3 }, others()),
        (Call::Revoke { grant: 0, has_etag: false, request: 0 }, others()),
        (Call::RevokeAll { request: 0 }, others()),
        wait(0),
        (Call::ListEvents { size: 100, is_oldest_first: true, has_token: false }, others()),
    ];
    let (alone, together) = transcripts(&script).await;
    for (alone, together) in alone.iter().zip(&together) {
        assert_eq!(alone, together);
    }
    let count = |text| alone.iter().filter(|line| line.contains(text)).count();
    assert!(count("ENFORCEMENT_STATE_PENDING") == 1, "one grant is pending: {alone:#?}");
    assert!(count("ENFORCEMENT_STATE_COMPLETE") >= 8, "{alone:#?}");
    assert!(count("EXPIRED") > 0, "{alone:#?}");
}

proptest! {
    #![proptest_config(RunnerConfig { cases: 6, ..RunnerConfig::default() })]

    #[test]
    fn a_tenant_observes_nothing_of_others(
        script in vec((calls(), vec(foreign(), 0..4)), 40..60),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
        let (alone, together) = runtime.block_on(async {
            transcripts(&script).await
        });
        for (alone, together) in alone.iter().zip(&together) {
            prop_assert_eq!(alone, together);
        }
        prop_assert_eq!(alone.len(), together.len());
    }
}
