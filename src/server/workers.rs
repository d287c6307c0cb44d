//! The threads that serve connections, one for each processor.
//!
//! Each thread has a runtime of its own. A connection and its calls never change threads, so calls
//! on different threads rarely contend. One system call writes the responses to several concurrent
//! calls. Everything else runs on the runtime of the process.

use std::{
    io, iter,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// The threads. They end when this value is dropped.
#[derive(Debug)]
pub(super) struct Workers {
    workers: Vec<Worker>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

/// The place of a connection on a worker.
#[derive(Debug)]
pub(super) struct Placement {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

// === impl Workers ===

impl Workers {
    /// Starts a thread for each processor that the process may use.
    pub(super) fn start() -> io::Result<Self> {
        let count = thread::available_parallelism()?.get();
        let stop = CancellationToken::new();
        let workers = iter::repeat_with(|| Worker::start(stop.clone())).take(count);
        Ok(Self { workers: workers.collect::<io::Result<_>>()?, stop })
    }

    /// A place on the worker with the fewest connections.
    pub(super) fn place(&self) -> Placement {
        let open = |worker: &&Worker| worker.connections.load(Ordering::Relaxed);
        let worker = self.workers.iter().min_by_key(open);
        let (runtime, connections) = match worker {
            Some(Worker { runtime, connections }) => (runtime.clone(), Arc::clone(connections)),
            // There is at least one processor.
            None => (Handle::current(), Arc::default()),
        };
        connections.fetch_add(1, Ordering::Relaxed);
        Placement { runtime, connections }
    }

    /// The number of threads.
    pub(super) fn count(&self) -> usize {
        self.workers.len()
    }

    /// The busy time of all threads together.
    pub(super) fn busy(&self) -> Duration {
        let busy = |worker: &Worker| worker.runtime.metrics().worker_total_busy_duration(0);
        self.workers.iter().map(busy).sum()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

// === impl Worker ===

impl Worker {
    fn start(stop: CancellationToken) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let serve = move || runtime.block_on(stop.cancelled_owned());
        thread::Builder::new().name("connections".to_owned()).spawn(serve)?;
        Ok(Self { runtime: handle, connections: Arc::default() })
    }
}

// === impl Placement ===

impl Placement {
    /// The runtime of the worker.
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_is_placed_on_the_worker_with_the_fewest() {
        let stop = CancellationToken::new();
        let workers = (0..2).map(|_| Worker::start(stop.clone())).collect::<Result<_, _>>();
        let workers = Workers { workers: workers.unwrap(), stop };
        let open =
            || workers.workers.iter().map(|worker| worker.connections.load(Ordering::Relaxed));
        let first = workers.place();
        let second = workers.place();
        assert_eq!(open().collect::<Vec<_>>(), [1, 1]);
        drop(second);
        let third = workers.place();
        assert_eq!(open().collect::<Vec<_>>(), [1, 1]);
        let named =
            third.runtime().spawn(async { thread::current().name() == Some("connections") });
        assert!(named.await.unwrap());
        drop((first, third));
        assert_eq!(open().sum::<usize>(), 0);
    }
}
