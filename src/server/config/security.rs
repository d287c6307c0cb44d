//! Who can reach a server, how they prove who they are, and what is refused because they could not.

use std::{net::SocketAddr, path::PathBuf};

use super::{
    ConfigError, INSECURE, LISTEN, ListenAddress, METRICS_LISTEN, REFLECTION, SOCKET_MODE,
    TLS_CERTIFICATE, TLS_CLIENT_CA, TLS_KEY, UPSTREAM_CA, UPSTREAM_CERTIFICATE, UPSTREAM_KEY,
    UPSTREAM_TOKEN_FILE,
    parsers::parse_bool,
    sources::{Parsed, Sources},
};
use crate::{api::credentials::ClientCredentials, auth::bindings::AuthConfig};

/// Who can reach a server, and how they prove who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Security {
    /// The server's certificate, and whose client certificates it takes. `None`: no TLS.
    pub tls: Option<TlsFiles>,
    /// Who may call, as what. Empty: callers are not told apart, and nobody but this host can be one.
    pub auth: AuthConfig,
    /// Who may use Unix sockets: their permission bits.
    pub socket_mode: u32,
    /// Whether tokens may come in without TLS, as behind a mesh that encrypts. The start logs a warning.
    pub insecure: bool,
    /// Whether callers may ask which services there are.
    pub reflection: bool,
}

/// Where a server's TLS comes from: PEM files, read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, and those that lead from it to the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities whose client certificates are taken. `None`: clients show none.
    pub client_ca: Option<PathBuf>,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            tls: None,
            auth: AuthConfig::default(),
            socket_mode: 0o660,
            insecure: false,
            reflection: true,
        }
    }
}

impl Security {
    pub(super) fn read(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let default = Self::default();
        let security = Self {
            tls: read_tls(sources)?,
            auth: sources.auth()?,
            socket_mode: sources.read(SOCKET_MODE, default.socket_mode, parse_mode)?,
            insecure: sources.read(INSECURE, default.insecure, parse_bool)?,
            reflection: sources.read(REFLECTION, default.reflection, parse_bool)?,
        };
        let has_client_ca = security.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        if security.auth.certificates.is_some() && !has_client_ca {
            return Err(ConfigError(format!(
                "[certificates] needs {TLS_CLIENT_CA}, the authorities whose client certificates are taken"
            )));
        }
        Ok(security)
    }

    /// Whether callers are told apart.
    pub fn is_authenticated(&self) -> bool {
        !self.auth.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
    }

    /// Refuses addresses that others can reach, where nobody could tell who is calling, or where their tokens could be read on
    /// the way.
    pub(super) fn check_exposure(
        &self,
        listen: &[ListenAddress],
        metrics_listen: SocketAddr,
    ) -> Result<(), ConfigError> {
        let is_exposed = |address: &SocketAddr| !address.ip().to_canonical().is_loopback();
        let mut grpc = listen.iter().filter_map(|address| match address {
            ListenAddress::Tcp(address) => Some(*address),
            ListenAddress::Unix(_) => None,
        });
        let grpc = grpc.find(is_exposed).map(|address| (LISTEN, address));
        let http =
            Some((METRICS_LISTEN, metrics_listen)).filter(|(_, address)| is_exposed(address));
        if let Some((name, address)) = grpc.or(http).filter(|_| !self.is_authenticated()) {
            return Err(ConfigError(format!(
                "{name} must be a loopback address such as 127.0.0.1:{}, but is {address}: nothing is configured to tell \
                 who is calling (client certificates, or issuers of tokens), so whoever reaches it could grant access",
                address.port()
            )));
        }
        if let Some((name, address)) = grpc
            && self.tls.is_none()
            && !self.insecure
        {
            return Err(ConfigError(format!(
                "{name} must be a loopback address such as 127.0.0.1:{}, but is {address}: without {TLS_CERTIFICATE} and \
                 {TLS_KEY}, tokens could be read on the way; --insecure allows it all the same, as behind a mesh that encrypts",
                address.port()
            )));
        }
        Ok(())
    }
}

fn read_tls(sources: &Sources<'_>) -> Result<Option<TlsFiles>, ConfigError> {
    let file = |name| sources.read(name, None, |text| Ok(Some(PathBuf::from(text))));
    match (file(TLS_CERTIFICATE)?, file(TLS_KEY)?, file(TLS_CLIENT_CA)?) {
        (Some(certificate), Some(key), client_ca) => {
            Ok(Some(TlsFiles { certificate, key, client_ca }))
        }
        (None, None, None) => Ok(None),
        _ => Err(ConfigError(format!(
            "TLS needs both {TLS_CERTIFICATE} and {TLS_KEY}, each a PEM file"
        ))),
    }
}

/// How a sidecar proves who it is to those that it follows, and knows them.
pub(super) fn read_upstream_credentials(
    sources: &Sources<'_>,
) -> Result<ClientCredentials, ConfigError> {
    let file = |name| sources.read(name, None, |text| Ok(Some(PathBuf::from(text))));
    let identity = match (file(UPSTREAM_CERTIFICATE)?, file(UPSTREAM_KEY)?) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => {
            return Err(ConfigError(format!(
                "a sidecar's own certificate needs both {UPSTREAM_CERTIFICATE} and {UPSTREAM_KEY}, each a PEM file"
            )));
        }
    };
    Ok(ClientCredentials {
        ca: file(UPSTREAM_CA)?,
        identity,
        token_file: file(UPSTREAM_TOKEN_FILE)?,
    })
}

fn parse_mode(text: &str) -> Parsed<u32> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777 && text.len() <= 4);
    mode.ok_or_else(|| {
        format!("must be permission bits in octal, such as \"0660\", but is {text:?}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::config::{Config, Flags};

    fn load(file: &str, flags: &[(&'static str, &str)]) -> Result<Security, String> {
        let dir = tempfile::TempDir::new().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, file).unwrap();
        let mut given = Flags::default().with_file(Some(path.clone()));
        for (name, value) in flags {
            given = given.with(name, [(*value).to_owned()]);
        }
        let loaded = Config::load(&given, &|_| None);
        let loaded = loaded.map(|config| config.common.security);
        loaded.map_err(|error| error.to_string().replace(&*path.to_string_lossy(), "FILE"))
    }

    const PAIR: [(&str, &str); 2] = [(TLS_CERTIFICATE, "server.pem"), (TLS_KEY, "server.key")];
    const WITH_CA: [(&str, &str); 3] = [PAIR[0], PAIR[1], (TLS_CLIENT_CA, "ca.pem")];
    const ISSUER: &str = "[[issuers]]
issuer = 'https://id.vendor.example'
audience = 'support-access'
keys = 'keys.json'
roles = { tenant_admin = ['admin'] }
";

    #[test]
    fn only_loopback_is_listened_on_unless_callers_are_told_apart() {
        for name in [LISTEN, METRICS_LISTEN] {
            for address in
                ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1"]
            {
                assert!(load("", &[(name, address)]).is_ok(), "{address}");
            }
            for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"] {
                for more in [&[][..], &[(INSECURE, "true")], &PAIR] {
                    let error = load("", &[&[(name, address)], more].concat()).unwrap_err();
                    let expected = format!(
                        "{name} must be a loopback address such as 127.0.0.1:1, but is {address}: nothing is configured"
                    );
                    assert!(error.starts_with(&expected), "{error}");
                }
                assert!(load("", &[&[(name, address)], &WITH_CA[..]].concat()).is_ok());
                assert!(load(ISSUER, &[&[(name, address)], &PAIR[..]].concat()).is_ok());
            }
        }
    }

    #[test]
    fn tokens_need_tls_unless_something_else_encrypts() {
        let address = (LISTEN, "0.0.0.0:1");
        let error = load(ISSUER, &[address]).unwrap_err();
        assert!(error.contains("tokens could be read on the way"), "{error}");
        assert!(load(ISSUER, &[address, (INSECURE, "true")]).unwrap().insecure);
        assert!(load(ISSUER, &[(METRICS_LISTEN, "0.0.0.0:1")]).is_ok(), "it takes no tokens");
    }

    #[test]
    fn what_belongs_together_is_given_together() {
        for alone in [PAIR[0], PAIR[1], WITH_CA[2]] {
            let error = load("", &[alone]).unwrap_err();
            assert_eq!(error, "TLS needs both tls-certificate and tls-key, each a PEM file");
        }
        let names = "certificates = { gateway = ['spiffe://vendor.example/gateway'] }";
        let error = load(names, &PAIR).unwrap_err();
        assert!(error.starts_with("[certificates] needs tls-client-ca"), "{error}");
        assert!(load(names, &WITH_CA).unwrap().is_authenticated());
    }

    #[test]
    fn socket_modes_are_octal() {
        assert_eq!(load("", &[(SOCKET_MODE, "0600")]).unwrap().socket_mode, 0o600);
        for wrong in ["", "rw", "0888", "1777", "00660", "-1"] {
            let expected =
                format!("must be permission bits in octal, such as \"0660\", but is {wrong:?}");
            let error = load("", &[(SOCKET_MODE, wrong)]).unwrap_err();
            assert_eq!(error, format!("--socket-mode {expected}"));
        }
    }

    #[test]
    fn nobody_is_bound_to_roles_that_exclude_each_other() {
        let both = |first: &str, second: &str| {
            let names = format!(
                "certificates = {{ {first} = ['a.example'], {second} = ['b.example', 'a.example'] }}"
            );
            load(&names, &WITH_CA).map(drop)
        };
        for second in ["operator", "gateway"] {
            let error = both("portal", second).unwrap_err();
            assert_eq!(
                error,
                format!(
                    "FILE says of callers what cannot be: certificates binds a.example to both portal and {second}, but \
                     who carries the customers' decisions must not also be the one who is let in"
                )
            );
        }
        assert_eq!(both("operator", "auditor"), Ok(()));
        let token = ISSUER.replace("= ['admin'] }", "= ['admin'], operator = ['admin'] }");
        let error = load(&token, &[]).unwrap_err();
        assert!(
            error.contains("issuers.roles binds admin to both tenant_admin and operator"),
            "{error}"
        );
    }

    #[test]
    fn callers_that_cannot_be_are_refused() {
        let cases = [
            ("certificates = { root = ['a'] }", "unknown variant `root`"),
            ("certificates = { tenant_admin = ['a.example'] }", "tenant_admin comes from a token"),
            ("users = { tenant_auditor = [1] }", "tenant_auditor comes from a token"),
            ("users = { portal = [1] }", "a portal shows a certificate"),
            ("users = { gateway = [-1] }", "invalid value"),
            ("certificates = { gateway = ['*.example'] }", "\"*.example\", which is neither"),
            ("certificates = { gateway = ['https://a'] }", "\"https://a\", which is neither"),
            ("trust_portal_assertion = true", "of no use without certificates.portal"),
            (&ISSUER.replace("tenant_admin", "portal"), "a portal shows a certificate"),
            (&format!("{ISSUER}{ISSUER}"), "\"https://id.vendor.example\" twice"),
            (&ISSUER.replace("'support-access'", "''"), "issuers.audience must not be empty"),
            (
                &ISSUER.replace("keys =", "leeway = '6m'\nkeys ="),
                "issuers.leeway must be at most 5m",
            ),
            (&ISSUER.replace("keys =", "key ="), "unknown field `key`"),
            (
                &format!("{ISSUER}{}", ISSUER.replace("id.vendor", "id.customer")),
                "issuers needs tenants for \"https://id.vendor.example\"",
            ),
        ];
        for (file, expected) in cases {
            let error = load(file, &WITH_CA).unwrap_err();
            assert!(error.starts_with("FILE says of callers what cannot be: "), "{error}");
            assert!(error.contains(expected), "{file}: {error}");
        }
    }

    #[test]
    fn a_table_that_is_empty_means_nobody_and_not_everybody() {
        for file in ["[users]", "[certificates]", "issuers = []", "users = { gateway = [] }"] {
            let security = load(file, &WITH_CA).unwrap();
            assert!(security.is_authenticated() && !security.auth.is_empty(), "{file}");
        }
        assert!(load("[limits]", &[]).unwrap().auth.is_empty());
    }

    #[test]
    fn limits_are_at_least_one() {
        for name in ["connections", "calls_per_caller", "checks_per_second"] {
            let error = load(&format!("limits = {{ {name} = 0 }}"), &[]).unwrap_err();
            assert_eq!(
                error,
                format!("[limits] in FILE is not right: {name} must be at least 1, but is 0")
            );
        }
        assert!(load("limits = { calls = 1 }", &[]).unwrap_err().contains("unknown field `calls`"));
    }
}
