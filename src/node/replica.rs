//! A replica: follows the log in the database, proves that it does, and acknowledges.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    domain::{Event, Position, Revision},
    node::{
        CheckNode, Snapshot,
        enforcer::Enforcer,
        failure_log::{FailureLogger, READ_TIMEOUT, READ_TIMEOUT_MAX, chain, with_timeout},
        lease::EARLY_RENEWAL_PAUSE,
        message::{Change, LeaseGrant},
    },
    store::{HeartbeatResponse, Loaded, Notification, Registration, Store, StoreError},
};

mod acknowledging;

use acknowledging::LastAck;

/// How many events are read at a time, and at least, where the database does not answer in time.
const BATCH: usize = 1_000;
const BATCH_MIN: usize = 16;
/// A lease is renewed so many times in the length of a lease. What it finds out of the log serves as the poll.
const RENEWALS: u32 = 8;
/// The least time that a database is given to answer a renewal.
const HEARTBEAT_TIMEOUT_MIN: Duration = Duration::from_millis(150);
/// How long to wait before listening anew, and before reading anew.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Keeps a node up with the log of a store.
#[derive(Debug)]
pub struct Replica {
    node: Arc<CheckNode>,
    store: Arc<dyn Store>,
    enforcer: Arc<Enforcer>,
    member: Registration,
    /// There may be something new in the log.
    log: Notify,
    /// The last renewal that was answered, and the head that it told of.
    answers: Mutex<(i64, Revision)>,
    last_ack: Mutex<LastAck>,
}

impl Replica {
    /// A replica at `node`, which may answer from one lease for `max_staleness`.
    pub fn new(node: Arc<CheckNode>, store: Arc<dyn Store>, max_staleness: Duration) -> Arc<Self> {
        let enforcer = Enforcer::new(Arc::clone(&node), Arc::clone(&store));
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let member =
            Registration { node_id: node.id(), version, max_staleness, first_heartbeat: 0 };
        Arc::new(Self {
            node,
            store,
            enforcer,
            member,
            log: Notify::new(),
            answers: Mutex::default(),
            last_ack: Mutex::default(),
        })
    }

    /// Where it talks to the database.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// What checks are answered from.
    pub fn node(&self) -> &Arc<CheckNode> {
        &self.node
    }

    /// What finds out when changes are in force everywhere.
    pub fn enforcer(&self) -> &Arc<Enforcer> {
        &self.enforcer
    }

    /// Joins the roll, loads what the store holds, and proves that it is current: then checks can be answered.
    pub async fn join(&self) -> Result<(), StoreError> {
        // While it loads, nobody need wait for this node.
        self.load().await?;
        self.register().await?;
        self.renew_lease().await
    }

    /// The log has grown, or may have.
    pub fn wake(&self) {
        self.log.notify_one();
    }

    /// Goes on until stopped. Then leaves the roll, if nobody can answer from what this node has lease_grant for.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let work = async {
            tokio::join!(
                self.follow(),
                self.prove(),
                self.listen(),
                self.acknowledge(),
                self.report()
            );
        };
        stop.run_until_cancelled(work).await;
        if self.node.step_down()
            && let Err(error) = self.leave().await
        {
            debug!(error = %chain(&error), "cannot leave the roll, others will see that this node is silent");
        }
    }

    // === the log ===

    async fn follow(&self) {
        let mut trouble = FailureLogger::new("follow the log");
        loop {
            self.log.notified().await;
            let (mut batch, mut patience) = (BATCH, READ_TIMEOUT);
            while let Err(error) = trouble.note(self.catch_up(batch, patience).await) {
                drop(error);
                // It may be slow.
                batch = (batch / 4).max(BATCH_MIN);
                patience = (patience * 2).min(READ_TIMEOUT_MAX);
                sleep(RETRY_INTERVAL).await;
            }
        }
    }

    /// Applies everything that the node does not have yet.
    async fn catch_up(&self, batch: usize, patience: Duration) -> Result<(), StoreError> {
        loop {
            let Some(held) = self.node.held() else { return self.load().await };
            if self.node.is_invalidated() {
                return self.load().await;
            }
            // With the last one that is held: what does not begin with it is another history.
            let before = (held.revision - 1).max(0);
            let answers = self.answers.lock().0;
            let events = with_timeout(patience, self.store.events_after(before, batch)).await?;
            let (known, new) = events.split_at(usize::from(held.revision > 0).min(events.len()));
            let is_same =
                held.revision == 0 || known.first().is_some_and(|event| is_at(event, &held));
            if !is_same {
                warn!(
                    held = held.revision,
                    "the log is not the one that this node holds, loading it anew"
                );
                self.node.invalidate();
                return self.load().await;
            }
            let Some(last) = new.last() else { return Ok(()) };
            let (answered, told) = *self.answers.lock();
            if answered != answers && told < last.revision {
                // They may have been lost since, for all that is known of the log as it was when a lease was given.
                continue;
            }
            self.apply(new).await?;
        }
    }

    async fn apply(&self, events: &[Event]) -> Result<(), StoreError> {
        let changes: Vec<_> = events.iter().map(|event| Arc::new(Change::from(event))).collect();
        if let Err(gap) = self.node.apply(&changes) {
            warn!(%gap, "loading the log anew");
            return self.load().await;
        }
        Ok(())
    }

    async fn load(&self) -> Result<(), StoreError> {
        let mut loaded = Snapshot::default();
        let mut visit = |tenant_id, terms, held| loaded.insert(&tenant_id, terms, held);
        let Loaded { position, locks } = self.store.load(&mut visit).await?;
        for terms in locks {
            loaded.insert_lock(terms);
        }
        loaded.set_position(position);
        self.node.replace_snapshot(loaded);
        self.last_ack.lock().forget();
        Ok(())
    }

    // === leases ===

    async fn prove(&self) {
        let interval = self.member.max_staleness / RENEWALS;
        let mut trouble = FailureLogger::new("prove that this node is current");
        loop {
            // If the answer does not come soon, the connection may be dead: there is time to try another.
            let patience = (self.member.max_staleness / 3).max(HEARTBEAT_TIMEOUT_MIN);
            let renewed = timeout(patience, self.renew_lease()).await;
            let renewed = renewed.unwrap_or_else(|late| Err(StoreError::Unavailable(late.into())));
            let _ = trouble.note(renewed);
            sleep(EARLY_RENEWAL_PAUSE.min(interval)).await;
            let _ =
                timeout(interval.saturating_sub(EARLY_RENEWAL_PAUSE), self.node.lease_requested())
                    .await;
        }
    }

    /// Asks the database for a lease.
    pub async fn renew_lease(&self) -> Result<(), StoreError> {
        let question = self.question();
        let (node_id, seq) = (self.member.node_id, self.next_heartbeat());
        let renewal = self.store.heartbeat(node_id, seq, question.held).await?;
        let Some(renewal) = renewal else {
            info!("this node was struck off the roll of check nodes, and registers anew");
            return self.register().await;
        };
        *self.answers.lock() = (question.seq, renewal.head.revision);
        // What is held beyond the head may be new, or have been lost before the lease was given.
        let is_beyond = renewal.is_held && self.node.revision() > renewal.head.revision;
        if is_beyond && !self.still_holds(question).await? {
            return Ok(());
        }
        self.take(question, renewal);
        Ok(())
    }

    /// Whether all that the node holds is in the log now. What is read later is held against the lease when it comes.
    async fn still_holds(&self, question: Question) -> Result<bool, StoreError> {
        let Some(held) = self.node.held() else { return Ok(false) };
        let events =
            with_timeout(READ_TIMEOUT, self.store.events_after(held.revision - 1, 1)).await?;
        if question.generation != self.node.generation() {
            return Ok(false);
        }
        let is_held = events.first().is_some_and(|event| is_at(event, &held));
        if !is_held {
            warn!("what this node holds is not in the database's log");
            self.node.invalidate();
            self.log.notify_one();
        }
        Ok(is_held)
    }

    fn question(&self) -> Question {
        let (generation, held) = (self.node.generation(), self.node.held());
        Question { seq: self.node.start_renewal(), generation, held }
    }

    /// What the database has answered.
    fn take(&self, question: Question, renewal: HeartbeatResponse) {
        let Question { seq, generation, held } = question;
        let HeartbeatResponse { head, is_held, now } = renewal;
        // What has been loaded meanwhile is not what it speaks of.
        let is_meant = held.is_some() && generation == self.node.generation();
        if is_meant && !is_held && !self.node.is_invalidated() {
            warn!("what this node holds is not in the database's log");
            self.node.invalidate();
        } else if is_held {
            let lease_grant = LeaseGrant {
                revision: head.revision,
                age: Duration::ZERO,
                max_staleness: self.member.max_staleness,
                now: now.into(),
            };
            self.node.record_response(seq, lease_grant, Some(head));
        }
        if self.node.is_invalidated() || self.node.revision() < head.revision {
            self.log.notify_one();
        }
    }

    // === hints ===

    async fn listen(&self) {
        let mut trouble = FailureLogger::new("listen to the database");
        loop {
            let _ = trouble.note(self.listen_once().await);
            // An acknowledgement may be lost when the database dies.
            self.last_ack.lock().forget();
            sleep(RETRY_INTERVAL).await;
        }
    }

    async fn listen_once(&self) -> Result<(), StoreError> {
        let mut hints = self.store.listen().await?;
        // What was said before is lost.
        self.log.notify_one();
        self.enforcer.wake();
        loop {
            match hints.next().await? {
                Notification::Log => self.log.notify_one(),
                Notification::Membership => self.enforcer.wake(),
            }
        }
    }

    // === the roll ===

    /// Puts the node in the roll. Its row then says that it has acknowledged nothing.
    async fn register(&self) -> Result<(), StoreError> {
        // Before it is asked: the row may be written though no answer comes.
        self.last_ack.lock().forget();
        let member = Registration { first_heartbeat: self.next_heartbeat(), ..self.member.clone() };
        self.store.register(&member).await?;
        self.node.request_lease();
        Ok(())
    }

    /// The number of the next heartbeat. It is never used twice, not even after the database was restored to an earlier state,
    /// so replicas that watch the row always see it change. Boot time advances much faster than heartbeats are sent.
    fn next_heartbeat(&self) -> i64 {
        self.node.boot_time().0
    }

    /// So that nobody need wait for this node any more. It answers no checks from now on, nor does anybody whom it fed.
    async fn leave(&self) -> Result<(), StoreError> {
        loop {
            let roll = self.store.membership().await?;
            let own = roll.members.iter().find(|member| member.node_id == self.member.node_id);
            let Some(own) = own else { return Ok(()) };
            if self.store.evict(own.node_id, own.seq).await? {
                return Ok(());
            }
            // A renewal that was under way when this node was stopped has moved the row.
        }
    }
}

fn is_at(event: &Event, position: &Position) -> bool {
    event.revision == position.revision && Some(event.time) == position.time
}

/// What the database is asked, by a node that holds this.
#[derive(Debug, Clone, Copy)]
struct Question {
    seq: i64,
    generation: u64,
    held: Option<Position>,
}
