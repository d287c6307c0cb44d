//! The session of one follower: the messages that the follower receives, and the messages that the
//! follower may send. The state machine is [`FollowerSession`], driven by [`serve`].
//!
//! The order of messages is essential. A pong follows every change that the node had applied when
//! granting the lease. So a follower that receives a pong has everything that the node may have
//! acknowledged.

use std::{collections::VecDeque, pin::pin, sync::Arc};

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use crate::{
    domain::{NodeId, Now, Revision},
    node::{
        check_node::CheckNode,
        followers::StreamId,
        lease::lower_bound,
        message::{Hello, PROTOCOL, Pong, SnapshotEnd, ToFollower, ToUpstream, Welcome},
        snapshot_transfer::SnapshotTransfer,
        state::StateGuard,
    },
};

mod acks;
mod end;
mod rate_limit;
mod resume;

pub use end::SessionEnd;
use rate_limit::RateLimit;
use resume::ResumeRequest;

/// Maximum number of pings that wait for a pong. Beyond that, the oldest ping is dropped, because
/// its pong would give the oldest lease.
const PINGS_MAX: usize = 32;

/// The stream of one follower.
#[derive(Debug)]
pub struct FollowerSession {
    node: Arc<CheckNode>,
    /// The identity of the caller.
    credential: Arc<str>,
    stage: Stage,
    /// The sequence numbers of pings that wait for a pong.
    pings: VecDeque<i64>,
    last_ping: i64,
    last_acked: Revision,
    rate_limit: RateLimit,
}

#[derive(Debug)]
enum Stage {
    /// Hello has not arrived.
    New,
    /// Welcome is to be sent.
    Greeting(Hello),
    /// The node has no snapshot, or needs a newer lease to decide how the follower resumes.
    Waiting(FollowerStream, ResumeRequest),
    /// A snapshot is being sent.
    Snapshot { stream: FollowerStream, end: SnapshotEnd, has_begun: bool },
    /// Changes are being sent; `sent` is the last.
    Changes { stream: FollowerStream, sent: Revision },
    /// The session is over.
    Closed,
}

#[derive(Debug, Clone, Copy)]
struct FollowerStream {
    node_id: NodeId,
    id: StreamId,
    /// The generation of this node when the follower connected.
    generation: u64,
}

impl FollowerSession {
    /// The session of a new stream of the caller with identity `credential`.
    pub fn new(node: Arc<CheckNode>, credential: Arc<str>) -> Self {
        let rate_limit = RateLimit::new(node.boot_time());
        Self {
            node,
            credential,
            stage: Stage::New,
            pings: VecDeque::new(),
            last_ping: 0,
            last_acked: 0,
            rate_limit,
        }
    }

    // === messages from the follower ===

    /// Handles a message from the follower.
    pub fn receive(&mut self, message: ToUpstream) -> Result<(), SessionEnd> {
        let now = self.node.boot_time();
        self.rate_limit.take_message(now)?;
        let Some(stream) = self.stream() else { return self.receive_first(message) };
        let FollowerStream { node_id, id, .. } = stream;
        self.node.with_state(|state| {
            state.followers.record_message(node_id, id, state.applied_times, now);
        });
        match message {
            ToUpstream::Hello(_) => return Err(SessionEnd::SecondHello),
            ToUpstream::Ping { seq } if seq <= self.last_ping => {
                return Err(SessionEnd::WrongPing { last: self.last_ping, found: seq });
            }
            ToUpstream::Ping { seq } => {
                self.require_acks(node_id, now)?;
                self.last_ping = seq;
                if self.pings.len() == PINGS_MAX {
                    self.pings.pop_front();
                }
                self.pings.push_back(seq);
            }
            ToUpstream::Ack(revision) => {
                self.check_ack(revision)?;
                self.node.with_state(|state| state.followers.record_ack(node_id, id, revision));
                self.node.notify_acks();
            }
            ToUpstream::Leave => {
                self.node.with_state(|state| state.followers.leave(node_id, id));
                self.node.notify_acks();
                self.stage = Stage::Closed;
            }
        }
        Ok(())
    }

    fn receive_first(&mut self, message: ToUpstream) -> Result<(), SessionEnd> {
        match (&self.stage, message) {
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
            // Nothing was sent yet that the follower could acknowledge.
            (Stage::Greeting(_), ToUpstream::Ack(found)) if found > 0 => {
                Err(SessionEnd::WrongAck { least: 0, most: 0, found })
            }
            _ => Ok(()),
        }
    }

    /// The last revision that was sent to the follower, and that the follower may acknowledge.
    fn sent(&self) -> Revision {
        match &self.stage {
            Stage::Changes { sent, .. } => *sent,
            _ => 0,
        }
    }

    fn stream(&self) -> Option<FollowerStream> {
        match &self.stage {
            Stage::Waiting(stream, _)
            | Stage::Snapshot { stream, .. }
            | Stage::Changes { stream, .. } => Some(*stream),
            Stage::New | Stage::Greeting(_) | Stage::Closed => None,
        }
    }

    /// Closes the session at the end of the stream.
    pub fn close(&mut self) {
        if let Some(FollowerStream { node_id, id, .. }) = self.stream() {
            self.node.with_state(|state| state.followers.disconnect(node_id, id));
            self.node.notify_acks();
        }
        self.stage = Stage::Closed;
    }

    /// Whether the follower has left.
    pub fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed)
    }

    // === messages to the follower ===

    /// The next message to the follower; `None` if there is none yet.
    pub fn next_message(&mut self) -> Result<Option<ToFollower>, SessionEnd> {
        if let Some(FollowerStream { node_id, id, generation }) = self.stream() {
            if self.node.generation() != generation {
                return Err(SessionEnd::NewSnapshot);
            }
            if !self.node.with_state(|state| state.followers.is_current(node_id, id)) {
                return Err(SessionEnd::Replaced);
            }
        }
        match std::mem::replace(&mut self.stage, Stage::Closed) {
            stage @ (Stage::New | Stage::Closed) => {
                self.stage = stage;
                Ok(None)
            }
            Stage::Greeting(hello) => self.welcome(&hello).map(Some),
            Stage::Waiting(stream, request) => {
                self.stage = self.resume(stream, request);
                match self.stage {
                    Stage::Waiting(..) => Ok(self.pong_without_lease()),
                    _ => self.next_message(),
                }
            }
            Stage::Snapshot { stream, end, has_begun } => {
                // Restored first: if the next message fails, `close` must find the stream.
                self.stage = Stage::Snapshot { stream, end: end.clone(), has_begun: true };
                if !has_begun {
                    return Ok(Some(ToFollower::SnapshotBegin));
                }
                if let Some(message) = self.next_snapshot_message(stream)? {
                    return Ok(Some(message));
                }
                self.stage = Stage::Changes { stream, sent: end.position.revision };
                Ok(Some(ToFollower::SnapshotEnd(end)))
            }
            Stage::Changes { stream, sent } => {
                self.stage = Stage::Changes { stream, sent };
                self.next_change_or_pong(stream, sent)
            }
        }
    }

    fn welcome(&mut self, hello: &Hello) -> Result<ToFollower, SessionEnd> {
        let node_id = hello.node_id;
        let delay_max = self.delay_max();
        let (id, received_at) = self.node.with_state(|state| {
            let StateGuard { followers, applied_times, now, .. } = state;
            followers.count_delays(applied_times, now);
            (followers.connect(hello, &self.credential, delay_max, now), now)
        });
        let id = id?;
        let stream = FollowerStream { node_id, id, generation: self.node.generation() };
        let lease_received_at = hello.lease_age.map(|age| received_at - lower_bound(age));
        let request = ResumeRequest { position: hello.position, received_at, lease_received_at };
        self.stage = self.resume(stream, request);
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(ToFollower::Welcome(Welcome { protocol: PROTOCOL, node_id: self.node.id(), version }))
    }

    /// Decides whether the follower resumes with changes, needs a snapshot, or must wait.
    fn resume(&self, stream: FollowerStream, request: ResumeRequest) -> Stage {
        self.node.with_state(|state| {
            let snapshot = &state.view.snapshot;
            let loaded = snapshot.position().zip(snapshot.token_key());
            let Some(((position, token_key), buffer)) = loaded.zip(state.change_buffer) else {
                return Stage::Waiting(stream, request);
            };
            match request.position {
                Some(theirs) if request.needs_newer_lease(&state, &position, &theirs) => {
                    self.node.request_lease();
                    Stage::Waiting(stream, request)
                }
                // A quarantine has no revision, so a follower's position does not include it.
                Some(theirs) if snapshot.quarantines() == 0 && buffer.continues(&theirs) => {
                    Stage::Changes { stream, sent: theirs.revision }
                }
                _ => {
                    let accepted_clocks = Arc::clone(snapshot.accepted_clocks());
                    let has_forged_rows = snapshot.has_forged_rows();
                    let end = SnapshotEnd { position, token_key, accepted_clocks, has_forged_rows };
                    let transfer = SnapshotTransfer::start(snapshot.clone(), state.now);
                    state.followers.start_transfer(stream.id, transfer);
                    Stage::Snapshot { stream, end, has_begun: false }
                }
            }
        })
    }

    fn next_snapshot_message(
        &self,
        stream: FollowerStream,
    ) -> Result<Option<ToFollower>, SessionEnd> {
        let next =
            |state: StateGuard<'_>| state.followers.next_snapshot_message(stream.id, state.now);
        self.node.with_state(next).ok_or(SessionEnd::TooSlow)
    }

    fn next_change_or_pong(
        &mut self,
        stream: FollowerStream,
        sent: Revision,
    ) -> Result<Option<ToFollower>, SessionEnd> {
        let FollowerStream { node_id, id, .. } = stream;
        let ping = self.pings.front().copied();
        let mut message = self.node.with_state(|state| {
            // Since the check in `next_message`, the node may have replaced the snapshot and
            // dropped this stream. A lease that is granted now would not be tracked.
            if !state.followers.is_current(node_id, id) {
                return Ok(None);
            }
            let revision = state.view.snapshot.revision();
            if sent < revision {
                let changes = state.change_buffer.and_then(|buffer| buffer.after(sent));
                return changes.map(ToFollower::Changes).map(Some).ok_or(SessionEnd::TooSlow);
            }
            let Some(seq) = ping else { return Ok(None) };
            let lease = state.view.lease.filter(|lease| lease.is_valid(state.now));
            // The follower must be counted before the grant is sent.
            if let Some(lease) = &lease {
                state.followers.record_lease_grant(node_id, id, lease, state.now);
            }
            let lease = lease.map(|lease| {
                let clock = &lease.database_clock;
                let latest = state.view.time_at(clock, state.now).latest;
                // The last event may be ahead of the clock. Then grants must not start by the time
                // since that event.
                let time = Now { earliest: clock.at(state.now).earliest, latest };
                lease.grant(revision, time, state.now)
            });
            Ok(Some(ToFollower::Pong(Pong { seq, path: Vec::new(), lease })))
        })?;
        match &mut message {
            Some(ToFollower::Changes(changes)) => {
                let sent = changes.last().map_or(sent, |last| last.revision);
                self.stage = Stage::Changes { stream, sent };
            }
            Some(ToFollower::Pong(Pong { path, .. })) => {
                *path = self.node.path();
                self.pings.pop_front();
            }
            _ => {}
        }
        Ok(message)
    }

    fn pong_without_lease(&mut self) -> Option<ToFollower> {
        let seq = self.pings.pop_front()?;
        Some(ToFollower::Pong(Pong { seq, path: self.node.path(), lease: None }))
    }

    /// Whether the node has dropped the change that the follower needs next.
    pub fn is_too_slow(&self) -> bool {
        let sent = match &self.stage {
            Stage::Snapshot { end, .. } => end.position.revision,
            Stage::Changes { sent, .. } => *sent,
            Stage::New | Stage::Greeting(_) | Stage::Waiting(..) | Stage::Closed => return false,
        };
        let has_next = |state: StateGuard<'_>| {
            state.change_buffer.is_some_and(|buffer| buffer.after(sent).is_some())
        };
        !self.node.with_state(has_next)
    }
}

/// A dropped session is closed.
impl Drop for FollowerSession {
    fn drop(&mut self) {
        self.close();
    }
}

/// Serves a follower until the stream ends, or the follower leaves or violates the protocol. The
/// identity of the caller is `credential`.
pub async fn serve<E>(
    node: Arc<CheckNode>,
    credential: Arc<str>,
    incoming: impl Stream<Item = Result<ToUpstream, E>>,
    outgoing: mpsc::Sender<ToFollower>,
) -> Result<(), SessionEnd> {
    let mut incoming = pin!(incoming);
    let mut progress = node.watch();
    let mut session = FollowerSession::new(node, credential);
    let mut next = None;
    loop {
        if next.is_none() {
            progress.mark_unchanged();
            next = session.next_message()?;
        }
        tokio::select! {
            biased;
            message = incoming.next() => match message {
                Some(Ok(message)) => session.receive(message)?,
                Some(Err(_)) | None => return Ok(()),
            },
            permit = outgoing.reserve(), if next.is_some() => match (permit, next.take()) {
                (Ok(permit), Some(message)) => permit.send(message),
                _ => return Ok(()),
            },
            () = progress.changed() => if session.is_too_slow() { return Err(SessionEnd::TooSlow) },
        }
        if session.is_closed() {
            return Ok(());
        }
    }
}
