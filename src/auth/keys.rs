//! An issuer's keys: a JWK set (RFC 7517), in a file or at a URL, kept and fetched again when it has changed.

use std::{fmt, fs, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use futures::StreamExt;
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use reqwest::{Client, Url, redirect};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::domain::{BootTime, Clock};

/// How often keys are fetched anew, so that one that was withdrawn is not taken for long.
const FETCH_INTERVAL: Duration = Duration::from_mins(5);
/// How often a file is looked at.
const FILE_INTERVAL: Duration = Duration::from_secs(2);
/// How soon keys may be fetched again because of a token with a key that is not known, since anybody can make up such tokens; and
/// after they could not be fetched.
const UNKNOWN_INTERVAL: Duration = Duration::from_secs(5);
/// For how long keys are used that could not be fetched again. An issuer that is down should keep nobody from revoking.
const AGE_MAX: Duration = Duration::from_hours(24);
/// How long fetching may take, and how much it may bring.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const LENGTH_MAX: usize = 1_024 * 1_024;
/// What is wrong with a set of which nothing is of use.
const NO_KEY: &str = "has no key for RS256, ES256 or EdDSA signatures";
/// The most keys that are kept of a set.
const KEYS_MAX: usize = 100;

/// Why there is no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// The set has none that fits.
    Unknown,
    /// There is no set, or it is too old.
    Unavailable,
}

/// The keys of one issuer.
pub struct Keys {
    source: Source,
    clock: Arc<dyn Clock>,
    current: ArcSwap<Set>,
    /// Asks for them to be fetched.
    wanted: Notify,
    /// When that was last tried, to the end. Whoever waits is told of the next.
    tried: watch::Sender<Option<BootTime>>,
}

enum Source {
    File(PathBuf),
    Url { url: Url, client: Client },
}

/// Keys as they were fetched.
#[derive(Default)]
struct Set {
    fetched: Option<BootTime>,
    /// What was read, to tell whether it has changed.
    text: String,
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    decoding: DecodingKey,
}

// === impl Keys ===

impl Keys {
    /// The keys at `source`: an https URL, http where it leads to this host, or a file, which must be there. The error is a
    /// sentence for an operator.
    pub fn new(source: &str, clock: Arc<dyn Clock>) -> Result<Self, String> {
        let source = match source.split_once("://") {
            Some(_) => Source::url(source)?,
            None => Source::File(source.into()),
        };
        let (wanted, tried) = (Notify::new(), watch::Sender::new(None));
        let keys = Self { source, clock, current: ArcSwap::default(), wanted, tried };
        if let Source::File(path) = &keys.source {
            keys.take(read_file(path)?)?;
            if keys.current.load().keys.is_empty() {
                return Err(format!("{} {NO_KEY}", keys.source));
            }
        }
        Ok(keys)
    }

    /// Fetches the keys, now and then and when they are wanted, until stopped. Nobody else fetches them: so it is not given up because
    /// somebody stopped waiting, and not done twice at a time.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let interval = match self.source {
            Source::File(_) => FILE_INTERVAL,
            Source::Url { .. } => FETCH_INTERVAL,
        };
        loop {
            let Some(is_fetched) = stop.run_until_cancelled(self.fetch()).await else { return };
            self.tried.send_replace(Some(self.clock.boot_time()));
            let pause = sleep(if is_fetched { interval } else { UNKNOWN_INTERVAL.min(interval) });
            tokio::select! {
                () = stop.cancelled() => return,
                () = pause => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    /// The key for a token. One that is not known is waited for until the keys have been fetched again, if that may be.
    pub(super) async fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<DecodingKey, KeyError> {
        if let Some(key) = self.known(id, algorithm) {
            return Ok(key);
        }
        let mut tried = self.tried.subscribe();
        let last = *tried.borrow_and_update();
        let now = self.clock.boot_time();
        if last.is_none_or(|last| now.since(last) >= UNKNOWN_INTERVAL) {
            self.wanted.notify_one();
            // Longer than that, nobody fetches.
            let _ = timeout(FETCH_TIMEOUT, tried.changed()).await;
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
        let mut fitting = set.keys.iter().filter(|key| {
            key.algorithm == algorithm && id.is_none_or(|id| key.id.as_deref() == Some(id))
        });
        let key = fitting.next()?.decoding.clone();
        // Without an id, there must be no choice.
        (id.is_some() || fitting.next().is_none()).then_some(key)
    }

    fn age(&self) -> Option<Duration> {
        let fetched = self.current.load().fetched?;
        Some(self.clock.boot_time().since(fetched))
    }

    /// Whether the keys could be had.
    async fn fetch(&self) -> bool {
        let fetched = match &self.source {
            Source::File(path) => read_file(path),
            Source::Url { url, client } => {
                let fetching = timeout(FETCH_TIMEOUT, fetch(client, url.clone()));
                fetching.await.unwrap_or_else(|_| Err(format!("{url} does not answer in time")))
            }
        };
        let taken = fetched.and_then(|text| self.take(text));
        if let Err(error) = &taken {
            warn!(%error, "an issuer's keys could not be brought up to date, will go on trying");
        }
        taken.is_ok()
    }

    fn take(&self, text: String) -> Result<(), String> {
        let fetched = Some(self.clock.boot_time());
        let keys = parse(&text).map_err(|found| format!("{} {found}", self.source))?;
        if self.current.load().text != text {
            info!(source = %self.source, keys = keys.len(), "an issuer's keys were read");
            if keys.is_empty() {
                // It has withdrawn them all, and is believed.
                warn!(source = %self.source, "the issuer {NO_KEY}: its tokens are refused");
            }
        }
        self.current.store(Arc::new(Set { fetched, text, keys }));
        Ok(())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("source", &self.source.to_string()).finish_non_exhaustive()
    }
}

// === impl Source ===

impl Source {
    fn url(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("{text:?} is not a URL: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the URL of an issuer's keys must not have credentials in it".into());
        }
        let is_local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if url.scheme() != "https" && !(url.scheme() == "http" && is_local) {
            return Err(format!(
                "{text:?} must begin with https://: whoever can change keys on their way can let in anybody"
            ));
        }
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .timeout(FETCH_TIMEOUT)
            .user_agent(concat!("support-access/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| format!("{text:?} cannot be fetched here: {error}"))?;
        Ok(Self::Url { url, client })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url { url, .. } => url.fmt(f),
        }
    }
}

fn read_file(path: &PathBuf) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

async fn fetch(client: &Client, url: Url) -> Result<String, String> {
    let told = |error: reqwest::Error| format!("{url} cannot be read: {}", error.without_url());
    let answer = client.get(url.clone()).send().await.map_err(told)?;
    if !answer.status().is_success() {
        return Err(format!("{url} answers {}", answer.status()));
    }
    let mut text = Vec::new();
    let mut chunks = answer.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        text.extend_from_slice(&chunk.map_err(told)?);
        if text.len() > LENGTH_MAX {
            return Err(format!("{url} answers more than {LENGTH_MAX} bytes"));
        }
    }
    String::from_utf8(text).map_err(|_| format!("{url} does not answer with text"))
}

/// The keys of a set that can verify signatures. Others are passed over (RFC 7517, 5): a set may have keys for other things.
fn parse(text: &str) -> Result<Vec<Key>, &'static str> {
    #[derive(Deserialize)]
    struct Any {
        keys: Vec<Value>,
    }
    let set: Any = serde_json::from_str(text).map_err(|_| "is not a JWK set")?;
    let keys = set.keys.into_iter().take(KEYS_MAX);
    Ok(keys.filter_map(|value| usable(&value)).collect())
}

fn usable(value: &Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(it) if it.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::OctetKeyPair(it) if it.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        _ => return None,
    };
    let is_for_signatures =
        jwk.common.public_key_use.as_ref().is_none_or(|it| *it == PublicKeyUse::Signature);
    let named = jwk.common.key_algorithm.map(|it| it.to_string());
    let is_for_another = named.is_some_and(|name| name != format!("{algorithm:?}"));
    if !is_for_signatures || is_for_another {
        debug!(kid = jwk.common.key_id, "a key is for something else");
        return None;
    }
    let decoding = DecodingKey::from_jwk(&jwk).ok()?;
    Some(Key { id: jwk.common.key_id, algorithm, decoding })
}
