//! Verifies the chains of the history, again and again: what is permanent may have been changed all the same, by whoever has the
//! database, and somebody should be told.
//!
//! A pass over all chains finds what does not fit together. What fits, but was written anew since the pass before, with new hashes, it
//! finds as well: it remembers a hash over the ends of all chains as they were then. That memory is the process's own, and gone with it.

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

/// How many records are read at a time: one may have 200,000 bytes.
const PAGE: usize = 50;
/// How much is verified in a second at most, so that nobody else has to wait, in records or kibibytes, whichever is more; and as how
/// much a question counts.
const UNITS_PER_SECOND: f64 = 2_000.0;
const UNITS_A_QUESTION: usize = 10;
/// How long to wait for a database that is away, and after how many times somebody is told.
const TIMEOUT: Duration = Duration::from_secs(1);
const PATIENT_FOR: u32 = 10;
/// How many breaks are logged of one pass.
const LOGGED_MAX: u64 = 20;
/// What is logged of a chain that cannot even be read.
const UNREADABLE: &str = "it cannot be read";

/// What is known of the chains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many do not verify (`None`: nobody knows yet), as of the last pass, or so far in this one if that is more. If all do, but
    /// events of the log are in none, that counts as one; and so does a history that was written anew since this process began.
    pub breaks: Option<u64>,
    /// When the last pass ended.
    pub at: Option<Time>,
    /// Events verified, since the start.
    pub events: u64,
}

/// What one pass leaves to the next.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// The end of the log, and the time of the event there.
    head: Revision,
    time: Option<Time>,
    /// Over the ends of all chains up to there.
    ends: [u8; 32],
    /// Whether a history was found to be written anew. Nothing that is read later can show that.
    is_rewritten: bool,
}

/// One pass over all chains.
#[derive(Debug)]
struct Pass {
    before: Seen,
    /// The end of the log at its beginning, and the time of the event there: later events are left for the next.
    head: Revision,
    time: Option<Time>,
    breaks: u64,
    /// Events up to `head` that were in a chain.
    found: Revision,
    /// Over the ends of the chains, as of `head`, and of that of the pass before.
    ends: Sha256,
    ends_before: Sha256,
}

/// An older state of the database was restored during a pass, which has seen a part of either.
struct Restored;

/// Verifies all chains, and anew `interval` after that, until stopped.
pub async fn run(work: Arc<Service>, interval: Duration, stop: CancellationToken) {
    let mut history = History::new(work);
    let passes = async {
        loop {
            history.verify().await;
            sleep(interval).await;
        }
    };
    stop.run_until_cancelled(passes).await;
}

/// The history that is verified again and again, with what is remembered of it.
#[derive(Debug)]
pub struct History {
    work: Arc<Service>,
    seen: Option<Seen>,
}

impl Service {
    /// What is known of the chains.
    pub fn verified(&self) -> Verified {
        *self.verified.lock()
    }
}

impl History {
    /// Nothing has been seen of it yet.
    pub fn new(work: Arc<Service>) -> Self {
        Self { work, seen: None }
    }

    /// Verifies every chain once. Waits for a database that is away, and begins anew if an older state of it was restored.
    pub async fn verify(&mut self) {
        while let Err(Restored) = self.verify_all().await {
            info!("an older state of the database was restored: verifying the history anew");
            sleep(TIMEOUT).await;
        }
    }

    async fn verify_all(&mut self) -> Result<(), Restored> {
        let store = &self.work.store;
        let Some(head) = insist(|| store.log().head()).await else {
            self.count_break(&mut Pass::new(Seen::default(), 0, None), "", &UNREADABLE);
            return Ok(());
        };
        let time = self.time_of(head.revision).await;
        let mut pass = Pass::new(self.seen.unwrap_or_default(), head.revision, time);
        let mut whose = String::new();
        loop {
            self.verify_chain(&mut pass, &whose).await?;
            match insist(|| store.queries().tenants(&whose, 1)).await.map(|mut next| next.pop()) {
                Some(Some(next)) => whose = next,
                Some(None) => break,
                None => return self.note_break(&mut pass, "", &UNREADABLE).await,
            }
            pause(UNITS_A_QUESTION).await;
        }
        // Of a chain that does not verify, not all was read.
        if pass.breaks == 0 && pass.found != pass.head {
            let missing = format!("{} events of the log are in no chain", pass.head - pass.found);
            self.note_break(&mut pass, "", &missing).await?;
        }
        self.finish(pass).await
    }

    /// Compares with what the pass before has seen, and leaves this one to the next.
    async fn finish(&mut self, mut pass: Pass) -> Result<(), Restored> {
        let before = pass.before;
        let is_same_log = self.time_of(before.head).await == before.time;
        // Whoever restores a backup mends it.
        let mut is_rewritten = before.is_rewritten && is_same_log;
        if pass.breaks == 0 && is_same_log && self.seen.is_some() {
            let ends: [u8; 32] = pass.ends_before.clone().finalize().into();
            is_rewritten |= ends != before.ends;
        }
        if is_rewritten {
            let rewritten = "what fits together now is not what was there when this process looked before: it was written anew";
            self.note_break(&mut pass, "", &rewritten).await?;
        }
        if pass.breaks == 0 || is_rewritten {
            let (head, time, ends) = (pass.head, pass.time, pass.ends.finalize().into());
            self.seen = Some(Seen { head, time, ends, is_rewritten });
        }
        let mut verified = self.work.verified.lock();
        if verified.breaks.is_some_and(|breaks| breaks > 0) && pass.breaks == 0 {
            info!("all chains of the history verify again");
        }
        verified.breaks = Some(pass.breaks);
        verified.at = Some(self.work.now());
        Ok(())
    }

    async fn verify_chain(&self, pass: &mut Pass, whose: &str) -> Result<(), Restored> {
        let tenant_id = (!whose.is_empty()).then(|| TenantId::new(whose)).transpose();
        let Ok(tenant_id) = tenant_id else {
            return self.note_break(pass, whose, &"it is of nobody who could be a tenant").await;
        };
        // Without a key and a checkpoint there is nothing that it could refuse.
        let Ok(mut verifier) = Verifier::new(None, None) else { return Ok(()) };
        let (mut last, mut last_before) = (Link::START, Link::START);
        'pages: loop {
            let records = insist(|| {
                self.work.store.history().records(tenant_id.as_ref(), last.sequence, PAGE)
            })
            .await;
            let Some(records) = records else {
                return self.note_break(pass, whose, &UNREADABLE).await;
            };
            let bytes: usize = records.iter().map(|record| record.line.len()).sum();
            pause(UNITS_A_QUESTION + records.len().max(bytes / 1_024)).await;
            for record in &records {
                let Record { link, revision, line } = record;
                if *revision > pass.head {
                    break 'pages;
                }
                if let Err(fault) = verifier.line(line.as_bytes()) {
                    return self.note_break(pass, whose, &fault.misfit).await;
                }
                pass.found += 1;
                last = *link;
                if *revision <= pass.before.head {
                    last_before = *link;
                }
                self.work.verified.lock().events += 1;
                // A record may be long, and others have questions.
                yield_now().await;
            }
            if records.len() < PAGE {
                break;
            }
        }
        pass.note_end(whose, last, last_before);
        match verifier.finish() {
            Ok(verdict) if verdict.tenant_id != whose => {
                let expected = whose.to_owned();
                let misfit = ChainError::OtherTenant { expected, found: verdict.tenant_id };
                self.note_break(pass, whose, &misfit).await
            }
            // Without a record there is nothing to verify.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// When the event of a revision was committed, if there is one that can be read.
    async fn time_of(&self, revision: Revision) -> Option<Time> {
        if revision == 0 {
            return None;
        }
        let events = insist(|| self.work.store.log().events_after(revision - 1, 1)).await?;
        events.first().filter(|event| event.revision == revision).map(|event| event.time)
    }

    async fn note_break(
        &self,
        pass: &mut Pass,
        whose: &str,
        misfit: &(dyn Display + Sync),
    ) -> Result<(), Restored> {
        // What does not fit together may be of two states of the database.
        if self.time_of(pass.head).await != pass.time {
            return Err(Restored);
        }
        self.count_break(pass, whose, misfit);
        Ok(())
    }

    fn count_break(&self, pass: &mut Pass, whose: &str, misfit: &dyn Display) {
        pass.breaks += 1;
        if pass.breaks <= LOGGED_MAX {
            let tenant_id = (!whose.is_empty()).then_some(whose);
            error!(tenant_id, %misfit, "the history does not verify: somebody or something has changed what is permanent");
        }
        let mut verified = self.work.verified.lock();
        verified.breaks = verified.breaks.max(Some(pass.breaks));
    }
}

impl Pass {
    fn new(before: Seen, head: Revision, time: Option<Time>) -> Self {
        let (ends, ends_before) = (Sha256::new(), Sha256::new());
        Self { before, head, time, breaks: 0, found: 0, ends, ends_before }
    }

    fn note_end(&mut self, whose: &str, last: Link, last_before: Link) {
        for (ends, link) in [(&mut self.ends, last), (&mut self.ends_before, last_before)] {
            // A chain that had not begun was not there.
            if link.sequence > 0 {
                ends.update(whose.len().to_be_bytes());
                ends.update(whose);
                ends.update(link.sequence.to_be_bytes());
                ends.update(link.hash.0);
            }
        }
    }
}

/// Asks until the database is there. `None`: what it holds is not to be understood.
async fn insist<'a, T>(ask: impl Fn() -> BoxFuture<'a, Result<T, StoreError>> + Send) -> Option<T> {
    let mut refusals = 0;
    loop {
        match ask().await {
            Ok(answer) => {
                if refusals >= PATIENT_FOR {
                    info!("the history can be verified again");
                }
                return Some(answer);
            }
            Err(error @ StoreError::Broken(_)) => {
                error!(%error, source = cause(&error), "the history cannot be read");
                return None;
            }
            Err(error @ StoreError::Unavailable(_)) => {
                refusals += 1;
                if refusals == PATIENT_FOR {
                    warn!(%error, source = cause(&error), "the history cannot be verified, will go on trying");
                } else {
                    debug!(%error, source = cause(&error), "the history cannot be verified for now");
                }
            }
        }
        sleep(TIMEOUT).await;
    }
}

fn cause(error: &StoreError) -> Option<String> {
    std::error::Error::source(error).map(ToString::to_string)
}

async fn pause(units: usize) {
    #[expect(clippy::cast_precision_loss, reason = "no more than a page")]
    let units = units as f64;
    sleep(Duration::from_secs_f64(units / UNITS_PER_SECOND)).await;
}
