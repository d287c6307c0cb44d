//! `health check`: the address of the server, and the meaning of the responses.
//! `tests/it/server/health.rs` tests the command with real servers.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread,
};

use crate::cli::{Output, output, program, run};

/// Only root could listen on this port.
const NO_LISTENER: &str = "127.0.0.1:1";

/// Responds to the next request, and returns the request when joined.
fn respond_once(status: &'static str, body: String) -> (SocketAddr, thread::JoinHandle<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4_096];
        let length = stream.read(&mut request).unwrap();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        // The client may close the connection before the end of a long response.
        let _ = stream.write_all(format!("{head}{body}").as_bytes());
        String::from_utf8_lossy(&request[..length]).into_owned()
    });
    (address, server)
}

fn serving() -> (SocketAddr, thread::JoinHandle<String>) {
    respond_once("200 OK", "serving\n".into())
}

fn healthy() -> Output {
    Output { code: 0, stdout: "serving\n".into(), stderr: String::new() }
}

fn check(address: &str) -> Output {
    run(&["health", "check", "--metrics-listen", address])
}

#[test]
fn a_flag_overrides_the_environment_and_the_environment_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.toml");
    let write = |address: &str| {
        let text = format!("metrics_listen = \"{address}\"\ntls_key = \"/no/such/file\"\n");
        fs::write(&file, text).unwrap();
    };

    let (address, server) = serving();
    write(NO_LISTENER);
    let mut command = program(&["health", "check", "--metrics-listen", &address.to_string()]);
    command.env("SUPPORT_ACCESS_METRICS_LISTEN", NO_LISTENER).env("SUPPORT_ACCESS_CONFIG", &file);
    assert_eq!(output(&mut command), healthy());
    let request = server.join().unwrap();
    assert!(request.starts_with("GET /readyz HTTP/1.1\r\n"), "{request}");
    assert!(!request.to_lowercase().contains("authorization"), "{request}");

    let (address, server) = serving();
    let mut command = program(&["health", "check"]);
    command
        .env("SUPPORT_ACCESS_METRICS_LISTEN", address.to_string())
        .env("SUPPORT_ACCESS_CONFIG", &file);
    assert_eq!(output(&mut command), healthy());
    server.join().unwrap();

    // An empty variable counts as unset. Other settings of the file are not read.
    let (address, server) = serving();
    write(&address.to_string());
    let mut command = program(&["health", "check"]);
    command.env("SUPPORT_ACCESS_METRICS_LISTEN", "").env("SUPPORT_ACCESS_CONFIG", &file);
    assert_eq!(output(&mut command), healthy());
    server.join().unwrap();
    let (address, server) = serving();
    write(&address.to_string());
    assert_eq!(run(&["health", "check", "--config", file.to_str().unwrap()]), healthy());
    server.join().unwrap();
}

#[test]
fn an_unspecified_address_is_checked_at_loopback() {
    let (address, server) = serving();
    assert_eq!(check(&format!("0.0.0.0:{}", address.port())), healthy());
    let request = server.join().unwrap().to_lowercase();
    assert!(request.contains(&format!("host: {address}\r\n")), "{request}");
}

#[test]
fn the_default_address_is_that_of_the_server() {
    // Another process may listen on the default port.
    let result = output(program(&["health", "check"]).env("SUPPORT_ACCESS_SERVER", "\n"));
    assert_ne!(result.code, 64, "{result:?}");
    if result.code == 1 && result.stdout.is_empty() {
        assert!(result.stderr.starts_with("error: http://127.0.0.1:9464/readyz "), "{result:?}");
    }
}

#[test]
fn a_server_that_does_not_serve_is_not_healthy() {
    let (address, server) =
        respond_once("503 Service Unavailable", "stopping: \u{1b}[31m\n".into());
    let stdout = "stopping: \u{fffd}[31m\n".into();
    let expected = Output { code: 1, stdout, stderr: String::new() };
    assert_eq!(check(&address.to_string()), expected);
    server.join().unwrap();
}

#[test]
fn another_program_is_not_healthy() {
    let long = "x".repeat(1 << 20);
    let responses = [
        ("200 OK", "<html>Welcome</html>"),
        ("200 OK", &long),
        ("404 Not Found", "serving"),
        ("302 Found", ""),
    ];
    for (status, body) in responses {
        let (address, server) = respond_once(status, body.to_owned());
        let stderr = format!(
            "error: http://{address}/readyz returned {status}, in a response that is not from \
             support-access\n\
             hint: another program may listen there\n"
        );
        assert_eq!(check(&address.to_string()), Output::error(1, &stderr));
        server.join().unwrap();
    }
}

#[test]
fn a_server_that_does_not_respond_is_not_healthy() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let silent = check(&address);
    let start = format!("error: http://{address}/readyz cannot be read: no response ");
    assert!(silent.code == 1 && silent.stderr.starts_with(&start), "{silent:?}");
    let absent = check(NO_LISTENER);
    let stderr = format!(
        "error: http://{NO_LISTENER}/readyz cannot be read: Connection refused (os error 111)\n"
    );
    assert_eq!(absent, Output::error(1, &stderr));
}

#[test]
fn an_address_that_cannot_be_checked_is_invalid_usage() {
    let starts = [
        ("somewhere", "error: --metrics-listen must be an IP address and a port, such as "),
        ("localhost:0", "error: 127.0.0.1:0 "),
    ];
    for (address, start) in starts {
        let result = check(address);
        assert_eq!((result.code, result.stdout.as_str()), (64, ""));
        assert!(result.stderr.starts_with(start), "{result:?}");
    }
}
