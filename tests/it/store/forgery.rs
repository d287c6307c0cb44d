//! Forgeries by a party without the event key: what a replica uses in loads, logs and changes.

use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, slice, sync::Arc};

use support_access::{
    domain::{
        Event, EventKind, Grant, GrantId, LockTarget, LockTerms, Party, PolicyOverrides,
        authenticity::EventKey,
    },
    node::{message::Change, replica::load_snapshot, snapshot::Snapshot},
    store::{OpenError, Store, open, read_event_key},
};

use crate::{
    common::event_key::event_key_file,
    store::{
        bench::Bench,
        forged_events::is_broken,
        locks::{locked, new_lock, unlocked},
        samples::{
            begin, extended, grant_of, granted, make_grant, new_grant, policy_updated, revoked,
            tenant,
        },
    },
};

/// The grants and locks that a replica uses after it has loaded.
pub async fn used(store: &Store) -> (BTreeSet<GrantId>, Vec<LockTerms>) {
    let (snapshot, _) = load_snapshot(store).await.unwrap();
    let grants = snapshot.iter().map(|(_, _, terms)| terms.grant_id).collect();
    (grants, snapshot.locks().cloned().collect())
}

/// The number in the metrics of a replica after a load.
async fn forgeries(store: &Store) -> u64 {
    load_snapshot(store).await.unwrap().0.gauges().forgeries
}

/// A grant of `acme` and one of `bolt`, both extended, and a revoked grant of `acme`.
struct Grants {
    acme: Grant,
    bolt: Grant,
    revoked: Grant,
}

impl Grants {
    async fn make(store: &Store) -> Self {
        let mut change = begin(store).await;
        let now = change.now();
        let mut live = Vec::new();
        for tenant_id in ["acme", "bolt"] {
            let grant = change.append(granted(new_grant(tenant_id, "support", now))).await.unwrap();
            let grant = change.append(extended(&grant_of(&grant), None)).await.unwrap();
            live.push(grant_of(&grant));
        }
        let ended = change.append(granted(new_grant("acme", "support", now))).await.unwrap();
        let ended = change.append(revoked(&grant_of(&ended), now)).await.unwrap();
        change.commit().await.unwrap();
        let [acme, bolt] = live.try_into().unwrap();
        Self { acme, bolt, revoked: grant_of(&ended) }
    }

    fn ids(&self) -> BTreeSet<GrantId> {
        [self.acme.id(), self.bolt.id(), self.revoked.id()].into()
    }
}

pub async fn save(bench: &Bench, tables: &[&str]) {
    for table in tables {
        bench.forge(format!("CREATE TABLE saved_{table} AS SELECT * FROM {table}")).await;
    }
}

pub async fn restore(bench: &Bench, table: &str) {
    let sql = format!("DELETE FROM {table}; INSERT INTO {table} SELECT * FROM saved_{table}");
    bench.forge(sql).await;
}

pub async fn intact_rows_are_loaded_as_written(bench: &Bench) {
    let store = bench.open().await;
    assert_eq!(used(&store).await, (BTreeSet::new(), Vec::new()));
    let grants = Grants::make(&store).await;
    let mut change = begin(&store).await;
    let lock = new_lock(Some("acme"), LockTarget::Everything, Party::Tenant, change.now());
    let lock = change.append(locked(lock)).await.unwrap().kind.lock().unwrap().clone();
    let update = || policy_updated(Some(tenant("acme")), PolicyOverrides::default());
    change.append(update()).await.unwrap();
    change.append(update()).await.unwrap();
    change.commit().await.unwrap();
    assert_eq!(used(&store).await, (grants.ids(), vec![lock.terms.clone()]));
    let mut change = begin(&store).await;
    let now = change.now();
    change.append(unlocked(&lock, now)).await.unwrap();
    change.append(revoked(&grants.acme, now)).await.unwrap();
    change.commit().await.unwrap();
    let (ids, locks) = used(&store).await;
    assert_eq!((ids.len(), locks), (2, Vec::new()), "one ended grant of each group is kept");
    store.log().replace_epoch().await.unwrap();
    make_grant(&store, "cask", "support").await;
    store.close().await;
    let store = bench.open().await;
    assert_eq!(used(&store).await.0.len(), 3, "also after a new epoch and a reopening");
}

pub async fn a_grant_that_differs_from_its_events_is_not_used(bench: &Bench) {
    let store = bench.open().await;
    let grants = Grants::make(&store).await;
    save(bench, &["grants"]).await;
    let (acme, ended) = (grants.acme.id(), grants.revoked.id());
    let set = |values: &str| format!("UPDATE grants SET {values} WHERE grant_id = '{acme}'");
    let undo = "revoke_time = NULL, revoker = NULL, revoke_reason = NULL, ended_sequence = NULL";
    for (forgery, unused) in [
        (format!("UPDATE grants SET {undo} WHERE grant_id = '{ended}'"), ended),
        (set("access_level = 3"), acme),
        (set("group_id = 'x'"), acme),
        (set("tenant_id = 'bolt', create_sequence = 9, sequence = 9"), acme),
        (set("agent_ids = '[3]'"), acme),
        (set(r#"agent_kinds = '[{"agent_kind":"AI"}]'"#), acme),
        (set(r#"agent_kinds = '[{"agent_kind":"HUMAN"},{"agent_kind":"AI"}]'"#), acme),
        (set("agent_kinds = '[{}]'"), acme),
        (format!("DELETE FROM grants WHERE grant_id = '{acme}'"), acme),
    ] {
        bench.forge(forgery.clone()).await;
        let mut expected = grants.ids();
        expected.remove(&unused);
        assert_eq!(used(&store).await, (expected, Vec::new()), "{forgery}");
        assert_eq!(forgeries(&store).await, 1, "{forgery}");
        restore(bench, "grants").await;
        assert_eq!(used(&store).await, (grants.ids(), Vec::new()), "after {forgery}");
        assert_eq!(forgeries(&store).await, 0, "after {forgery}");
    }
    let columns = "tenant_id, sequence, group_id, agent_ids, agent_kinds, start_time, expire_time, \
                   reason, ticket, create_time, creator";
    let insert = |grant_id: &str| {
        format!(
            "INSERT INTO grants ({columns}, access_level, grant_id, create_sequence, \
             create_revision) SELECT {columns}, 3, {grant_id}, 0, 0 FROM grants \
             WHERE grant_id = '{acme}'"
        )
    };
    bench.forge(insert("'01890a5d-ac96-774b-bcce-b302099a8057'")).await;
    assert_eq!(used(&store).await, (grants.ids(), Vec::new()), "an inserted grant");
    restore(bench, "grants").await;
    // The same id in other characters.
    bench.forge(insert("upper(grant_id)")).await;
    let mut expected = grants.ids();
    expected.remove(&acme);
    assert_eq!(used(&store).await, (expected, Vec::new()), "two rows of one grant");
}

pub async fn locks_are_those_of_the_events(bench: &Bench) {
    let store = bench.open().await;
    let mut change = begin(&store).await;
    let now = change.now();
    let lock = new_lock(None, LockTarget::Everything, Party::Vendor, now);
    let lock = change.append(locked(lock)).await.unwrap().kind.lock().unwrap().clone();
    let lifted = new_lock(Some("acme"), LockTarget::Everything, Party::Tenant, now);
    let lifted = change.append(locked(lifted)).await.unwrap().kind.lock().unwrap().clone();
    change.append(unlocked(&lifted, now)).await.unwrap();
    change.commit().await.unwrap();
    save(bench, &["locks"]).await;
    for forgery in [
        "DELETE FROM locks",
        "UPDATE locks SET expire_time = 1 WHERE tenant_id = ''",
        "UPDATE locks SET expire_time = 1, ended_sequence = 2, sequence = 2 WHERE tenant_id = ''",
        "UPDATE locks SET target = 'group_id', target_id = 'x' WHERE tenant_id = ''",
        "UPDATE locks SET tenant_id = 'bolt' WHERE tenant_id = ''",
        "UPDATE locks SET unlock_time = NULL, unlocker = NULL, unlock_reason = NULL, \
         ended_sequence = NULL WHERE tenant_id = 'acme'",
    ] {
        bench.forge(forgery).await;
        assert_eq!(used(&store).await.1, slice::from_ref(&lock.terms), "{forgery}");
        restore(bench, "locks").await;
    }
}

/// The snapshot of a replica that follows the log from the beginning.
async fn followed(store: &Store) -> Snapshot {
    let epoch = store.log().head().await.unwrap().epoch;
    let key = support_access::domain::TokenKey([0; 16]);
    let mut snapshot = Snapshot::beginning(epoch, key);
    for event in store.log().events_after(0, 99).await.unwrap() {
        snapshot.apply(&Change::from(&event));
    }
    snapshot
}

async fn quarantines(store: &Store) -> [Vec<LockTerms>; 2] {
    let followed = followed(store).await.locks().cloned().collect();
    [used(store).await.1, followed]
}

pub async fn a_forged_event_denies_everything_in_its_tenant(bench: &Bench) {
    let store = bench.open().await;
    let grants = Grants::make(&store).await;
    save(bench, &["events", "head"]).await;
    let insert = |tenant_id: &str, kind: &str| {
        format!(
            "INSERT INTO events SELECT 7, '{tenant_id}', 5, hash, time, actor, via, \
             actor_asserted, reason, '{kind}', grant_id, lock_id, body, mac, owner_mac \
             FROM saved_events WHERE revision = 1; UPDATE head SET revision = 7"
        )
    };
    let acme = grants.acme.id();
    for (forgery, denied) in [
        // The event may belong to any history.
        (insert("acme", "granted"), None),
        ("UPDATE events SET tenant_id = 'bolt', sequence = 9 WHERE revision = 6".into(), None),
        (insert("", "granted"), None),
        (insert("b  ", "granted"), None),
        (
            "UPDATE events SET body = replace(body, 'WRITE', 'ONLY') WHERE revision = 3; \
          UPDATE head SET state_sum = (SELECT hash FROM events WHERE revision = 1)"
                .into(),
            Some("bolt"),
        ),
        (
            format!(
                "UPDATE events SET grant_id = NULL, kind = 'policy_updated' \
                  WHERE grant_id = '{acme}'"
            ),
            Some("acme"),
        ),
        (
            "UPDATE events SET mac = hash WHERE revision = 6; \
          UPDATE head SET state_sum = (SELECT hash FROM events WHERE revision = 1)"
                .into(),
            Some("acme"),
        ),
    ] {
        bench.forge(forgery.clone()).await;
        let expected = [LockTerms::quarantine(denied.map(tenant))];
        for locks in quarantines(&store).await {
            assert_eq!(locks, expected, "{forgery}");
        }
        for table in ["events", "head"] {
            restore(bench, table).await;
        }
        assert_eq!(quarantines(&store).await, [[], []], "after {forgery}");
    }
}

pub async fn a_missing_event_denies_everything(bench: &Bench) {
    let store = bench.open().await;
    let grants = Grants::make(&store).await;
    let ended = grants.revoked.id();
    let undo = "revoke_time = NULL, revoker = NULL, revoke_reason = NULL, ended_sequence = NULL, \
                sequence = 3";
    // As if the grant had never been revoked.
    bench
        .forge(format!(
            "DELETE FROM latest_ended_grants; DELETE FROM events WHERE revision = 6; \
             UPDATE grants SET {undo} WHERE grant_id = '{ended}'"
        ))
        .await;
    assert_eq!(used(&store).await.1, [LockTerms::quarantine(None)]);
    bench.forge("UPDATE head SET revision = 5").await;
    let (_, locks) = used(&store).await;
    assert_eq!(locks, [], "the events up to the head are complete, as after a restore");
}

/// The sum is bound to the revision, so that an old sum and its nonce prove nothing.
pub async fn an_older_state_with_an_older_sum_is_not_used(bench: &Bench) {
    let store = bench.open().await;
    let grants = Grants::make(&store).await;
    save(bench, &["grants", "latest_ended_grants", "head"]).await;
    let mut change = begin(&store).await;
    let now = change.now();
    change.append(revoked(&grants.acme, now)).await.unwrap();
    change.commit().await.unwrap();
    for table in ["latest_ended_grants", "grants"] {
        restore(bench, table).await;
    }
    bench
        .forge(
            "UPDATE head SET state_nonce = (SELECT state_nonce FROM saved_head), \
             state_sum = (SELECT state_sum FROM saved_head)",
        )
        .await;
    let (used, locks) = used(&store).await;
    assert!(!used.contains(&grants.acme.id()), "the grant is revoked");
    assert_eq!((used.contains(&grants.bolt.id()), locks), (true, Vec::new()));
}

pub async fn changes_follow_the_events(bench: &Bench) {
    let store = bench.open().await;
    let grants = Grants::make(&store).await;
    let mut change = begin(&store).await;
    let now = change.now();
    let lock = new_lock(None, LockTarget::Everything, Party::Vendor, now);
    let lock = change.append(locked(lock)).await.unwrap().kind.lock().unwrap().clone();
    let overrides = PolicyOverrides { ticket_required: Some(true), ..PolicyOverrides::default() };
    change.append(policy_updated(Some(tenant("acme")), overrides.clone())).await.unwrap();
    change.commit().await.unwrap();
    bench
        .forge(format!(
            "DELETE FROM locks; UPDATE grants SET access_level = 3; \
             DELETE FROM grants WHERE grant_id = '{}'; \
             UPDATE grants SET create_sequence = sequence WHERE grant_id = '{}'",
            grants.bolt.id(),
            grants.acme.id()
        ))
        .await;
    let (acme, bolt) = (tenant("acme"), tenant("bolt"));
    let mut change = begin(&store).await;
    for grant in [&grants.acme, &grants.bolt, &grants.revoked] {
        let found = change.grant(&grant.tenant_id, grant.id()).await.unwrap();
        assert_eq!(found.as_ref(), Some(grant));
    }
    assert_eq!(change.lock(lock.id()).await.unwrap(), Some(lock.clone()));
    assert_eq!(change.overrides(&acme).await.unwrap(), overrides);
    assert_eq!(change.live_grants(&acme, None, 9).await.unwrap(), slice::from_ref(&grants.acme));
    assert_eq!(change.live_grants(&bolt, None, 9).await.unwrap(), []);
    assert_eq!(
        change.live_grants_by_events(&bolt, None).await.unwrap(),
        slice::from_ref(&grants.bolt)
    );
    // The row names another creation, so a list from an earlier change on could miss it.
    assert_eq!(
        change.live_grants_by_events(&acme, None).await.unwrap(),
        slice::from_ref(&grants.acme)
    );
    // Ends work without rows, and new grants are possible.
    change.append(revoked(&grants.bolt, now)).await.unwrap();
    change.append(unlocked(&lock, now)).await.unwrap();
    let new = change.append(granted(new_grant("acme", "other", now))).await.unwrap();
    change.commit().await.unwrap();
    assert_eq!(used(&store).await, ([grant_of(&new).id()].into(), Vec::new()));

    // A forged grant is not found, and a forged event is not followed.
    bench.forge("UPDATE events SET reason = 'x' WHERE revision = 2").await;
    let mut change = begin(&store).await;
    let read = change.grant(&acme, grants.acme.id()).await;
    assert!(is_broken(&read), "{read:?}");
    let event: Event = store.log().events_after(1, 1).await.unwrap().remove(0);
    assert_eq!((event.kind, event.tenant_id), (EventKind::Forged, Some(acme)));
}

pub async fn the_event_key_can_be_rotated(bench: &Bench) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("new.key");
    fs::write(&path, format!("{}\n", EventKey::generate().unwrap().to_text())).unwrap();
    let store = bench.open().await;
    let grants = Grants::make(&store).await;
    let mut change = begin(&store).await;
    let update = policy_updated(Some(tenant("acme")), PolicyOverrides::default());
    change.append(update).await.unwrap();
    change.commit().await.unwrap();
    let new = read_event_key(&path).unwrap();
    save(bench, &["grants"]).await;
    bench.forge("UPDATE grants SET access_level = 3").await;
    let rotated = store.log().rotate_event_key(&new).await;
    assert!(is_broken(&rotated), "a forgery gets no HMAC by the new key");
    restore(bench, "grants").await;
    // A wrong sum, and a change that was made upon it, are corrected.
    bench.forge("UPDATE head SET state_sum = (SELECT hash FROM events WHERE revision = 1)").await;
    make_grant(&store, "acme", "other").await;
    assert_eq!(forgeries(&store).await, 1, "the sum stays wrong");
    store.log().rotate_event_key(&new).await.unwrap();
    let change = store.begin().await.map(drop);
    assert!(is_broken(&change), "a change with the old key");
    store.close().await;

    assert!(rejected(bench).await.contains("was written with another event key"));
    let store = open(&bench.url, bench.clock.clone(), Some(&path)).await.unwrap();
    assert!(used(&store).await.0.is_superset(&grants.ids()));
    assert_eq!(forgeries(&store).await, 0);
    make_grant(&store, "acme", "support").await;
    let events = store.log().events_after(0, 99).await.unwrap();
    assert_eq!(events.len(), 9);
    assert!(events.iter().all(|event| event.kind != EventKind::Forged));
}

async fn rejected(bench: &Bench) -> String {
    let OpenError(rejected) =
        open(&bench.url, bench.clock.clone(), event_key_file(&bench.url)).await.unwrap_err();
    rejected
}

#[tokio::test]
async fn the_event_key_of_a_file_is_private_and_necessary() {
    let bench = Bench::sqlite();
    let store: Arc<Store> = bench.open().await;
    make_grant(&store, "acme", "support").await;
    store.close().await;
    let path = format!("{}.event-key", bench.url.trim_start_matches("sqlite://"));
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let key = fs::read_to_string(&path).unwrap();
    fs::write(&path, "0".repeat(64)).unwrap();
    assert!(rejected(&bench).await.contains("was written with another event key"));
    fs::write(&path, "nonsense").unwrap();
    assert!(rejected(&bench).await.contains("does not contain 64 hexadecimal digits"));
    fs::remove_file(&path).unwrap();
    assert!(rejected(&bench).await.contains("does not exist, but the database needs it"));
    fs::write(&path, key).unwrap();
    let store = bench.open().await;
    assert_eq!(used(&store).await.0.len(), 1);
}
