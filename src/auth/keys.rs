//! The keys of an issuer: a JWK set (RFC 7517) from a file or a URL, refreshed in the background.

use std::{fmt, fs, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::Uri;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    auth::http::{Answer, HttpClient},
    domain::{BootTime, Clock},
};

/// Refresh interval of keys at a URL. Bounds how long a withdrawn key is accepted.
const URL_INTERVAL: Duration = Duration::from_mins(5);
/// Refresh interval of keys in a file.
const FILE_INTERVAL: Duration = Duration::from_secs(2);
/// Minimum interval between retries after a failure, and between refreshes for tokens with unknown
/// keys, which anyone can forge.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// How long keys are used after the last successful refresh. An unavailable issuer should not
/// prevent revocations.
const AGE_MAX: Duration = Duration::from_hours(24);
/// Timeout of a refresh.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(5);
/// Where an issuer publishes the address of its keys (OpenID Connect Discovery 1.0, section 4).
const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";
/// Maximum size of a JWK set, in bytes.
const LENGTH_MAX: usize = 1_024 * 1_024;
/// Maximum number of keys taken from a set.
const KEYS_MAX: usize = 100;
/// The problem of a set without a usable key.
const NO_KEY: &str = "has no key for RS256, ES256 or EdDSA signatures";

/// Reason why there is no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// The set has no such key.
    Unknown,
    /// There is no set, or the set is older than 24 hours.
    Unavailable,
}

/// The keys of one issuer.
pub struct IssuerKeys {
    source: Source,
    clock: Arc<dyn Clock>,
    current: ArcSwap<KeySet>,
    /// Requests a refresh.
    refresh: Notify,
    /// The end of the last refresh, successful or not.
    refreshed: watch::Sender<Option<BootTime>>,
}

enum Source {
    File(PathBuf),
    Url {
        url: Uri,
        client: HttpClient,
    },
    /// The keys are at the address in the document at `url`.
    Discovery {
        url: Uri,
        issuer: String,
        client: HttpClient,
    },
}

#[derive(Default)]
struct KeySet {
    fetched: Option<BootTime>,
    /// The text of the set, to detect changes.
    text: String,
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    decoding: DecodingKey,
}

// === impl IssuerKeys ===

impl IssuerKeys {
    /// The keys at `source`: an https URL, an http URL of this host, or a file. Reads a file at
    /// once; a URL is fetched by [`IssuerKeys::run`]. The error is a sentence for an operator.
    pub fn new(source: &str, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let source = match source.split_once("://") {
            Some(_) => {
                let (url, client) = client_for(source)?;
                Source::Url { url, client }
            }
            None => Source::File(source.into()),
        };
        Self::from_source(source, clock)
    }

    /// The keys at `keys`, or else at the address that the issuer publishes. The error is a
    /// sentence for an operator.
    pub fn of_issuer(
        issuer: &str,
        keys: Option<&str>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, String> {
        if let Some(keys) = keys {
            return Self::new(keys, clock);
        }
        let address = format!("{}{DISCOVERY_PATH}", issuer.trim_end_matches('/'));
        let (url, client) = client_for(&address).map_err(|problem| {
            format!("without keys, the issuer must publish their address: {problem}; set keys")
        })?;
        Self::from_source(Source::Discovery { url, issuer: issuer.to_owned(), client }, clock)
    }

    fn from_source(source: Source, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let (refresh, refreshed) = (Notify::new(), watch::Sender::new(None));
        let keys = Self { source, clock, current: ArcSwap::default(), refresh, refreshed };
        if let Source::File(path) = &keys.source {
            keys.replace(read_file(path)?)?;
            if keys.current.load().keys.is_empty() {
                return Err(format!("{} {NO_KEY}", keys.source));
            }
        }
        Ok(keys)
    }

    /// Refreshes the keys at intervals and on request, until `stop`. No other task fetches, so a
    /// caller that disconnects aborts no refresh, and concurrent callers cause only one.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let interval = match self.source {
            Source::File(_) => FILE_INTERVAL,
            Source::Url { .. } | Source::Discovery { .. } => URL_INTERVAL,
        };
        loop {
            let Some(is_fresh) = stop.run_until_cancelled(self.fetch()).await else { return };
            self.refreshed.send_replace(Some(self.clock.boot_time()));
            let pause = sleep(if is_fresh { interval } else { RETRY_INTERVAL.min(interval) });
            tokio::select! {
                () = stop.cancelled() => return,
                () = pause => {}
                () = self.refresh.notified() => {}
            }
        }
    }

    /// The key of a token. For an unknown key, requests a refresh and waits for it, at most once
    /// per [`RETRY_INTERVAL`].
    pub async fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<DecodingKey, KeyError> {
        if let Some(key) = self.known(id, algorithm) {
            return Ok(key);
        }
        let mut refreshed = self.refreshed.subscribe();
        let last = *refreshed.borrow_and_update();
        let now = self.clock.boot_time();
        if last.is_none_or(|last| now.since(last) >= RETRY_INTERVAL) {
            self.refresh.notify_one();
            // No refresh takes longer.
            let _ = timeout(REFRESH_TIMEOUT, refreshed.changed()).await;
        }
        let is_usable = self.age().is_some_and(|age| age < AGE_MAX);
        self.known(id, algorithm).ok_or(if is_usable {
            KeyError::Unknown
        } else {
            KeyError::Unavailable
        })
    }

    fn known(&self, id: Option<&str>, algorithm: Algorithm) -> Option<DecodingKey> {
        self.age().filter(|age| *age < AGE_MAX)?;
        let set = self.current.load();
        let mut matching = set.keys.iter().filter(|key| {
            key.algorithm == algorithm && id.is_none_or(|id| key.id.as_deref() == Some(id))
        });
        let key = matching.next()?.decoding.clone();
        // A token without a key id must match exactly one key.
        (id.is_some() || matching.next().is_none()).then_some(key)
    }

    fn age(&self) -> Option<Duration> {
        let fetched = self.current.load().fetched?;
        Some(self.clock.boot_time().since(fetched))
    }

    /// Fetches the keys. Returns whether that succeeded.
    async fn fetch(&self) -> bool {
        let text = match &self.source {
            Source::File(path) => read_file(path),
            Source::Url { url, client } => in_time(url, fetch(client, url)).await,
            Source::Discovery { url, issuer, client } => {
                in_time(url, discover(client, url, issuer)).await
            }
        };
        let replaced = text.and_then(|text| self.replace(text));
        if let Err(error) = &replaced {
            warn!(%error, "cannot refresh the keys of an issuer, will retry");
        }
        replaced.is_ok()
    }

    fn replace(&self, text: String) -> Result<(), String> {
        let fetched = Some(self.clock.boot_time());
        let keys = parse(&text).map_err(|problem| format!("{} {problem}", self.source))?;
        if self.current.load().text != text {
            info!(source = %self.source, keys = keys.len(), "loaded the keys of an issuer");
            if keys.is_empty() {
                // An issuer may withdraw all of its keys.
                warn!(source = %self.source, "the issuer {NO_KEY}: rejecting its tokens");
            }
        }
        self.current.store(Arc::new(KeySet { fetched, text, keys }));
        Ok(())
    }
}

impl fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = self.source.to_string();
        f.debug_struct("IssuerKeys").field("source", &source).finish_non_exhaustive()
    }
}

/// The URL `text`, and a client for that URL.
fn client_for(text: &str) -> Result<(Uri, HttpClient), String> {
    // First, because other errors repeat the URL.
    if text.contains('@') {
        return Err("the URL of an issuer's keys must not contain credentials".into());
    }
    let is_https = text.starts_with("https://");
    if !is_https && !text.starts_with("http://") {
        return Err(must_be_https(text));
    }
    let url: Uri = text.parse().map_err(|error| format!("{text:?} is not a URL: {error}"))?;
    let client = if is_https {
        HttpClient::secure().map_err(|error| format!("cannot fetch {text:?}: {error}"))?
    } else if is_local(&url) {
        HttpClient::plain()
    } else {
        return Err(must_be_https(text));
    };
    Ok((url, client))
}

fn is_local(url: &Uri) -> bool {
    matches!(url.host(), Some("localhost" | "127.0.0.1" | "[::1]"))
}

fn must_be_https(text: &str) -> String {
    format!("{text:?} must start with https://: others on the network could replace the keys")
}

// === impl Source ===

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url { url, .. } | Self::Discovery { url, .. } => url.fmt(f),
        }
    }
}

fn read_file(path: &PathBuf) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

async fn in_time(
    url: &Uri,
    fetching: impl Future<Output = Result<String, String>>,
) -> Result<String, String> {
    let fetched = timeout(REFRESH_TIMEOUT, fetching).await;
    fetched.unwrap_or_else(|_| Err(format!("{url} did not respond within the timeout")))
}

/// Fetches the keys at the address that the issuer publishes at `url`. The address may change when
/// the issuer replaces its keys, so each refresh reads both.
async fn discover(client: &HttpClient, url: &Uri, issuer: &str) -> Result<String, String> {
    #[derive(Deserialize)]
    struct Metadata {
        issuer: String,
        jwks_uri: String,
    }
    let text = fetch(client, url).await?;
    let Metadata { issuer: named, jwks_uri } = serde_json::from_str(&text)
        .map_err(|_| format!("{url} is not a discovery document with issuer and jwks_uri"))?;
    // OpenID Connect Discovery 1.0, section 4.3: another issuer could otherwise be impersonated.
    if named != issuer {
        return Err(format!(
            "{url} names the issuer {named:?}, but the configuration names {issuer:?}; both must \
             be equal"
        ));
    }
    let keys = jwks_uri.parse::<Uri>().ok().filter(|keys| {
        let is_safe = url.scheme_str() == Some("https") || is_local(keys);
        !jwks_uri.contains('@') && keys.scheme_str() == url.scheme_str() && is_safe
    });
    let keys = keys.ok_or_else(|| {
        format!("{url} names the keys {jwks_uri:?}, which must be a URL with the same scheme")
    })?;
    fetch(client, &keys).await
}

async fn fetch(client: &HttpClient, url: &Uri) -> Result<String, String> {
    // Boxed, because the future is large.
    let response = Box::pin(client.get(url, LENGTH_MAX)).await;
    let Answer { status, body, is_truncated } =
        response.map_err(|error| format!("{url} cannot be read: {error}"))?;
    if !status.is_success() {
        return Err(format!("{url} responded with {status}"));
    }
    if is_truncated {
        return Err(format!("{url} responded with more than {LENGTH_MAX} bytes"));
    }
    String::from_utf8(body).map_err(|_| format!("the response of {url} is not UTF-8 text"))
}

/// The keys of a set that can verify signatures. Skips other keys (RFC 7517, section 5).
fn parse(text: &str) -> Result<Vec<Key>, &'static str> {
    #[derive(Deserialize)]
    struct JwkSet {
        keys: Vec<Value>,
    }
    let set: JwkSet = serde_json::from_str(text).map_err(|_| "is not a JWK set")?;
    let keys = set.keys.into_iter().take(KEYS_MAX);
    Ok(keys.filter_map(|value| usable(&value)).collect())
}

fn usable(value: &Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        _ => return None,
    };
    let use_of_key = jwk.common.public_key_use.as_ref();
    let is_for_signatures = use_of_key.is_none_or(|found| *found == PublicKeyUse::Signature);
    let named = jwk.common.key_algorithm.map(|named| named.to_string());
    let is_for_another = named.is_some_and(|name| name != format!("{algorithm:?}"));
    if !is_for_signatures || is_for_another {
        debug!(kid = jwk.common.key_id, "skipping a key with another use");
        return None;
    }
    let decoding = DecodingKey::from_jwk(&jwk).ok()?;
    Some(Key { id: jwk.common.key_id, algorithm, decoding })
}
