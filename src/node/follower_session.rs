//! The session with one follower: the messages to it in their order, and the messages that it may
//! send. A pong follows every change that the node had applied when it granted the lease.

use std::{collections::VecDeque, pin::pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use crate::{
    domain::{BootTime, NodeId, Position, Revision, TokenKey},
    node::{
        CheckNode,
        followers::StreamId,
        lease::lower_bound,
        message::{Hello, PROTOCOL, Pong, ToFollower, ToUpstream, Welcome},
        mutants::{Rule, is_broken},
        snapshot::SnapshotPart,
        state::StateGuard,
        upstream_session::PATH_MAX,
    },
};

mod acks;
mod allowance;
mod end;

use acks::Acks;
use allowance::Allowance;
pub use end::SessionEnd;

/// The most pings that wait for their pong. Of more, the oldest would prove the least, and is not answered.
const PINGS_MAX: usize = 32;

/// One follower's stream.
#[derive(Debug)]
pub struct FollowerSession {
    node: Arc<CheckNode>,
    stage: Stage,
    /// Numbers of pings that wait for their pong.
    pings: VecDeque<i64>,
    last_ping: i64,
    acks: Acks,
    allowance: Allowance,
}

#[derive(Debug)]
enum Stage {
    /// Nothing was sent yet.
    New,
    /// The welcome is to be sent.
    Greeting(Hello),
    /// This node holds nothing yet, or it has to know more before it can tell where the follower goes on from.
    Waiting(Follower, Arrival),
    /// A snapshot is being sent.
    Snapshot { follower: Follower, position: Position, token_key: TokenKey, has_begun: bool },
    /// Changes are being sent; `sent` is the last.
    Changes { follower: Follower, sent: Revision },
    /// The follower has left.
    Left,
}

#[derive(Debug, Clone, Copy)]
struct Arrival {
    held: Option<Position>,
    at: BootTime,
    /// The latest that it was given its lease, if it had one.
    lease_valid_from: Option<BootTime>,
}

#[derive(Debug, Clone, Copy)]
struct Follower {
    node_id: NodeId,
    stream: StreamId,
    /// Of the node, when the follower came.
    generation: u64,
}

impl FollowerSession {
    /// A new stream.
    pub fn new(node: Arc<CheckNode>) -> Self {
        let allowance = Allowance::begin(node.boot_time());
        Self {
            node,
            stage: Stage::New,
            pings: VecDeque::new(),
            last_ping: 0,
            acks: Acks::default(),
            allowance,
        }
    }

    /// What the follower says.
    pub fn receive(&mut self, up: ToUpstream) -> Result<(), SessionEnd> {
        self.allowance.take_one(self.node.boot_time())?;
        let Some(follower) = self.follower() else { return self.receive_first(up) };
        let Follower { node_id, stream, .. } = follower;
        let now = self.node.boot_time();
        self.node.with_state(|moment| moment.followers.heard(node_id, stream, now));
        match up {
            ToUpstream::Hello(_) => return Err(SessionEnd::SecondHello),
            ToUpstream::Ping { seq } if seq <= self.last_ping => {
                return Err(SessionEnd::WrongPing { last: self.last_ping, found: seq });
            }
            ToUpstream::Ping { seq } => {
                self.acks.check(self.sent(), self.patience(now), now)?;
                self.last_ping = seq;
                if self.pings.len() == PINGS_MAX {
                    self.pings.pop_front();
                }
                self.pings.push_back(seq);
            }
            ToUpstream::Ack(ack) => {
                self.acks.take(ack.revision, self.sent())?;
                self.node.with_state(|moment| moment.followers.acked(node_id, stream, ack));
                self.node.notify_acks();
            }
            ToUpstream::Report(infos) => {
                self.allowance.take_report(now)?;
                self.node.with_state(|moment| moment.followers.reported(node_id, stream, infos));
            }
            ToUpstream::Leave => {
                self.node.with_state(|moment| moment.followers.left(node_id, stream));
                self.node.notify_acks();
                self.stage = Stage::Left;
            }
        }
        Ok(())
    }

    /// The stream has ended.
    pub fn close(&mut self) {
        if let Some(Follower { node_id, stream, .. }) = self.follower() {
            self.node.with_state(|moment| moment.followers.lost(node_id, stream));
            self.node.notify_acks();
        }
        self.stage = Stage::Left;
    }

    /// What is to be said next, if there is something to say now.
    pub fn say(&mut self) -> Result<Option<ToFollower>, SessionEnd> {
        if let Some(Follower { node_id, stream, generation }) = self.follower()
            && !is_broken(Rule::OneHistoryPerStream)
        {
            if self.node.generation() != generation {
                return Err(SessionEnd::NewSnapshot);
            }
            let is_current =
                |followers: &mut super::Followers| followers.is_current(node_id, stream);
            if !self.node.with_state(|moment| is_current(moment.followers)) {
                return Err(SessionEnd::Replaced);
            }
        }
        match std::mem::replace(&mut self.stage, Stage::Left) {
            stage @ (Stage::New | Stage::Left) => {
                self.stage = stage;
                Ok(None)
            }
            Stage::Greeting(hello) => self.welcome(&hello).map(Some),
            Stage::Waiting(follower, arrival) => {
                self.stage = self.begin(follower, arrival);
                match self.stage {
                    Stage::Waiting(..) => Ok(self.pong_without_lease()),
                    _ => self.say(),
                }
            }
            Stage::Snapshot { follower, position, token_key, has_begun } => {
                let (message, stage) = if !has_begun {
                    (ToFollower::SnapshotBegin, None)
                } else if let Some(part) = self.next_part(follower)? {
                    (ToFollower::SnapshotPart(part), None)
                } else {
                    let changes = Stage::Changes { follower, sent: position.revision };
                    (ToFollower::SnapshotEnd { position, token_key }, Some(changes))
                };
                let going_on = Stage::Snapshot { follower, position, token_key, has_begun: true };
                self.stage = stage.unwrap_or(going_on);
                Ok(Some(message))
            }
            Stage::Changes { follower, sent } => {
                self.stage = Stage::Changes { follower, sent };
                self.next_change(follower, sent)
            }
        }
    }

    /// Whether the next change is no longer kept.
    pub fn is_too_slow(&self) -> bool {
        let sent = match &self.stage {
            Stage::Snapshot { position, .. } => position.revision,
            Stage::Changes { sent, .. } => *sent,
            Stage::New | Stage::Greeting(_) | Stage::Waiting(..) | Stage::Left => return false,
        };
        self.node.with_state(|moment| moment.feed.is_none_or(|feed| feed.after(sent).is_none()))
    }

    /// True after leave.
    pub fn has_left(&self) -> bool {
        matches!(self.stage, Stage::Left)
    }

    fn receive_first(&mut self, up: ToUpstream) -> Result<(), SessionEnd> {
        match (&self.stage, up) {
            (Stage::New, ToUpstream::Hello(hello)) if hello.protocol != PROTOCOL => {
                Err(SessionEnd::OtherProtocol(hello.protocol))
            }
            (Stage::New, ToUpstream::Hello(hello)) if hello.node_id == self.node.id() => {
                Err(SessionEnd::Itself)
            }
            (Stage::New, ToUpstream::Hello(hello)) => {
                self.stage = Stage::Greeting(hello);
                Ok(())
            }
            (Stage::New, _) => Err(SessionEnd::NoHello),
            (Stage::Greeting(_), ToUpstream::Hello(_)) => Err(SessionEnd::SecondHello),
            (Stage::Greeting(_), ToUpstream::Ping { seq }) => {
                self.pings.push_back(seq);
                self.last_ping = seq;
                Ok(())
            }
            // Nothing was sent that could be acknowledged.
            (Stage::Greeting(_), ToUpstream::Ack(ack)) if ack.revision > 0 => {
                Err(SessionEnd::WrongAck { least: 0, most: 0, found: ack.revision })
            }
            _ => Ok(()),
        }
    }

    fn welcome(&mut self, hello: &Hello) -> Result<ToFollower, SessionEnd> {
        let node_id = hello.node_id;
        let (stream, at) =
            self.node.with_state(|moment| (moment.followers.join(hello, moment.now), moment.now));
        let stream = stream.ok_or(SessionEnd::TooMany)?;
        let follower = Follower { node_id, stream, generation: self.node.generation() };
        let lease_valid_from = hello.lease_age.map(|age| at - lower_bound(age));
        self.stage = self.begin(follower, Arrival { held: hello.held, at, lease_valid_from });
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(ToFollower::Welcome(Welcome { protocol: PROTOCOL, node_id: self.node.id(), version }))
    }

    /// Decides where the follower goes on from.
    fn begin(&self, follower: Follower, arrival: Arrival) -> Stage {
        let Arrival { held, at, lease_valid_from } = arrival;
        self.node.with_state(|moment| {
            let snapshot = &moment.view.snapshot;
            let held_here = snapshot.position().zip(snapshot.token_key());
            let Some(((position, token_key), feed)) = held_here.zip(moment.feed) else {
                return Stage::Waiting(follower, arrival);
            };
            let is_early = |held: &Position| {
                let is_known = held.epoch == position.epoch && held.revision <= position.revision;
                // What this node does not know may be progress, or of another log: what has been proven since tells.
                // What it holds beyond the follower may have been lost: it must not be told to somebody who knows a newer log.
                let needed = if is_known { lease_valid_from } else { Some(at) };
                let is_trusted = is_known && is_broken(Rule::GoOnWhenProven);
                !is_trusted
                    && needed.is_some_and(|at| moment.lease_valid_from().is_none_or(|it| it < at))
            };
            match held {
                Some(held) if is_early(&held) => {
                    self.node.request_lease();
                    Stage::Waiting(follower, arrival)
                }
                Some(held) if feed.continues(&held) => {
                    Stage::Changes { follower, sent: held.revision }
                }
                _ => {
                    let parts = snapshot.clone().into_parts();
                    moment.followers.begin_snapshot(follower.stream, parts, moment.now);
                    Stage::Snapshot { follower, position, token_key, has_begun: false }
                }
            }
        })
    }

    fn next_part(&self, follower: Follower) -> Result<Option<SnapshotPart>, SessionEnd> {
        let next = |moment: StateGuard<'_>| moment.followers.next_part(follower.stream, moment.now);
        self.node.with_state(next).ok_or(SessionEnd::TooSlow)
    }

    fn next_change(
        &mut self,
        follower: Follower,
        sent: Revision,
    ) -> Result<Option<ToFollower>, SessionEnd> {
        let Follower { node_id, stream, .. } = follower;
        let ping = self.pings.front().copied();
        let (down, is_pong) = self.node.with_state(|moment| {
            // Between the checks before and this one, the node may have taken a new snapshot, and forgotten this stream: what
            // it would be lease_grant for, nobody would count.
            let is_current = moment.followers.is_current(node_id, stream);
            if !is_current && !is_broken(Rule::OneHistoryPerStream) {
                return Ok((None, false));
            }
            let revision = moment.view.snapshot.revision();
            let is_overtaking = ping.is_some() && is_broken(Rule::PongBehindChanges);
            if sent < revision && !is_overtaking {
                let feed = moment.feed.and_then(|feed| feed.after(sent));
                let changes = feed.ok_or(SessionEnd::TooSlow)?;
                return Ok((Some(ToFollower::Changes(changes)), false));
            }
            let Some(seq) = ping else { return Ok((None, false)) };
            // Before anything leaves: from now on the follower counts.
            let lease = moment.view.lease.filter(|lease| lease.is_valid(moment.now));
            if let Some(lease) = &lease {
                moment.followers.lease_granted(node_id, stream, lease, moment.now);
            }
            let held = if is_overtaking { sent } else { revision };
            let lease = lease.map(|lease| lease.grant(held, moment.now));
            Ok((Some(ToFollower::Pong(Pong { seq, path: Vec::new(), lease })), true))
        })?;
        if let Some(ToFollower::Changes(changes)) = &down
            && let Some(last) = changes.last()
        {
            self.stage = Stage::Changes { follower, sent: last.revision };
        }
        if is_pong {
            self.pings.pop_front();
        }
        Ok(down.map(|down| self.with_path(down)))
    }

    fn pong_without_lease(&mut self) -> Option<ToFollower> {
        let seq = self.pings.pop_front()?;
        Some(self.with_path(ToFollower::Pong(Pong { seq, path: Vec::new(), lease: None })))
    }

    fn with_path(&self, down: ToFollower) -> ToFollower {
        match down {
            ToFollower::Pong(pong) => ToFollower::Pong(Pong { path: self.node.path(), ..pong }),
            other => other,
        }
    }

    fn follower(&self) -> Option<Follower> {
        match &self.stage {
            Stage::Waiting(follower, _)
            | Stage::Snapshot { follower, .. }
            | Stage::Changes { follower, .. } => Some(*follower),
            Stage::New | Stage::Greeting(_) | Stage::Left => None,
        }
    }

    /// What the follower has been sent, and may acknowledge.
    fn sent(&self) -> Revision {
        match &self.stage {
            Stage::Changes { sent, .. } => *sent,
            _ => 0,
        }
    }

    /// How long the follower may take to acknowledge; `None` while this node cannot grant_lease, so that nobody can. A node that waits for
    /// its own followers must have sent these away before it is sent away itself: so the nearer to the database, the longer.
    fn patience(&self, now: BootTime) -> Option<Duration> {
        let lease = self.node.view().lease.filter(|lease| lease.is_valid(now))?.max_staleness;
        let steps = (PATH_MAX + 2).saturating_sub(self.node.path().len());
        Some(lease.saturating_mul(2 * u32::try_from(steps).unwrap_or(u32::MAX / 2)))
    }
}

impl Drop for FollowerSession {
    fn drop(&mut self) {
        self.close();
    }
}

/// Feeds a follower until it goes, or must go.
pub async fn serve<E>(
    node: Arc<CheckNode>,
    incoming: impl Stream<Item = Result<ToUpstream, E>>,
    outgoing: mpsc::Sender<ToFollower>,
) -> Result<(), SessionEnd> {
    let mut incoming = pin!(incoming);
    let mut progress = node.watch();
    let mut feeding = FollowerSession::new(node);
    let mut next = None;
    loop {
        if next.is_none() {
            progress.mark_unchanged();
            match feeding.say() {
                Ok(message) => next = message,
                Err(end) => break Err(end),
            }
        }
        tokio::select! {
            biased;
            up = incoming.next() => match up {
                Some(Ok(up)) => if let Err(end) = feeding.receive(up) { break Err(end) },
                Some(Err(_)) | None => break Ok(()),
            },
            permit = outgoing.reserve(), if next.is_some() => match (permit, next.take()) {
                (Ok(permit), Some(message)) => permit.send(message),
                _ => break Ok(()),
            },
            () = progress.changed() => if feeding.is_too_slow() { break Err(SessionEnd::TooSlow) },
        }
        if feeding.has_left() {
            break Ok(());
        }
    }
}
