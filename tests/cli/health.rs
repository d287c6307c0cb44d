//! `health`: where it looks for the server, and what it makes of answers. `tests/server/health.rs` asks real ones.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread,
};

use crate::{Said, program, run, said};

/// Answers the next request with this, and ends. What was asked comes back.
fn answer_once(status: &'static str, body: String) -> (SocketAddr, thread::JoinHandle<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 4_096];
        let length = stream.read(&mut asked).unwrap();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
        // Who has read enough may be gone.
        let _ = stream.write_all(format!("{head}{body}").as_bytes());
        String::from_utf8_lossy(&asked[..length]).into_owned()
    });
    (address, serving)
}

fn serving() -> (SocketAddr, thread::JoinHandle<String>) {
    answer_once("200 OK", "serving\n".into())
}

fn healthy() -> Said {
    Said { code: 0, stdout: "serving\n".into(), stderr: String::new() }
}

#[test]
fn the_flag_goes_before_the_environment_before_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.toml");
    // Nobody listens there: port 1 needs root, and is taken by nobody.
    let nobody = "127.0.0.1:1";
    let write = |address: &str| {
        fs::write(&file, format!("metrics_listen = \"{address}\"\ntls_key = \"/no/such/file\"\n"))
            .unwrap();
    };

    let (address, asked) = serving();
    write(nobody);
    let mut command = program(&["health", "--metrics-listen", &address.to_string()]);
    command.env("SUPPORT_ACCESS_METRICS_LISTEN", nobody).env("SUPPORT_ACCESS_CONFIG", &file);
    assert_eq!(said(&mut command), healthy());
    let asked = asked.join().unwrap();
    assert!(asked.starts_with("GET /readyz HTTP/1.1\r\n"), "{asked}");
    assert!(!asked.to_lowercase().contains("authorization"), "{asked}");

    let (address, asked) = serving();
    let mut command = program(&["health"]);
    command
        .env("SUPPORT_ACCESS_METRICS_LISTEN", address.to_string())
        .env("SUPPORT_ACCESS_CONFIG", &file);
    assert_eq!(said(&mut command), healthy());
    asked.join().unwrap();

    // An empty variable is one that is not set. The rest of the file is the server's business.
    let (address, asked) = serving();
    write(&address.to_string());
    let mut command = program(&["health"]);
    command.env("SUPPORT_ACCESS_METRICS_LISTEN", "").env("SUPPORT_ACCESS_CONFIG", &file);
    assert_eq!(said(&mut command), healthy());
    asked.join().unwrap();
    let (address, asked) = serving();
    write(&address.to_string());
    assert_eq!(run(&["health", "--config", file.to_str().unwrap()]), healthy());
    asked.join().unwrap();
}

#[test]
fn who_listens_everywhere_is_asked_here() {
    let (address, asked) = serving();
    let everywhere = format!("0.0.0.0:{}", address.port());
    assert_eq!(run(&["health", "--metrics-listen", &everywhere]), healthy());
    assert!(asked.join().unwrap().contains(&format!("host: {address}\r\n")));
}

#[test]
fn the_default_is_that_of_the_server() {
    // Whether or not somebody listens there, that is who is asked.
    let answered = said(program(&["health"]).env("SUPPORT_ACCESS_SERVER", "\n"));
    assert_ne!(answered.code, 64, "{answered:?}");
    if answered.code == 1 && answered.stdout.is_empty() {
        assert!(
            answered.stderr.starts_with("error: http://127.0.0.1:9464/readyz "),
            "{answered:?}"
        );
    }
}

#[test]
fn who_does_not_serve_is_not_healthy() {
    let (address, asked) = answer_once("503 Service Unavailable", "stopping: \u{1b}[31m\n".into());
    let said = run(&["health", "--metrics-listen", &address.to_string()]);
    assert_eq!(
        said,
        Said { code: 1, stdout: "stopping: \u{fffd}[31m\n".into(), stderr: String::new() }
    );
    asked.join().unwrap();
}

#[test]
fn who_is_not_support_access_is_not_healthy() {
    let long = "x".repeat(1 << 20);
    let answers = [
        ("200 OK", "<html>Welcome</html>"),
        ("200 OK", &long),
        ("404 Not Found", "serving"),
        ("302 Found", ""),
    ];
    for (status, body) in answers {
        let (address, asked) = answer_once(status, body.to_owned());
        let said = run(&["health", "--metrics-listen", &address.to_string()]);
        let stderr = format!(
            "error: http://{address}/readyz answers {status}, as support-access does not\n\
             hint: another program may be listening there\n"
        );
        assert_eq!(said, Said { code: 1, stdout: String::new(), stderr });
        asked.join().unwrap();
    }
}

#[test]
fn who_says_nothing_is_not_healthy_and_not_waited_for() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let silent = run(&["health", "--metrics-listen", &address]);
    let stderr =
        format!("error: http://{address}/readyz cannot be read: no answer within the timeout\n");
    assert_eq!(silent, Said { code: 1, stdout: String::new(), stderr });
    // Only root could listen on this port.
    let address = "127.0.0.1:1";
    let nobody = run(&["health", "--metrics-listen", address]);
    let stderr = format!(
        "error: http://{address}/readyz cannot be read: Connection refused (os error 111)\n"
    );
    assert_eq!(nobody, Said { code: 1, stdout: String::new(), stderr });
}

#[test]
fn an_address_that_cannot_be_asked_is_wrong_usage() {
    for (address, stderr) in [
        (
            "somewhere",
            "error: --metrics-listen must be an IP address and a port, such as 127.0.0.1:9464, but is \"somewhere\"\n",
        ),
        (
            "localhost:0",
            "error: 127.0.0.1:0 stands for a free port, which only the server knows; its log contains the address\n",
        ),
    ] {
        let said = run(&["health", "--metrics-listen", address]);
        assert_eq!(said, Said { code: 64, stdout: String::new(), stderr: stderr.into() });
    }
}
