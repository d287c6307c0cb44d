//! Connections to a PostgreSQL server on another machine, for which `0.0.0.0` stands: that address
//! leads to this machine, but is no loopback address.

use std::{
    fs,
    io::{Read, Write},
    net::TcpListener,
    thread,
};

use support_access::store::{OpenError, open};
use tempfile::TempDir;

use crate::{
    common::event_key::event_key_file,
    store::{authority::Authority, bench::Bench, postgres::Cluster},
};

async fn error(url: &str) -> String {
    let OpenError(error) =
        open(url, Bench::memory().clock, event_key_file(url)).await.expect_err(url);
    assert!(!error.contains("s3cret"), "{error}");
    error
}

/// The first 8 bytes are the request for TLS, and the response `N` rejects TLS.
#[tokio::test]
async fn a_server_without_tls_receives_no_password() {
    for (parameters, receives_more) in [("", false), ("?sslmode=prefer", true)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!(
            "postgres://me:s3cret@0.0.0.0:{}/access{parameters}",
            listener.local_addr().unwrap().port()
        );
        let server = thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = [0; 8];
            connection.read_exact(&mut request).unwrap();
            assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47]);
            connection.write_all(b"N").unwrap();
            // AuthenticationCleartextPassword, in case that the client continues.
            let _ = connection.write_all(b"R\0\0\0\x08\0\0\0\x03");
            let mut received = Vec::new();
            let mut part = [0; 1024];
            while !received.ends_with(b"s3cret\0") {
                match connection.read(&mut part) {
                    Ok(0) | Err(_) => break,
                    Ok(length) => received.extend(&part[..length]),
                }
            }
            received
        });
        let error = error(&url).await;
        let received = server.join().unwrap();
        assert_eq!(!received.is_empty(), receives_more, "{received:?}");
        if !receives_more {
            assert!(error.contains("is not verified (server does not support TLS)"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_server_on_another_machine_must_have_a_certificate_for_its_name() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let authority = Authority::new("databases");
    let _cluster = Cluster::launch_tls(port, &authority.server_named(&["0.0.0.0"]));
    let directory = TempDir::new().unwrap();
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let right = file("right.pem", authority.pem());
    let wrong = file("wrong.pem", Authority::new("others").pem());
    let url = |host: &str, parameters: &str| {
        format!("postgres://postgres:s3cret@{host}:{port}/postgres?{parameters}")
    };
    for untrusted in [url("0.0.0.0", ""), url("0.0.0.0", &format!("sslrootcert={wrong}"))] {
        let error = error(&untrusted).await;
        assert!(error.contains("is not verified (invalid peer certificate"), "{error}");
    }
    let other_name = url("127.0.0.1", &format!("sslmode=verify-full&sslrootcert={right}"));
    let error = error(&other_name).await;
    assert!(error.contains("not valid for name"), "{error}");
    for accepted in [
        url("0.0.0.0", &format!("sslrootcert={right}")),
        url("127.0.0.1", &format!("sslmode=verify-ca&sslrootcert={right}")),
        url("0.0.0.0", "sslmode=require"),
    ] {
        Bench::of_url(accepted).open().await.close().await;
    }
}
