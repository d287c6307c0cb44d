//! A change, statement by statement, as `store/sql/change.rs` makes it in PostgreSQL: each one is there and back, and the head is
//! held from the second on.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    domain::{
        Event, EventKind, Grant, GrantId, Lock, LockId, RequestId, Revision, Side, TenantId,
        Tightening, Time,
    },
    simulation::scale::{
        database::End,
        meter::Kind,
        store::{MeteredStore, late},
    },
    store::{Change, Entry, Hint, Remembered, Store, StoreError},
};

/// How long PostgreSQL waits for the head (`lock_timeout`).
const LOCK_PATIENCE: Duration = Duration::from_secs(4);
/// In a wait that is rounded up to whole milliseconds, this much may be too much.
const ROUNDED: Duration = Duration::from_millis(1);

pub(super) struct MeteredChange {
    change: Box<dyn Change>,
    line: MeteredStore,
    /// When the answer to the last statement came back, exactly.
    at: Instant,
    _head: OwnedMutexGuard<()>,
}

impl MeteredChange {
    /// `BEGIN`, and the head.
    pub(super) async fn begin(line: MeteredStore) -> Result<Self, StoreError> {
        let begun = line.pass(Kind::Change, End::Read, Instant::now()).await;
        sleep_until(begun).await;
        let sent = Instant::now();
        if line.way() >= ROUNDED {
            sleep_until(sent + line.way()).await;
        }
        let head = Arc::clone(&line.database.head).lock_owned();
        let head = timeout(LOCK_PATIENCE, head).await.map_err(late)?;
        let has_waited = Instant::now() > sent + line.way() + ROUNDED;
        let arrived = if has_waited { Instant::now() } else { begun + line.way() };
        let done = line.database.serve(Kind::Change, End::Read, arrived);
        let change = line.database.store.begin().await?;
        let at = done + line.way();
        sleep_until(at).await;
        Ok(Self { change, line, at, _head: head })
    }

    /// So many statements, one after the other.
    async fn ask(&mut self, statements: usize) {
        for _ in 0..statements {
            // What was rounded up on the way does not add up.
            let now = Instant::now();
            let after = if now < self.at + ROUNDED { self.at } else { now };
            self.at = self.line.pass(Kind::Change, End::Read, after).await;
        }
        sleep_until(self.at).await;
    }
}

#[async_trait]
impl Change for MeteredChange {
    fn now(&self) -> Time {
        self.change.now()
    }

    fn max_staleness(&self) -> Duration {
        self.change.max_staleness()
    }

    async fn grant(
        &mut self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError> {
        self.ask(1).await;
        self.change.grant(tenant_id, grant_id).await
    }

    async fn remembered(
        &mut self,
        tenant_id: &TenantId,
        request_id: &RequestId,
    ) -> Result<Option<Remembered>, StoreError> {
        self.ask(1).await;
        self.change.remembered(tenant_id, request_id).await
    }

    async fn live_grants(
        &mut self,
        tenant_id: &TenantId,
        limit: usize,
    ) -> Result<Vec<Grant>, StoreError> {
        self.ask(1).await;
        self.change.live_grants(tenant_id, limit).await
    }

    async fn count_live_grants(&mut self, tenant_id: &TenantId) -> Result<usize, StoreError> {
        self.ask(1).await;
        self.change.count_live_grants(tenant_id).await
    }

    async fn due_grants(&mut self, now: Time, limit: usize) -> Result<Vec<Grant>, StoreError> {
        self.ask(1).await;
        self.change.due_grants(now, limit).await
    }

    async fn tightening(&mut self, tenant_id: &TenantId) -> Result<Tightening, StoreError> {
        self.ask(1).await;
        self.change.tightening(tenant_id).await
    }

    async fn lock(&mut self, lock_id: LockId) -> Result<Option<Lock>, StoreError> {
        self.ask(1).await;
        self.change.lock(lock_id).await
    }

    async fn count_live_locks(
        &mut self,
        side: Side,
        tenant_id: Option<&TenantId>,
    ) -> Result<usize, StoreError> {
        self.ask(1).await;
        self.change.count_live_locks(side, tenant_id).await
    }

    async fn due_locks(&mut self, now: Time, limit: usize) -> Result<Vec<Lock>, StoreError> {
        self.ask(1).await;
        self.change.due_locks(now, limit).await
    }

    /// The event, the end of its chain, its link, and its grant; of a grant that has ended, also that it is the latest.
    async fn append(&mut self, entry: Entry) -> Result<Event, StoreError> {
        let is_end = matches!(entry.kind, EventKind::Revoked { .. } | EventKind::Expired { .. });
        self.ask(if is_end { 5 } else { 4 }).await;
        self.change.append(entry).await
    }

    /// The head, and `COMMIT`.
    async fn commit(mut self: Box<Self>) -> Result<Revision, StoreError> {
        self.ask(1).await;
        let Self { change, line, at, _head } = *self;
        let back = line.pass(Kind::Change, End::KeptAndTold, at).await;
        let revision = change.commit().await?;
        line.database.meter.count(|figures| {
            figures.commits += 1;
            figures.committed.insert(revision, Instant::now());
        });
        line.database.tell(Hint::Log);
        drop(_head);
        sleep_until(back).await;
        Ok(revision)
    }
}
