//! Sidecars with an unusable upstream, and invalid settings.

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use support_access::api::proto::replication::v1::{
    FollowRequest, FollowResponse,
    follow_response::{Message, Welcome},
    replication_server::{Replication, ReplicationServer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status, Streaming, async_trait,
    transport::{Endpoint, server::Router},
};
use tonic_health::server::health_reporter;

use crate::nodes::{
    fleet::Fleet,
    proxy::{Proxy, Target},
    server::{Launch, Outcome, Server, eventually, is_serving},
};

/// A sidecar that prints only the error with which the process exits.
fn sidecar(upstreams: &[&str]) -> Launch {
    Launch::sidecar(upstreams).flags(&["--log", "off"])
}

async fn rejection(upstream: &str) -> String {
    let launch = sidecar(&[upstream]);
    let Outcome { code, stderr } = tokio::task::spawn_blocking(|| launch.outcome()).await.unwrap();
    assert_eq!(code, Some(1), "{stderr}");
    error_message(&stderr)
}

/// Returns the error message, which must be the only line on stderr.
fn error_message(stderr: &str) -> String {
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.strip_prefix("error: cannot follow an upstream: ").expect(stderr).to_owned()
}

/// Serves until the test ends, and returns the URL.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    url
}

/// Accepts connections, sends `bytes` on each and closes it. Returns the URL.
async fn serve_bytes(bytes: &'static str) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut received = [0; 1_024];
            let _ = stream.read(&mut received).await;
            let _ = stream.write_all(bytes.as_bytes()).await;
        }
    });
    url
}

fn no_server(url: &str) -> String {
    format!("{url} is not a support-access server that can be followed; correct the upstream")
}

#[tokio::test(flavor = "multi_thread")]
async fn http_upstreams_are_rejected() {
    let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let replica = Server::start("memory:");
    for url in [serve_bytes(answer).await, format!("http://{}", replica.http)] {
        assert_eq!(rejection(&url).await, no_server(&url));
    }
}

/// A load balancer without back-ends behaves like this. The sidecar retries and logs a warning.
#[tokio::test(flavor = "multi_thread")]
async fn upstreams_that_close_connections_are_retried() {
    let sidecar = Launch::sidecar(&[&serve_bytes("").await]).start();
    sidecar.wait_for_log("cannot follow, trying the next");
    sidecar.wait_for_log("cannot follow, trying the next");
    assert!(!is_serving(&sidecar.connect().await).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_grpc_upstreams_are_rejected() {
    let (_reporter, health) = health_reporter();
    let url = serve(tonic::transport::Server::builder().add_service(health)).await;
    assert_eq!(rejection(&url).await, no_server(&url));
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_with_another_wire_protocol_are_rejected() {
    let url = serve_bytes("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n").await;
    assert_eq!(rejection(&url).await, no_server(&url));
}

/// A node with another protocol version.
struct OtherVersion;

#[async_trait]
impl Replication for OtherVersion {
    type FollowStream = BoxStream<'static, Result<FollowResponse, Status>>;

    async fn follow(
        &self,
        _: Request<Streaming<FollowRequest>>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        let node_id = vec![7; 16];
        let welcome = Welcome { protocol_version: 2, node_id, version: "9.9.9".into() };
        let welcome = FollowResponse { message: Some(Message::Welcome(welcome)) };
        Ok(Response::new(stream::iter([Ok(welcome)]).chain(stream::pending()).boxed()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_with_another_protocol_version_are_rejected() {
    let service = ReplicationServer::new(OtherVersion);
    let url = serve(tonic::transport::Server::builder().add_service(service)).await;
    let error = rejection(&url).await;
    assert!(error.starts_with(&url), "{error}");
    assert!(error.contains("version 2 of the protocol"), "{error}");
    assert!(error.contains("upgrade the older of the two"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_does_not_follow_itself() {
    let fleet = Fleet::new();
    let socket = fleet.socket("own");
    let launch = sidecar(&[&format!("unix:{}", socket.display())]).on_socket(&socket);
    let Outcome { code, stderr } = tokio::task::spawn_blocking(|| launch.outcome()).await.unwrap();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(error_message(&stderr).contains("must not follow itself"), "{stderr}");

    // The sidecar's own address, hidden behind a proxy.
    let proxy = Proxy::start(Target::Unix("/nowhere".into())).await;
    let mut server = Launch::sidecar(&[&proxy.url()]).start();
    proxy.set_target(Target::Tcp(server.address()));
    let Outcome { code, stderr } = server.wait_for_end();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("must not follow itself"), "{stderr}");
}

/// Starts a ring of sidecars. The first sidecar that detects the ring exits, which breaks the ring.
/// The others then have no upstream.
#[tokio::main]
async fn ring(length: usize) {
    let fleet = Fleet::new();
    let socket = |number: usize| fleet.socket(&(number % length).to_string());
    let launches = (0..length).map(|number| {
        let upstream = format!("unix:{}", socket(number + 1).display());
        Launch::sidecar(&[&upstream]).on_socket(&socket(number)).named(format!("sidecar {number}"))
    });
    let mut servers = Launch::start_all(launches);
    eventually("a sidecar has exited", async || {
        servers.iter_mut().any(|server| !server.is_running())
    })
    .await;
    let mut rejections = 0;
    for server in &mut servers {
        if server.is_running() {
            // The server may exit at any moment.
            let endpoint = Endpoint::from_shared(server.url().to_owned()).unwrap();
            assert!(!is_serving(&endpoint.connect_lazy()).await);
        } else {
            let Outcome { code, stderr } = server.wait_for_end();
            let error = stderr.lines().last().unwrap();
            assert_eq!(code, Some(1), "{stderr}");
            assert!(error.starts_with("error: cannot follow an upstream: unix:"), "{error}");
            assert!(error.contains("the upstream follows this node"), "{error}");
            rejections += 1;
        }
    }
    println!("{rejections} of {length} exited");
}

#[test]
fn a_ring_of_two_is_rejected() {
    ring(2);
}

#[test]
fn a_ring_of_three_is_rejected() {
    ring(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn unavailable_upstreams_are_skipped() {
    let replica = Server::start("memory:");
    let dead = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let silent = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let dead_url = format!("http://{dead}");
    Launch::sidecar(&[&dead_url, &silent_url, replica.url()]).start().serving().await;
    // A sidecar without an upstream waits until one becomes available.
    let proxy = Proxy::start(Target::Unix("/nowhere".into())).await;
    let early = Launch::sidecar(&[&proxy.url()]).start();
    assert!(!is_serving(&early.connect().await).await);
    proxy.set_target(Target::Tcp(replica.address()));
    early.serving().await;
}

#[test]
fn usage_errors_are_one_line() {
    let serve = |flags: &[&str]| Launch::replica("memory:").flags(flags).outcome();
    let cases = [
        (serve(&["--max-staleness", "100ms"]), "from 200ms to 5m"),
        (serve(&["--max-staleness", "6m"]), "from 200ms to 5m"),
        (Launch::sidecar(&[]).outcome(), "--upstream must be given"),
        (sidecar(&[""]).outcome(), "--upstream must be like https://"),
        (sidecar(&["ftp://replica"]).outcome(), "--upstream must be like https://"),
        (sidecar(&["replica:50051"]).outcome(), "--upstream must be like https://"),
        (sidecar(&["http://ada:secret@replica:50051"]).outcome(), "credentials"),
        (sidecar(&["http://replica:50051/path"]).outcome(), "is not a URL"),
    ];
    for (Outcome { code, stderr }, expected) in cases {
        assert_eq!(code, Some(64), "{expected}: {stderr}");
        assert!(stderr.contains(expected), "{stderr}");
        assert!(!stderr.contains("secret"), "{stderr}");
        assert_eq!(
            stderr.lines().filter(|line| line.starts_with("error: ")).count(),
            1,
            "{stderr}"
        );
    }
}
