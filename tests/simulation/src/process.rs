//! A process, which can be paused, resumed and killed.

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

use crate::{checker::Checker, logs};

/// A handle to all tasks of one process.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    name: Arc<str>,
    checker: Arc<Checker>,
    schedule: Arc<Mutex<Schedule>>,
    /// Cancelled when the process is killed.
    killed: CancellationToken,
    tasks: TaskTracker,
}

/// Whether the tasks of a process may run.
#[derive(Debug, Default)]
struct Schedule {
    is_paused: bool,
    resumed_at: Option<Instant>,
    /// Tasks that became ready during the pause, in the order of creation.
    ready: BTreeMap<u64, Waker>,
    last_task: u64,
}

/// A task that is not polled while the process is paused.
struct Task {
    process: Arc<str>,
    schedule: Arc<Mutex<Schedule>>,
    number: u64,
    future: BoxFuture<'static, ()>,
}

impl Process {
    pub(crate) fn new(name: &str, checker: Arc<Checker>) -> Self {
        Self {
            name: name.into(),
            checker,
            schedule: Arc::default(),
            killed: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let number = {
            let mut schedule = self.schedule.lock();
            schedule.last_task += 1;
            schedule.last_task
        };
        let (process, schedule) = (Arc::clone(&self.name), Arc::clone(&self.schedule));
        let task = Task { process, schedule, number, future: Box::pin(future) };
        let (killed, checker) = (self.killed.clone(), Arc::clone(&self.checker));
        self.tasks.spawn(async move {
            let run = AssertUnwindSafe(killed.run_until_cancelled(task)).catch_unwind();
            if run.await.is_err() {
                checker.violation("a task has panicked".into());
            }
        });
    }

    pub(crate) fn pause(&self) {
        self.schedule.lock().is_paused = true;
    }

    pub(crate) fn resume(&self) {
        let ready = {
            let mut schedule = self.schedule.lock();
            schedule.is_paused = false;
            schedule.resumed_at = Some(Instant::now());
            std::mem::take(&mut schedule.ready)
        };
        ready.into_values().for_each(Waker::wake);
    }

    /// Whether the process was not paused since `then`.
    pub(crate) fn has_run_since(&self, then: Instant) -> bool {
        let schedule = self.schedule.lock();
        !schedule.is_paused && schedule.resumed_at.is_none_or(|resumed_at| resumed_at < then)
    }

    /// Drops all tasks at their current await points.
    pub(crate) fn kill(&self) {
        self.killed.cancel();
        self.tasks.close();
    }

    /// Waits for `event`. Returns false if the process is killed before.
    pub(crate) async fn lives_until(&self, event: impl Future<Output = ()>) -> bool {
        self.killed.run_until_cancelled(event).await.is_some()
    }

    /// Waits until all tasks have ended.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        {
            let mut schedule = self.schedule.lock();
            if schedule.is_paused {
                schedule.ready.insert(self.number, context.waker().clone());
                return Poll::Pending;
            }
        }
        logs::set_running(&self.process);
        self.future.as_mut().poll(context)
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("number", &self.number).finish_non_exhaustive()
    }
}
