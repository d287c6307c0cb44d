//! Periodically verifies the hash chains of all histories.
//!
//! Events are permanent, but anyone with write access to the database can change them. A pass over
//! all chains detects changes that break a chain. A rewritten chain with new, consistent hashes is
//! detected too, because each pass compares the chain ends with a digest from the previous pass.
//! The digest is in memory and is lost when the process ends.

use std::{fmt::Display, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use tokio::{task::yield_now, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    domain::{
        Revision, TenantId, Time,
        chain::{ChainError, Link, Record, Verifier},
    },
    service::Service,
    store::StoreError,
};

/// The number of records per query. A record may have 200,000 bytes.
const PAGE: usize = 50;
/// The maximum rate of verification, so that other calls are not delayed. A unit is one record or
/// one KiB, whichever is more.
const UNITS_PER_SECOND: f64 = 2_000.0;
/// The units that one query counts, in addition to its records.
const UNITS_PER_QUERY: usize = 10;
/// The interval between retries while the database is unavailable.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The number of failed attempts after which a warning is logged.
const WARN_AFTER: u32 = 10;
/// The maximum number of broken chains that one pass logs.
const LOGGED_MAX: u64 = 20;
/// Logged for a chain that cannot be read.
const UNREADABLE: &str = "the chain cannot be read";

/// The results of the verification.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// The number of broken chains: of the last pass, or of the current pass if that number is
    /// higher. `None`: not known yet. Events outside every chain count as one broken chain. A
    /// rewritten history also counts as one, until this process ends.
    pub breaks: Option<u64>,
    /// The end of the last pass.
    pub at: Option<Time>,
    /// The number of events verified since the process started.
    pub events: u64,
}

/// The state of the log after a pass, with which the next pass compares the log.
#[derive(Debug, Clone, Copy, Default)]
struct Baseline {
    /// The last revision, and the time of its event.
    head: Revision,
    time: Option<Time>,
    /// The digest of all chain ends at `head`.
    ends: [u8; 32],
    /// Whether a rewritten history was detected. No later pass can detect the same rewrite again.
    is_rewritten: bool,
}

/// A pass over all chains.
#[derive(Debug)]
struct Pass {
    previous: Baseline,
    /// The last revision when the pass started, and the time of its event. The next pass verifies
    /// later events.
    head: Revision,
    time: Option<Time>,
    breaks: u64,
    /// The number of events up to `head` that are in a chain.
    found: Revision,
    /// The digests of the chain ends: at `head`, and at the head of the previous pass.
    ends: Sha256,
    previous_ends: Sha256,
}

/// An older state of the database was restored during the pass, so the pass has read from two
/// states.
struct Restored;

/// Verifies all chains, then waits for `interval`, and repeats until stopped.
pub async fn run(service: Arc<Service>, interval: Duration, stop: CancellationToken) {
    let mut history = History::new(service);
    let passes = async {
        loop {
            history.verify().await;
            sleep(interval).await;
        }
    };
    stop.run_until_cancelled(passes).await;
}

/// The periodic verification and the state between two passes.
#[derive(Debug)]
pub struct History {
    service: Arc<Service>,
    baseline: Option<Baseline>,
}

impl Service {
    /// Returns the results of the verification so far.
    pub fn verified(&self) -> Verified {
        *self.verified.lock()
    }
}

impl History {
    /// Creates the verification without an earlier pass.
    pub fn new(service: Arc<Service>) -> Self {
        Self { service, baseline: None }
    }

    /// Verifies every chain once. Waits while the database is unavailable. Restarts the pass if an
    /// older state of the database was restored.
    pub async fn verify(&mut self) {
        while let Err(Restored) = self.verify_all().await {
            info!("an older state of the database was restored, restarting the verification");
            sleep(RETRY_INTERVAL).await;
        }
    }

    async fn verify_all(&mut self) -> Result<(), Restored> {
        let store = &self.service.store;
        let Some(head) = retry(|| store.log().head()).await else {
            self.count_break(&mut Pass::new(Baseline::default(), 0, None), "", &UNREADABLE);
            return Ok(());
        };
        let time = self.time_of(head.revision).await;
        let mut pass = Pass::new(self.baseline.unwrap_or_default(), head.revision, time);
        let mut tenant = String::new();
        loop {
            self.verify_chain(&mut pass, &tenant).await?;
            match retry(|| store.queries().tenants(&tenant, 1)).await.map(|mut next| next.pop()) {
                Some(Some(next)) => tenant = next,
                Some(None) => break,
                None => return self.record_break(&mut pass, "", &UNREADABLE).await,
            }
            pause(UNITS_PER_QUERY).await;
        }
        // The records after a break are not read, so the count is meaningful only without breaks.
        if pass.breaks == 0 && pass.found != pass.head {
            let missing = format!("{} events of the log are in no chain", pass.head - pass.found);
            self.record_break(&mut pass, "", &missing).await?;
        }
        self.finish(pass).await
    }

    /// Detects rewritten histories, and stores the state for the next pass.
    async fn finish(&mut self, mut pass: Pass) -> Result<(), Restored> {
        let previous = pass.previous;
        let is_same_log = self.time_of(previous.head).await == previous.time;
        // A restored backup is another log, so an earlier rewrite no longer applies.
        let mut is_rewritten = previous.is_rewritten && is_same_log;
        if pass.breaks == 0 && is_same_log && self.baseline.is_some() {
            let ends: [u8; 32] = pass.previous_ends.clone().finalize().into();
            is_rewritten |= ends != previous.ends;
        }
        if is_rewritten {
            let rewritten = "the history was rewritten with new hashes since the previous pass";
            self.record_break(&mut pass, "", &rewritten).await?;
        }
        if pass.breaks == 0 || is_rewritten {
            let (head, time, ends) = (pass.head, pass.time, pass.ends.finalize().into());
            self.baseline = Some(Baseline { head, time, ends, is_rewritten });
        }
        let mut verified = self.service.verified.lock();
        if verified.breaks.is_some_and(|breaks| breaks > 0) && pass.breaks == 0 {
            info!("all chains of the history verify again");
        }
        verified.breaks = Some(pass.breaks);
        verified.at = Some(self.service.now());
        Ok(())
    }

    async fn verify_chain(&self, pass: &mut Pass, tenant: &str) -> Result<(), Restored> {
        let tenant_id = (!tenant.is_empty()).then(|| TenantId::new(tenant)).transpose();
        let Ok(tenant_id) = tenant_id else {
            return self.record_break(pass, tenant, &"the chain's tenant id is invalid").await;
        };
        // Only an invalid key or checkpoint makes this fail.
        let Ok(mut verifier) = Verifier::new(None, None) else { return Ok(()) };
        let (mut last, mut last_previous) = (Link::START, Link::START);
        'pages: loop {
            let records = retry(|| {
                self.service.store.history().records(tenant_id.as_ref(), last.sequence, PAGE)
            })
            .await;
            let Some(records) = records else {
                return self.record_break(pass, tenant, &UNREADABLE).await;
            };
            let bytes: usize = records.iter().map(|record| record.line.len()).sum();
            pause(UNITS_PER_QUERY + records.len().max(bytes / 1_024)).await;
            for record in &records {
                let Record { link, revision, line } = record;
                if *revision > pass.head {
                    break 'pages;
                }
                if let Err(fault) = verifier.line(line.as_bytes()) {
                    return self.record_break(pass, tenant, &fault.misfit).await;
                }
                pass.found += 1;
                last = *link;
                if *revision <= pass.previous.head {
                    last_previous = *link;
                }
                self.service.verified.lock().events += 1;
                // Verifying a long record takes time, so let other tasks run.
                yield_now().await;
            }
            if records.len() < PAGE {
                break;
            }
        }
        pass.record_end(tenant, last, last_previous);
        match verifier.finish() {
            Ok(verdict) if verdict.tenant_id != tenant => {
                let expected = tenant.to_owned();
                let misfit = ChainError::OtherTenant { expected, found: verdict.tenant_id };
                self.record_break(pass, tenant, &misfit).await
            }
            // A history without records cannot be broken.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Returns the commit time of the event with this revision, if the event is readable.
    async fn time_of(&self, revision: Revision) -> Option<Time> {
        if revision == 0 {
            return None;
        }
        let events = retry(|| self.service.store.log().events_after(revision - 1, 1)).await?;
        events.first().filter(|event| event.revision == revision).map(|event| event.time)
    }

    async fn record_break(
        &self,
        pass: &mut Pass,
        tenant: &str,
        misfit: &(dyn Display + Sync),
    ) -> Result<(), Restored> {
        // If a restore happened during the pass, the mismatch may come from reading two states.
        if self.time_of(pass.head).await != pass.time {
            return Err(Restored);
        }
        self.count_break(pass, tenant, misfit);
        Ok(())
    }

    fn count_break(&self, pass: &mut Pass, tenant: &str, misfit: &dyn Display) {
        pass.breaks += 1;
        if pass.breaks <= LOGGED_MAX {
            let tenant_id = (!tenant.is_empty()).then_some(tenant);
            error!(
                tenant_id,
                %misfit,
                "the history does not verify: permanent events were changed in the database"
            );
        }
        let mut verified = self.service.verified.lock();
        verified.breaks = verified.breaks.max(Some(pass.breaks));
    }
}

impl Pass {
    fn new(previous: Baseline, head: Revision, time: Option<Time>) -> Self {
        let (ends, previous_ends) = (Sha256::new(), Sha256::new());
        Self { previous, head, time, breaks: 0, found: 0, ends, previous_ends }
    }

    fn record_end(&mut self, tenant: &str, last: Link, last_previous: Link) {
        for (ends, link) in [(&mut self.ends, last), (&mut self.previous_ends, last_previous)] {
            // A chain without events has no end.
            if link.sequence > 0 {
                ends.update(tenant.len().to_be_bytes());
                ends.update(tenant);
                ends.update(link.sequence.to_be_bytes());
                ends.update(link.hash.0);
            }
        }
    }
}

/// Retries while the database is unavailable. Returns `None` if the stored data is invalid.
async fn retry<'a, T>(
    query: impl Fn() -> BoxFuture<'a, Result<T, StoreError>> + Send,
) -> Option<T> {
    let mut failures = 0;
    loop {
        match query().await {
            Ok(value) => {
                if failures >= WARN_AFTER {
                    info!("the history can be verified again");
                }
                return Some(value);
            }
            Err(error @ StoreError::Broken(_)) => {
                error!(%error, source = cause(&error), "the history cannot be read");
                return None;
            }
            Err(error @ StoreError::Unavailable(_)) => {
                failures += 1;
                if failures == WARN_AFTER {
                    let source = cause(&error);
                    warn!(%error, source, "the history cannot be verified, retrying");
                } else {
                    let source = cause(&error);
                    debug!(%error, source, "the history cannot be verified, retrying");
                }
            }
        }
        sleep(RETRY_INTERVAL).await;
    }
}

fn cause(error: &StoreError) -> Option<String> {
    std::error::Error::source(error).map(ToString::to_string)
}

async fn pause(units: usize) {
    #[expect(clippy::cast_precision_loss, reason = "at most one page")]
    let units = units as f64;
    sleep(Duration::from_secs_f64(units / UNITS_PER_SECOND)).await;
}
