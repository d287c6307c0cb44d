//! Groups of named tasks. No other code spawns tasks.

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    future::{Future, pending},
    panic::{AssertUnwindSafe, resume_unwind},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::watch,
    task::{AbortHandle, JoinHandle},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::api::detached::Spawn;

/// Timeout of aborted tasks. Only a task that blocks its thread takes longer.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// A group of tasks that are stopped together. Clones refer to the same group.
#[derive(Debug, Clone)]
pub struct Tasks(Arc<Group>);

#[derive(Debug)]
struct Group {
    /// The runtime of the tasks, even if a task of another runtime spawns them.
    runtime: Handle,
    tracker: TaskTracker,
    /// Cancelled to request a stop of every task.
    stop: CancellationToken,
    /// The tasks that have not ended.
    running: Mutex<Running>,
    /// The first task that panicked, or ended before a stop was requested.
    failure: watch::Sender<Option<TaskFailure>>,
}

#[derive(Debug, Default)]
struct Running {
    next_id: u64,
    tasks: BTreeMap<u64, (Arc<str>, AbortHandle)>,
}

/// A task that panicked, or ended before a stop was requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFailure {
    /// The name of the task.
    pub task: Arc<str>,
    /// The message of its panic. `None`: the task returned.
    pub panic: Option<String>,
}

// === impl Tasks ===

impl Tasks {
    /// An empty group, whose tasks run on the current runtime.
    #[expect(clippy::new_without_default, reason = "needs a runtime")]
    pub fn new() -> Self {
        Self(Arc::new(Group {
            runtime: Handle::current(),
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            running: Mutex::default(),
            failure: watch::Sender::new(None),
        }))
    }

    /// Cancelled by [`Tasks::stop`].
    pub fn stop_token(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// Requests a stop of every task.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    /// Spawns a task that runs until a stop is requested. If the task ends earlier or panics, the
    /// group has a failure.
    pub fn spawn(
        &self,
        name: impl Into<Arc<str>>,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let name = name.into();
        let group = Arc::clone(&self.0);
        let watched = {
            let name = Arc::clone(&name);
            async move {
                let outcome = AssertUnwindSafe(future).catch_unwind().await;
                group.ended(name, outcome.err());
            }
        };
        drop(self.launch(name, &self.0.runtime, watched));
    }

    /// Runs `future` to completion, even if the returned future is dropped. A panic propagates to
    /// the returned future. Log lines are in the current span.
    pub fn spawn_detached<T: Send + 'static>(
        &self,
        name: impl Into<Arc<str>>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> BoxFuture<'static, T> {
        let future = AssertUnwindSafe(future).catch_unwind().in_current_span();
        let handle = self.launch(name.into(), &self.0.runtime, future);
        Box::pin(async move {
            match handle.await {
                Ok(Ok(output)) => output,
                Ok(Err(panic)) => resume_unwind(panic),
                // Aborted. By then, the server has closed the caller's connection.
                Err(_) => pending().await,
            }
        })
    }

    /// Spawns a task on another runtime. The task may end at any time.
    pub fn spawn_on(
        &self,
        runtime: &Handle,
        name: impl Into<Arc<str>>,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        drop(self.launch(name.into(), runtime, AssertUnwindSafe(future).catch_unwind()));
    }

    /// Waits for the first failure.
    pub async fn failure(&self) -> TaskFailure {
        let mut failure = self.0.failure.subscribe();
        match failure.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
            Ok(Some(failure)) => failure,
            // The sender lives as long as `self`.
            Ok(None) | Err(_) => pending().await,
        }
    }

    /// Waits until every task has ended.
    pub async fn join(&self) {
        self.0.tracker.close();
        self.0.tracker.wait().await;
    }

    /// Waits until every task has ended. Aborts the tasks that are left at `deadline`, and returns
    /// their names.
    pub async fn join_or_abort(&self, deadline: Instant) -> Vec<Arc<str>> {
        if timeout_at(deadline, self.join()).await.is_ok() {
            return Vec::new();
        }
        let late = self.abort();
        // Aborted tasks still have to release sockets and transactions.
        let _ = timeout(ABORT_TIMEOUT, self.0.tracker.wait()).await;
        late
    }

    /// Aborts every task that has not ended. Returns the names of the tasks.
    pub fn abort(&self) -> Vec<Arc<str>> {
        let running = self.0.running.lock();
        let abort = |(name, handle): &(Arc<str>, AbortHandle)| {
            handle.abort();
            Arc::clone(name)
        };
        running.tasks.values().map(abort).collect()
    }

    fn launch<T: Send + 'static>(
        &self,
        name: Arc<str>,
        runtime: &Handle,
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        // Locked until the task is inserted, so that the task cannot remove itself earlier.
        let mut running = self.0.running.lock();
        let id = running.next_id;
        running.next_id += 1;
        let group = Arc::clone(&self.0);
        let removing = async move {
            let output = future.await;
            group.running.lock().tasks.remove(&id);
            output
        };
        let handle = self.0.tracker.spawn_on(removing, runtime);
        running.tasks.insert(id, (name, handle.abort_handle()));
        handle
    }
}

impl Spawn for Tasks {
    fn spawn_detached<T: Send + 'static>(
        &self,
        name: String,
        future: impl Future<Output = T> + Send + 'static,
    ) -> BoxFuture<'static, T> {
        Self::spawn_detached(self, name, future)
    }
}

// === impl Group ===

impl Group {
    fn ended(&self, task: Arc<str>, panic: Option<Box<dyn Any + Send>>) {
        if panic.is_none() && self.stop.is_cancelled() {
            return;
        }
        let panic = panic.map(|payload| panic_message(payload.as_ref()).to_owned());
        self.failure.send_if_modified(|failure| {
            let is_first = failure.is_none();
            failure.get_or_insert(TaskFailure { task, panic });
            is_first
        });
    }
}

// === impl TaskFailure ===

impl fmt::Display for TaskFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.panic {
            Some(message) => write!(f, "the task {:?} panicked: {message}", self.task),
            None => write!(f, "the task {:?} ended unexpectedly", self.task),
        }
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
