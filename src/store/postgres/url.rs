//! The URL of a PostgreSQL database, completed by the variables `PG*`.
//!
//! sqlx parses both, too. But it logs the values of unknown parameters and lines of `.pgpass`, and
//! replaces an unknown `PGSSLMODE` by a mode without verification. No error here repeats a value.

use std::{collections::BTreeMap, env, ffi::OsString, fs, mem::discriminant, net::IpAddr};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tracing::warn;

use crate::store::OpenError;

/// The parameters, and the variables that replace missing parameters.
const PARAMETERS: [(&str, &str); 11] = [
    ("application_name", "PGAPPNAME"),
    ("dbname", "PGDATABASE"),
    ("host", "PGHOST"),
    ("options", "PGOPTIONS"),
    ("password", "PGPASSWORD"),
    ("port", "PGPORT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("user", "PGUSER"),
];

/// Variables of libpq that select another server, or demand more security. To ignore them would
/// surprise an operator.
const UNSUPPORTED: [&str; 15] = [
    "PGCHANNELBINDING",
    "PGGSSENCMODE",
    "PGHOSTADDR",
    "PGPASSFILE",
    "PGREQUIREAUTH",
    "PGREQUIREPEER",
    "PGREQUIRESSL",
    "PGSERVICE",
    "PGSERVICEFILE",
    "PGSSLCERTMODE",
    "PGSSLCRL",
    "PGSSLCRLDIR",
    "PGSSLMINPROTOCOLVERSION",
    "PGSSLNEGOTIATION",
    "PGTARGETSESSIONATTRS",
];

/// From the weakest to the strongest. `allow` is missing, because it means plain text.
const SSL_MODES: [(&str, PgSslMode); 5] = [
    ("disable", PgSslMode::Disable),
    ("prefer", PgSslMode::Prefer),
    ("require", PgSslMode::Require),
    ("verify-ca", PgSslMode::VerifyCa),
    ("verify-full", PgSslMode::VerifyFull),
];

/// Looks up an environment variable.
type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Values, each with its origin for error messages.
#[derive(Default)]
struct Parameters(BTreeMap<&'static str, (String, String)>);

/// The options of connections to the database at `url`. Logs a warning if others on the network
/// could act as the server.
pub(super) fn connect_options(url: &str) -> Result<PgConnectOptions, OpenError> {
    let options = resolve(url, &|name| env::var_os(name)).map_err(OpenError)?;
    if let Some(mode) = weak_mode(&options) {
        warn!(
            sslmode = mode,
            "the identity of the database server is not verified: others on the network could read \
             the password and forge grants; set sslmode=verify-full"
        );
    }
    Ok(options)
}

fn resolve(url: &str, env: Env<'_>) -> Result<PgConnectOptions, String> {
    let mut parameters = Parameters::default();
    parameters.add_url(url)?;
    parameters.add_environment(env)?;
    parameters.into_options()
}

/// The mode of a connection to another machine that does not verify the server.
fn weak_mode(options: &PgConnectOptions) -> Option<&'static str> {
    let is_weak = |mode: &PgSslMode| !matches!(mode, PgSslMode::VerifyFull);
    let mode = Some(options.get_ssl_mode()).filter(|mode| is_weak(mode) && !is_local(options))?;
    let same = |(_, other): &&(_, PgSslMode)| discriminant(other) == discriminant(&mode);
    SSL_MODES.iter().find(same).map(|(name, _)| *name)
}

/// Whether the server is on this machine, so that no network is in between.
fn is_local(options: &PgConnectOptions) -> bool {
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    let host = options.get_host();
    options.get_socket().is_some() || host == "localhost" || host.parse().is_ok_and(is_loopback)
}

// === impl Parameters ===

impl Parameters {
    fn add_url(&mut self, url: &str) -> Result<(), String> {
        let rest = url.split_once("://").map(|(_, rest)| rest);
        let rest = rest.ok_or_else(|| not_a_url("it has no ://"))?;
        let (start, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = start.split_once('/').unwrap_or((start, ""));
        // A raw `/`, `?` or `#` in a password ends the authority too early. Its `@` follows later.
        let (user_and_password, host_and_port) =
            authority.rsplit_once('@').unwrap_or(("", authority));
        let is_split = rest.matches('@').count() > authority.matches('@').count();
        if is_split || user_and_password.contains('@') || rest.contains(is_reserved) {
            return Err(not_a_url(
                "the characters # / ? @ and spaces in a user name, a password or a parameter must \
                 be percent-encoded, such as %40 for @",
            ));
        }
        let (user, password) = user_and_password.split_once(':').unwrap_or((user_and_password, ""));
        let (host, port) = split_port(host_and_port)?;
        for (name, text) in [
            ("user", user),
            ("password", password),
            ("host", host),
            ("port", port),
            ("dbname", database),
        ] {
            if !text.is_empty() {
                self.insert(name, text)?;
            }
        }
        let mut may_be_password = false;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, text) = pair.split_once('=').unwrap_or((pair, ""));
            let known = PARAMETERS.iter().find(|(known, _)| *known == name);
            let (name, _) = known.ok_or_else(|| unknown(name, may_be_password))?;
            self.insert(name, text)?;
            may_be_password |= *name == "password";
        }
        Ok(())
    }

    /// The last value counts, as in libpq.
    fn insert(&mut self, name: &'static str, text: &str) -> Result<(), String> {
        let decoded = percent_decode(text).filter(|value| !value.contains('\0'));
        let value = decoded.ok_or_else(|| {
            not_a_url(&format!("{name} is not percent-encoded UTF-8; write % as %25"))
        })?;
        if value.is_empty() {
            return Err(not_a_url(&format!("{name} is empty")));
        }
        self.0.insert(name, (value, format!("{name} in database-url")));
        Ok(())
    }

    /// Adds the variables of missing parameters.
    fn add_environment(&mut self, env: Env<'_>) -> Result<(), String> {
        if let Some(name) = UNSUPPORTED.into_iter().find(|name| env(name).is_some()) {
            return Err(format!("the variable {name} is not supported; unset the variable"));
        }
        for (name, variable) in PARAMETERS {
            if let Some(value) = env(variable).filter(|_| !self.0.contains_key(name)) {
                let value = value.into_string().ok().filter(|value| !value.is_empty());
                let value = value.ok_or_else(|| {
                    format!("the variable {variable} is empty or not UTF-8; unset the variable")
                })?;
                self.0.insert(name, (value, variable.to_owned()));
            }
        }
        Ok(())
    }

    /// Removes a parameter, and parses the value. `parse` returns a problem such as `must be …`.
    fn take<T>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, String> {
        let Some((value, origin)) = self.0.remove(name) else { return Ok(None) };
        parse(&value).map(Some).map_err(|problem| format!("{origin} {problem}"))
    }

    fn text(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).map(|(value, _)| value)
    }

    fn into_options(mut self) -> Result<PgConnectOptions, String> {
        let mut options = self.base_options()?;
        if let Some(port) = self.take("port", parse_port)? {
            options = options.port(port);
        }
        let host = self.take("host", parse_host)?;
        let host = host.unwrap_or_else(|| options.get_host().to_owned());
        options = if host.starts_with('/') { options.socket(host) } else { options.host(&host) };
        if let Some(user) = self.text("user") {
            options = options.username(&user);
        }
        if let Some(password) = self.text("password") {
            options = options.password(&password);
        }
        if let Some(database) = self.text("dbname") {
            options = options.database(&database);
        }
        if let Some(name) = self.text("application_name") {
            options = options.application_name(&name);
        }
        self.tls_options(options)
    }

    /// Defaults that only sqlx knows: the name of the user, and the directory of the socket. sqlx
    /// reads the same variables as this module, which has validated them.
    fn base_options(&mut self) -> Result<PgConnectOptions, String> {
        // With a password, even an empty one, sqlx does not read `.pgpass`.
        let mut url = "postgres:///?password=".to_owned();
        if let Some((options, origin)) = self.0.remove("options")
            && origin != "PGOPTIONS"
        {
            url.push_str("&options=");
            url.extend(options.bytes().map(|byte| format!("%{byte:02X}")));
        }
        let base: PgConnectOptions = url.parse().map_err(|_| not_a_url("options is invalid"))?;
        Ok(base
            // PostgreSQL 12 and later do this by default, and PgBouncer rejects the parameter.
            .extra_float_digits(None)
            .application_name("support-access"))
    }

    fn tls_options(&mut self, mut options: PgConnectOptions) -> Result<PgConnectOptions, String> {
        let mode = self.take("sslmode", parse_mode)?;
        let default = if is_local(&options) { PgSslMode::Prefer } else { PgSslMode::VerifyFull };
        options = options.ssl_mode(mode.unwrap_or(default));
        let authority = self.take("sslrootcert", |path| match path {
            "system" => Ok(None),
            path => check_certificate(path).map(Some),
        })?;
        if let Some(path) = authority.flatten() {
            options = options.ssl_root_cert(path);
        }
        let certificate = self.take("sslcert", check_certificate)?;
        match (certificate, self.take("sslkey", check_key)?) {
            (Some(certificate), Some(key)) => {
                Ok(options.ssl_client_cert(certificate).ssl_client_key(key))
            }
            (None, None) => Ok(options),
            _ => Err("the database connection needs both sslcert and sslkey, or neither".into()),
        }
    }
}

// === parsers ===

fn not_a_url(problem: &str) -> String {
    format!(
        "database-url is not a PostgreSQL URL ({problem}); write \
         postgres://USER:PASSWORD@HOST/DATABASE"
    )
}

/// The name is shown unless it may be the rest of a password with a raw `&`.
fn unknown(name: &str, may_be_password: bool) -> String {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let shown = if name.chars().all(is_name) && !may_be_password {
        format!("the unknown parameter {name}")
    } else {
        "an unknown parameter".into()
    };
    let known: Vec<_> = PARAMETERS.iter().map(|(known, _)| *known).collect();
    format!(
        "database-url has {shown}; leave out the parameter, or percent-encode & in values. Known \
         parameters are {}",
        known.join(", ")
    )
}

fn is_reserved(c: char) -> bool {
    c == '#' || c.is_whitespace() || c.is_control()
}

/// Splits `HOST:PORT`, where an IPv6 address is in brackets. Returns the address without them.
fn split_port(text: &str) -> Result<(&str, &str), String> {
    let problem = || not_a_url("the host or the port is invalid");
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or_else(problem)?;
        return match port.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if port.is_empty() => Ok((host, "")),
            None => Err(problem()),
        };
    }
    match text.split_once(':').unwrap_or((text, "")) {
        (_, port) if port.contains([':', ',']) => Err(problem()),
        parts => Ok(parts),
    }
}

/// `None`: the text contains a `%` without two hexadecimal digits, or is not UTF-8.
fn percent_decode(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        bytes.push(u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?);
        bytes.extend(rest.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

fn parse_port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| "must be a number from 1 to 65535".into())
}

fn parse_host(text: &str) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
    if text.starts_with('/') || text.chars().all(is_name) {
        return Ok(text.to_owned());
    }
    Err("must be one host name, one IP address, or the directory of a Unix socket".into())
}

fn parse_mode(text: &str) -> Result<PgSslMode, String> {
    let found = SSL_MODES.iter().find(|(name, _)| *name == text);
    found.map(|(_, mode)| *mode).ok_or_else(|| {
        let names: Vec<_> = SSL_MODES.iter().map(|(name, _)| *name).collect();
        format!("must be one of {}", names.join(", "))
    })
}

fn check_certificate(path: &str) -> Result<String, String> {
    let pem = read(path)?;
    let is_valid = matches!(CertificateDer::pem_slice_iter(&pem).next(), Some(Ok(_)));
    is_valid.then(|| path.to_owned()).ok_or_else(|| "must name a PEM file of certificates".into())
}

fn check_key(path: &str) -> Result<String, String> {
    let is_valid = PrivateKeyDer::from_pem_slice(&read(path)?).is_ok();
    is_valid.then(|| path.to_owned()).ok_or_else(|| "must name a PEM file of a private key".into())
}

/// The error does not repeat the path, which could be the content of a key file by mistake.
fn read(path: &str) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("must name a file, which cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str, env: &[(&str, &str)]) -> Result<PgConnectOptions, String> {
        resolve(url, &|name| {
            env.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        })
    }

    fn error(url: &str, env: &[(&str, &str)]) -> String {
        options(url, env).expect_err(url)
    }

    fn mode(url: &str, env: &[(&str, &str)]) -> String {
        format!("{:?}", options(url, env).expect(url).get_ssl_mode())
    }

    #[test]
    fn all_parts_of_a_url_are_read() {
        let url = "postgresql://an%40app:p%2F%3Aw:x@db.example:5433/the%20base?application_name=a";
        let options = options(url, &[("PGHOST", "ignored"), ("PGSSLMODE", "require")]).unwrap();
        assert_eq!(options.get_username(), "an@app");
        assert_eq!((options.get_host(), options.get_port()), ("db.example", 5433));
        assert_eq!(options.get_database(), Some("the base"));
        assert_eq!(options.get_application_name(), Some("a"));
        assert!(matches!(options.get_ssl_mode(), PgSslMode::Require));
        assert!(format!("{options:?}").contains("p/:w:x"), "the password is decoded");
    }

    #[test]
    fn variables_replace_missing_parameters() {
        let env = [("PGHOST", "/run/db"), ("PGPORT", "7"), ("PGUSER", "me"), ("PGDATABASE", "d")];
        let options = options("postgres://", &env).unwrap();
        assert_eq!(options.get_socket().unwrap().to_str(), Some("/run/db"));
        assert_eq!((options.get_port(), options.get_username()), (7, "me"));
        assert_eq!(options.get_database(), Some("d"));
        assert_eq!(options.get_application_name(), Some("support-access"));
    }

    #[test]
    fn parameters_replace_other_parts_of_the_url() {
        let options = options("postgres://you@localhost/d?host=/run/db&user=me", &[]).unwrap();
        assert_eq!(options.get_socket().unwrap().to_str(), Some("/run/db"));
        assert_eq!(options.get_username(), "me");
    }

    #[test]
    fn options_of_the_session_are_passed_on() {
        let options = options("postgres:///d?options=-c%20search_path=x", &[]).unwrap();
        assert_eq!(options.get_options(), Some("-c search_path=x"));
    }

    #[test]
    fn servers_on_other_machines_are_verified() {
        for host in ["db.example", "10.0.0.7", "[2001:db8::1]", "0.0.0.0", "localhost.", "127.1"] {
            let url = format!("postgres://me:pw@{host}/d");
            assert_eq!(mode(&url, &[]), "VerifyFull", "{host}");
            let weak = weak_mode(&options(&format!("{url}?sslmode=verify-ca"), &[]).unwrap());
            assert_eq!(weak, Some("verify-ca"), "a weaker mode must be explicit");
        }
        for host in ["localhost", "127.0.0.1", "127.8.9.1", "[::1]", "%2Frun%2Fpg"] {
            let url = format!("postgres://me:pw@{host}/d");
            assert_eq!(mode(&url, &[]), "Prefer", "{host}");
            assert_eq!(weak_mode(&options(&url, &[]).unwrap()), None, "{host}");
        }
    }

    #[test]
    fn unknown_ssl_modes_are_rejected() {
        let modes = "must be one of disable, prefer, require, verify-ca, verify-full";
        for mode in ["verify_full", "VERIFY-FULL", "allow", "verify-full%20", "s3cret"] {
            let url = format!("postgres://h/d?sslmode={mode}");
            assert_eq!(error(&url, &[]), format!("sslmode in database-url {modes}"));
            assert_eq!(
                error("postgres://h/d", &[("PGSSLMODE", mode)]),
                format!("PGSSLMODE {modes}")
            );
        }
        assert_eq!(mode("postgres://h/d", &[("PGSSLMODE", "prefer")]), "Prefer");
        let both = mode("postgres://h/d?sslmode=require", &[("PGSSLMODE", "prefer")]);
        assert_eq!(both, "Require");
    }

    #[test]
    fn errors_repeat_no_value() {
        let encode = "must be percent-encoded";
        for (url, expected) in [
            ("postgres://app:4711?s3cret@h/d", encode),
            ("postgres://app:4711#s3cret@h/d", encode),
            ("postgres://app:4711/s3cret@h/d", encode),
            ("postgres://app:s3@s3cret@h/d", encode),
            ("postgres://app:4711?s3cret=x@h/d", encode),
            ("postgres://app:47 s3cret@h/d", encode),
            ("postgres://app:s3cret%@h/d", "write % as %25"),
            ("postgres://app:s3cret%zz@h/d", "write % as %25"),
            ("postgres://app:s3cret%00@h/d", "write % as %25"),
            ("postgres://app:pw@h:s3cret/d", "port in database-url must be a number"),
            ("postgres://app:s3cret", "port in database-url must be a number"),
            ("postgres://app:pw@h:1:s3cret/d", "the host or the port is invalid"),
            ("postgres://me:pw@[::1]s3cret/d", "the host or the port is invalid"),
            ("postgres://me:s3cret@one,two/d", "must be one host name"),
            ("postgres://me:s3cret@one:1,two:2/d", "the host or the port is invalid"),
            ("postgres:s3cret", "it has no ://"),
            ("postgres://me:pw@h/d?sslpassword=s3cret", "the unknown parameter sslpassword;"),
            ("postgres://h/d?pwd=s3cret&password=x", "the unknown parameter pwd;"),
            ("postgres://h/d?password=pw&s3cret", "an unknown parameter;"),
            ("postgres://me:pw@h/d?s3cret!=1", "an unknown parameter;"),
            ("postgres://h/d?sslkey=s3cret", "sslkey in database-url must name a file"),
            ("postgres://h/d?sslrootcert=s3cret", "sslrootcert in database-url must name"),
            ("postgres://h/d?sslmode=", "sslmode is empty"),
        ] {
            let error = error(url, &[]);
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("s3cret") && !error.contains("4711"), "{url}: {error}");
        }
        for (variable, value, expected) in [
            ("PGPORT", "s3cret", "PGPORT must be a number"),
            ("PGHOST", "s3cret@h", "PGHOST must be one host name"),
            ("PGSSLKEY", "-----BEGIN PRIVATE KEY-----s3cret", "PGSSLKEY must name a file"),
            ("PGSSLCERT", "", "PGSSLCERT is empty"),
            ("PGPASSFILE", "s3cret", "PGPASSFILE is not supported"),
            ("PGREQUIREAUTH", "s3cret", "PGREQUIREAUTH is not supported"),
        ] {
            let error = error("postgres:///d", &[(variable, value)]);
            assert!(error.contains(expected) && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn files_of_tls_must_contain_what_they_should() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "-----BEGIN PRIVATE KEY-----s3cret\n").unwrap();
        let path = file.path().to_str().unwrap();
        for (name, expected) in [
            ("sslkey", "must name a PEM file of a private key"),
            ("sslcert", "must name a PEM file of certificates"),
            ("sslrootcert", "must name a PEM file of certificates"),
        ] {
            let error = error(&format!("postgres://h/d?{name}={path}"), &[]);
            assert_eq!(error, format!("{name} in database-url {expected}"));
        }
        options("postgres://h/d?sslrootcert=system", &[]).unwrap();
    }
}
