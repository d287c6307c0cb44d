//! Verifies the hash chains of all histories repeatedly, at one replica, and compares the grants
//! and locks with them.
//!
//! The member with the smallest node id verifies. Each replica reads the membership again every
//! minute, so that another replica takes over within about a minute after that member has left.
//!
//! A pass over all chains finds every record that does not match its hash. Records that were
//! rewritten together with their hashes do match. To find these, the process keeps a hash over the
//! ends of all chains, and compares each pass with the previous one.

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
    store::{PAGE_WEIGHT_MAX, StoreError},
};

mod rows;

/// Records per read. A record may have 200,000 bytes.
const PAGE: usize = 50;
/// Maximum load on the database: records or KiB per second, whichever is more.
const UNITS_PER_SECOND: f64 = 2_000.0;
/// The load of a query without its rows.
const UNITS_PER_QUERY: usize = 10;
/// Pause before a failed read is repeated.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Consecutive failed reads before a warning is logged.
const FAILURES_BEFORE_WARNING: u32 = 10;
/// Maximum number of breaks that are logged in a pass.
const LOGGED_MAX: u64 = 20;
/// Maximum time between two reads of the membership.
const ROLE_INTERVAL: Duration = Duration::from_mins(1);
const UNREADABLE: &str = "the history cannot be read";

/// The result of the verification at the verifying replica.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerificationStatus {
    /// Broken chains of the last pass, or of the current pass if that number is higher. `None`: no
    /// pass has ended, and no break was found. Events that are in no chain count as one break. A
    /// rewritten history also counts as one break.
    pub breaks: Option<u64>,
    /// Grants, locks and columns of events that differ from the history, as `breaks`.
    pub differences: Option<u64>,
    /// End of the last pass.
    pub completed_at: Option<Time>,
    /// Events verified since this replica took over.
    pub events: u64,
}

/// The state of the history at the end of a pass.
#[derive(Debug, Clone, Copy, Default)]
struct Summary {
    /// The end of the log, and the time of the event there.
    head: Revision,
    time: Option<Time>,
    /// The hash over the ends of all chains as of `head`.
    ends: [u8; 32],
    /// Whether a rewritten history was found. A later pass cannot find it again.
    is_rewritten: bool,
}

/// A pass over all chains.
#[derive(Debug)]
struct Pass {
    previous: Summary,
    /// The end of the log when the pass started, and the time of the event there. The next pass
    /// verifies later events.
    head: Revision,
    time: Option<Time>,
    breaks: u64,
    differences: u64,
    /// Events up to `head` that are in a chain.
    chained_events: Revision,
    /// The hash over the ends of the chains as of `head`, and as of the head of the previous pass.
    ends: Sha256,
    previous_ends: Sha256,
}

/// The database was restored during a pass. The pass may have read records of both states.
struct Restored;

/// Verifies all chains while this replica has the smallest node id, until `stop` is cancelled. Each
/// pass starts `interval` after the end of the previous one.
pub async fn run(service: Arc<Service>, interval: Duration, stop: CancellationToken) {
    let role_interval = interval.min(ROLE_INTERVAL);
    let mut verification = Verification::new(Arc::clone(&service));
    let turns = async {
        loop {
            service.wait_for_role(true, role_interval).await;
            info!("this replica verifies the histories");
            let passes = async {
                loop {
                    verification.run_pass().await;
                    sleep(interval).await;
                }
            };
            service.set_verification(Some(VerificationStatus::default()));
            tokio::select! {
                () = passes => {}
                () = service.wait_for_role(false, role_interval) => {}
            }
            service.set_verification(None);
            info!("another replica verifies the histories");
        }
    };
    stop.run_until_cancelled(turns).await;
}

/// Repeated passes, with the summary of the last one.
#[derive(Debug)]
pub struct Verification {
    service: Arc<Service>,
    summary: Option<Summary>,
}

// === impl Service ===

impl Service {
    /// The result of the verification. `None`: another replica verifies.
    pub fn verification(&self) -> Option<VerificationStatus> {
        *self.verification.lock()
    }

    fn set_verification(&self, status: Option<VerificationStatus>) {
        *self.verification.lock() = status;
    }

    fn update_verification(&self, update: impl FnOnce(&mut VerificationStatus)) {
        update(self.verification.lock().get_or_insert_default());
    }

    /// Waits until the membership shows that this replica verifies, or if not `expected`, that
    /// another replica verifies.
    async fn wait_for_role(&self, expected: bool, interval: Duration) {
        loop {
            // While the membership cannot be read, the role does not change.
            match self.store.membership().members().await {
                Ok(list) => {
                    let smallest = list.members.iter().map(|member| member.node_id).min();
                    if (smallest == Some(self.node.id())) == expected {
                        return;
                    }
                }
                Err(error) => debug!(%error, source = cause(&error), "cannot read the membership"),
            }
            sleep(interval).await;
        }
    }
}

// === impl Verification ===

impl Verification {
    /// No pass has ended yet.
    pub fn new(service: Arc<Service>) -> Self {
        Self { service, summary: None }
    }

    /// Verifies every chain once. Waits while the database is unavailable, and restarts the pass if
    /// an older state of the database was restored.
    pub async fn run_pass(&mut self) {
        while let Err(Restored) = self.try_pass().await {
            info!("the database was restored, restarting the verification of the history");
            sleep(RETRY_DELAY).await;
        }
    }

    async fn try_pass(&mut self) -> Result<(), Restored> {
        let store = &self.service.store;
        let Some(head) = retry(|| store.log().head()).await else {
            self.count_break(&mut Pass::new(Summary::default(), 0, None), "", &UNREADABLE);
            return Ok(());
        };
        let time = self.time_of(head.revision).await;
        let mut pass = Pass::new(self.summary.unwrap_or_default(), head.revision, time);
        // The vendor's chain is first. Its id is empty.
        let mut chain_id = String::new();
        loop {
            self.verify_chain(&mut pass, &chain_id).await?;
            match retry(|| store.queries().tenants(&chain_id, 1)).await.map(|mut ids| ids.pop()) {
                Some(Some(tenant_id)) => chain_id = tenant_id,
                Some(None) => break,
                None => return self.report_break(&mut pass, "", &UNREADABLE).await,
            }
            throttle(UNITS_PER_QUERY).await;
        }
        // A chain is read only up to its first break.
        if pass.breaks == 0 && pass.chained_events != pass.head {
            let missing = pass.head - pass.chained_events;
            let mismatch = format!("{missing} events of the log are in no chain");
            self.report_break(&mut pass, "", &mismatch).await?;
        }
        self.compare_rows(&mut pass).await?;
        self.finish(pass).await
    }

    /// Compares the pass with the previous one, and keeps its summary for the next.
    async fn finish(&mut self, mut pass: Pass) -> Result<(), Restored> {
        let previous = pass.previous;
        let is_same_log = self.time_of(previous.head).await == previous.time;
        // A restored backup repairs a rewritten history.
        let mut is_rewritten = previous.is_rewritten && is_same_log;
        if pass.breaks == 0 && is_same_log && self.summary.is_some() {
            let ends: [u8; 32] = pass.previous_ends.clone().finalize().into();
            is_rewritten |= ends != previous.ends;
        }
        if is_rewritten {
            let mismatch = "the history was rewritten: all hashes match, but they differ from \
                            those that this process has verified before";
            self.report_break(&mut pass, "", &mismatch).await?;
        }
        if pass.breaks == 0 || is_rewritten {
            let (head, time, ends) = (pass.head, pass.time, pass.ends.finalize().into());
            self.summary = Some(Summary { head, time, ends, is_rewritten });
        }
        let now = self.service.now();
        self.service.update_verification(|status| {
            if status.breaks.is_some_and(|breaks| breaks > 0) && pass.breaks == 0 {
                info!("all chains of the history verify again");
            }
            if status.differences.is_some_and(|count| count > 0) && pass.differences == 0 {
                info!("all grants and locks equal their history again");
            }
            status.breaks = Some(pass.breaks);
            status.differences = Some(pass.differences);
            status.completed_at = Some(now);
        });
        Ok(())
    }

    async fn verify_chain(&self, pass: &mut Pass, chain_id: &str) -> Result<(), Restored> {
        let tenant_id = (!chain_id.is_empty()).then(|| TenantId::new(chain_id)).transpose();
        let Ok(tenant_id) = tenant_id else {
            return self.report_break(pass, chain_id, &"the tenant id is invalid").await;
        };
        // Fails only for an invalid key or checkpoint.
        let Ok(mut verifier) = Verifier::new(None, None) else { return Ok(()) };
        let (mut last, mut previous_last) = (Link::START, Link::START);
        'pages: loop {
            let history = self.service.store.history();
            let read = || history.records(tenant_id.as_ref(), last.sequence, PAGE);
            let Some(records) = retry(read).await else {
                return self.report_break(pass, chain_id, &UNREADABLE).await;
            };
            let bytes: usize = records.iter().map(|record| record.line.len()).sum();
            throttle(UNITS_PER_QUERY + records.len().max(bytes / 1_024)).await;
            for record in &records {
                let Record { link, revision, line, .. } = record;
                if *revision > pass.head {
                    break 'pages;
                }
                if let Err(fault) = verifier.line(line.as_bytes()) {
                    return self.report_break(pass, chain_id, &fault.mismatch).await;
                }
                pass.chained_events += 1;
                last = *link;
                if *revision <= pass.previous.head {
                    previous_last = *link;
                }
                self.service.update_verification(|status| status.events += 1);
                // A long record takes milliseconds, and checks must not wait for many of them.
                yield_now().await;
            }
            // A page that was cut by size may have fewer records.
            if records.len() < PAGE && bytes <= PAGE_WEIGHT_MAX {
                break;
            }
        }
        pass.add_end(chain_id, last, previous_last);
        match verifier.finish() {
            Ok(verdict) if verdict.tenant_id != chain_id => {
                let expected = chain_id.to_owned();
                let mismatch = ChainError::OtherTenant { expected, found: verdict.tenant_id };
                self.report_break(pass, chain_id, &mismatch).await
            }
            // An error means that there is no record to verify.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The time of the event at `revision`. `None`: no such event, or an unreadable one.
    async fn time_of(&self, revision: Revision) -> Option<Time> {
        if revision == 0 {
            return None;
        }
        let events = retry(|| self.service.store.log().events_after(revision - 1, 1)).await?;
        events.first().filter(|event| event.revision == revision).map(|event| event.time)
    }

    /// Counts a break, unless the pass has read records of two states of the database.
    async fn report_break(
        &self,
        pass: &mut Pass,
        chain_id: &str,
        mismatch: &(dyn Display + Sync),
    ) -> Result<(), Restored> {
        self.check_not_restored(pass).await?;
        self.count_break(pass, chain_id, mismatch);
        Ok(())
    }

    /// Fails if the pass may have read two states of the database.
    async fn check_not_restored(&self, pass: &Pass) -> Result<(), Restored> {
        if self.time_of(pass.head).await == pass.time { Ok(()) } else { Err(Restored) }
    }

    fn count_break(&self, pass: &mut Pass, chain_id: &str, mismatch: &dyn Display) {
        pass.breaks += 1;
        if pass.breaks <= LOGGED_MAX {
            let tenant_id = (!chain_id.is_empty()).then_some(chain_id);
            error!(tenant_id, %mismatch, "the history does not verify: its records were changed");
        }
        self.service.update_verification(|status| {
            status.breaks = status.breaks.max(Some(pass.breaks));
        });
    }
}

// === impl Pass ===

impl Pass {
    fn new(previous: Summary, head: Revision, time: Option<Time>) -> Self {
        let (ends, previous_ends) = (Sha256::new(), Sha256::new());
        Self {
            previous,
            head,
            time,
            breaks: 0,
            differences: 0,
            chained_events: 0,
            ends,
            previous_ends,
        }
    }

    fn add_end(&mut self, chain_id: &str, last: Link, previous_last: Link) {
        for (ends, link) in [(&mut self.ends, last), (&mut self.previous_ends, previous_last)] {
            // A chain without records did not exist yet.
            if link.sequence > 0 {
                ends.update(chain_id.len().to_be_bytes());
                ends.update(chain_id);
                ends.update(link.sequence.to_be_bytes());
                ends.update(link.hash.0);
            }
        }
    }
}

/// Repeats a read until the database is available. `None`: the data is invalid.
async fn retry<'a, T>(read: impl Fn() -> BoxFuture<'a, Result<T, StoreError>> + Send) -> Option<T> {
    let mut failures = 0;
    loop {
        match read().await {
            Ok(value) => {
                if failures >= FAILURES_BEFORE_WARNING {
                    info!("the verification of the history continues");
                }
                return Some(value);
            }
            Err(error @ StoreError::Broken(_)) => {
                error!(%error, source = cause(&error), "cannot read the history");
                return None;
            }
            Err(error @ StoreError::Unavailable(_)) => {
                failures += 1;
                if failures == FAILURES_BEFORE_WARNING {
                    warn!(%error, source = cause(&error), "cannot verify the history; retrying");
                } else {
                    debug!(%error, source = cause(&error), "cannot verify the history yet");
                }
            }
        }
        sleep(RETRY_DELAY).await;
    }
}

fn cause(error: &StoreError) -> Option<String> {
    std::error::Error::source(error).map(ToString::to_string)
}

/// Sleeps, so that the load on the database is at most `UNITS_PER_SECOND`.
async fn throttle(units: usize) {
    #[expect(clippy::cast_precision_loss, reason = "at most a page")]
    let units = units as f64;
    sleep(Duration::from_secs_f64(units / UNITS_PER_SECOND)).await;
}
