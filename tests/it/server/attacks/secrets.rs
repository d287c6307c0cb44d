//! Logs contain no secrets.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use support_access::{
    api::proto::v1::{
        ListGrantsRequest, support_access_admin_client::SupportAccessAdminClient,
        support_access_client::SupportAccessClient,
    },
    auth::keys::IssuerKeys,
    server::SystemClock,
};
use tempfile::TempDir;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::server::{
    harness::{a_check, a_grant},
    identity::{
        Files, GATEWAY,
        authority::Authority,
        bearing,
        issuer::{Issuer, Signer, claims},
    },
    postgres::Cluster,
    process::Launch,
};

const PASSWORD: &str = "correct-horse-battery-staple";

async fn connect(url: &str, authority: &Authority, identity: Option<(String, String)>) -> Channel {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(authority.pem()))
        .domain_name("localhost");
    if let Some((certificate, key)) = identity {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let url = url.replace("http://", "https://");
    Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap().connect().await.unwrap()
}

/// The secret lines of a PEM file.
fn private_lines(pem: &str) -> Vec<String> {
    pem.lines()
        .filter(|line| !line.starts_with('-') && line.len() > 20)
        .map(str::to_owned)
        .collect()
}

fn file(folder: &Path, keys: &Path) -> String {
    let [certificate, key, ca] =
        ["server.pem", "server.key", "ca.pem"].map(|name| folder.join(name).display().to_string());
    format!(
        "tls_certificate = '{certificate}'\ntls_key = '{key}'\ntls_client_ca = '{ca}'\n\
         [certificates]\ngateway = ['{GATEWAY}']\n\
         [[issuers]]\nissuer = '{}'\naudience = '{}'\nkeys = '{}'\n\
         roles = {{ tenant_admin = ['access-admin'], node = ['vendor-node'] }}\n",
        crate::server::identity::issuer::NAME,
        crate::server::identity::issuer::AUDIENCE,
        keys.display()
    )
}

/// The URL of a database, with a password that the database does not require.
fn with_password(url: &str) -> String {
    format!("{url}&password={PASSWORD}")
}

#[tokio::test]
async fn no_secret_is_logged_by_a_server_on_postgres() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (authority, issuer) = (Authority::new("clients and servers"), Issuer::new());
    let files = Files {
        certificate: at("server.pem"),
        key: at("server.key"),
        client_ca: at("ca.pem"),
        jwks: at("jwks.json"),
    };
    files.write(&authority);
    fs::write(&files.jwks, issuer.jwks()).unwrap();
    fs::write(at("config.toml"), file(folder.path(), &files.jwks)).unwrap();
    let database = with_password(&Cluster::shared().fresh_database());
    let config = at("config.toml").display().to_string();
    let mut server =
        Launch::replica(&database).flags(&["--config", &config, "--log", "trace"]).start();

    let (certificate, key) = authority.client(GATEWAY);
    let mut secrets = private_lines(&key);
    secrets.extend(private_lines(&fs::read_to_string(&files.key).unwrap()));
    secrets.push(PASSWORD.to_owned());
    let channel = connect(server.url(), &authority, Some((certificate, key))).await;
    SupportAccessClient::new(channel).check_access(a_check()).await.unwrap();

    let channel = connect(server.url(), &authority, None).await;
    let mut admin = SupportAccessAdminClient::new(channel);
    let good = issuer.token("alice@acme.example", "access-admin", &["acme"]);
    admin.grant_access(bearing(a_grant(), &good)).await.unwrap();
    let forged = Signer::es256("first").sign(&claims("mallory", "access-admin", &["acme"]));
    let mut expired = claims("alice@acme.example", "access-admin", &["acme"]);
    expired["exp"] = serde_json::json!(1);
    let bad = [forged, issuer.signer.sign(&expired), "not-a-token-but-a-password".to_owned()];
    for token in &bad {
        let list = ListGrantsRequest { tenant_id: "acme".to_owned(), ..Default::default() };
        admin.list_grants(bearing(list, token)).await.unwrap_err();
    }
    // The signature is the secret: header and claims alone are of no use.
    secrets.extend(
        [good].iter().chain(&bad).map(|token| token.rsplit('.').next().unwrap().to_owned()),
    );

    // A sidecar that follows with a token.
    let token = issuer.token("sidecar-1", "vendor-node", &[]);
    fs::write(at("token"), &token).unwrap();
    secrets.push(token.rsplit('.').next().unwrap().to_owned());
    let [ca, file] = [&files.client_ca, &at("token")].map(|path| path.display().to_string());
    let upstream = format!("https://localhost:{}", server.address().port());
    let flags = ["--upstream-ca", &ca, "--upstream-token-file", &file, "--log", "trace"];
    let mut sidecar = Launch::sidecar(&[&upstream]).flags(&flags).start();
    sidecar.serving().await;

    // A server that opens the database, and fails later.
    let unusable = fs::read_to_string(at("config.toml")).unwrap().replace("jwks.json", "none.json");
    fs::write(at("unusable.toml"), unusable).unwrap();
    let config = at("unusable.toml").display().to_string();
    let flags = ["--config", &config, "--log", "trace"];
    let unusable = Launch::replica(&database).flags(&flags).outcome();
    assert!(unusable.stderr.contains("none.json"), "{unusable:?}");

    assert!(sidecar.stop().success() && server.stop().success());
    let log =
        [unusable.stderr, sidecar.wait_for_end().stderr, server.wait_for_end().stderr].join("\n");
    assert!(log.lines().count() > 100, "the log level is trace");
    for secret in secrets {
        let line = log.lines().find(|line| line.contains(&secret));
        assert_eq!(line, None, "{secret}");
    }
}

#[test]
fn a_server_that_cannot_start_logs_no_secret() {
    let home = TempDir::new().unwrap();
    let passwords = home.path().join(".pgpass");
    fs::write(&passwords, format!("this line is malformed {PASSWORD}\n")).unwrap();
    fs::set_permissions(&passwords, fs::Permissions::from_mode(0o600)).unwrap();
    let host = "127.0.0.1:1/access";
    for url in [
        format!("postgres://support:{PASSWORD}@{host}"),
        format!("postgres://support:47?{PASSWORD}@{host}"),
        format!("postgres://support:47#{PASSWORD}@{host}"),
        format!("postgres://support:47/{PASSWORD}@{host}"),
        format!("postgres://support:p@{PASSWORD}@{host}"),
        format!("postgres://support:%{PASSWORD}@{host}"),
        format!("postgres://{host}?sslpassword={PASSWORD}"),
        format!("postgres://{host}?password=a&{PASSWORD}"),
        format!("postgres://{host}?sslmode={PASSWORD}"),
        format!("postgres://{host}?sslkey={PASSWORD}"),
        format!("postgres://support@{host}"),
    ] {
        let launch = Launch::replica(&url).flags(&["--log", "trace"]);
        let outcome = launch.env("HOME", home.path()).outcome();
        assert_ne!(outcome.code, Some(0), "{url}");
        assert!(!outcome.stderr.contains(PASSWORD), "{url}: {}", outcome.stderr);
    }
    for variable in ["PGPASSFILE", "PGPORT", "PGSSLMODE", "PGSSLKEY", "PGPASSWORD"] {
        let launch = Launch::replica("postgres:///access").flags(&["--log", "trace"]);
        let launch = launch.env("PGHOST", "127.0.0.1").env("PGPORT", "1");
        let outcome = launch.env(variable, format!("/{PASSWORD}")).outcome();
        assert_ne!(outcome.code, Some(0), "{variable}");
        assert!(!outcome.stderr.contains(PASSWORD), "{variable}: {}", outcome.stderr);
    }
}

#[test]
fn urls_of_others_are_not_repeated_with_a_password() {
    let outcome = Launch::sidecar(&[&format!("node:{PASSWORD}@replica:50051")]).outcome();
    assert_ne!(outcome.code, Some(0));
    assert!(!outcome.stderr.contains(PASSWORD), "{}", outcome.stderr);
    let error = IssuerKeys::new(&format!("https://me:{PASSWORD} x@idp"), Arc::new(SystemClock));
    let error = error.err().unwrap();
    assert!(!error.contains(PASSWORD), "{error}");
}
