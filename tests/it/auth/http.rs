//! The HTTP client that fetches the keys of issuers.

use std::sync::Arc;

use http::{StatusCode, Uri};
use rcgen::{CertificateParams, KeyPair};
use support_access::auth::http::{Answer, HttpClient};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer},
    },
};

/// Reads a request, and sends `response`. Returns the request.
async fn respond(mut io: impl AsyncRead + AsyncWrite + Unpin, response: &str) -> String {
    let mut request = vec![0; 4_096];
    let length = io.read(&mut request).await.unwrap_or_default();
    // Fails if the client has closed the connection.
    let _ = io.write_all(response.as_bytes()).await;
    let _ = io.shutdown().await;
    String::from_utf8(request[..length].to_vec()).unwrap()
}

/// GETs `/keys?a=b` from a plain server that sends `response`.
async fn get(response: &str, length_max: usize) -> (Result<Answer, String>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url: Uri = format!("http://{}/keys?a=b", listener.local_addr().unwrap()).parse().unwrap();
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        respond(stream, response).await
    };
    let client = HttpClient::plain();
    tokio::join!(client.get(&url, length_max), serving)
}

#[tokio::test]
async fn a_request_contains_path_and_host_and_no_credentials() {
    let (got, request) = get("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 10).await;
    let got = got.unwrap();
    assert_eq!((got.status, &*got.body, got.is_truncated), (StatusCode::OK, &b"ok"[..], false));
    assert!(request.starts_with("GET /keys?a=b HTTP/1.1\r\nhost: 127.0.0.1:"), "{request}");
    assert!(request.contains("user-agent: support-access/"), "{request}");
    assert!(!request.to_lowercase().contains("authorization"), "{request}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let redirect =
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(get(redirect, 10).await.0.unwrap().status, StatusCode::FOUND);
}

#[tokio::test]
async fn long_bodies_are_truncated() {
    let response = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}", "x".repeat(100_000));
    for (length_max, is_truncated) in [(99_999, true), (100_000, false)] {
        let got = get(&response, length_max).await.0.unwrap();
        assert_eq!((got.body.len(), got.is_truncated), (length_max, is_truncated));
    }
}

#[tokio::test]
async fn malformed_and_incomplete_responses_are_errors() {
    for response in ["", "nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"] {
        assert!(get(response, 10).await.0.is_err(), "{response:?}");
    }
}

/// A self-signed certificate for this host name.
fn certificate(name: &str) -> (CertificateDer<'static>, ServerConfig) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    let der = params.self_signed(&key).unwrap().der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = ServerConfig::builder().with_no_client_auth();
    (der.clone(), config.with_single_cert(vec![der], key).unwrap())
}

#[tokio::test]
async fn servers_need_a_trusted_certificate_for_their_name() {
    let (trusted, trusted_config) = certificate("localhost");
    let (other_name, other_name_config) = certificate("other.example");
    let (_, unknown_config) = certificate("localhost");
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates([trusted, other_name]);
    let client = HttpClient::with_roots(roots);
    let configs = [(trusted_config, true), (other_name_config, false), (unknown_config, false)];
    for (config, is_accepted) in configs {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let url: Uri = format!("https://localhost:{port}/").parse().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let serving = async {
            let (stream, _) = listener.accept().await.unwrap();
            if let Ok(stream) = acceptor.accept(stream).await {
                respond(stream, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        };
        let (got, ()) = tokio::join!(client.get(&url, 10), serving);
        assert_eq!(got.is_ok(), is_accepted, "{got:?}");
    }
}
