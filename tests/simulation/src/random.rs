//! The only source of randomness. One seed determines the whole history, by an algorithm that never
//! changes.

use std::time::Duration;

use parking_lot::Mutex;
use uuid::Uuid;

/// `SplitMix64`: small, and good enough for this purpose.
#[derive(Debug)]
pub(crate) struct Random(Mutex<u64>);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    fn next(&self) -> u64 {
        let mut state = self.0.lock();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `least` to `most`, both included.
    pub(crate) fn between(&self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    /// True with a probability of `percent`.
    pub(crate) fn chance(&self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    /// A span of `least` to `most` milliseconds, both included.
    pub(crate) fn millis(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.between(least, most))
    }

    /// One of the items; `None` if there are none.
    pub(crate) fn pick<'a, T>(&self, items: &'a [T]) -> Option<&'a T> {
        let index = self.next() % items.len().max(1) as u64;
        items.get(usize::try_from(index).unwrap_or(0))
    }

    pub(crate) fn uuid(&self) -> Uuid {
        Uuid::from_u64_pair(self.next(), self.next())
    }
}
