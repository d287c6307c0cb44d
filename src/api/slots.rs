//! So many at a time, and no more, for each of many.

use std::{collections::HashMap, fmt, hash::Hash, sync::Arc};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// Counts what each of many holds at a time, and refuses more than a limit. Remembers only who holds something.
#[derive(Debug)]
pub struct Slots<K> {
    max: usize,
    held: Mutex<HashMap<K, usize, RandomState>>,
}

/// One that is held, until dropped.
pub struct Slot<K: Eq + Hash> {
    slots: Arc<Slots<K>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Slots<K> {
    /// At most `max` for each.
    pub fn new(max: usize) -> Self {
        Self { max, held: Mutex::default() }
    }

    /// One more for `key`; `None` if it has as many as it may.
    pub fn take(self: &Arc<Self>, key: &K) -> Option<Slot<K>> {
        let mut held = self.held.lock();
        let count = held.entry(key.clone()).or_insert(0);
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(Slot { slots: Arc::clone(self), key: key.clone() })
    }
}

impl<K: Eq + Hash> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut held = self.slots.held.lock();
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}

impl<K: Eq + Hash + fmt::Debug> fmt::Debug for Slot<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slot").field(&self.key).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_may_hold_so_many_at_a_time() {
        let slots = Arc::new(Slots::new(2));
        let first = slots.take(&"a").unwrap();
        let second = slots.take(&"a").unwrap();
        assert!(slots.take(&"a").is_none());
        assert!(slots.take(&"b").is_some(), "each has a limit of its own");
        drop(first);
        drop(slots.take(&"a").unwrap());
        drop(second);
        assert!(slots.held.lock().is_empty(), "who holds nothing is forgotten");
    }

    #[test]
    fn none_at_all_is_a_limit_too() {
        let slots = Arc::new(Slots::new(0));
        assert!(slots.take(&1).is_none());
    }
}
