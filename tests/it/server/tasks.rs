//! The tasks of a process.

use std::{future::pending, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use support_access::server::tasks::{TaskFailure, Tasks};
use tokio::{sync::oneshot, time::Instant};

fn soon() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

#[tokio::test]
async fn a_task_that_ends_on_request_is_not_a_failure() {
    let tasks = Tasks::new();
    let stop = tasks.stop_token();
    tasks.spawn("follower", async move { stop.cancelled().await });
    tasks.stop();
    assert_eq!(tasks.join_or_abort(soon()).await, Vec::<Arc<str>>::new());
    assert_eq!(tasks.failure().now_or_never(), None);
}

#[tokio::test]
async fn a_task_that_ends_without_a_request_is_a_failure() {
    let tasks = Tasks::new();
    tasks.spawn("follower", async {});
    let failure = tasks.failure().await;
    assert_eq!(failure, TaskFailure { task: "follower".into(), panic: None });
    assert_eq!(failure.to_string(), "the task \"follower\" ended unexpectedly");
}

#[tokio::test]
async fn the_first_failure_is_reported_with_its_panic() {
    let tasks = Tasks::new();
    tasks.spawn("sweep", async { panic!("no {}", "luck") });
    assert_eq!(tasks.failure().await.panic.as_deref(), Some("no luck"));
    tasks.spawn("later", async {});
    assert!(tasks.join_or_abort(soon()).await.is_empty());
    assert_eq!(&*tasks.failure().await.task, "sweep");
}

#[tokio::test]
async fn tasks_that_do_not_end_are_aborted_and_named() {
    let tasks = Tasks::new();
    let (held, released) = oneshot::channel::<()>();
    tasks.spawn("stubborn", async move {
        let _held = held;
        pending::<()>().await;
    });
    tasks.stop();
    assert_eq!(tasks.join_or_abort(soon()).await, ["stubborn".into()]);
    assert!(released.await.is_err(), "an aborted task drops its values");
}

#[tokio::test]
async fn a_detached_future_completes_after_it_is_dropped() {
    let tasks = Tasks::new();
    let (go, gone) = oneshot::channel::<()>();
    let (done, is_done) = oneshot::channel();
    let call = tasks.spawn_detached("call", async move {
        gone.await.ok();
        done.send(7).ok();
    });
    drop(call);
    go.send(()).unwrap();
    assert_eq!(is_done.await, Ok(7));
    assert_eq!(tasks.spawn_detached("call", async { 8 }).await, 8);
    assert!(tasks.join_or_abort(soon()).await.is_empty());
    assert_eq!(tasks.failure().now_or_never(), None);
}

#[tokio::test]
async fn a_panic_in_a_detached_future_propagates() {
    let call = Tasks::new().spawn_detached("call", async { panic!("in the call") });
    let panic = AssertUnwindSafe(call).catch_unwind().await.unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&"in the call"));
}
