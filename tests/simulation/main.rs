//! Replicas and sidecars over a simulated network, with gRPC on it: turmoil decides what arrives when, and what does not.
//!
//! The protocol itself is searched much more widely in `src/simulation`, without gRPC; here the very services run that a
//! server has. Histories are random; `SUPPORT_ACCESS_SEEDS` says how many, `SUPPORT_ACCESS_FIRST_SEED` with which to begin.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod history;
mod hosts;
mod link;
mod net;
mod world;

use std::env;

/// Histories in an ordinary run of the tests.
const SEEDS: u64 = 20;

#[test]
fn random_histories_keep_the_promise() {
    let number = |name, default| env::var(name).map_or(default, |text| text.parse().unwrap());
    let first = number("SUPPORT_ACCESS_FIRST_SEED", 1);
    let mut allowed = 0;
    let mut enforced = 0;
    for seed in first..first + number("SUPPORT_ACCESS_SEEDS", SEEDS) {
        println!("SUPPORT_ACCESS_FIRST_SEED={seed} SUPPORT_ACCESS_SEEDS=1 repeats this history");
        let history = world::run(seed);
        history.check();
        allowed += history.allowed();
        enforced += history.enforced();
    }
    println!("{allowed} checks were allowed, {enforced} revocations enforced");
    assert!(allowed > 0 && enforced > 0, "nothing was proven");
}
