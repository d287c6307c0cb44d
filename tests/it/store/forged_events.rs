//! Events that another party has changed, moved or removed. Each read reports them, and
//! the check node of the process denies everything in their history.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chrono::TimeDelta;
use futures::{StreamExt, TryStreamExt};
use support_access::{
    domain::{
        Grant, Lock, LockTarget, LockTerms, NodeId, NodeKind, Party, PolicyOverrides,
        SupportPolicy, TenantId,
    },
    node::{CheckNode, replica::Replica},
    service::{Limits, Service, ServiceError},
    store::{ComparePosition, Store, StoreError},
};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::store::{
    bench::Bench,
    forgery::{restore, save, used},
    locks::{locked, new_lock, unlocked},
    samples::{
        all_events, begin, clock_accepted, grant_of, granted, make_grant, new_grant,
        policy_updated, revoked, tenant,
    },
};

pub const MAX_STALENESS: Duration = Duration::from_hours(10);

type Histories = BTreeSet<Option<TenantId>>;

fn acme() -> Histories {
    [Some(tenant("acme"))].into()
}

fn everywhere() -> Histories {
    [None].into()
}

/// The quarantines after a load.
pub async fn quarantines_of_load(store: &Store) -> Vec<LockTerms> {
    let locks = used(store).await.1;
    locks.into_iter().filter(LockTerms::is_quarantine).collect()
}

pub fn is_broken<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Broken(_)))
}

/// A grant, a lock and overrides of `acme`, a grant of `bolt`, and an accepted clock.
struct Objects {
    grant: Grant,
    lock: Lock,
}

impl Objects {
    async fn make(store: &Store) -> Self {
        let mut change = begin(store).await;
        let now = change.now();
        let grant = change.append(granted(new_grant("acme", "support", now))).await.unwrap();
        let lock = new_lock(Some("acme"), LockTarget::Everything, Party::Tenant, now);
        let lock = change.append(locked(lock)).await.unwrap().kind.lock().unwrap().clone();
        let update = policy_updated(Some(tenant("acme")), PolicyOverrides::default());
        change.append(update).await.unwrap();
        change.append(granted(new_grant("bolt", "support", now))).await.unwrap();
        change.append(clock_accepted(0)).await.unwrap();
        change.commit().await.unwrap();
        Self { grant: grant_of(&grant), lock }
    }
}

/// Methods of a store that read events, each with the revision of an event that the method reads.
/// Other tests cover `load` and `rotate_event_key`.
const READERS: [(&str, i64); 19] = [
    ("grant in a change", 1),
    ("live grants in a change", 1),
    ("due grants in a change", 1),
    ("all live grants in a change", 1),
    ("end of a grant", 1),
    ("lock in a change", 2),
    ("end of a lock", 2),
    ("revision of an event", 2),
    ("overrides in a change", 3),
    ("change of overrides", 3),
    ("end of a chain in a change", 3),
    ("accepted clocks", 5),
    ("list of events", 1),
    ("overrides", 3),
    ("export", 1),
    ("checkpoint", 3),
    ("verification", 1),
    ("log", 1),
    ("position in the log", 5),
];

async fn read(store: &Store, reader: &str, Objects { grant, lock }: &Objects) {
    let acme = &tenant("acme");
    let mut change = begin(store).await;
    let now = change.now();
    let later = now + TimeDelta::days(9);
    // Whether the read fails is tested elsewhere.
    match reader {
        "grant in a change" => drop(change.grant(acme, grant.id()).await),
        "live grants in a change" => drop(change.live_grants(acme, None, 9).await),
        "due grants in a change" => drop(change.due_grants(later, 9).await),
        "all live grants in a change" => drop(change.last_events_of_live_grants(0, 9).await),
        "end of a grant" => drop(change.append(revoked(grant, now)).await),
        "lock in a change" => drop(change.lock(lock.id()).await),
        "end of a lock" => drop(change.append(unlocked(lock, now)).await),
        "revision of an event" => drop(change.revision_of(Some(acme), 2).await),
        "overrides in a change" => drop(change.overrides(acme).await),
        "change of overrides" => {
            let update = policy_updated(Some(acme.clone()), PolicyOverrides::default());
            drop(change.append(update).await);
        }
        "end of a chain in a change" => {
            let result = change.append(granted(new_grant("acme", "x", now))).await;
            assert!(is_broken(&result), "no event follows a forged one");
        }
        "accepted clocks" => drop(change.clock_events().await),
        "list of events" => drop(store.queries().events(&all_events("acme")).await),
        "overrides" => drop(store.queries().overrides(acme).await),
        "export" => drop(store.history().records(Some(acme), 0, 9).await),
        "checkpoint" => {
            let head = store.history().chain_head(Some(acme)).await;
            assert!(is_broken(&head), "no checkpoint certifies a forged event");
        }
        "verification" => drop(store.history().compare(ComparePosition::Events(0), 9).await),
        "log" => drop(store.log().events_after(0, 9).await),
        "position in the log" => drop(store.log().events_after(4, 1).await),
        other => panic!("{other}"),
    }
}

pub async fn every_read_of_a_forged_event_is_reported(bench: &Bench) {
    let store = bench.open().await;
    let objects = Objects::make(&store).await;
    store.close().await;
    save(bench, &["events"]).await;
    for (reader, revision) in READERS {
        let store = bench.open().await;
        let forgery = format!("UPDATE events SET actor = 'mallory' WHERE revision = {revision}");
        bench.forge(forgery).await;
        read(&store, reader, &objects).await;
        let expected = if revision == 5 { everywhere() } else { acme() };
        assert_eq!(store.forged_histories().get(), expected, "{reader}");
        restore(bench, "events").await;
        store.close().await;
    }
}

/// The event is missing in its own history, so that no other history may be blamed.
pub async fn an_event_of_an_unknown_history_denies_everything(bench: &Bench) {
    let store = bench.open().await;
    let Objects { grant, .. } = Objects::make(&store).await;
    make_grant(&store, "acme", "other").await;
    save(bench, &["events"]).await;
    for forgery in [
        "UPDATE events SET tenant_id = 'cask', sequence = 1 WHERE revision = 1",
        "UPDATE events SET revision = 99 WHERE revision = 1",
        "UPDATE events SET owner_mac = mac, actor = 'mallory' WHERE revision = 1",
    ] {
        bench.forge(forgery).await;
        store.queries().events(&all_events("cask")).await.map_err(drop).ok();
        store.queries().events(&all_events("acme")).await.map_err(drop).ok();
        assert_eq!(store.forged_histories().get(), everywhere(), "{forgery}");
        assert_eq!(quarantines_of_load(&store).await, [LockTerms::quarantine(None)], "{forgery}");
        restore(bench, "events").await;
        let locks = quarantines_of_load(&store).await;
        assert!(locks.is_empty(), "a load of authentic events ends the quarantine: {locks:?}");
        assert_eq!(store.forged_histories().get(), Histories::new());
    }
    let mut change = begin(&store).await;
    assert_eq!(change.grant(&grant.tenant_id, grant.id()).await.unwrap(), Some(grant));
}

/// The row states the last event about the object, and the history lacks this event.
pub async fn a_change_notices_a_removed_or_moved_event(bench: &Bench) {
    let store = bench.open().await;
    let Objects { grant, lock } = Objects::make(&store).await;
    let mut change = begin(&store).await;
    let now = change.now();
    change.append(revoked(&grant, now)).await.unwrap();
    change.append(unlocked(&lock, now)).await.unwrap();
    change.append(granted(new_grant("acme", "other", now))).await.unwrap();
    change.commit().await.unwrap();
    store.close().await;
    save(bench, &["events"]).await;
    for (object, revision) in [("grant", 6), ("lock", 7)] {
        for removal in [
            format!("DELETE FROM events WHERE revision = {revision}"),
            format!(
                "UPDATE events SET tenant_id = 'cask', sequence = 1 WHERE revision = {revision}"
            ),
        ] {
            let store = bench.open().await;
            bench.forge(removal.clone()).await;
            let mut change = begin(&store).await;
            let is_rejected = if object == "grant" {
                is_broken(&change.grant(&grant.tenant_id, grant.id()).await)
            } else {
                is_broken(&change.lock(lock.id()).await)
            };
            drop(change);
            assert!(is_rejected, "{removal}");
            assert_eq!(store.forged_histories().get(), acme(), "{removal}");
            restore(bench, "events").await;
            store.close().await;
        }
    }
}

/// As if the last event had never happened: its row is as before the event.
pub async fn a_load_notices_a_removed_or_moved_event(bench: &Bench) {
    let store = bench.open().await;
    let Objects { grant, lock } = Objects::make(&store).await;
    let mut change = begin(&store).await;
    let now = change.now();
    change.append(revoked(&grant, now)).await.unwrap();
    change.append(unlocked(&lock, now)).await.unwrap();
    let overrides = PolicyOverrides { ticket_required: Some(true), ..PolicyOverrides::default() };
    change.append(policy_updated(Some(tenant("acme")), overrides)).await.unwrap();
    change.commit().await.unwrap();
    save(bench, &["events", "grants", "locks", "latest_ended_grants"]).await;
    let grants = "DELETE FROM latest_ended_grants; UPDATE grants SET revoke_time = NULL, \
                  revoker = NULL, revoke_reason = NULL, ended_sequence = NULL, sequence = 1 \
                  WHERE create_revision = 1";
    let locks = "UPDATE locks SET unlock_time = NULL, unlocker = NULL, unlock_reason = NULL, \
                 ended_sequence = NULL, sequence = 2";
    // 5: an accepted clock, which has no row of its own.
    for (revision, undo) in [(5, "SELECT 1"), (6, grants), (7, locks), (8, "SELECT 1")] {
        for removal in [
            format!("DELETE FROM events WHERE revision = {revision}"),
            format!(
                "UPDATE events SET tenant_id = 'cask', sequence = 1 WHERE revision = {revision}"
            ),
        ] {
            if revision == 5 && removal.starts_with("UPDATE") {
                continue; // a constraint rejects an accepted clock of a tenant
            }
            bench.forge(format!("{undo}; {removal}")).await;
            let quarantines = quarantines_of_load(&store).await;
            assert_eq!(quarantines, [LockTerms::quarantine(None)], "{removal}");
            for table in ["events", "latest_ended_grants", "grants", "locks"] {
                restore(bench, table).await;
            }
            assert!(quarantines_of_load(&store).await.is_empty(), "after {removal}");
        }
    }
}

/// A replica that follows the log, and the service at this replica.
pub struct Running {
    pub replica: Arc<Replica>,
    pub service: Arc<Service>,
    /// Stops the replica.
    _stop: DropGuard,
}

impl Running {
    pub async fn start(bench: &Bench, store: &Arc<Store>) -> Self {
        let id = NodeId(Uuid::new_v4());
        let node = CheckNode::new(id, NodeKind::Replica, bench.clock.clone());
        let replica = Replica::new(node, Arc::clone(store), MAX_STALENESS);
        replica.join().await.unwrap();
        let stop = CancellationToken::new();
        #[expect(clippy::disallowed_methods, reason = "ended by the token")]
        tokio::spawn(Arc::clone(&replica).run(stop.clone()));
        let limits = Limits {
            live_grants_per_tenant: 1_000,
            live_grants_per_group: 1_000,
            max_staleness: MAX_STALENESS,
        };
        let service = Service::new(Arc::clone(&replica), SupportPolicy::default(), limits);
        Self { replica, service: Arc::new(service), _stop: stop.drop_guard() }
    }

    /// Waits until everything is denied in exactly these histories.
    pub async fn until_denied(&self, histories: &[Option<&str>]) {
        let expected: BTreeSet<_> = histories.iter().map(|history| history.map(tenant)).collect();
        let node = self.replica.node();
        let mut progress = node.watch();
        let denied = || {
            let view = node.view();
            let quarantines = view.snapshot().locks().filter(|lock| lock.is_quarantine());
            quarantines.map(|lock| lock.tenant_id.clone()).collect::<BTreeSet<_>>()
        };
        let until = async {
            while node.is_invalidated() || denied() != expected {
                progress.changed().await;
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(10), until).await;
        reached.unwrap_or_else(|_| panic!("{histories:?} should be denied, not {:?}", denied()));
    }
}

pub async fn a_replica_denies_a_history_until_it_has_loaded_authentic_events(bench: &Bench) {
    let store = bench.open().await;
    let Objects { grant, .. } = Objects::make(&store).await;
    let running = Running::start(bench, &store).await;
    running.until_denied(&[]).await;
    save(bench, &["events"]).await;
    bench.forge("UPDATE events SET actor = 'mallory' WHERE revision = 1").await;
    let mut change = begin(&store).await;
    assert!(is_broken(&change.grant(&grant.tenant_id, grant.id()).await));
    drop(change);
    running.until_denied(&[Some("acme")]).await;
    running.replica.renew_lease().await.unwrap();
    assert_eq!(running.replica.node().gauges().forgeries, 1);

    make_grant(&store, "bolt", "other").await;
    let head = store.log().head().await.unwrap().revision;
    assert!(running.replica.node().wait_for(head, Instant::now() + MAX_STALENESS).await);
    running.until_denied(&[Some("acme")]).await;
    store.log().replace_epoch().await.unwrap();
    running.replica.renew_lease().await.unwrap();
    running.until_denied(&[Some("acme")]).await;

    bench.forge("UPDATE events SET actor = 'admin' WHERE revision = 1").await;
    running.until_denied(&[Some("acme")]).await;
    store.log().replace_epoch().await.unwrap();
    running.replica.renew_lease().await.unwrap();
    running.until_denied(&[]).await;
}

pub async fn a_forged_event_is_in_no_export_and_no_checkpoint(bench: &Bench) {
    let store = bench.open().await;
    Objects::make(&store).await;
    let Running { service, .. } = Running::start(bench, &store).await;
    let export = async |tenant_id: &str| {
        let exported = Arc::clone(&service).export_history(Some(tenant(tenant_id)), 0).await?;
        let batches: Vec<Vec<String>> = exported.boxed().try_collect().await?;
        Ok::<_, ServiceError>(batches.concat().len())
    };
    let checkpoint = async |tenant_id: &str| service.checkpoint(Some(&tenant(tenant_id))).await;
    assert_eq!(export("acme").await.unwrap(), 3);
    checkpoint("acme").await.unwrap();
    bench.forge("UPDATE events SET actor = 'mallory' WHERE revision = 1").await;
    assert!(matches!(export("acme").await, Err(ServiceError::Store(StoreError::Broken(_)))));
    let checkpointed = checkpoint("acme").await;
    assert!(matches!(checkpointed, Err(ServiceError::Store(StoreError::Broken(_)))));
    assert_eq!(export("bolt").await.unwrap(), 1);
    checkpoint("bolt").await.unwrap();
    bench.forge("UPDATE events SET actor = 'mallory' WHERE revision = 4").await;
    let checkpointed = checkpoint("bolt").await;
    assert!(matches!(checkpointed, Err(ServiceError::Store(StoreError::Broken(_)))));
    assert_eq!(store.forged_histories().get(), ["acme", "bolt"].map(|id| Some(tenant(id))).into());
}
