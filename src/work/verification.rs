//! Verifies the chains of the history, again and again: what is permanent may have been changed all the same, by whoever has the
//! database, and somebody should be told.

use std::{fmt::Display, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::{
    domain::{
        Revision, TenantId, Time,
        chain::{Misfit, Verifier},
    },
    store::StoreError,
    work::Work,
};

/// How many records are read at a time.
const PAGE: usize = 200;
/// How many records are verified in a second at most, so that nobody else has to wait for the database; and as how many of them a
/// question counts.
const RECORDS_PER_SECOND: f64 = 2_000.0;
const RECORDS_A_QUESTION: usize = 10;
/// How long to wait for a database that is away.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many breaks are logged of one pass.
const LOGGED_MAX: u64 = 20;

/// What is known of the chains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many do not verify (`None`: nobody knows yet), as of the last pass, or so far in this one if that is more. If all do, but events of the log
    /// are in none, that counts as one.
    pub breaks: Option<u64>,
    /// When the last pass ended.
    pub at: Option<Time>,
    /// Events verified, since the start.
    pub events: u64,
}

/// What is logged of a chain that cannot even be read.
const UNREADABLE: &str = "it cannot be read";

/// One pass over all chains.
#[derive(Debug, Default)]
struct Pass {
    /// The end of the log at its beginning, and the time of the event there.
    head: Revision,
    time: Option<Time>,
    breaks: u64,
    /// Events up to `head` that were in a chain.
    found: Revision,
}

/// An older state of the database was restored during a pass, which has seen a part of either.
struct Restored;

/// Verifies all chains, and anew `interval` after that, until stopped.
pub async fn run(work: Arc<Work>, interval: Duration, stop: CancellationToken) {
    let passes = async {
        loop {
            work.verify_history().await;
            sleep(interval).await;
        }
    };
    stop.run_until_cancelled(passes).await;
}

impl Work {
    /// What is known of the chains.
    pub fn verified(&self) -> Verified {
        *self.verified.lock()
    }

    /// Verifies every chain once. Waits for a database that is away, and begins anew if an older state of it was restored.
    pub async fn verify_history(&self) {
        while let Err(Restored) = self.verify_all().await {
            info!("an older state of the database was restored: verifying the history anew");
            sleep(PATIENCE).await;
        }
    }

    async fn verify_all(&self) -> Result<(), Restored> {
        let mut pass = Pass::default();
        let Some(head) = insist(|| self.store.head()).await else {
            return self.note_break(&mut pass, None, &UNREADABLE).await;
        };
        pass.time = self.time_of(head.revision).await;
        pass.head = head.revision;
        let mut tenant_id = None;
        loop {
            self.verify_chain(&mut pass, tenant_id.as_ref()).await?;
            let next = insist(|| self.store.tenant_after(tenant_id.as_ref())).await;
            match next {
                Some(Some(next)) => {
                    pause(0).await;
                    tenant_id = Some(next);
                }
                Some(None) => break,
                None => return self.note_break(&mut pass, None, &UNREADABLE).await,
            }
        }
        // Of a chain that does not verify, not all was read.
        if pass.breaks == 0 && pass.found != pass.head {
            let missing = format!("{} events of the log are in none", pass.head - pass.found);
            self.note_break(&mut pass, None, &missing).await?;
        }
        let mut verified = self.verified.lock();
        if verified.breaks.is_some_and(|breaks| breaks > 0) && pass.breaks == 0 {
            info!("all chains of the history verify again");
        }
        verified.breaks = Some(pass.breaks);
        verified.at = Some(self.now());
        Ok(())
    }

    async fn verify_chain(
        &self,
        pass: &mut Pass,
        tenant_id: Option<&TenantId>,
    ) -> Result<(), Restored> {
        // Without a key and a checkpoint there is nothing that it could refuse.
        let Ok(mut verifier) = Verifier::new(None, None) else { return Ok(()) };
        let mut after = 0;
        loop {
            let read = insist(|| self.store.records(tenant_id, after, PAGE));
            let Some(records) = read.await else {
                return self.note_break(pass, tenant_id, &UNREADABLE).await;
            };
            pause(records.len()).await;
            for record in &records {
                if let Err(fault) = verifier.line(record.line.as_bytes()) {
                    return self.note_break(pass, tenant_id, &fault.misfit).await;
                }
                pass.found += i64::from(record.revision <= pass.head);
            }
            self.verified.lock().events += records.len() as u64;
            match records.last() {
                Some(last) if records.len() == PAGE => after = last.link.sequence,
                _ => break,
            }
        }
        let whose = tenant_id.map_or("", TenantId::as_str);
        match verifier.finish() {
            Ok(verdict) if verdict.tenant_id != whose => {
                let expected = whose.to_owned();
                let misfit = Misfit::OtherTenant { expected, found: verdict.tenant_id };
                self.note_break(pass, tenant_id, &misfit).await
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
        let events = insist(|| self.store.events_after(revision - 1, 1)).await?;
        events.first().filter(|event| event.revision == revision).map(|event| event.time)
    }

    async fn note_break(
        &self,
        pass: &mut Pass,
        tenant_id: Option<&TenantId>,
        misfit: &(dyn Display + Sync),
    ) -> Result<(), Restored> {
        // What does not fit together may be of two states of the database.
        if self.time_of(pass.head).await != pass.time {
            return Err(Restored);
        }
        pass.breaks += 1;
        if pass.breaks <= LOGGED_MAX {
            let tenant_id = tenant_id.map(tracing::field::display);
            error!(tenant_id, %misfit, "the history does not verify: somebody or something has changed what is permanent");
        }
        let mut verified = self.verified.lock();
        verified.breaks = verified.breaks.max(Some(pass.breaks));
        Ok(())
    }
}

/// Asks until the database is there. `None`: what it holds is not to be understood.
async fn insist<'a, T>(ask: impl Fn() -> BoxFuture<'a, Result<T, StoreError>> + Send) -> Option<T> {
    loop {
        match ask().await {
            Ok(answer) => return Some(answer),
            Err(error @ StoreError::Broken(_)) => {
                error!(%error, source = cause(&error), "the history cannot be read");
                return None;
            }
            Err(error @ StoreError::Unavailable(_)) => {
                debug!(%error, source = cause(&error), "the history cannot be verified for now");
            }
        }
        sleep(PATIENCE).await;
    }
}

fn cause(error: &StoreError) -> Option<String> {
    std::error::Error::source(error).map(ToString::to_string)
}

async fn pause(records: usize) {
    #[expect(clippy::cast_precision_loss, reason = "no more than a page")]
    let records = (records + RECORDS_A_QUESTION) as f64;
    sleep(Duration::from_secs_f64(records / RECORDS_PER_SECOND)).await;
}
