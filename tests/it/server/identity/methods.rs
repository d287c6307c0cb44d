//! Methods of authentication, alone and combined, and the audit of rejected calls.

use std::{
    fs,
    io::{self, Write},
    sync::Arc,
};

use parking_lot::Mutex;
use serde_json::json;
use support_access::{
    api::proto::v1::{
        ListGrantsRequest, support_access_admin_client::SupportAccessAdminClient,
        support_access_client::SupportAccessClient,
    },
    auth::bindings::AuthConfig,
    server::config::{Common, Config},
};
use tempfile::TempDir;
use tonic::{
    Code,
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

use super::{GATEWAY, World, auth, authority::Authority, bearing, issuer::Issuer, reason};
use crate::server::{
    harness::{a_check, common, config, has_metric, rpcs, start},
    web,
};

/// A server with TLS and these methods of authentication, and its URL.
async fn server(
    dir: &TempDir,
    authority: &Authority,
    client_ca: bool,
    auth: AuthConfig,
) -> (support_access::server::Running, String) {
    let at = |name: &str| dir.path().join(name);
    let (certificate, key) = authority.server();
    fs::write(at("server.pem"), certificate).unwrap();
    fs::write(at("server.key"), key).unwrap();
    fs::write(at("ca.pem"), authority.pem()).unwrap();
    let common = Common {
        tls_certificate: Some(at("server.pem")),
        tls_key: Some(at("server.key")),
        tls_client_ca: client_ca.then(|| at("ca.pem")),
        auth,
        ..common()
    };
    let (running, _) = start(Config { common, ..config() }).await;
    let url = running.grpc[0].to_string().replace("127.0.0.1", "https://localhost");
    (running, url)
}

async fn connect(
    url: &str,
    authority: &Authority,
    identity: Option<(String, String)>,
) -> Option<SupportAccessClient<tonic::transport::Channel>> {
    let ca = Certificate::from_pem(authority.pem());
    let mut tls = ClientTlsConfig::new().ca_certificate(ca);
    if let Some((certificate, key)) = identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let endpoint = Endpoint::from_shared(url.to_owned()).unwrap().tls_config(tls).unwrap();
    endpoint.connect().await.ok().map(SupportAccessClient::new)
}

#[tokio::test]
async fn without_issuers_every_client_needs_a_certificate() {
    let (dir, authority) = (TempDir::new().unwrap(), Authority::new("all"));
    let certificates =
        Some([(support_access::domain::Role::Gateway, vec![GATEWAY.to_owned()])].into());
    let only = AuthConfig { certificates, ..AuthConfig::default() };
    let (_running, url) = server(&dir, &authority, true, only).await;
    let gateway = connect(&url, &authority, Some(authority.client(GATEWAY))).await;
    gateway.unwrap().check_access(a_check()).await.unwrap();
    if let Some(mut client) = connect(&url, &authority, None).await {
        // With TLS 1.3, the handshake ends for the client before the server rejects it.
        let rejected = client.check_access(a_check()).await.unwrap_err();
        assert_ne!(
            rejected.code(),
            Code::Unauthenticated,
            "the connection must be rejected, not the call: {rejected}"
        );
    }
}

#[tokio::test]
async fn without_authorities_no_client_needs_a_certificate() {
    let (dir, authority, issuer) = (TempDir::new().unwrap(), Authority::new("all"), Issuer::new());
    let keys = dir.path().join("keys.json");
    fs::write(&keys, issuer.jwks()).unwrap();
    let both = auth(&keys.display().to_string(), "");
    let only = AuthConfig { certificates: None, ..both };
    let (_running, url) = server(&dir, &authority, false, only).await;
    let mut client = connect(&url, &authority, None).await.unwrap();
    let token = issuer.token("gw", "vendor-gateway", &[]);
    client.check_access(bearing(a_check(), &token)).await.unwrap();
    // The server requests no certificate, and ignores one.
    let mut client = connect(&url, &authority, Some(authority.client(GATEWAY))).await.unwrap();
    let rejected = client.check_access(a_check()).await.unwrap_err();
    assert_eq!(
        (rejected.code(), &*reason(&rejected)),
        (Code::Unauthenticated, "CREDENTIALS_MISSING")
    );
}

#[tokio::test]
async fn an_issuer_is_trusted_for_its_tenants_only() {
    let (dir, authority) = (TempDir::new().unwrap(), Authority::new("all"));
    let (ours, theirs) = (Issuer::new(), Issuer::new());
    let write = |name: &str, issuer: &Issuer| {
        let path = dir.path().join(name);
        fs::write(&path, issuer.jwks()).unwrap();
        path.display().to_string()
    };
    let mut auth = auth(&write("ours.json", &ours), "");
    let mut issuers = auth.issuers.take().unwrap();
    let mut customer = issuers[0].clone();
    customer.issuer = "https://id.acme.example".to_owned();
    customer.keys = Some(write("theirs.json", &theirs));
    customer.tenants = Some([support_access::domain::TenantId::new("acme").unwrap()].into());
    issuers[0].tenants = Some([support_access::domain::TenantId::new("globex").unwrap()].into());
    issuers.push(customer);
    auth.issuers = Some(issuers);
    assert_eq!(auth.problems(), [""; 0]);
    let (_running, url) = server(&dir, &authority, true, auth).await;
    let list = async |issuer: &Issuer, name: &str, tenant_id: &str| {
        let mut claims = super::issuer::claims("alice", "access-admin", &["acme", "globex"]);
        claims["iss"] = name.into();
        let token = issuer.signer.sign(&claims);
        let ca = Certificate::from_pem(authority.pem());
        let tls = ClientTlsConfig::new().ca_certificate(ca);
        let endpoint = Endpoint::from_shared(url.clone()).unwrap().tls_config(tls).unwrap();
        let mut admin = SupportAccessAdminClient::new(endpoint.connect().await.unwrap());
        let request =
            ListGrantsRequest { tenant_id: tenant_id.to_owned(), ..ListGrantsRequest::default() };
        admin
            .list_grants(bearing(request, &token))
            .await
            .map_or_else(|status| status.code(), |_| Code::Ok)
    };
    let customer = "https://id.acme.example";
    assert_eq!(list(&theirs, customer, "acme").await, Code::Ok);
    assert_eq!(list(&theirs, customer, "globex").await, Code::PermissionDenied);
    assert_eq!(list(&ours, super::issuer::NAME, "globex").await, Code::Ok);
    assert_eq!(list(&ours, super::issuer::NAME, "acme").await, Code::PermissionDenied);
    assert_eq!(list(&theirs, super::issuer::NAME, "globex").await, Code::Unauthenticated);
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The runtime has one thread, so that the subscriber of this thread receives every event.
#[tokio::test]
async fn rejected_calls_are_counted_and_audited() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    // For the whole process, because the threads of connections log, too.
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let world = World::new().await;
    let request =
        || ListGrantsRequest { tenant_id: "acme".to_owned(), ..ListGrantsRequest::default() };
    let mut gateway = world.admin(Some(GATEWAY)).await;
    assert_eq!(gateway.list_grants(request()).await.unwrap_err().code(), Code::PermissionDenied);
    let token = world.issuer.token("alice", "access-admin", &["other"]);
    let rejected = world.admin(None).await.list_grants(bearing(request(), &token)).await;
    assert_eq!(rejected.unwrap_err().code(), Code::PermissionDenied);
    let rejected = world.admin(None).await.list_grants(bearing(request(), "secret.to.ken")).await;
    assert_eq!(rejected.unwrap_err().code(), Code::Unauthenticated);

    let other = json!({"tenantId": "over the web"});
    let rejected = web::callers::send_as(&world, GATEWAY, web::LIST, &other).await;
    assert_eq!(rejected.error().2, "ROLE_MISSING");

    let (service, method) = ("supportaccess.v1.SupportAccessAdmin", "ListGrants");
    assert!(has_metric(&world.running, &rpcs(service, method, "PERMISSION_DENIED", 3)).await);
    assert!(has_metric(&world.running, &rpcs(service, method, "UNAUTHENTICATED", 1)).await);

    let text = String::from_utf8(log.0.lock().clone()).unwrap();
    let audit = text.lines().filter(|line| line.contains("\"target\":\"support_access::audit\""));
    let audit: Vec<serde_json::Value> =
        audit.map(|line| serde_json::from_str(line).unwrap()).collect();
    let fields: Vec<_> = audit.iter().map(|line| &line["fields"]).collect();
    let by_gateway = fields.iter().find(|line| line["actor"] == GATEWAY).unwrap();
    assert_eq!(by_gateway["action"], "ListGrants");
    assert_eq!(by_gateway["tenant_id"], "acme");
    let is_over_the_web = |line: &&&serde_json::Value| {
        line["actor"] == GATEWAY && line["tenant_id"] == "over the web"
    };
    assert_eq!(fields.iter().filter(is_over_the_web).count(), 1, "{fields:?}");
    assert!(
        fields
            .iter()
            .any(|line| line["actor"] == "alice" && line["message"] == "a call was rejected")
    );
    assert!(fields.iter().any(|line| line["message"] == "a caller was rejected"), "{fields:?}");
    assert!(!text.contains("secret.to.ken"), "the log contains a token");
    assert!(!text.contains(&token), "the log contains a token");
}
