//! Numbers of threads, so that each thread can have data of its own.

use std::{
    iter,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

thread_local! {
    /// In the order in which threads first ask.
    static NUMBER: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

/// The number of threads that should have data of their own: for each processor, a thread of
/// connections and a thread of other tasks. Further threads share.
pub(super) fn count() -> usize {
    2 * thread::available_parallelism().map_or(1, usize::from)
}

/// Data for each of these threads.
pub(crate) fn each<T>(make: impl FnMut() -> T) -> Vec<T> {
    iter::repeat_with(make).take(count()).collect()
}

/// The data of the current thread.
pub(crate) fn own<T>(of_threads: &[T]) -> &T {
    &of_threads[NUMBER.with(|number| number % of_threads.len())]
}
