//! Calls a server over HTTP/2, and reports latencies and the CPU time of the server.
//!
//! With `--rate`, calls are due at fixed times. A latency counts from when the call was due, even
//! if the call started late, so that a slow response delays no measurement unnoticed.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a benchmark fails by panicking, and prints what it finds"
)]

use std::{
    cell::{Cell, RefCell},
    fs, io, iter,
    rc::Rc,
    time::{Duration, Instant},
};

use clap::Parser;
use futures::future::join_all;
use serde_json::{Value, json};
use support_access::api::proto::v1::{Decision, DecisionReason};
use support_access_bench::{
    http2::{Completed, Connection, Head},
    messages::{Messages, Method, Question},
    socket::Target,
};
use tokio::task::yield_now;

/// Calls a server.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    question: Question,
    /// The number of connections.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// The largest number of concurrent calls on each connection.
    #[arg(long, default_value_t = 16)]
    streams: usize,
    /// The largest number of calls.
    #[arg(long, default_value_t = 100_000)]
    calls: usize,
    /// The longest duration, in seconds.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// The number of calls before the measurement.
    #[arg(long, default_value_t = 2_000)]
    warm_up: usize,
    /// Calls per second. Without it, each call starts when an earlier call of the connection ends.
    #[arg(long)]
    rate: Option<f64>,
    /// The process of the server, whose CPU time is measured.
    #[arg(long)]
    pid: Option<u32>,
    /// A bearer token for each call.
    #[arg(long)]
    token: Option<String>,
}

/// The calls that all connections make together.
#[derive(Debug)]
struct Load {
    messages: Rc<Messages>,
    is_check: bool,
    streams: usize,
    connections: usize,
    /// The number of the first call, and the number after the last.
    first: usize,
    end: usize,
    rate: Option<f64>,
    started: Instant,
    seconds: f64,
    next: Cell<usize>,
    results: RefCell<Results>,
}

#[derive(Debug, Default)]
struct Results {
    latencies: Vec<Duration>,
    failed: usize,
    allowed: usize,
    denied: usize,
    stale: usize,
}

// === impl Load ===

impl Load {
    fn new(
        args: &Args,
        messages: &Rc<Messages>,
        first: usize,
        calls: usize,
        rate: Option<f64>,
    ) -> Self {
        Self {
            messages: Rc::clone(messages),
            is_check: args.question.method == Method::Check,
            streams: args.streams,
            connections: args.connections,
            first,
            end: first + calls,
            rate,
            started: Instant::now(),
            seconds: args.seconds,
            next: Cell::new(first),
            results: RefCell::default(),
        }
    }

    /// Makes the calls on all connections.
    async fn run(&self, connections: &mut [Connection]) {
        let connections = connections.iter_mut().enumerate();
        let running = connections.map(async |(index, connection)| match self.rate {
            None => self.closed(connection).await,
            Some(rate) => self.open(connection, index, rate).await,
        });
        for result in join_all(running).await {
            result.expect("the connection stays open");
        }
    }

    fn is_over(&self) -> bool {
        self.started.elapsed().as_secs_f64() > self.seconds
    }

    /// Keeps as many calls open as allowed.
    async fn closed(&self, connection: &mut Connection) -> io::Result<()> {
        loop {
            while connection.open() < self.streams && self.next.get() < self.end {
                let number = self.next.get();
                if self.is_over() || !self.begin(connection, number, Instant::now()) {
                    break;
                }
                self.next.set(number + 1);
            }
            connection.flush().await?;
            if connection.open() == 0 {
                return Ok(());
            }
            connection.read().await?;
            connection.completed(|completed| self.record(completed))?;
        }
    }

    /// Starts each call of this connection when the call is due. Polls, because timers are late.
    async fn open(&self, connection: &mut Connection, index: usize, rate: f64) -> io::Result<()> {
        let due_at = |number: usize| {
            self.started + Duration::from_secs_f64((number - self.first) as f64 / rate)
        };
        let mut number = self.first + index;
        loop {
            let is_over = self.is_over() || number >= self.end;
            if is_over && connection.open() == 0 {
                return Ok(());
            }
            while !is_over && number < self.end && connection.open() < self.streams {
                let due = due_at(number);
                if due > Instant::now() || !self.begin(connection, number, due) {
                    break;
                }
                number += self.connections;
            }
            connection.flush().await?;
            if connection.read_ready().await? {
                connection.completed(|completed| self.record(completed))?;
            }
            yield_now().await;
        }
    }

    /// Begins a call, if the connection has room.
    fn begin(&self, connection: &mut Connection, number: usize, due: Instant) -> bool {
        self.messages.with(number, |message| {
            let has_room = connection.has_room(message);
            if has_room {
                connection.send(message, due);
            }
            has_room
        })
    }

    fn record(&self, Completed { due, message }: Completed) {
        let results = &mut *self.results.borrow_mut();
        results.latencies.push(due.elapsed());
        let Some(message) = message else {
            results.failed += 1;
            return;
        };
        // The first two fields of a response to a check: decision and reason.
        if self.is_check
            && let [0x08, decision, 0x10, reason, ..] = message[..]
        {
            let is_allowed = i32::from(decision) == i32::from(Decision::Allowed);
            results.allowed += usize::from(is_allowed);
            results.denied += usize::from(!is_allowed);
            results.stale += usize::from(i32::from(reason) == i32::from(DecisionReason::Stale));
        }
    }
}

// === impl Results ===

impl Results {
    fn into_json(mut self, elapsed: Duration, cpu: Option<u64>) -> Value {
        self.latencies.sort_unstable();
        let calls = self.latencies.len();
        assert!(calls > 0, "no call was made");
        let at = |share: f64| {
            let index = ((calls as f64 * share) as usize).min(calls - 1);
            self.latencies[index].as_secs_f64() * 1e6
        };
        json!({
            "calls": calls,
            "failed": self.failed,
            "allowed": self.allowed,
            "denied": self.denied,
            "stale": self.stale,
            "seconds": elapsed.as_secs_f64(),
            "calls_per_second": calls as f64 / elapsed.as_secs_f64(),
            "cpu_us": cpu.map(|cpu| cpu as f64 / 1e3 / calls as f64),
            "p50_us": at(0.5),
            "p90_us": at(0.9),
            "p99_us": at(0.99),
            "max_us": at(1.0),
        })
    }
}

/// The CPU time of a process, in nanoseconds.
fn cpu_time(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the server runs");
    let of_task = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|time| time.parse::<u64>().ok()).unwrap_or(0)
    };
    tasks.flatten().map(of_task).sum()
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args = Args::parse();
    let head = Head::new(args.question.method.path(), args.token.as_deref());
    let messages = Rc::new(Messages::new(args.question.clone()));
    let sockets = join_all(iter::repeat_with(|| args.target.connect()).take(args.connections));
    let mut connections: Vec<Connection> =
        sockets.await.into_iter().map(|socket| Connection::new(socket, head.clone())).collect();

    if args.warm_up > 0 {
        Load::new(&args, &messages, 0, args.warm_up, None).run(&mut connections).await;
    }
    let before = args.pid.map(cpu_time);
    let load = Load::new(&args, &messages, args.warm_up, args.calls, args.rate);
    load.run(&mut connections).await;
    let elapsed = load.started.elapsed();
    let cpu = args.pid.zip(before).map(|(pid, before)| cpu_time(pid) - before);
    println!("{}", load.results.into_inner().into_json(elapsed, cpu));
}
