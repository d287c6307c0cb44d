//! Where a server listens, and what it refuses to.

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

use crate::harness::{a_check, common, connect, listening_on, loopback, start, stop};

#[tokio::test]
async fn a_port_in_use_is_said_in_a_sentence() {
    let taken = TcpListener::bind(loopback()).await.unwrap();
    let address = taken.local_addr().unwrap();
    let sentence =
        format!("cannot listen on {address}: another process is listening there already");
    let grpc = Common { listen: vec![ListenAddress::Tcp(address)], ..common() };
    assert_eq!(Listeners::bind(&grpc).await.unwrap_err().to_string(), sentence);
    let http = Common { metrics_listen: address, ..common() };
    assert_eq!(Listeners::bind(&http).await.unwrap_err().to_string(), sentence);
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
    assert!(!path.exists(), "the socket goes with the server");
}

#[tokio::test]
async fn a_socket_that_a_dead_server_left_is_replaced() {
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
async fn a_socket_in_use_and_other_files_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = async |name: &str| {
        let path = folder.path().join(name);
        let listen = vec![ListenAddress::Unix(path.clone())];
        let error = Listeners::bind(&Common { listen, ..common() }).await.unwrap_err().to_string();
        let prefix = format!("cannot listen on unix:{}: ", path.display());
        error.strip_prefix(&prefix).expect(&error).to_owned()
    };
    let _live = UnixListener::bind(folder.path().join("live.sock")).unwrap();
    assert_eq!(refusal("live.sock").await, "another process is listening there already");
    fs::write(folder.path().join("notes.txt"), "keep me").unwrap();
    let file = "there is a file of that name, and it is not a socket";
    assert_eq!(refusal("notes.txt").await, file);
    assert_eq!(fs::read_to_string(folder.path().join("notes.txt")).unwrap(), "keep me");
    assert_eq!(refusal("no/such/folder.sock").await, "there is no such directory");
}

#[tokio::test]
async fn a_successor_s_socket_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("check.sock");
    let listen = vec![ListenAddress::Unix(path.clone())];
    let (running, _store) = start(listening_on(listen)).await;
    fs::remove_file(&path).unwrap();
    let _successor = UnixListener::bind(&path).unwrap();
    stop(running).await.unwrap();
    assert!(path.exists());
}
