//! Checks of combinations: exposure of addresses, TLS files, and roles of callers.

use super::*;

fn load_with(file: &str, flags: &[(&str, &str)]) -> Result<Common, String> {
    let given = Given { file: Some(file), flags: flags.to_vec(), ..Given::default() };
    let loaded = given.load::<Config>().map(|config| config.common);
    loaded.map_err(|problems| problems.join("\n"))
}

const PAIR: [(&str, &str); 2] = [("tls_certificate", "server.pem"), ("tls_key", "server.key")];
const WITH_CA: [(&str, &str); 3] = [PAIR[0], PAIR[1], ("tls_client_ca", "ca.pem")];
const ISSUER: &str = "[[issuers]]
issuer = 'https://id.vendor.example'
audience = 'support-access'
keys = 'keys.json'
roles = { tenant_admin = ['admin'] }
";

#[test]
fn addresses_beyond_loopback_need_authentication() {
    for (name, flag) in
        [("listen", "listen"), ("web_listen", "web-listen"), ("metrics_listen", "metrics-listen")]
    {
        for address in
            ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1"]
        {
            assert!(load_with("", &[(name, address)]).is_ok(), "{address}");
        }
        for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"] {
            for more in [&[][..], &[("insecure", "true")], &PAIR] {
                let error = load_with("", &[&[(name, address)], more].concat()).unwrap_err();
                let expected = format!(
                    "{flag} must be a loopback address such as 127.0.0.1:1, but is {address}: \
                     without authentication"
                );
                assert!(error.starts_with(&expected), "{error}");
            }
            assert!(load_with("", &[&[(name, address)], &WITH_CA[..]].concat()).is_ok());
            assert!(load_with(ISSUER, &[&[(name, address)], &PAIR[..]].concat()).is_ok());
        }
    }
}

#[test]
fn tokens_beyond_loopback_need_tls_or_the_insecure_setting() {
    let address = ("listen", "0.0.0.0:1");
    let error = load_with(ISSUER, &[address]).unwrap_err();
    assert!(error.contains("could read tokens"), "{error}");
    assert!(load_with(ISSUER, &[address, ("insecure", "true")]).unwrap().insecure);
    let metrics = [("metrics_listen", "0.0.0.0:1")];
    assert!(load_with(ISSUER, &metrics).is_ok(), "the metrics endpoint accepts no tokens");
}

#[test]
fn tls_files_are_given_together() {
    for alone in [PAIR[0], PAIR[1], WITH_CA[2]] {
        let error = load_with("", &[alone]).unwrap_err();
        assert_eq!(error, "TLS needs both tls-certificate and tls-key, each a PEM file");
    }
    let names = "certificates = { gateway = ['spiffe://vendor.example/gateway'] }";
    let error = load_with(names, &PAIR).unwrap_err();
    assert!(error.starts_with("[certificates] needs tls-client-ca"), "{error}");
    assert!(load_with(names, &WITH_CA).unwrap().is_authenticated());
    let upstream = ("upstream", "https://replica:50051");
    for alone in [("upstream_certificate", "a"), ("upstream_key", "a")] {
        let problems = load_flags::<SidecarConfig>(&[upstream, alone]).unwrap_err();
        assert!(problems[0].starts_with("a client certificate needs both"), "{problems:?}");
    }
}

#[test]
fn socket_modes_are_octal() {
    assert_eq!(load_with("", &[("socket_mode", "0600")]).unwrap().socket_mode, 0o600);
    for text in ["", "rw", "0888", "1777", "00660", "-1"] {
        let expected = format!(
            "--socket-mode must be permission bits in octal, such as \"0660\", but is {text:?}"
        );
        assert_eq!(load_with("", &[("socket_mode", text)]).unwrap_err(), expected);
    }
}

#[test]
fn bindings_that_violate_the_separation_of_duties_are_rejected() {
    let both = |first: &str, second: &str| {
        let names = format!(
            "certificates = {{ {first} = ['a.example'], {second} = ['b.example', 'a.example'] }}"
        );
        load_with(&names, &WITH_CA).map(drop)
    };
    for second in ["operator", "gateway"] {
        let expected = format!(
            "FILE: certificates binds a.example to both portal and {second} (separation of \
             duties): the portal forwards the grants of tenants, and must not use these grants"
        );
        assert_eq!(both("portal", second).unwrap_err(), expected);
    }
    assert_eq!(both("operator", "auditor"), Ok(()));
    let token = ISSUER.replace("= ['admin'] }", "= ['admin'], operator = ['admin'] }");
    let error = load_with(&token, &[]).unwrap_err();
    assert!(
        error.contains("issuers.roles binds admin to both tenant_admin and operator"),
        "{error}"
    );
}

#[test]
fn invalid_bindings_are_rejected() {
    let cases = [
        ("certificates = { root = ['a'] }", "unknown variant `root`"),
        ("certificates = { tenant_admin = ['a.example'] }", "tenant_admin requires a token"),
        ("users = { tenant_auditor = [1] }", "tenant_auditor requires a token"),
        ("users = { portal = [1] }", "a portal needs a certificate"),
        ("users = { gateway = [-1] }", "invalid value"),
        ("certificates = { gateway = ['*.example'] }", "\"*.example\", which is neither"),
        ("certificates = { gateway = ['https://a'] }", "\"https://a\", which is neither"),
        ("trust_portal_assertion = true", "needs certificates.portal"),
        (&ISSUER.replace("tenant_admin", "portal"), "a portal needs a certificate"),
        (&format!("{ISSUER}{ISSUER}"), "\"https://id.vendor.example\" twice"),
        (&ISSUER.replace("'support-access'", "''"), "issuers.audience must not be empty"),
        (&ISSUER.replace("keys =", "leeway = '6m'\nkeys ="), "issuers.leeway must be at most 5m"),
        (&ISSUER.replace("keys =", "key ="), "unknown field `key`"),
        (
            &format!("{ISSUER}{}", ISSUER.replace("id.vendor", "id.customer")),
            "issuers needs tenants for \"https://id.vendor.example\"",
        ),
    ];
    for (file, expected) in cases {
        let error = load_with(file, &WITH_CA).unwrap_err();
        assert!(error.starts_with("FILE: "), "{error}");
        assert!(error.contains(expected), "{file}: {error}");
    }
}

#[test]
fn an_empty_section_admits_no_caller() {
    for file in ["[users]", "[certificates]", "issuers = []", "users = { gateway = [] }"] {
        let config = load_with(file, &WITH_CA).unwrap();
        assert!(config.is_authenticated() && !config.auth.is_empty(), "{file}");
    }
    assert!(load_with("[limits]", &[]).unwrap().auth.is_empty());
}
