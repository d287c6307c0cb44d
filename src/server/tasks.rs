//! Tasks with a name, an owner and an end. The only place that spawns.

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
    sync::watch,
    task::{AbortHandle, JoinHandle},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

/// How long an aborted task may take to be gone. It cannot take longer, unless it blocks its thread.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// A group of tasks that are stopped together. Its clones are the same group.
#[derive(Debug, Clone, Default)]
pub struct Tasks(Arc<Group>);

#[derive(Debug, Default)]
struct Group {
    tracker: TaskTracker,
    /// Asks every task to end.
    stop: CancellationToken,
    /// What has not ended yet.
    running: Mutex<Running>,
    /// The first task that ended unasked.
    failure: watch::Sender<Option<Failure>>,
}

#[derive(Debug, Default)]
struct Running {
    next_id: u64,
    tasks: BTreeMap<u64, (Arc<str>, AbortHandle)>,
}

/// A task that should have gone on until it was stopped, but did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its name.
    pub task: Arc<str>,
    /// What it panicked with, if it did.
    pub panic: Option<String>,
}

// === impl Tasks ===

impl Tasks {
    /// A group without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Is cancelled when the tasks are asked to end.
    pub fn stop_token(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// Asks every task to end. From now on it is no failure if one does.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    /// Spawns a task that goes on until it is asked to end. If it ends before, or panics, that is a [`Failure`].
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
        drop(self.launch(name, watched));
    }

    /// Runs a future to its end, whether or not anybody still waits for it. A panic in it is a panic in whoever waits; what it
    /// logs is in the span of whoever began it.
    pub fn detached<T: Send + 'static>(
        &self,
        name: impl Into<Arc<str>>,
        future: impl Future<Output = T> + Send + 'static,
    ) -> BoxFuture<'static, T> {
        let handle =
            self.launch(name.into(), AssertUnwindSafe(future).catch_unwind().in_current_span());
        Box::pin(async move {
            match handle.await {
                Ok(Ok(output)) => output,
                Ok(Err(panic)) => resume_unwind(panic),
                // Aborted: by then whoever waits is on a connection that has been cut.
                Err(_) => pending().await,
            }
        })
    }

    /// Waits for the first [`Failure`].
    pub async fn failure(&self) -> Failure {
        let mut failure = self.0.failure.subscribe();
        match failure.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
            Ok(Some(failure)) => failure,
            // The sender lives as long as `self`.
            Ok(None) | Err(_) => pending().await,
        }
    }

    /// Waits until every task has ended, however long that takes.
    pub async fn ended(&self) {
        self.0.tracker.close();
        self.0.tracker.wait().await;
    }

    /// Waits until every task has ended. Those that have not by `deadline` are aborted; their names are returned.
    pub async fn wait(&self, deadline: Instant) -> Vec<Arc<str>> {
        if timeout_at(deadline, self.ended()).await.is_ok() {
            return Vec::new();
        }
        let late = self.abort();
        // What is aborted still has to let go of its sockets and transactions.
        let _ = timeout(ABORT_TIMEOUT, self.0.tracker.wait()).await;
        late
    }

    /// Aborts every task that has not ended, and returns their names.
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
        future: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        // Held until the task is entered, so that it cannot have left before.
        let mut running = self.0.running.lock();
        let id = running.next_id;
        running.next_id += 1;
        let group = Arc::clone(&self.0);
        let handle = self.0.tracker.spawn(async move {
            let output = future.await;
            group.running.lock().tasks.remove(&id);
            output
        });
        running.tasks.insert(id, (name, handle.abort_handle()));
        handle
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
            failure.get_or_insert(Failure { task, panic });
            is_first
        });
    }
}

// === impl Failure ===

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.panic {
            Some(message) => write!(f, "the task {:?} panicked: {message}", self.task),
            None => write!(f, "the task {:?} ended, though nobody asked it to", self.task),
        }
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    #[tokio::test]
    async fn a_task_that_ends_when_asked_is_no_failure() {
        let tasks = Tasks::new();
        let stop = tasks.stop_token();
        tasks.spawn("follower", async move { stop.cancelled().await });
        tasks.stop();
        assert_eq!(tasks.wait(soon()).await, Vec::<Arc<str>>::new());
        assert_eq!(tasks.failure().now_or_never(), None);
    }

    #[tokio::test]
    async fn a_task_that_ends_unasked_is_a_failure() {
        let tasks = Tasks::new();
        tasks.spawn("follower", async {});
        let failure = tasks.failure().await;
        assert_eq!(failure, Failure { task: "follower".into(), panic: None });
        assert_eq!(failure.to_string(), "the task \"follower\" ended, though nobody asked it to");
    }

    #[tokio::test]
    async fn the_first_failure_is_told_with_its_panic() {
        let tasks = Tasks::new();
        tasks.spawn("sweep", async { panic!("no {}", "luck") });
        assert_eq!(tasks.failure().await.panic.as_deref(), Some("no luck"));
        tasks.spawn("later", async {});
        assert!(tasks.wait(soon()).await.is_empty());
        assert_eq!(&*tasks.failure().await.task, "sweep");
    }

    #[tokio::test]
    async fn what_does_not_end_is_aborted_and_named() {
        let tasks = Tasks::new();
        let (held, released) = oneshot::channel::<()>();
        tasks.spawn("stubborn", async move {
            let _held = held;
            pending::<()>().await;
        });
        tasks.stop();
        assert_eq!(tasks.wait(soon()).await, ["stubborn".into()]);
        assert!(released.await.is_err(), "the aborted task is gone with all it held");
    }

    #[tokio::test]
    async fn a_detached_future_ends_though_nobody_waits() {
        let tasks = Tasks::new();
        let (go, gone) = oneshot::channel::<()>();
        let (done, is_done) = oneshot::channel();
        let call = tasks.detached("call", async move {
            gone.await.ok();
            done.send(7).ok();
        });
        drop(call);
        go.send(()).unwrap();
        assert_eq!(is_done.await, Ok(7));
        assert_eq!(tasks.detached("call", async { 8 }).await, 8);
        assert!(tasks.wait(soon()).await.is_empty());
        assert_eq!(tasks.failure().now_or_never(), None);
    }

    #[tokio::test]
    async fn a_panic_in_a_detached_future_is_the_waiter_s() {
        let call = Tasks::new().detached("call", async { panic!("in the call") });
        let panic = AssertUnwindSafe(call).catch_unwind().await.unwrap_err();
        assert_eq!(panic_message(panic.as_ref()), "in the call");
    }
}
