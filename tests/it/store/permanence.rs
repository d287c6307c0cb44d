//! No statement can change or delete history. Triggers reject every statement in this file, even
//! from the owner of the tables.

use support_access::{
    domain::{LockTarget, Party, PolicyOverrides, Revision},
    store::{ListOrder, Store},
};

use crate::store::{
    bench::Bench,
    locks::{all_locks, locked, new_lock, unlocked},
    samples::{
        ENFORCED, agent, all_grants, begin, extended, grant_of, granted, key, make_grant,
        new_grant, policy_updated, record, revoked, tenant,
    },
};

const ID: &str = "'01890a5d-ac96-774b-bcce-b302099a8057'";

/// One live grant that names an agent, two ended grants of one group, a live and an ended lock,
/// overrides, a request, and an enforcement.
async fn populate(store: &Store) {
    let mut change = begin(store).await;
    let now = change.now();
    let mut grant = new_grant("acme", "support", now);
    grant.terms.agent_ids = ["ann"].map(agent).into();
    let grant = grant_of(&change.append(granted(grant)).await.unwrap());
    change.append(extended(&grant, None)).await.unwrap();
    for _ in 0..2 {
        let ended = granted(new_grant("acme", "other", now));
        let ended = grant_of(&change.append(ended).await.unwrap());
        change.append(revoked(&ended, now)).await.unwrap();
    }
    let live = new_lock(None, LockTarget::Everything, Party::Vendor, now);
    change.append(locked(live)).await.unwrap();
    let lock = new_lock(Some("acme"), LockTarget::Agent(agent("ann")), Party::Tenant, now);
    let lock = change.append(locked(lock)).await.unwrap().kind.lock().unwrap().clone();
    change.append(unlocked(&lock, now)).await.unwrap();
    let update = policy_updated(Some(tenant("acme")), PolicyOverrides::default());
    change.append(update).await.unwrap();
    change.record_request(&key(Some("acme"), "r", 1), 0).await.unwrap();
    let last = change.commit().await.unwrap();
    record(store, 1, last, ENFORCED).await;
    store.membership().record_trusted_time(now, 0).await.unwrap();
}

/// All state that decides access, as the store returns that state.
async fn state(store: &Store) -> String {
    let mut loaded = Vec::new();
    let mut visit = |tenant_id, terms, retained| loaded.push((tenant_id, terms, retained));
    let others = store.log().load(&mut visit).await.unwrap();
    loaded.sort_by_key(|(_, terms, _)| terms.grant_id);
    let now = others.position.time.unwrap();
    let mut change = begin(store).await;
    let acme = tenant("acme");
    let request = change.request(Some(&acme), &key(None, "r", 1).request_id).await.unwrap();
    let mut grants = all_grants("acme", now);
    grants.page.order = ListOrder::OldestFirst;
    let mut by_agent = grants.clone();
    by_agent.filter.agent_id = Some(agent("ann"));
    format!(
        "{:#?}",
        (
            (loaded, others, request, store.history().enforced(1).await.unwrap()),
            store.log().events_after(0, 99).await.unwrap(),
            store.queries().grants(&grants).await.unwrap(),
            store.queries().grants(&by_agent).await.unwrap(),
            store.queries().locks(&all_locks(now)).await.unwrap(),
            store.queries().overrides(&acme).await.unwrap(),
            store.history().records(Some(&acme), 0, 99).await.unwrap(),
        )
    )
}

/// The statements that are rejected in both databases.
fn attacks() -> Vec<String> {
    [table_attacks(), object_attacks(), event_attacks()].concat()
}

/// Deletions from all tables, and updates of all tables except `grants` and `locks`.
fn table_attacks() -> Vec<String> {
    let mut attacks: Vec<String> = [
        "head",
        "events",
        "grants",
        "grant_agents",
        "latest_ended_grants",
        "locks",
        "requests",
        "enforcements",
        "trusted_time",
    ]
    .map(|table| format!("DELETE FROM {table}"))
    .into();
    for set in [
        "revision = revision - 1",
        "time = time - 1",
        "time = NULL, revision = 0",
        "log_name = replace(log_name, '-', '+')",
        "epoch = replace(epoch, '-', '+')",
    ] {
        attacks.push(update("head", set, "TRUE"));
    }
    for (table, columns) in [
        (
            "events",
            "reason = 'x'|hash = hash|tenant_id = 'bolt'|sequence = 99|body = '{}'|time = 1",
        ),
        ("grant_agents", "agent_id = 'bob'|create_sequence = 3"),
        ("requests", "request_id = 'x'|part = 1|fingerprint = fingerprint|last_revision = 1"),
        ("enforcements", "elapsed = 0|nodes_lapsed = 0"),
        (
            "trusted_time",
            "time = time - 1|time = NULL|accepted_clock = accepted_clock + 1\
             |time = time - 1, accepted_clock = accepted_clock + 1",
        ),
        ("latest_ended_grants", "end_time = end_time - 1|access_level = 1|group_id = 'support'"),
    ] {
        attacks.extend(columns.split('|').map(|set| update(table, set, "TRUE")));
    }
    attacks
}

/// Updates of grants and locks.
fn object_attacks() -> Vec<String> {
    let mut attacks = Vec::new();
    let live = "ended_sequence IS NULL";
    let ended = "ended_sequence IS NOT NULL AND tenant_id = 'acme'";
    for (table, columns) in [
        (
            "grants",
            "tenant_id = 'bolt'|create_sequence = 9|create_revision = 9|group_id = 'x'|reason = 'x'\
             |agent_ids = '[]'|access_level = 3|agent_kinds = '[{}]'|start_time = 1|ticket = 'x'|create_time = 1\
             |creator = 'x'",
        ),
        (
            "locks",
            "tenant_id = 'bolt'|create_sequence = 9|create_revision = 9|target_id = 'x'\
             |reason = 'x'|party = 'tenant'|target = 'group_id'|create_time = 1|creator = 'x'",
        ),
    ] {
        // Together with a later sequence.
        let later = "sequence = sequence + 1, ended_sequence = sequence + 1";
        attacks
            .extend(columns.split('|').map(|set| update(table, &format!("{set}, {later}"), live)));
        for set in ["ended_sequence = NULL", "sequence = sequence + 1", "expire_time = 1"] {
            attacks.push(update(table, set, ended));
        }
        attacks.push(update(table, "sequence = sequence - 1", live));
        attacks.push(update(table, "sequence = sequence", live));
        attacks.push(update(table, "expire_time = 1", live));
    }
    attacks.push(update("grants", &format!("grant_id = {ID}, sequence = 8"), live));
    attacks.push(update("locks", &format!("lock_id = {ID}, sequence = 8"), live));
    attacks.push(update(
        "grants",
        "revoke_time = NULL, revoker = NULL, revoke_reason = NULL",
        ended,
    ));
    attacks.push(update(
        "locks",
        "unlock_time = NULL, unlocker = NULL, unlock_reason = NULL",
        ended,
    ));
    attacks.push(update("locks", "expire_time = 1, ended_sequence = 2, sequence = 2", live));
    attacks
}

/// Insertions that leave gaps in the log or in a history.
fn event_attacks() -> Vec<String> {
    let copy = |revision: &str, sequence: &str| {
        format!(
            "INSERT INTO events (revision, tenant_id, sequence, hash, time, actor, actor_asserted, \
             reason, kind, grant_id, lock_id, body, mac, owner_mac) \
             SELECT {revision}, tenant_id, {sequence}, hash, time, actor, actor_asserted, reason, \
             kind, grant_id, lock_id, body, mac, owner_mac \
             FROM events WHERE revision = 1"
        )
    };
    let next_revision = "(SELECT max(revision) + 1 FROM events)";
    let next_sequence = "(SELECT max(sequence) + 1 FROM events WHERE tenant_id = 'acme')";
    vec![copy("99", next_sequence), copy(next_revision, "99")]
}

fn update(table: &str, set: &str, rows: &str) -> String {
    format!("UPDATE {table} SET {set} WHERE {rows}")
}

/// The statements that only one of the databases has.
fn special_attacks(is_postgres: bool) -> Vec<String> {
    let tables = ["head", "events", "grants", "locks", "requests", "trusted_time"];
    let more = ["grant_agents", "latest_ended_grants", "enforcements"];
    if is_postgres {
        return tables
            .into_iter()
            .chain(more)
            .map(|table| format!("TRUNCATE {table} CASCADE"))
            .collect();
    }
    tables.map(|table| format!("INSERT OR REPLACE INTO {table} SELECT * FROM {table}")).into()
}

pub async fn history_is_permanent(bench: &Bench) {
    let store = bench.open().await;
    populate(store.as_ref()).await;
    let before = state(store.as_ref()).await;
    let is_postgres = bench.url.starts_with("postgres");
    for sql in attacks().into_iter().chain(special_attacks(is_postgres)) {
        let error = bench.sql(sql.clone()).await.expect_err(&sql).to_string();
        assert!(error.contains("history is permanent"), "{sql}: {error}");
    }
    if !is_postgres {
        // The triggers of these tables ignore a replacement.
        for sql in [
            "INSERT OR REPLACE INTO enforcements \
             SELECT last_revision, 1, 0, 0, 0 FROM enforcements",
            "INSERT OR REPLACE INTO latest_ended_grants \
             SELECT tenant_id, group_id, end_time - 1, 1, grant_id, 1 FROM latest_ended_grants",
        ] {
            bench.sql(sql.to_owned()).await.unwrap();
        }
    }
    assert_eq!(state(store.as_ref()).await, before);
    make_grant(store.as_ref(), "acme", "support").await;
}

/// The names of values have one spelling, which the database checks.
pub async fn enums_are_checked(bench: &Bench) {
    let store = bench.open().await;
    populate(store.as_ref()).await;
    let last: Revision = store.log().head().await.unwrap().revision;
    let event = |kind: &str, grant_id: &str, lock_id: &str| {
        format!(
            "INSERT INTO events (revision, tenant_id, sequence, hash, time, actor, actor_asserted, \
             reason, kind, grant_id, lock_id, body, mac, owner_mac) \
             SELECT {last} + 1, 'bolt', 1, hash, time, \
             actor, \
             0, reason, '{kind}', {grant_id}, {lock_id}, body, mac, owner_mac FROM events \
             WHERE revision = 1"
        )
    };
    let lock = |target: &str, target_id: &str, party: &str| {
        format!(
            "INSERT INTO locks (tenant_id, create_sequence, sequence, create_revision, lock_id, \
             target, \
             target_id, party, reason, create_time, creator) VALUES ('acme', 1, 1, 1, {ID}, \
             '{target}', \
             '{target_id}', '{party}', 'x', 1, 'x')"
        )
    };
    let grant = "INSERT INTO grants (tenant_id, create_sequence, sequence, create_revision, \
                 grant_id, \
                 group_id, agent_ids, access_level, agent_kinds, start_time, reason, ticket, \
                 create_time, creator) \
                 SELECT tenant_id, 2, 2, 2, "
        .to_owned()
        + ID;
    let grant = |level: &str, kinds: &str| {
        format!(
            "{grant}, group_id, agent_ids, {level}, {kinds}, start_time, reason, ticket, \
             create_time, creator FROM grants WHERE create_sequence = 1"
        )
    };
    for (sql, constraint) in [
        (event("granted_again", "NULL", "NULL"), "events_kind_check"),
        (event("granted", "NULL", "NULL"), "events_grant_id_check"),
        (event("policy_updated", ID, "NULL"), "events_grant_id_check"),
        (event("locked", "NULL", "NULL"), "events_lock_id_check"),
        (event("clock_accepted", "NULL", "NULL"), "events_clock_accepted_check"),
        (lock("tenant_id", "acme", "vendor"), "locks_target_check"),
        (lock("agent_kind", "ROBOT", "vendor"), "locks_target_id_check"),
        (lock("everything", "x", "vendor"), "locks_target_id_check"),
        (lock("everything", "", "operator"), "locks_party_check"),
        (grant("4", "agent_kinds"), "grants_access_level_check"),
        (grant("3", "'[]'"), "grants_agent_kinds_check"),
    ] {
        let error = bench.sql(sql.clone()).await.expect_err(&sql).to_string();
        assert!(error.contains(constraint), "{sql}: {error}");
    }
}
