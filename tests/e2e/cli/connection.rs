//! Connections that fail: the error names the mistake.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    path::Path,
    thread,
};

use crate::cli::{Output, authority::Authority, fake::Fake, program, run_at, server::Launch};

/// The error of a command at this server.
fn error(server: &str, more: &[&str]) -> String {
    let result = run_at(server, &[&["list", "acme"], more].concat());
    assert_eq!((result.code, result.stdout.as_str()), (8, ""), "{result:?}");
    result.stderr
}

/// Responds to every connection with the same bytes.
fn respond_with(response: &'static [u8]) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4_096]);
            let _ = stream.write_all(response);
        }
    });
    port
}

#[test]
fn a_server_on_this_machine_needs_no_scheme() {
    let address = Fake::default().start();
    let (_, port) = address.rsplit_once(':').unwrap();
    for server in [&format!("localhost:{port}"), &address, &format!("http://{address}")] {
        assert_eq!(run_at(server, &["show", "acme", "g1"]).code, 0, "{server}");
    }
}

#[test]
fn a_server_that_does_not_listen_is_named() {
    // Bound and released, so that no process listens there.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let server = listener.local_addr().unwrap().to_string();
    drop(listener);
    let stderr = format!(
        "error: the connection to http://{server} failed: Connection refused (os error 111)\n\
         hint: `support-access serve` starts a server on this machine; --server names another\n"
    );
    assert_eq!(error(&server, &[]), stderr);
    let check = run_at(&server, &["check", "acme", "bob", "--level", "ADMIN", "-o", "json"]);
    assert_eq!(check.code, 8);
    assert!(check.stderr.starts_with("{\"error\":{\"code\":\"UNAVAILABLE\""), "{check:?}");
}

#[test]
fn https_to_a_server_without_tls_is_named() {
    let server = Fake::default().start();
    let stderr = format!(
        "error: the server at https://{server} does not use TLS\nhint: use http:// in --server\n"
    );
    assert_eq!(error(&format!("https://{server}"), &[]), stderr);
}

#[test]
fn a_program_without_grpc_is_named() {
    let port = respond_with(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    let stderr = format!(
        "error: the server at http://localhost:{port} does not serve gRPC\n\
         hint: another program may use this port\n"
    );
    assert_eq!(error(&format!("localhost:{port}"), &[]), stderr);
}

#[test]
fn mistakes_with_tls_ports_and_sockets_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let write = |name: &str, text: &str| fs::write(path(name), text).unwrap();
    let name = |file: &Path| file.to_str().unwrap().to_owned();
    let authority = Authority::new("CA");
    let (certificate, key) = authority.server();
    write("server.pem", &certificate);
    write("server.key", &key);
    write("ca.pem", authority.pem());
    write("other.pem", Authority::new("another CA").pem());
    let (certificate, key) = Authority::new("another CA").client("spiffe://vendor.example/gateway");
    write("client.pem", &certificate);
    write("client.key", &key);
    let config = format!(
        "tls_certificate = {:?}\ntls_key = {:?}\ntls_client_ca = {:?}\n\
         [certificates]\ngateway = [\"spiffe://vendor.example/gateway\"]\n\
         [users]\ngateway = [4294967294]\n",
        path("server.pem"),
        path("server.key"),
        path("ca.pem")
    );
    write("access.toml", &config);
    let replica = Launch::replica("memory:")
        .flags(&["--config", &name(&path("access.toml"))])
        .on_socket(&path("check.sock"))
        .on_port()
        .start();
    let address = replica.urls.iter().find_map(|url| url.strip_prefix("http://")).unwrap();
    let (ca, other) = (name(&path("ca.pem")), name(&path("other.pem")));

    let stderr = format!(
        "error: the server at http://{address} uses TLS\n\
         hint: use https:// in --server, and name a private authority with --ca\n"
    );
    assert_eq!(error(address, &[]), stderr, "a loopback address without a scheme has no TLS");

    let https = format!("https://{address}");
    let stderr = format!(
        "error: the certificate of {https} is not signed by an authority in --ca\n\
         hint: --ca must contain the authority of the server's certificate\n"
    );
    assert_eq!(error(&https, &["--ca", &other]), stderr);
    let start =
        format!("error: the server at {https} closed the connection after the TLS handshake: ");
    let missing = error(&https, &["--ca", &ca]);
    assert!(missing.starts_with(&start), "{missing}");
    let hint = "hint: the server may require a client certificate: --certificate and --key\n";
    assert!(missing.ends_with(hint), "{missing}");
    let (certificate, key) = (name(&path("client.pem")), name(&path("client.key")));
    let rejected = error(&https, &["--ca", &ca, "--certificate", &certificate, "--key", &key]);
    assert!(rejected.starts_with(&start), "{rejected}");
    let hint = "hint: the server may reject the client certificate; its log has the reason\n";
    assert!(rejected.ends_with(hint), "{rejected}");

    let metrics = replica.http.to_string();
    let stderr = format!(
        "error: http://{metrics} is a metrics port, not a gRPC port\n\
         hint: the gRPC port is 50051, unless the server's `listen` names another\n"
    );
    assert_eq!(error(&metrics, &[]), stderr);

    let socket = format!("unix:{}", path("check.sock").display());
    let closed = error(&socket, &[]);
    let start = format!(
        "error: the server at {socket} closed the connection\n\
         hint: the server's table [users] may not list your user id, "
    );
    assert!(closed.starts_with(&start), "{closed}");
}

#[test]
fn a_token_is_not_sent_without_tls() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, "secret\n").unwrap();
    let args = ["list", "acme", "--server", "http://10.0.0.1:50051", "--token-file"];
    let mut command = program(&args);
    let result = crate::cli::output(command.arg(&file));
    let stderr = "error: --token-file: others can read a token on its way to \
                  http://10.0.0.1:50051\n\
                  hint: use an https:// address\n";
    assert_eq!(result, Output::error(64, stderr));
}
