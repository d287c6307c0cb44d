//! The database's costs: the memory store behind a model of one PostgreSQL. A statement takes a processor for a fixed time, and a
//! fixed time for each row; what must be durable waits for the next flush of the log, which all who wait share; what notifies
//! does so one after the other, a durable one until it has been flushed, as PostgreSQL's lock on the queue of notifications has it;
//! and each listener's process takes a processor for each notification.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::TaskTracker;

use crate::{
    domain::Clock,
    simulation::scale::meter::{Kind, Meter},
    store::{Hint, memory::MemoryStore},
};

/// What a PostgreSQL spends. Processor times are what `cargo bench --bench database` has found.
pub(super) const CORES: usize = 16;
/// A flush of the log, as on a good disk, without synchronous replication.
pub(super) const FLUSH: Duration = Duration::from_millis(1);
const HINT: Duration = Duration::from_micros(13);
const ROLL_ROW: Duration = Duration::from_nanos(1_650);

/// The processor time of a statement of this kind, without its rows.
const fn cost(kind: Kind) -> Duration {
    Duration::from_micros(match kind {
        Kind::Renewal | Kind::Strike => 180,
        Kind::Acknowledgement | Kind::Other => 80,
        Kind::LogRead => 30,
        Kind::Change | Kind::RollRead => 65,
        Kind::Report => 310,
        // Counted by itself.
        Kind::Hint => 0,
    })
}

/// How a statement ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing was written.
    Read,
    /// What was written is flushed.
    Kept,
    /// It notifies, and nobody waits for the flush.
    Told,
    /// It notifies when it has been flushed.
    KeptAndTold,
}

#[derive(Debug)]
pub(super) struct Database {
    pub(super) store: MemoryStore,
    pub(super) meter: Arc<Meter>,
    pub(super) tasks: TaskTracker,
    /// Held by the one change that is being made, or registration.
    pub(super) head: Arc<tokio::sync::Mutex<()>>,
    books: Mutex<Books>,
    listeners: Mutex<Vec<mpsc::UnboundedSender<(Instant, Hint)>>>,
}

#[derive(Debug)]
struct Books {
    /// When each processor is free.
    cores: Vec<Instant>,
    /// The last flush that was begun, or will be.
    flush: (Instant, Instant),
    /// When the queue of notifications is free.
    queue: Instant,
    /// How many rows the roll has.
    members: usize,
    /// Whether all is well and away from home: before, nothing takes time.
    is_measured: bool,
}

impl Database {
    pub(super) fn new(clock: Arc<dyn Clock>, meter: Arc<Meter>) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            store: MemoryStore::new(clock),
            meter,
            tasks: TaskTracker::new(),
            head: Arc::default(),
            books: Mutex::new(Books {
                cores: vec![now; CORES],
                flush: (now, now),
                queue: now,
                members: 0,
                is_measured: false,
            }),
            listeners: Mutex::default(),
        })
    }

    /// From now on, everything takes its time.
    pub(super) fn begin(&self) {
        self.books.lock().is_measured = true;
    }

    pub(super) fn is_measured(&self) -> bool {
        self.books.lock().is_measured
    }

    /// How many rows the roll had when it was last read.
    pub(super) fn note_members(&self, members: usize) {
        self.books.lock().members = members;
    }

    /// Has a statement done that arrives at `arrives`: says when.
    pub(super) fn serve(&self, kind: Kind, end: End, arrives: Instant) -> Instant {
        let mut books = self.books.lock();
        let rows = if kind == Kind::RollRead { books.members } else { 1 };
        let rows_busy = ROLL_ROW * u32::try_from(rows).unwrap_or(u32::MAX);
        let busy = cost(kind) + if kind == Kind::RollRead { rows_busy } else { Duration::ZERO };
        let done = if books.is_measured { books.serve(busy, end, arrives) } else { arrives };
        let waited = done.duration_since(arrives);
        drop(books);
        self.meter.count(|figures| {
            figures.statements.entry(kind).or_default().add(rows, busy);
            figures.queue_max = figures.queue_max.max(waited);
        });
        done
    }

    pub(super) fn listen(&self) -> mpsc::UnboundedReceiver<(Instant, Hint)> {
        let (listener, hints) = mpsc::unbounded_channel();
        self.listeners.lock().push(listener);
        hints
    }

    /// Tells everybody, which takes a processor for each.
    pub(super) fn tell(&self, hint: Hint) {
        let mut books = self.books.lock();
        let now = Instant::now();
        let cost = if books.is_measured { HINT } else { Duration::ZERO };
        let mut number = 0;
        self.listeners.lock().retain(|listener| {
            let core = number % CORES;
            number += 1;
            books.cores[core] = books.cores[core].max(now) + cost;
            listener.send((books.cores[core], hint)).is_ok()
        });
        drop(books);
        self.meter.count(|figures| {
            let sum = figures.statements.entry(Kind::Hint).or_default();
            sum.count += number as u64;
            sum.busy += HINT * u32::try_from(number).unwrap_or(u32::MAX);
        });
    }
}

impl Books {
    fn serve(&mut self, busy: Duration, end: End, arrives: Instant) -> Instant {
        let Some(core) = self.cores.iter_mut().min() else { return arrives };
        let ready = (*core).max(arrives) + busy;
        *core = ready;
        match end {
            End::Read => ready,
            End::Kept => self.flushed(ready),
            End::Told => {
                self.queue = self.queue.max(ready);
                self.queue
            }
            End::KeptAndTold => {
                let turn = self.queue.max(ready);
                self.queue = self.flushed(turn);
                self.queue
            }
        }
    }

    /// When what is ready now has been flushed.
    fn flushed(&mut self, ready: Instant) -> Instant {
        let (begins, ends) = self.flush;
        if ready > begins {
            // Too late for that one.
            let begins = ready.max(ends);
            self.flush = (begins, begins + FLUSH);
        }
        self.flush.1
    }
}
