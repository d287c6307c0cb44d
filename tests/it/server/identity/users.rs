//! Unix sockets: users, roles and permission bits.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use support_access::{
    api::proto::v1::{
        support_access_admin_client::SupportAccessAdminClient,
        support_access_client::SupportAccessClient,
    },
    auth::bindings::AuthConfig,
    domain::Role,
    server::config::{Common, Config, ListenAddress},
};
use tempfile::TempDir;
use tonic::Code;

use super::reason;
use crate::server::harness::{a_check, a_grant, common, config, connect, start};

/// The user of this process.
fn own_uid(dir: &TempDir) -> u32 {
    std::fs::metadata(dir.path()).unwrap().uid()
}

fn bound(role: Role, uid: u32) -> AuthConfig {
    AuthConfig { users: Some([(role, vec![uid])].into()), ..AuthConfig::default() }
}

async fn server(dir: &TempDir, auth: AuthConfig) -> support_access::server::Running {
    let listen = vec![ListenAddress::Unix(dir.path().join("access.sock"))];
    let common = Common { listen, auth, socket_mode: 0o600, ..common() };
    start(Config { common, ..config() }).await.0
}

#[tokio::test]
async fn the_kernel_identifies_users_of_a_socket() {
    let dir = TempDir::new().unwrap();
    let running = server(&dir, bound(Role::Gateway, own_uid(&dir))).await;
    let channel = connect(&running.grpc[0]).await;
    let mut checks = SupportAccessClient::new(channel.clone());
    checks.check_access(a_check()).await.unwrap();
    let mut admin = SupportAccessAdminClient::new(channel);
    let rejected = admin.grant_access(a_grant()).await.unwrap_err();
    assert_eq!((rejected.code(), &*reason(&rejected)), (Code::PermissionDenied, "ROLE_MISSING"));
}

#[tokio::test]
async fn users_without_a_binding_are_disconnected() {
    let dir = TempDir::new().unwrap();
    let running = server(&dir, bound(Role::Gateway, own_uid(&dir) + 1)).await;
    let ListenAddress::Unix(path) = &running.grpc[0] else { panic!("not a Unix socket") };
    let uri = format!("unix:{}", path.display());
    let connected = tonic::transport::Endpoint::try_from(uri).unwrap().connect().await;
    if let Ok(channel) = connected {
        let mut checks = SupportAccessClient::new(channel);
        let rejected = checks.check_access(a_check()).await.unwrap_err();
        // The connection is closed before a status could be sent.
        assert_ne!(rejected.code(), Code::PermissionDenied, "{rejected}");
        assert_ne!(rejected.code(), Code::Unauthenticated, "{rejected}");
    }
}

#[tokio::test]
async fn a_socket_has_the_configured_permission_bits() {
    let dir = TempDir::new().unwrap();
    let running = server(&dir, AuthConfig::default()).await;
    let ListenAddress::Unix(path) = &running.grpc[0] else { panic!("not a Unix socket") };
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}
