//! Sidecars that are pointed at the wrong thing, and settings that cannot be right.

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

use crate::{
    fleet::Fleet,
    proxy::{Proxy, Target},
    server::{Launch, Outcome, Server, eventually, is_serving},
};

/// A sidecar that says nothing but why it ends.
fn sidecar(upstreams: &[&str]) -> Launch {
    Launch::sidecar(upstreams).flags(&["--log", "off"])
}

async fn refused(upstream: &str) -> String {
    let launch = sidecar(&[upstream]);
    let Outcome { code, stderr } = tokio::task::spawn_blocking(|| launch.outcome()).await.unwrap();
    assert_eq!(code, Some(1), "{stderr}");
    one_sentence(&stderr)
}

/// What it said, if that is one line for people.
fn one_sentence(stderr: &str) -> String {
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    stderr.strip_prefix("error: cannot follow an upstream: ").expect(stderr).to_owned()
}

/// Serves until the test ends, and says where.
async fn serve(router: Router) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    url
}

/// Says the same to everybody, and listens to nobody for long.
async fn say(what: &'static str) -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut heard = [0; 1_024];
            let _ = stream.read(&mut heard).await;
            let _ = stream.write_all(what.as_bytes()).await;
        }
    });
    url
}

fn no_server(url: &str) -> String {
    format!(
        "{url} is not a support-access server, or not one that can be followed: correct the upstream"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_speaks_http_is_refused() {
    let answer = "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let replica = Server::start("memory:");
    for url in [say(answer).await, format!("http://{}", replica.http)] {
        assert_eq!(refused(&url).await, no_server(&url));
    }
}

/// As a balancer does that has no servers yet: no reason to give up, but to complain.
#[tokio::test(flavor = "multi_thread")]
async fn what_says_nothing_is_tried_again() {
    let sidecar = Launch::sidecar(&[&say("").await]).start();
    sidecar.says("cannot follow, trying the next");
    sidecar.says("cannot follow, trying the next");
    assert!(!is_serving(&sidecar.connect().await).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_speaks_grpc_but_not_ours_is_refused() {
    let (_reporter, health) = health_reporter();
    let url = serve(tonic::transport::Server::builder().add_service(health)).await;
    assert_eq!(refused(&url).await, no_server(&url));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_speaks_something_else_is_refused() {
    let url = say("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n").await;
    assert_eq!(refused(&url).await, no_server(&url));
}

/// A node of another version, which says so.
struct Stranger;

#[async_trait]
impl Replication for Stranger {
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
async fn another_version_of_the_protocol_is_refused() {
    let service = ReplicationServer::new(Stranger);
    let url = serve(tonic::transport::Server::builder().add_service(service)).await;
    let said = refused(&url).await;
    assert!(said.starts_with(&url), "{said}");
    assert!(said.contains("version 2 of the protocol"), "{said}");
    assert!(said.contains("upgrade the older of the two"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_does_not_follow_itself() {
    let fleet = Fleet::new();
    let socket = fleet.socket("own");
    let launch = sidecar(&[&format!("unix:{}", socket.display())]).on_socket(&socket);
    let Outcome { code, stderr } = tokio::task::spawn_blocking(|| launch.outcome()).await.unwrap();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(one_sentence(&stderr).contains("must not follow itself"), "{stderr}");

    // By a way that does not show it.
    let proxy = Proxy::start(Target::Unix("/nowhere".into())).await;
    let mut server = Launch::sidecar(&[&proxy.url()]).start();
    proxy.lead_to(Target::Tcp(server.address()));
    let Outcome { code, stderr } = server.ended();
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("must not follow itself"), "{stderr}");
}

/// Whoever notices first ends, which breaks the ring; the others have nobody to follow then.
#[tokio::main]
async fn ring(length: usize) {
    let fleet = Fleet::new();
    let socket = |number: usize| fleet.socket(&(number % length).to_string());
    let launches = (0..length).map(|number| {
        let upstream = format!("unix:{}", socket(number + 1).display());
        Launch::sidecar(&[&upstream]).on_socket(&socket(number)).named(format!("sidecar {number}"))
    });
    let mut servers = Launch::start_all(launches);
    eventually("one has ended", async || servers.iter_mut().any(|server| !server.is_running()))
        .await;
    let mut refusals = 0;
    for server in &mut servers {
        if server.is_running() {
            // Though it may end at any moment.
            let endpoint = Endpoint::from_shared(server.url().to_owned()).unwrap();
            assert!(!is_serving(&endpoint.connect_lazy()).await);
        } else {
            let Outcome { code, stderr } = server.ended();
            let said = stderr.lines().last().unwrap();
            assert_eq!(code, Some(1), "{stderr}");
            assert!(said.starts_with("error: cannot follow an upstream: unix:"), "{said}");
            assert!(said.contains("it follows this very node"), "{said}");
            refusals += 1;
        }
    }
    println!("{refusals} of {length} have refused");
}

#[test]
fn a_ring_of_two_is_refused() {
    ring(2);
}

#[test]
fn a_ring_of_three_is_refused() {
    ring(3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_upstream_is_no_obstacle() {
    let replica = Server::start("memory:");
    let dead = TcpListener::bind(("127.0.0.1", 0)).await.unwrap().local_addr().unwrap();
    let mute = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mute_url = format!("http://{}", mute.local_addr().unwrap());
    let dead_url = format!("http://{dead}");
    Launch::sidecar(&[&dead_url, &mute_url, replica.url()]).start().serving().await;
    // And waits for one that comes later.
    let proxy = Proxy::start(Target::Unix("/nowhere".into())).await;
    let early = Launch::sidecar(&[&proxy.url()]).start();
    assert!(!is_serving(&early.connect().await).await);
    proxy.lead_to(Target::Tcp(replica.address()));
    early.serving().await;
}

#[test]
fn wrong_usage_is_said_in_a_sentence() {
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
