//! So many at a time, and no more, for each of many.

use std::{collections::HashMap, fmt, hash::Hash, sync::Arc};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// Counts what each of many holds at a time, and refuses more than a limit. Remembers only who holds something.
#[derive(Debug)]
pub struct KeyedSemaphore<K> {
    max: usize,
    held: Mutex<HashMap<K, usize, RandomState>>,
}

/// What is held, until dropped.
pub struct KeyedPermit<K: Eq + Hash> {
    slots: Arc<KeyedSemaphore<K>>,
    key: K,
    count: usize,
}

impl<K: Eq + Hash + Clone> KeyedSemaphore<K> {
    /// At most `max` for each.
    pub fn new(max: usize) -> Self {
        Self { max, held: Mutex::default() }
    }

    /// One more for `key`; `None` if it has as many as it may.
    pub fn take(self: &Arc<Self>, key: &K) -> Option<KeyedPermit<K>> {
        self.take_many(key, 1)
    }

    /// So many more for `key`, at least one; `None` if it would have more than it may.
    pub fn take_many(self: &Arc<Self>, key: &K, count: usize) -> Option<KeyedPermit<K>> {
        let mut held = self.held.lock();
        let before = held.get(key).copied().unwrap_or(0);
        if count == 0 || count > self.max.saturating_sub(before) {
            return None;
        }
        held.insert(key.clone(), before + count);
        Some(KeyedPermit { slots: Arc::clone(self), key: key.clone(), count })
    }
}

impl<K: Eq + Hash> KeyedPermit<K> {
    /// So many more of the same; whether its holder may have them.
    pub fn grow(&mut self, more: usize) -> bool {
        let mut held = self.slots.held.lock();
        match held.get_mut(&self.key) {
            Some(count) if more <= self.slots.max.saturating_sub(*count) => {
                *count += more;
                self.count += more;
                true
            }
            _ => false,
        }
    }
}

impl<K: Eq + Hash> Drop for KeyedPermit<K> {
    fn drop(&mut self) {
        let mut held = self.slots.held.lock();
        if let Some(count) = held.get_mut(&self.key) {
            *count = count.saturating_sub(self.count);
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}

impl<K: Eq + Hash + fmt::Debug> fmt::Debug for KeyedPermit<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeyedPermit").field(&self.key).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_may_hold_so_many_at_a_time() {
        let slots = Arc::new(KeyedSemaphore::new(2));
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
        let slots = Arc::new(KeyedSemaphore::new(0));
        assert!(slots.take(&1).is_none());
        assert!(slots.held.lock().is_empty(), "who got nothing is not remembered");
    }

    #[test]
    fn many_are_taken_and_given_back_together() {
        let slots = Arc::new(KeyedSemaphore::new(10));
        let mut held = slots.take_many(&"a", 6).unwrap();
        assert!(slots.take_many(&"a", 5).is_none());
        assert!(held.grow(4) && !held.grow(1));
        assert!(slots.take_many(&"b", 10).is_some());
        drop(held);
        assert!(slots.held.lock().is_empty());
    }
}
