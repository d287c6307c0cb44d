//! Where a process runs: it can be paused, resumed and killed.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{checker::Judge, logs};

/// All tasks of one process. A clone is the same.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    name: Arc<str>,
    judge: Arc<Judge>,
    gate: Arc<Gate>,
    /// Cancelled when the process dies.
    death: CancellationToken,
    tasks: TaskTracker,
}

/// Lets tasks run, or not.
#[derive(Debug, Default)]
struct Gate(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_paused: bool,
    resumed_at: Option<Instant>,
    /// Who wanted to run meanwhile, in the order of their birth.
    wakers: BTreeMap<u64, Waker>,
    last_key: u64,
}

/// A future that is not polled while its process is paused.
struct Gated {
    name: Arc<str>,
    gate: Arc<Gate>,
    key: u64,
    inner: BoxFuture<'static, ()>,
}

impl Host {
    pub(crate) fn new(name: &str, judge: Arc<Judge>) -> Self {
        Self {
            name: name.into(),
            judge,
            gate: Arc::default(),
            death: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// A task of this process.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let key = {
            let mut inner = self.gate.0.lock();
            inner.last_key += 1;
            inner.last_key
        };
        let (name, gate) = (Arc::clone(&self.name), Arc::clone(&self.gate));
        let gated = Gated { name, gate, key, inner: Box::pin(task) };
        let (death, judge) = (self.death.clone(), Arc::clone(&self.judge));
        self.tasks.spawn(async move {
            let run = AssertUnwindSafe(death.run_until_cancelled(gated)).catch_unwind();
            if run.await.is_err() {
                judge.accuse("a task has panicked".into());
            }
        });
    }

    pub(crate) fn pause(&self) {
        self.gate.0.lock().is_paused = true;
    }

    pub(crate) fn resume(&self) {
        let woken = {
            let mut inner = self.gate.0.lock();
            inner.is_paused = false;
            inner.resumed_at = Some(Instant::now());
            std::mem::take(&mut inner.wakers)
        };
        woken.into_values().for_each(Waker::wake);
    }

    /// Whether it has been running all the time since then.
    pub(crate) fn has_run_since(&self, then: Instant) -> bool {
        let inner = self.gate.0.lock();
        !inner.is_paused && inner.resumed_at.is_none_or(|resumed_at| resumed_at < then)
    }

    /// Ends all tasks, in the middle of whatever they do.
    pub(crate) fn kill(&self) {
        self.death.cancel();
        self.tasks.close();
    }

    /// Waits for something; false if it dies before.
    pub(crate) async fn lives_until(&self, something: impl Future<Output = ()>) -> bool {
        self.death.run_until_cancelled(something).await.is_some()
    }

    /// Waits until all tasks have ended, by themselves or not.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Future for Gated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        {
            let mut inner = self.gate.0.lock();
            if inner.is_paused {
                inner.wakers.insert(self.key, context.waker().clone());
                return Poll::Pending;
            }
        }
        logs::turn_of(&self.name);
        self.inner.as_mut().poll(context)
    }
}

impl fmt::Debug for Gated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gated").field("key", &self.key).finish_non_exhaustive()
    }
}
