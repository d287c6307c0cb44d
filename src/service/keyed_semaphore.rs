//! A semaphore with a separate limit for each key.

use std::{collections::HashMap, fmt, hash::Hash, sync::Arc};

use foldhash::fast::RandomState;
use parking_lot::Mutex;

/// Limits the number of permits of each key, and of all keys together. Stores only keys that hold
/// permits.
#[derive(Debug)]
pub struct KeyedSemaphore<K> {
    permits_max: usize,
    total_max: usize,
    held: Mutex<Held<K>>,
}

#[derive(Debug)]
struct Held<K> {
    total: usize,
    by_key: HashMap<K, usize, RandomState>,
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
        let held = Mutex::new(Held { total: 0, by_key: HashMap::default() });
        Self { permits_max, total_max: usize::MAX, held }
    }

    /// Allows at most `total_max` permits for all keys together.
    pub fn with_total(self, total_max: usize) -> Self {
        Self { total_max, ..self }
    }

    /// Acquires a permit. `None`: the key or all keys hold the maximum.
    pub fn try_acquire(self: &Arc<Self>, key: &K) -> Option<KeyedPermit<K>> {
        self.try_acquire_many(key, 1)
    }

    /// Acquires `count` permits, at least one. `None`: the key or all keys would exceed a maximum.
    pub fn try_acquire_many(self: &Arc<Self>, key: &K, count: usize) -> Option<KeyedPermit<K>> {
        let mut held = self.held.lock();
        let before = held.by_key.get(key).copied().unwrap_or(0);
        if count == 0 || count > self.room(before, held.total) {
            return None;
        }
        held.total += count;
        held.by_key.insert(key.clone(), before + count);
        Some(KeyedPermit { semaphore: Arc::clone(self), key: key.clone(), count })
    }
}

impl<K> KeyedSemaphore<K> {
    /// The number of further permits for a key that holds `of_key`, while all hold `total`.
    fn room(&self, of_key: usize, total: usize) -> usize {
        self.permits_max.saturating_sub(of_key).min(self.total_max.saturating_sub(total))
    }
}

impl<K: Eq + Hash> KeyedPermit<K> {
    /// Acquires `count` further permits. Returns false, and acquires none, if the key or all keys
    /// would exceed the maximum.
    pub fn try_grow(&mut self, count: usize) -> bool {
        let mut held = self.semaphore.held.lock();
        let Held { total, by_key } = &mut *held;
        match by_key.get_mut(&self.key) {
            Some(of_key) if count <= self.semaphore.room(*of_key, *total) => {
                *of_key += count;
                *total += count;
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
        held.total = held.total.saturating_sub(self.count);
        if let Some(of_key) = held.by_key.get_mut(&self.key) {
            *of_key = of_key.saturating_sub(self.count);
            if *of_key == 0 {
                held.by_key.remove(&self.key);
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
        assert!(semaphore.held.lock().by_key.is_empty(), "keys without permits are removed");
    }

    #[test]
    fn a_limit_of_zero_rejects_every_permit() {
        let semaphore = Arc::new(KeyedSemaphore::new(0));
        assert!(semaphore.try_acquire(&1).is_none());
        assert!(semaphore.held.lock().by_key.is_empty(), "rejected keys are not stored");
    }

    #[test]
    fn several_permits_are_acquired_and_released_together() {
        let semaphore = Arc::new(KeyedSemaphore::new(10));
        let mut held = semaphore.try_acquire_many(&"a", 6).unwrap();
        assert!(semaphore.try_acquire_many(&"a", 5).is_none());
        assert!(held.try_grow(4) && !held.try_grow(1));
        assert!(semaphore.try_acquire_many(&"b", 10).is_some());
        drop(held);
        assert!(semaphore.held.lock().by_key.is_empty());
    }

    #[test]
    fn all_keys_together_have_a_limit() {
        let semaphore = Arc::new(KeyedSemaphore::new(6).with_total(10));
        let mut first = semaphore.try_acquire_many(&"a", 5).unwrap();
        let second = semaphore.try_acquire_many(&"b", 5).unwrap();
        assert!(semaphore.try_acquire(&"c").is_none() && !first.try_grow(1));
        drop(second);
        assert!(first.try_grow(1) && semaphore.try_acquire_many(&"c", 4).is_some());
    }
}
