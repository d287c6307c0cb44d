//! Rows that a party with write access to the database hides while an operator accepts the clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::TimeDelta;
use support_access::{
    domain::{AcceptClockRequest, Caller, FreeText, Grant},
    service::ServiceError,
    store::{Store, StoreError, Transaction, Transactions},
};
use tokio::time::Instant;

use crate::store::{
    bench::Bench,
    forged_events::{Running, is_broken},
    forgery::{restore, save},
    samples::{begin, granted, make_grant, new_grant, revoked},
};

const HIDE: &str = "UPDATE grants SET ended_sequence = 2, sequence = 2 WHERE create_revision = 1";
const SHOW: &str =
    "UPDATE grants SET ended_sequence = NULL, sequence = 1 WHERE create_revision = 1";

pub async fn a_hidden_row_is_noticed_before_the_clock_is_accepted(bench: &Bench) {
    let store = bench.open().await;
    let grant = make_grant(&store, "acme", "support").await;
    make_grant(&store, "acme", "other").await;
    save(bench, &["grants"]).await;
    for forgery in [HIDE, "DELETE FROM grants", "UPDATE grants SET expire_time = 1"] {
        bench.forge(forgery).await;
        assert!(is_broken(&begin(&store).await.live_grant_ids().await), "{forgery}");
        restore(bench, "grants").await;
    }
    let mut change = begin(&store).await;
    assert_eq!(change.live_grant_ids().await.unwrap().len(), 2);
    change.append(revoked(&grant, change.now())).await.unwrap();
    assert_eq!(change.live_grant_ids().await.unwrap().len(), 1, "as this change leaves them");
}

/// Hides a row from the first transaction.
struct Hiding<'a> {
    inner: Arc<Store>,
    bench: &'a Bench,
    begins: AtomicUsize,
}

#[async_trait]
impl Transactions for Hiding<'static> {
    async fn begin(&self) -> Result<Box<dyn Transaction>, StoreError> {
        match self.begins.fetch_add(1, Ordering::SeqCst) {
            0 => self.bench.forge(HIDE).await,
            1 => self.bench.forge(SHOW).await,
            _ => {}
        }
        self.inner.begin().await
    }
}

/// With PostgreSQL, a test would need another clock: see `tests/e2e/nodes/clocks.rs`.
#[tokio::test]
async fn the_clock_is_not_accepted_before_the_end_of_a_hidden_grant_has_moved() {
    let bench: &'static Bench = Box::leak(Box::new(Bench::sqlite()));
    let inner = bench.open().await;
    let grant = make_grant(&inner, "acme", "support").await;
    let mut change = begin(&inner).await;
    // One more than the pass reads in a transaction.
    for _ in 0..200 {
        change.append(granted(new_grant("bolt", "support", change.now()))).await.unwrap();
    }
    change.commit().await.unwrap();
    let hiding = Hiding { inner: Arc::clone(&inner), bench, begins: AtomicUsize::new(9) };
    let hiding = Arc::new(hiding);
    let store = inner.with_transactions(hiding.clone());
    let running = Running::start(bench, &store).await;
    bench.clock.set(-TimeDelta::minutes(30));
    running.replica.renew_lease().await.unwrap();
    let accept = async || {
        let request = AcceptClockRequest { request_id: None, reason: FreeText::default() };
        let deadline = Instant::now() + Duration::from_secs(10);
        running.service.accept_clock(&Caller::local(None).unwrap(), request, deadline).await
    };
    hiding.begins.store(0, Ordering::SeqCst);
    let result = accept().await;
    assert!(matches!(result, Err(ServiceError::Store(StoreError::Broken(_)))), "{result:?}");
    let events = store.log().events_after(201, 999).await.unwrap();
    assert!(
        events.iter().all(|event| event.kind.name() == "extended"),
        "the clock is not accepted"
    );

    let accepted = accept().await.unwrap();
    assert!(accepted.step < TimeDelta::zero());
    let moved = begin(&inner).await.grant(&grant.tenant_id, grant.id()).await.unwrap().unwrap();
    let end = |grant: &Grant| grant.terms.expire_time.unwrap();
    assert!(end(&moved) <= end(&grant) - TimeDelta::minutes(30));
}
