//! What many check nodes cost: the real drivers of `node` and `work`, in virtual time, in several regions, while all is well.
//! Nobody is judged here; it is counted what the database is asked for, what passes on streams, how old proofs are, and how long
//! revocations take. `scripts/scale` prints it for large fleets.
//!
//! What is not real: the database and its costs ([`database`]), the network, which loses nothing and has room for all, and the
//! processors of the nodes, which take no time. Every wait is rounded up to a whole millisecond.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "these are figures for people"
)]

use std::time::Instant;

mod change;
mod database;
mod fleet;
mod meter;
mod plan;
mod store;
mod table;
mod wire;

use meter::Kind;
use plan::Plan;

/// Fleets of an ordinary run of the tests: small ones.
const SMALL: &str = "home 3x2,spread 4x2 0.125 64,home 2x4x2";

#[test]
fn fleets() {
    let text = std::env::var("SUPPORT_ACCESS_FLEETS").unwrap_or_else(|_| SMALL.into());
    let is_small = text == SMALL;
    let mut all = Vec::new();
    for text in text.split(',') {
        let plan = Plan::parse(text.trim()).unwrap_or_else(|| panic!("not a fleet: {text:?}"));
        let began = Instant::now();
        let figures = fleet::play(plan);
        println!("{}: played in {:.0} s", plan.name(), began.elapsed().as_secs_f64());
        all.push((plan, figures));
    }
    table::print(&all);
    if is_small {
        for (plan, figures) in &all {
            check(plan, figures);
        }
    }
}

/// A small fleet is served well, and costs what the protocol says.
fn check(plan: &Plan, figures: &meter::Figures) {
    let name = plan.name();
    assert_eq!((figures.stale, figures.failed), (0, 0), "{name}");
    let revoked = (f64::from(plan.seconds) * plan.revocations).ceil() as usize;
    assert_eq!(figures.enforced.len(), revoked, "{name}");
    for enforced in &figures.enforced {
        assert_eq!(enforced.acknowledged as usize, plan.nodes(), "{name}: {enforced:?}");
        assert_eq!(enforced.lapsed, 0, "{name}: {enforced:?}");
    }
    assert_eq!(figures.sum(Kind::Strike).count, 0, "{name}");
    // Twice a second while nobody waits. Who waits reads when it begins, for each that acknowledges, and twenty times a second.
    let idle = 2.0 * f64::from(plan.seconds) * plan.replicas as f64;
    let reads = figures.sum(Kind::RollRead).count as f64;
    let waiting: f64 = figures.enforced.iter().map(|it| 20.0 * it.since_commit.as_secs_f64()).sum();
    let most = 1.05 * idle + waiting + (revoked * (plan.replicas + 1)) as f64;
    assert!(reads <= most, "{name}: {reads} reads of the roll, but {most} are enough");
    let acknowledgements = figures.sum(Kind::Acknowledgement).count;
    let each = acknowledgements as f64 / figures.commits as f64;
    assert!(each <= 1.2 * plan.replicas as f64, "{name}: {each} acknowledgements a change");
    let renewals = figures.sum(Kind::Renewal).count as f64;
    let most = plan.replicas as f64 * f64::from(plan.seconds) * 4.2;
    assert!(renewals <= most, "{name}: {renewals} renewals");
}
