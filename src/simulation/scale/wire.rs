//! The streams between followers and those that feed them, in order and with room: each message comes after a fixed time.

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures::{Stream, StreamExt, stream::BoxStream};
use tokio::{
    sync::mpsc,
    time::{Instant, Sleep, sleep, sleep_until},
};
use tokio_util::task::TaskTracker;

use crate::{
    api::grpc::{length_down, length_up},
    node::{
        CheckNode, feeding,
        following::{FollowError, Upstream},
        message::{Down, Up},
    },
    simulation::scale::meter::Meter,
};

/// Messages that wait at a node until they are sent.
const OUTGOING: usize = 64;

/// A node that can be followed.
pub(super) struct Way {
    pub(super) node: Arc<CheckNode>,
    pub(super) latency: Duration,
    pub(super) meter: Arc<Meter>,
    pub(super) tasks: TaskTracker,
}

impl fmt::Debug for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Way").field(&self.node.id()).finish()
    }
}

#[async_trait]
impl Upstream for Way {
    async fn open(
        &self,
        outgoing: mpsc::Receiver<Up>,
    ) -> Result<BoxStream<'static, Result<Down, FollowError>>, FollowError> {
        sleep(self.latency * 2).await;
        let (to_follower, answers) = mpsc::channel(OUTGOING);
        let said = Delayed::new(outgoing, self, |up| (up_name(up), length_up(up)));
        let heard = Delayed::new(answers, self, |down| (down_name(down), length_down(down)));
        let serving = feeding::serve(Arc::clone(&self.node), said.map(Ok::<_, ()>), to_follower);
        self.tasks.spawn(async move {
            let _ = serving.await;
        });
        Ok(heard.map(Ok).boxed())
    }
}

fn up_name(up: &Up) -> &'static str {
    match up {
        Up::Hello(_) => "hello",
        Up::Ping { .. } => "ping",
        Up::Ack(_) => "ack",
        Up::Report(_) => "report",
        Up::Leave => "leave",
    }
}

fn down_name(down: &Down) -> &'static str {
    match down {
        Down::Welcome(_) => "welcome",
        Down::SnapshotBegin | Down::SnapshotPart(_) | Down::SnapshotEnd(_) => "snapshot",
        Down::Changes(_) => "changes",
        Down::Pong(_) => "pong",
    }
}

/// What was sent, a while later.
struct Delayed<T> {
    from: mpsc::Receiver<T>,
    latency: Duration,
    meter: Arc<Meter>,
    measure: fn(&T) -> (&'static str, usize),
    under_way: VecDeque<(Instant, T)>,
    arrival: Option<Pin<Box<Sleep>>>,
    has_ended: bool,
}

impl<T> Delayed<T> {
    fn new(from: mpsc::Receiver<T>, way: &Way, measure: fn(&T) -> (&'static str, usize)) -> Self {
        Self {
            from,
            latency: way.latency,
            meter: Arc::clone(&way.meter),
            measure,
            under_way: VecDeque::new(),
            arrival: None,
            has_ended: false,
        }
    }
}

impl<T: Unpin> Stream for Delayed<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        while !self.has_ended
            && let Poll::Ready(sent) = self.from.poll_recv(context)
        {
            let Some(message) = sent else {
                self.has_ended = true;
                break;
            };
            let (name, bytes) = (self.measure)(&message);
            self.meter.count(|figures| {
                figures.messages.entry(name).or_default().add(bytes, Duration::ZERO);
            });
            let arrives = Instant::now() + self.latency;
            self.under_way.push_back((arrives, message));
        }
        let Some(arrives) = self.under_way.front().map(|(arrives, _)| *arrives) else {
            return if self.has_ended { Poll::Ready(None) } else { Poll::Pending };
        };
        let arrival = self.arrival.get_or_insert_with(|| Box::pin(sleep_until(arrives)));
        if arrival.deadline() != arrives {
            arrival.as_mut().reset(arrives);
        }
        match arrival.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(self.under_way.pop_front().map(|(_, message)| message)),
            Poll::Pending => Poll::Pending,
        }
    }
}
