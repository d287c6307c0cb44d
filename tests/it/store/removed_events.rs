//! Changes after another party has removed the last event about a grant with all traces, or has
//! changed its row.

use std::{collections::BTreeSet, time::Duration};

use chrono::TimeDelta;
use support_access::domain::{Caller, FreeText, GrantTerms, LockTerms, RevokeRequest};
use tokio::time::Instant;

use crate::store::{
    bench::Bench,
    forged_events::{MAX_STALENESS, Running, quarantines_of_load},
    samples::{begin, extended, granted, make_grant, new_grant, revoked, tenant},
};

/// The attacker removes a revocation with all traces, and an administrator extends the grant.
pub async fn an_extension_of_a_revoked_grant_denies_everything_in_its_tenant(bench: &Bench) {
    let store = bench.open().await;
    let grant = make_grant(&store, "acme", "support").await;
    let mut change = begin(&store).await;
    let now = change.now();
    change.append(revoked(&grant, now)).await.unwrap();
    change.append(granted(new_grant("bolt", "support", now))).await.unwrap();
    change.commit().await.unwrap();
    let running = Running::start(bench, &store).await;
    bench
        .forge(
            "DELETE FROM latest_ended_grants; DELETE FROM events WHERE revision = 2; UPDATE grants \
             SET revoke_time = NULL, revoker = NULL, revoke_reason = NULL, ended_sequence = NULL, \
             sequence = 1 WHERE create_revision = 1",
        )
        .await;
    let mut change = begin(&store).await;
    let found = change.grant(&grant.tenant_id, grant.id()).await.unwrap().unwrap();
    assert_eq!(found, grant, "nothing in the database shows the revocation");
    change.append(extended(&found, None)).await.unwrap();
    change.commit().await.unwrap();
    assert!(running.replica.node().wait_for(4, Instant::now() + MAX_STALENESS).await);
    running.until_denied(&[Some("acme")]).await;
    let view = running.replica.node().view();
    let mut grants = view.snapshot().grants(&grant.tenant_id);
    assert!(grants.all(GrantTerms::has_ended), "the grant stays revoked");
    assert_eq!(quarantines_of_load(&store).await, [LockTerms::quarantine(None)]);
}

/// The attacker removes an earlier end with all traces, and an administrator extends the grant.
pub async fn an_extension_from_an_older_end_denies_everything_in_its_tenant(bench: &Bench) {
    let store = bench.open().await;
    let grant = make_grant(&store, "acme", "support").await;
    let mut change = begin(&store).await;
    let end = change.now() + TimeDelta::minutes(7);
    change.append(extended(&grant, Some(end))).await.unwrap();
    change.append(granted(new_grant("bolt", "support", end))).await.unwrap();
    change.commit().await.unwrap();
    let running = Running::start(bench, &store).await;
    bench
        .forge(
            "DELETE FROM events WHERE revision = 2; \
             UPDATE grants SET expire_time = NULL, sequence = 1 WHERE create_revision = 1",
        )
        .await;
    let mut change = begin(&store).await;
    let found = change.grant(&grant.tenant_id, grant.id()).await.unwrap().unwrap();
    assert_eq!(found, grant, "nothing in the database shows the earlier end");
    change.append(extended(&found, Some(end + TimeDelta::hours(1)))).await.unwrap();
    change.commit().await.unwrap();
    assert!(running.replica.node().wait_for(4, Instant::now() + MAX_STALENESS).await);
    running.until_denied(&[Some("acme")]).await;
}

/// An ended grant whose row looks live must not hide the grants that are older.
pub async fn all_grants_are_revoked_although_rows_of_ended_grants_look_live(bench: &Bench) {
    const LIVE: usize = 510;
    let store = bench.open().await;
    for is_forged_at_start in [false, true] {
        let mut change = begin(&store).await;
        let now = change.now();
        for _ in 0..LIVE {
            change.append(granted(new_grant("acme", "support", now))).await.unwrap();
        }
        change.commit().await.unwrap();
        for _ in 0..2 {
            let ended = make_grant(&store, "acme", "support").await;
            let mut change = begin(&store).await;
            change.append(revoked(&ended, change.now())).await.unwrap();
            change.commit().await.unwrap();
        }
        let forgery = "UPDATE grants SET revoke_time = NULL, revoker = NULL, revoke_reason = NULL, \
                       ended_sequence = NULL WHERE ended_sequence IS NOT NULL";
        if is_forged_at_start {
            bench.forge(forgery).await;
        }
        let running = Running::start(bench, &store).await;
        if !is_forged_at_start {
            bench.forge(forgery).await;
        }
        let (caller, reason) = (Caller::local(None).unwrap(), FreeText::default());
        let request = RevokeRequest { reason, ..RevokeRequest::default() };
        // The replica of the first round still counts, so the response is `PENDING`.
        let deadline = Instant::now() + Duration::from_secs(1);
        let acme = tenant("acme");
        let revoking = running.service.revoke_all_access(&caller, &acme, request, deadline);
        assert_eq!(revoking.await.unwrap().count, LIVE);
        let mut change = begin(&store).await;
        let left = change.live_grants_by_events(&acme, None).await.unwrap();
        assert_eq!(left, [], "forged at the start: {is_forged_at_start}");
    }
}

/// The row of the grant differs when the replica loads. A change then writes the whole row again.
pub async fn an_extension_of_a_grant_with_a_forged_row_makes_the_grant_live(bench: &Bench) {
    let store = bench.open().await;
    let grant = make_grant(&store, "acme", "support").await;
    bench.forge("UPDATE grants SET access_level = 3 WHERE create_revision = 1").await;
    let running = Running::start(bench, &store).await;
    let is_live = || {
        let view = running.replica.node().view();
        view.snapshot().grants(&grant.tenant_id).any(|terms| terms.grant_id == grant.id())
    };
    assert!(!is_live(), "a grant with a forged row is not used");
    let mut change = begin(&store).await;
    change.append(extended(&grant, None)).await.unwrap();
    change.commit().await.unwrap();
    assert!(running.replica.node().wait_for(2, Instant::now() + MAX_STALENESS).await);
    assert!(is_live());
    assert_eq!(store.forged_histories().get(), BTreeSet::new());
}
