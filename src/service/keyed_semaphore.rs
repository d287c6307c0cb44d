//! A semaphore with a separate limit for each key.

use std::{collections::HashMap, fmt, hash::Hash, sync::Arc};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// Limits the number of permits of each key. Stores only keys that hold permits.
#[derive(Debug)]
pub struct KeyedSemaphore<K> {
    permits_max: usize,
    held: Mutex<HashMap<K, usize, RandomState>>,
}

/// One or more permits of a key, released on drop.
pub struct KeyedPermit<K: Eq + Hash> {
    semaphore: Arc<KeyedSemaphore<K>>,
    key: K,
    count: usize,
}

impl<K: Eq + Hash + Clone> KeyedSemaphore<K> {
    /// Allows at most `permits_max` permits for each key.
    pub fn new(permits_max: usize) -> Self {
        Self { permits_max, held: Mutex::default() }
    }

    /// Acquires a permit. `None`: the key holds the maximum.
    pub fn try_acquire(self: &Arc<Self>, key: &K) -> Option<KeyedPermit<K>> {
        self.try_acquire_many(key, 1)
    }

    /// Acquires `count` permits, at least one. `None`: the key would exceed the maximum.
    pub fn try_acquire_many(self: &Arc<Self>, key: &K, count: usize) -> Option<KeyedPermit<K>> {
        let mut held = self.held.lock();
        let before = held.get(key).copied().unwrap_or(0);
        if count == 0 || count > self.permits_max.saturating_sub(before) {
            return None;
        }
        held.insert(key.clone(), before + count);
        Some(KeyedPermit { semaphore: Arc::clone(self), key: key.clone(), count })
    }
}

impl<K: Eq + Hash> KeyedPermit<K> {
    /// Acquires `count` further permits. Returns false, and acquires none, if the key would exceed
    /// the maximum.
    pub fn try_grow(&mut self, count: usize) -> bool {
        let mut held = self.semaphore.held.lock();
        match held.get_mut(&self.key) {
            Some(all) if count <= self.semaphore.permits_max.saturating_sub(*all) => {
                *all += count;
                self.count += count;
                true
            }
            _ => false,
        }
    }
}

impl<K: Eq + Hash> Drop for KeyedPermit<K> {
    fn drop(&mut self) {
        let mut held = self.semaphore.held.lock();
        if let Some(all) = held.get_mut(&self.key) {
            *all = all.saturating_sub(self.count);
            if *all == 0 {
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
    fn each_key_has_its_own_limit() {
        let semaphore = Arc::new(KeyedSemaphore::new(2));
        let first = semaphore.try_acquire(&"a").unwrap();
        let second = semaphore.try_acquire(&"a").unwrap();
        assert!(semaphore.try_acquire(&"a").is_none());
        assert!(semaphore.try_acquire(&"b").is_some());
        drop(first);
        drop(semaphore.try_acquire(&"a").unwrap());
        drop(second);
        assert!(semaphore.held.lock().is_empty(), "keys without permits are removed");
    }

    #[test]
    fn a_limit_of_zero_rejects_every_permit() {
        let semaphore = Arc::new(KeyedSemaphore::new(0));
        assert!(semaphore.try_acquire(&1).is_none());
        assert!(semaphore.held.lock().is_empty(), "rejected keys are not stored");
    }

    #[test]
    fn several_permits_are_acquired_and_released_together() {
        let semaphore = Arc::new(KeyedSemaphore::new(10));
        let mut held = semaphore.try_acquire_many(&"a", 6).unwrap();
        assert!(semaphore.try_acquire_many(&"a", 5).is_none());
        assert!(held.try_grow(4) && !held.try_grow(1));
        assert!(semaphore.try_acquire_many(&"b", 10).is_some());
        drop(held);
        assert!(semaphore.held.lock().is_empty());
    }
}
