//! Listening sockets.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixListener,
    },
};

use support_access::{
    api::proto::v1::support_access_client::SupportAccessClient,
    server::{
        Listeners,
        config::{Common, ListenAddress},
    },
};
use tokio::net::TcpListener;

use crate::server::harness::{a_check, common, connect, listening_on, loopback, start, stop};

#[tokio::test]
async fn a_port_in_use_is_reported() {
    let taken = TcpListener::bind(loopback()).await.unwrap();
    let address = taken.local_addr().unwrap();
    let expected =
        format!("cannot listen on {address}: another process is already listening there");
    let grpc = Common { listen: vec![ListenAddress::Tcp(address)], ..common() };
    assert_eq!(Listeners::bind(&grpc, None).unwrap_err().to_string(), expected);
    let metrics = Common { metrics_listen: address, ..common() };
    assert_eq!(Listeners::bind(&metrics, None).unwrap_err().to_string(), expected);
}

#[tokio::test]
async fn one_server_serves_on_every_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("check.sock");
    let listen = vec![
        ListenAddress::Tcp(loopback()),
        ListenAddress::Unix(path.clone()),
        ListenAddress::Tcp(loopback()),
    ];
    let (running, _store) = start(listening_on(listen)).await;
    for address in &running.grpc {
        let mut access = SupportAccessClient::new(connect(address).await);
        access.check_access(a_check()).await.unwrap();
    }
    let metadata = fs::symlink_metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    stop(running).await.unwrap();
    assert!(!path.exists(), "the socket is removed with the server");
}

#[tokio::test]
async fn the_socket_of_a_dead_server_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("check.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listen = vec![ListenAddress::Unix(path.clone())];
    let (running, _store) = start(listening_on(listen)).await;
    let mut access = SupportAccessClient::new(connect(&running.grpc[0]).await);
    access.check_access(a_check()).await.unwrap();
    stop(running).await.unwrap();
}

#[tokio::test]
async fn sockets_in_use_and_other_files_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let error_of = async |name: &str| {
        let path = folder.path().join(name);
        let listen = vec![ListenAddress::Unix(path.clone())];
        let error = Listeners::bind(&Common { listen, ..common() }, None).unwrap_err().to_string();
        let prefix = format!("cannot listen on unix:{}: ", path.display());
        error.strip_prefix(&prefix).expect(&error).to_owned()
    };
    let _live = UnixListener::bind(folder.path().join("live.sock")).unwrap();
    assert_eq!(error_of("live.sock").await, "another process is already listening there");
    fs::write(folder.path().join("notes.txt"), "keep me").unwrap();
    let file = "a file of that name exists, and is not a socket";
    assert_eq!(error_of("notes.txt").await, file);
    assert_eq!(fs::read_to_string(folder.path().join("notes.txt")).unwrap(), "keep me");
    assert_eq!(error_of("no/such/folder.sock").await, "the directory does not exist");
}

#[tokio::test]
async fn the_socket_of_a_successor_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("check.sock");
    let listen = vec![ListenAddress::Unix(path.clone())];
    let (running, _store) = start(listening_on(listen)).await;
    fs::remove_file(&path).unwrap();
    let _successor = UnixListener::bind(&path).unwrap();
    stop(running).await.unwrap();
    assert!(path.exists());
}
