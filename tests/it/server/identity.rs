//! Authentication and permissions with real certificates and tokens.

pub(crate) use crate::common::authority;
mod certificates;
mod credentials;
pub(crate) mod issuer;
mod methods;
mod metrics;
mod permissions;
mod portal;
mod reload;
mod sidecars;
mod users;

use std::{fs, path::PathBuf};

use support_access::{
    api::proto::v1::{
        support_access_admin_client::SupportAccessAdminClient,
        support_access_client::SupportAccessClient,
    },
    auth::bindings::AuthConfig,
    server::{
        Running,
        config::{CallLimits, Common, Config, ListenAddress},
    },
};
use tempfile::TempDir;
use tonic::{
    Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_types::StatusExt;

use crate::common::authority::Authority;
use crate::server::harness::{common, config, loopback, start};
use issuer::Issuer;

pub(crate) const GATEWAY: &str = "spiffe://vendor.example/gateway";
pub(crate) const PORTAL: &str = "spiffe://vendor.example/portal";
pub(crate) const OPERATOR: &str = "spiffe://vendor.example/operator";
pub(crate) const NODE: &str = "spiffe://vendor.example/sidecar";
pub(crate) const AUDITOR: &str = "auditor.vendor.example";

/// A server with TLS on a free port, and the means to create credentials.
pub(crate) struct World {
    pub(crate) running: Running,
    pub(crate) authority: Authority,
    pub(crate) issuer: Issuer,
    pub(crate) files: Files,
    _dir: TempDir,
}

/// The credential files of the server.
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) client_ca: PathBuf,
    pub(crate) jwks: PathBuf,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with("").await
    }

    /// With further lines at the start of the authentication settings.
    pub(crate) async fn with(more: &str) -> Self {
        Self::build(None, more, CallLimits::default()).await
    }

    /// With other limits.
    pub(crate) async fn limited(limits: CallLimits) -> Self {
        Self::build(None, "", limits).await
    }

    /// With the issuer's keys at a URL.
    pub(crate) async fn with_keys_at(url: &str) -> Self {
        Self::build(Some(url), "", CallLimits::default()).await
    }

    async fn build(keys: Option<&str>, more: &str, limits: CallLimits) -> Self {
        let dir = TempDir::new().unwrap();
        let (authority, issuer) = (Authority::new("clients and servers"), Issuer::new());
        let at = |name: &str| dir.path().join(name);
        let files = Files {
            certificate: at("server.pem"),
            key: at("server.key"),
            client_ca: at("ca.pem"),
            jwks: at("jwks.json"),
        };
        files.write(&authority);
        fs::write(&files.jwks, issuer.jwks()).unwrap();
        let file = files.jwks.display().to_string();
        let auth = auth(keys.unwrap_or(&file), more);
        let mut config = secured(&files, auth);
        config.common.limits = limits;
        config.web_listen = Some(ListenAddress::Tcp(loopback()));
        let (running, _) = start(config).await;
        Self { running, authority, issuer, files, _dir: dir }
    }

    pub(crate) fn url(&self) -> String {
        let ListenAddress::Tcp(address) = &self.running.grpc[0] else { panic!("not on TCP") };
        format!("https://localhost:{}", address.port())
    }

    /// A connection with a certificate of this name, or without one.
    pub(crate) async fn channel(&self, name: Option<&str>) -> Channel {
        self.connect(name.map(|name| self.authority.client(name))).await.unwrap()
    }

    pub(crate) async fn connect(
        &self,
        identity: Option<(String, String)>,
    ) -> Result<Channel, tonic::transport::Error> {
        let ca = Certificate::from_pem(self.authority.pem());
        let mut tls = ClientTlsConfig::new().ca_certificate(ca);
        if let Some((certificate, key)) = identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        Endpoint::from_shared(self.url()).unwrap().tls_config(tls).unwrap().connect().await
    }

    pub(crate) async fn checks(&self, name: Option<&str>) -> SupportAccessClient<Channel> {
        SupportAccessClient::new(self.channel(name).await)
    }

    pub(crate) async fn admin(&self, name: Option<&str>) -> SupportAccessAdminClient<Channel> {
        SupportAccessAdminClient::new(self.channel(name).await)
    }
}

impl Files {
    /// Writes a new certificate of the server, and the authority.
    pub(crate) fn write(&self, authority: &Authority) {
        let (certificate, key) = authority.server();
        fs::write(&self.certificate, certificate).unwrap();
        fs::write(&self.key, key).unwrap();
        fs::write(&self.client_ca, authority.pem()).unwrap();
    }
}

/// Bindings of every role.
pub(crate) fn auth(keys: &str, more: &str) -> AuthConfig {
    let text = format!(
        r#"{more}
        [certificates]
        gateway = ["{GATEWAY}"]
        portal = ["{PORTAL}"]
        operator = ["{OPERATOR}"]
        node = ["{NODE}"]
        auditor = ["{AUDITOR}"]

        [[issuers]]
        issuer = "{}"
        audience = "{}"
        keys = "{keys}"
        [issuers.roles]
        tenant_admin = ["access-admin"]
        tenant_auditor = ["access-auditor"]
        operator = ["vendor-operator"]
        gateway = ["vendor-gateway"]
        node = ["vendor-node"]
        auditor = ["vendor-auditor"]
        "#,
        issuer::NAME,
        issuer::AUDIENCE,
    );
    let auth: AuthConfig = toml::from_str(&text).unwrap();
    assert_eq!(auth.problems(), [""; 0]);
    auth
}

pub(crate) fn secured(files: &Files, auth: AuthConfig) -> Config {
    let common = Common {
        tls_certificate: Some(files.certificate.clone()),
        tls_key: Some(files.key.clone()),
        tls_client_ca: Some(files.client_ca.clone()),
        auth,
        ..common()
    };
    Config { common, ..config() }
}

/// A request with a bearer token.
pub(crate) fn bearing<M>(message: M, token: &str) -> Request<M> {
    let mut request = Request::new(message);
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// The machine-readable reason of a rejection.
pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}
