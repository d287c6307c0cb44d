//! A load generator for checks over HTTP/2. Reports the CPU time of the server.

#![allow(
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a benchmark fails by panicking, and prints what it finds"
)]

use std::{
    cell::{Cell, RefCell},
    fs, iter,
    rc::Rc,
    time::{Duration, Instant},
};

use clap::Parser;
use futures::future::join_all;
use h2::client::{self, SendRequest};
use http::{Method, Request};
use prost::Message;
use serde_json::json;
use support_access::api::proto::v1 as pb;
use support_access_bench::{GRANTS_PER_TENANT, GROUPS, group, tenant};
use tokio::{
    net::{TcpStream, UnixStream},
    task::LocalSet,
    time::sleep_until,
};
use tokio_util::bytes::{BufMut, Bytes, BytesMut};

/// Sends checks to a server.
#[derive(Debug, Parser)]
struct Args {
    /// `unix:PATH`, or an address.
    #[arg(long)]
    target: String,
    /// The number of connections.
    #[arg(long, default_value_t = 8)]
    connections: usize,
    /// The number of concurrent calls on each connection.
    #[arg(long, default_value_t = 16)]
    streams: usize,
    /// The number of calls.
    #[arg(long, default_value_t = 100_000)]
    calls: usize,
    /// Calls per second. Without it, each call starts when the one before it has ended.
    #[arg(long)]
    rate: Option<u32>,
    /// The number of grants in the database.
    #[arg(long, default_value_t = 1_000_000)]
    grants: usize,
    /// The percentage of checks that are allowed.
    #[arg(long, default_value_t = 80)]
    allowed: usize,
    /// The number of checks in each call. Zero: `CheckAccess` instead of a batch.
    #[arg(long, default_value_t = 0)]
    batch: usize,
    /// The number of groups in each check.
    #[arg(long, default_value_t = 1)]
    groups: usize,
    /// The process of the server, whose CPU time is measured.
    #[arg(long)]
    pid: Option<u32>,
    /// A bearer token for each call.
    #[arg(long)]
    token: Option<String>,
}

/// The number of different messages.
const MESSAGES: usize = 4_096;

fn check(args: &Args, number: usize) -> pb::AccessCheck {
    let tenants = (args.grants / GRANTS_PER_TENANT).max(1);
    // Spreads the tenants, so that the processor's cache cannot hold all grants.
    let tenant = tenant(number.wrapping_mul(7_919) % tenants);
    let is_allowed = number % 100 < args.allowed;
    let last = if is_allowed { group(number % GROUPS) } else { "group-of-others".to_owned() };
    let others = (1..args.groups).map(|number| format!("without-grants-{number}"));
    pb::AccessCheck {
        tenant_id: tenant,
        agent_id: format!("agent-{}", number % 1_000),
        group_ids: others.chain(iter::once(last)).collect(),
        required_level: pb::AccessLevel::ReadOnly.into(),
        agent_kind: pb::AgentKind::Human.into(),
        on_behalf_of: String::new(),
    }
}

/// A message with its prefix.
fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_u8(0);
    bytes.put_u32(message.encoded_len().try_into().expect("messages are short"));
    message.encode(&mut bytes).expect("the buffer grows");
    bytes.freeze()
}

fn messages(args: &Args) -> Vec<Bytes> {
    let consistency_token = String::new;
    (0..MESSAGES)
        .map(|number| match args.batch {
            0 => framed(&pb::CheckAccessRequest {
                check: Some(check(args, number)),
                consistency_token: consistency_token(),
            }),
            size => framed(&pb::BatchCheckAccessRequest {
                checks: (0..size).map(|index| check(args, number * size + index)).collect(),
                consistency_token: consistency_token(),
            }),
        })
        .collect()
}

async fn connect(target: &str) -> SendRequest<Bytes> {
    let mut builder = client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    if let Some(path) = target.strip_prefix("unix:") {
        let io = UnixStream::connect(path).await.expect("the server listens");
        let (sender, connection) = builder.handshake(io).await.expect("the server speaks HTTP/2");
        tokio::task::spawn_local(connection);
        sender
    } else {
        let io = TcpStream::connect(target).await.expect("the server listens");
        io.set_nodelay(true).expect("the socket is open");
        let (sender, connection) = builder.handshake(io).await.expect("the server speaks HTTP/2");
        tokio::task::spawn_local(connection);
        sender
    }
}

fn head(args: &Args) -> Request<()> {
    let method = if args.batch == 0 { "CheckAccess" } else { "BatchCheckAccess" };
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://localhost/supportaccess.v1.SupportAccess/{method}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("user-agent", "support-access-bench");
    if let Some(token) = &args.token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(()).expect("the head is valid")
}

/// Makes one call. Returns whether the status is 0.
async fn call(sender: &SendRequest<Bytes>, head: &Request<()>, message: Bytes) -> bool {
    let mut sender = sender.clone().ready().await.expect("the connection is open");
    let mut request = Request::new(());
    *request.method_mut() = head.method().clone();
    *request.uri_mut() = head.uri().clone();
    *request.headers_mut() = head.headers().clone();
    let (response, mut stream) = sender.send_request(request, false).expect("the head is valid");
    stream.send_data(message, true).expect("the stream is open");
    let response = response.await.expect("the server answers");
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        let data = data.expect("the server answers");
        body.flow_control().release_capacity(data.len()).expect("the stream is open");
    }
    let trailers = body.trailers().await.expect("the server answers");
    trailers.is_some_and(|trailers| trailers.get("grpc-status").is_some_and(|code| code == "0"))
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
    let args = Rc::new(Args::parse());
    LocalSet::new().run_until(run(args)).await;
}

async fn run(args: Rc<Args>) {
    let messages = Rc::new(messages(&args));
    let head = Rc::new(head(&args));
    let senders = join_all((0..args.connections).map(|_| connect(&args.target))).await;
    // Each connection is authenticated before the measurement.
    for sender in &senders {
        assert!(call(sender, &head, messages[0].clone()).await, "a call has failed");
    }
    let (next, failed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let latencies = Rc::new(RefCell::new(Vec::with_capacity(args.calls)));
    let cpu_before = args.pid.map(cpu_time);
    let started = Instant::now();
    let lanes = (0..args.connections * args.streams).map(|lane| {
        let sender = senders[lane % args.connections].clone();
        let (args, messages, head) = (Rc::clone(&args), Rc::clone(&messages), Rc::clone(&head));
        let (next, failed, latencies) =
            (Rc::clone(&next), Rc::clone(&failed), Rc::clone(&latencies));
        tokio::task::spawn_local(async move {
            loop {
                let number = next.get();
                if number == args.calls {
                    return;
                }
                next.set(number + 1);
                // The latency counts from when the call is due, even if it starts late.
                let due = match args.rate {
                    None => Instant::now(),
                    Some(rate) => {
                        let due =
                            started + Duration::from_secs_f64(number as f64 / f64::from(rate));
                        sleep_until(due.into()).await;
                        due
                    }
                };
                if !call(&sender, &head, messages[number % MESSAGES].clone()).await {
                    failed.set(failed.get() + 1);
                }
                latencies.borrow_mut().push(due.elapsed());
            }
        })
    });
    for lane in join_all(lanes).await {
        lane.expect("no lane panics");
    }
    let elapsed = started.elapsed();
    let cpu = args.pid.zip(cpu_before).map(|(pid, before)| cpu_time(pid) - before);
    let mut latencies = latencies.take();
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = (latencies.len() as f64 * share) as usize;
        latencies[index.min(latencies.len() - 1)].as_secs_f64() * 1e6
    };
    println!(
        "{}",
        json!({
            "calls": args.calls,
            "failed": failed.get(),
            "seconds": elapsed.as_secs_f64(),
            "calls_per_second": args.calls as f64 / elapsed.as_secs_f64(),
            "cpu_us_per_call": cpu.map(|cpu| cpu as f64 / 1e3 / args.calls as f64),
            "p50_us": at(0.5),
            "p90_us": at(0.9),
            "p99_us": at(0.99),
        })
    );
    poll_fn(|_| std::task::Poll::Ready(())).await;
}
