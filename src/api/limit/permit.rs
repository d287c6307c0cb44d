//! What a call holds: a place among the calls of its caller, and the bytes of its messages.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::CallerUsage;

/// Bytes of a request or a chunk of a response that are not counted: they are part of the memory
/// that each call takes. Most messages are shorter.
pub(in crate::api) const UNCOUNTED_BYTES: usize = 4 * 1_024;

/// A count with a maximum.
#[derive(Debug)]
pub(super) struct Counter {
    count: AtomicUsize,
    max: usize,
}

/// The permit of a call. Shared by the parts of the call that may outlive each other: the rest of
/// the message, a detached handler, and the response.
#[derive(Debug)]
pub struct CallPermit {
    usage: Arc<CallerUsage>,
    /// The counted bytes of the request.
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

    /// The count.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    fn try_add(&self, added: usize) -> bool {
        let add = |count: usize| count.checked_add(added).filter(|count| *count <= self.max);
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
    }

    fn remove(&self, removed: usize) {
        self.count.fetch_sub(removed, Ordering::Relaxed);
    }

    /// Adds to the count of a caller and to the count of all callers, or to none.
    fn try_add_both(of_caller: &Self, of_all: &Self, added: usize) -> bool {
        if !of_caller.try_add(added) {
            return false;
        }
        let is_added = of_all.try_add(added);
        if !is_added {
            of_caller.remove(added);
        }
        is_added
    }
}

// === impl CallPermit ===

impl CallPermit {
    /// `None`: the caller, or all callers, make too many calls.
    pub(super) fn acquire(usage: &Arc<CallerUsage>) -> Option<Self> {
        let is_acquired = Counter::try_add_both(&usage.calls, &usage.of_all.calls, 1);
        is_acquired.then(|| Self { usage: Arc::clone(usage), bytes: AtomicUsize::new(0) })
    }

    /// Counts `count` further bytes of the request. False: the bytes exceed a limit.
    pub(in crate::api) fn try_count(&self, count: usize) -> bool {
        let is_counted = Counter::try_add_both(&self.usage.bytes, &self.usage.of_all.bytes, count);
        if is_counted {
            self.bytes.fetch_add(count, Ordering::Relaxed);
        }
        is_counted
    }

    /// Counts `count` bytes of the response. `None`: the bytes exceed a limit.
    pub(in crate::api) fn try_share(&self, count: usize) -> Option<BytesPermit> {
        let is_counted = Counter::try_add_both(&self.usage.bytes, &self.usage.of_all.bytes, count);
        is_counted.then(|| BytesPermit { usage: Arc::clone(&self.usage), bytes: count })
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.usage.calls.remove(1);
        self.usage.of_all.calls.remove(1);
        self.usage.release_bytes(mem::take(self.bytes.get_mut()));
    }
}

impl Drop for BytesPermit {
    fn drop(&mut self) {
        self.usage.release_bytes(self.bytes);
    }
}

impl CallerUsage {
    fn release_bytes(&self, count: usize) {
        if count > 0 {
            self.bytes.remove(count);
            self.of_all.bytes.remove(count);
        }
    }
}
