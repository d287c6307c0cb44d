//! The permit of a call: a place among the calls of its caller, and the bytes of its messages.

use std::{
    iter, mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::CallerUsage;
use crate::api::threads;

/// Bytes of a request or a chunk of a response that are not counted: they are part of the memory
/// that each call takes. Most messages are shorter.
pub(in crate::api) const UNCOUNTED_BYTES: usize = 4 * 1_024;

/// A count with a maximum.
#[derive(Debug)]
pub(super) struct Counter {
    count: AtomicUsize,
    max: usize,
}

/// The places of the calls of all callers. Each thread takes places in lots and keeps a few spare
/// ones, so that threads do not contend for one count.
#[derive(Debug)]
pub(super) struct Places {
    /// The places that calls have taken, and the spare ones.
    taken: Counter,
    /// One entry for each thread. Empty: there are too few places.
    spare: Vec<Spare>,
    lot: usize,
}

/// The spare places of a thread, in a cache line of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Spare(AtomicUsize);

/// The permit of a call. Shared by the parts of the call that may outlive each other: the rest of
/// the message, a detached handler, and the response.
#[derive(Debug)]
pub struct CallPermit {
    usage: Arc<CallerUsage>,
    /// The bytes that count until the permit is dropped: the request, its decoded message, and a
    /// response with one message.
    bytes: AtomicUsize,
}

/// Counted bytes of a response, released on drop.
#[derive(Debug)]
pub struct BytesPermit {
    usage: Arc<CallerUsage>,
    bytes: usize,
}

// === impl Counter ===

impl Counter {
    pub(super) fn new(max: usize) -> Self {
        Self { count: AtomicUsize::new(0), max }
    }

    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The count after the addition. `None`: the maximum would be exceeded.
    fn try_add(&self, added: usize) -> Option<usize> {
        let add = |count: usize| count.checked_add(added).filter(|count| *count <= self.max);
        let before = self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok()?;
        Some(before + added)
    }

    fn remove(&self, removed: usize) {
        self.count.fetch_sub(removed, Ordering::Relaxed);
    }
}

// === impl Places ===

impl Places {
    pub(super) fn new(max: usize) -> Self {
        let threads = threads::count();
        // All threads together keep at most a quarter of the places as spare ones.
        let lot = max / (8 * threads);
        let spare = if lot > 1 { threads } else { 0 };
        let spare = iter::repeat_with(Spare::default).take(spare).collect();
        Self { taken: Counter::new(max), spare, lot }
    }

    /// Takes a place for a caller that has `own` calls, with this one. False: all places are taken,
    /// or the caller has its share. A caller may have as many calls as there are free places. So
    /// callers that use up their shares leave places to others (dynamic thresholds: Choudhury and
    /// Hahne, 1998).
    fn try_take(&self, own: usize) -> bool {
        if !self.has_share(own) {
            return false;
        }
        if self.spare.is_empty() {
            return self.taken.try_add(1).is_some();
        }
        let Spare(spare) = threads::own(&self.spare);
        let take = |spare: usize| spare.checked_sub(1);
        if spare.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            return true;
        }
        if self.taken.try_add(self.lot).is_some() {
            spare.fetch_add(self.lot - 1, Ordering::Relaxed);
            return true;
        }
        self.taken.try_add(1).is_some()
    }

    fn has_share(&self, own: usize) -> bool {
        let free = self.taken.max.saturating_sub(self.taken.count());
        let spare = || self.spare.iter().map(|Spare(spare)| spare.load(Ordering::Relaxed));
        own <= free || own <= free + spare().sum::<usize>()
    }

    fn give_back(&self) {
        if self.spare.is_empty() {
            return self.taken.remove(1);
        }
        let Spare(spare) = threads::own(&self.spare);
        spare.fetch_add(1, Ordering::Relaxed);
        let return_lot = |spare: usize| (spare >= 2 * self.lot).then(|| spare - self.lot);
        if spare.fetch_update(Ordering::Relaxed, Ordering::Relaxed, return_lot).is_ok() {
            self.taken.remove(self.lot);
        }
    }
}

// === impl CallPermit ===

impl CallPermit {
    /// `None`: the caller, or all callers, make too many calls.
    pub(super) fn acquire(usage: &Arc<CallerUsage>) -> Option<Self> {
        let own = usage.calls.try_add(1)?;
        if !usage.of_all.calls.try_take(own) {
            usage.calls.remove(1);
            return None;
        }
        Some(Self { usage: Arc::clone(usage), bytes: AtomicUsize::new(0) })
    }

    /// Counts `count` further bytes of the request. False: the bytes exceed a limit.
    pub(in crate::api) fn try_count(&self, count: usize) -> bool {
        let is_counted = self.usage.try_add_bytes(count);
        if is_counted {
            self.bytes.fetch_add(count, Ordering::Relaxed);
        }
        is_counted
    }

    /// Counts `count` bytes of the response. `None`: the bytes exceed a limit.
    pub(in crate::api) fn try_share(&self, count: usize) -> Option<BytesPermit> {
        let is_counted = self.usage.try_add_bytes(count);
        is_counted.then(|| BytesPermit { usage: Arc::clone(&self.usage), bytes: count })
    }

    /// As [`Self::try_share`], for `count` bytes of a conversion. Few bytes are not counted.
    pub(in crate::api) fn try_convert(&self, count: usize) -> Option<BytesPermit> {
        self.try_share(if count > UNCOUNTED_BYTES { count } else { 0 })
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.usage.calls.remove(1);
        self.usage.of_all.calls.give_back();
        self.usage.release_bytes(mem::take(self.bytes.get_mut()));
    }
}

impl Drop for BytesPermit {
    fn drop(&mut self) {
        self.usage.release_bytes(self.bytes);
    }
}

impl CallerUsage {
    fn try_add_bytes(&self, count: usize) -> bool {
        if self.bytes.try_add(count).is_none() {
            return false;
        }
        let is_added = self.of_all.bytes.try_add(count).is_some();
        if !is_added {
            self.bytes.remove(count);
        }
        is_added
    }

    fn release_bytes(&self, count: usize) {
        if count > 0 {
            self.bytes.remove(count);
            self.of_all.bytes.remove(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn threads_take_no_more_places_than_there_are() {
        for max in [1, 7, 1_000] {
            let places = Places::new(max);
            let take = || iter::from_fn(|| places.try_take(1).then_some(())).take(max).count();
            let taken: usize = thread::scope(|scope| {
                let threads: Vec<_> = (0..3).map(|_| scope.spawn(take)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum()
            });
            assert!(taken <= max && taken + max / 4 >= max, "{taken} of {max}");
            (0..taken).for_each(|_| places.give_back());
            assert!(take() + max / 4 >= max);
        }
    }

    #[test]
    fn callers_that_use_up_their_shares_leave_places_to_others() {
        for max in [16, 1_000] {
            let places = Places::new(max);
            let take_share = || (1..=max).take_while(|own| places.try_take(*own)).count();
            assert_eq!(take_share(), max / 2);
            for _ in 0..3 {
                assert!(take_share() < max / 2);
            }
            assert!(places.try_take(1));
        }
    }
}
