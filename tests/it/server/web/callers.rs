//! Callers at the web listener are those of gRPC: authentication, roles, limits and shutdown.

use std::{fs, sync::Arc};

use support_access::api::proto::v1::ListGrantsRequest;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use super::*;
use crate::server::{
    harness::{admin, eventually, rpcs},
    identity::{GATEWAY, World, auth, issuer::Issuer},
};

/// A server that accepts tokens of the issuer.
async fn authenticating() -> (Running, Issuer, TempDir) {
    let (dir, issuer) = (TempDir::new().unwrap(), Issuer::new());
    let file = dir.path().join("jwks.json");
    fs::write(&file, issuer.jwks()).unwrap();
    let auth = auth(&file.display().to_string(), "");
    let (running, _) = serving_with(Common { auth, ..common() }).await;
    (running, issuer, dir)
}

fn bearing(mut request: Request<Full<Bytes>>, token: &str) -> Request<Full<Bytes>> {
    let value = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert("authorization", value);
    request
}

#[tokio::test]
async fn calls_need_credentials_and_roles() {
    let (running, issuer, _dir) = authenticating().await;
    let get =
        |path: &str| Request::get(path).header("host", "a").body(Full::new(Bytes::new())).unwrap();
    for request in [post_json(CHECK, &check()), post_json(EXPORT, &json!({})), get("/openapi.json")]
    {
        let path = request.uri().path().to_owned();
        let reply = send(&running, request).await;
        let expected = (401, "unauthenticated".into(), "CREDENTIALS_MISSING".into());
        assert_eq!(reply.error(), expected, "{path}");
        assert_eq!(reply.headers["www-authenticate"], "Bearer", "{path}");
        // A rejection is within the memory that `server/memory.rs` reserves.
        assert!(reply.body.len() < 1_024, "{}", reply.body.len());
    }
    let reply = send(&running, bearing(post_json(CHECK, &check()), "nonsense")).await;
    assert_eq!(reply.error(), (401, "unauthenticated".into(), "TOKEN_REJECTED".into()));
    let gateway = issuer.token("gateway", "vendor-gateway", &[]);
    let reply = send(&running, bearing(post_json(CHECK, &check()), &gateway)).await;
    assert_eq!((reply.status, &reply.json()["decision"]), (200, &"DECISION_DENIED".into()));
    let reply = send(&running, bearing(post_json(GRANT, &grant()), &gateway)).await;
    assert_eq!(reply.error(), (403, "permission_denied".into(), "ROLE_MISSING".into()));
    let document = send(&running, bearing(get("/openapi.json"), &gateway)).await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let denied = rpcs("supportaccess.v1.SupportAccess", "CheckAccess", "UNAUTHENTICATED", 2);
    wait_for_metric(&running, &denied).await;
    stop(running).await.unwrap();
}

#[tokio::test]
async fn limits_are_shared_with_grpc() {
    let limits = CallLimits { requests_per_second: 1, ..CallLimits::default() };
    let (running, _store) = limited(limits).await;
    let mut grpc = admin(&running).await;
    let request = ListGrantsRequest { tenant_id: "acme".to_owned(), ..Default::default() };
    // A burst is two requests.
    for _ in 0..2 {
        grpc.list_grants(request.clone()).await.unwrap();
    }
    let reply = send(&running, post_json(LIST, &json!({"tenantId": "acme"}))).await;
    assert_eq!(reply.error(), (429, "resource_exhausted".into(), "TOO_MANY_REQUESTS".into()));
    stop(running).await.unwrap();
}

#[tokio::test]
async fn bodies_that_are_arriving_count_as_bytes_of_the_caller() {
    // A sixteenth of the memory, so 4 MiB, is for the long messages of a caller.
    let limits = CallLimits { memory_mib: 64, ..CallLimits::default() };
    let (running, _store) = limited(limits).await;
    let connections = send_megabytes(&running, 4).await;
    let long = || post(BATCH, "application/json", vec![b' '; 1_000_000]);
    let rejected = (429, "resource_exhausted".to_owned(), "TOO_MANY_BYTES".to_owned());
    // The server may not have read all bodies yet.
    eventually(async || send(&running, long()).await.error() == rejected).await;
    assert_eq!(send(&running, post_json(CHECK, &check())).await.status, 200);
    drop(connections);
    let invalid = (400, "invalid_argument".to_owned(), "INVALID_FIELD".to_owned());
    eventually(async || send(&running, long()).await.error() == invalid).await;
    stop(running).await.unwrap();
}

#[tokio::test]
async fn a_call_in_progress_is_completed_at_shutdown() {
    let (running, store) = serving().await;
    store.are_changes_held.send_replace(true);
    let shutdown = running.shutdown_handle();
    let idle = TcpStream::connect(web(&running)).await.unwrap();
    let granting = send(&running, post_json(GRANT, &grant()));
    let stopping = async {
        eventually(async || store.waiting() == 1).await;
        shutdown.shut_down();
        store.are_changes_held.send_replace(false);
    };
    let (reply, ()) = tokio::join!(granting, stopping);
    assert_eq!(reply.status, 200, "{reply:?}");
    with_timeout(running.wait()).await.unwrap();
    drop(idle);
}

#[tokio::test]
async fn unix_sockets_serve_http() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("web.sock");
    let web_listen = Some(ListenAddress::Unix(path.clone()));
    let (running, _store) = start(Config { web_listen, ..config() }).await;
    let body = check().to_string();
    let request = format!(
        "POST {CHECK} HTTP/1.1\r\nhost: any.example\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len(),
    );
    let mut stream = UnixStream::connect(&path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    with_timeout(stream.read_to_string(&mut response)).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.contains("DECISION_REASON_NO_GRANT"), "{response}");
    stop(running).await.unwrap();
}

/// A connection with the client certificate of `name`, that offers `protocol`.
async fn handshake(world: &World, name: &str, protocol: &str) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(world.authority.pem().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let (certificate, key) = world.authority.client(name);
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = config.with_client_auth_cert(chain, key).unwrap();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let stream = TcpStream::connect(web(&world.running)).await.unwrap();
    let host = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(host, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol.as_bytes()));
    stream
}

/// Sends a request with the client certificate of `name`, over HTTP/1.1.
pub(crate) async fn send_as(world: &World, name: &str, path: &str, body: &Value) -> Reply {
    exchange(handshake(world, name, "http/1.1").await, post_json(path, body)).await
}

#[tokio::test]
async fn client_certificates_identify_callers_over_both_versions_of_http() {
    let world = World::new().await;
    let caller = send_as(&world, GATEWAY, CALLER, &json!({})).await.json();
    assert_eq!(caller["name"], GATEWAY);
    assert_eq!(caller["roles"], json!(["ROLE_GATEWAY"]));

    let stream = handshake(&world, GATEWAY, "h2").await;
    let (mut http2, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = post_json(GRANT, &grant());
    *request.uri_mut() = format!("https://localhost{GRANT}").parse().unwrap();
    request.headers_mut().remove("host");
    let response = http2.send_request(request).await.unwrap();
    assert_eq!(response.status().as_u16(), 403);
    stop(world.running).await.unwrap();
}
