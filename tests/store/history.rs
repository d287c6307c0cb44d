//! Random histories, and random questions about them.

use chrono::TimeDelta;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use support_access::{
    domain::{
        AccessLevel, Attribution, EventKind, FreeText, Grant, GrantState, PolicyOverrides, Span,
        SupportPolicy, Time,
    },
    store::{EventQuery, GrantQuery, NewEvent, Store, Transaction},
};

use crate::{
    locks,
    model::Model,
    samples::{
        actor, agent, all_events, all_grants, begin, entry, expired, extended, granted, group,
        new_grant, revoked, tenant,
    },
};

pub const TENANTS: [&str; 3] = ["acme", "Zoë & söhne", "_"];
pub const GROUPS: [&str; 3] = ["support", "engineering", "支援"];
pub const AGENTS: [&str; 4] = ["ann", "bob", "cem", "d'arcy"];

/// Random, and the same again with the same `SEED` in the environment.
pub fn seeded() -> StdRng {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Makes changes of a few events each, some of them abandoned, and keeps the model up to date.
pub async fn live_on(store: &dyn Store, model: &mut Model, rng: &mut StdRng, changes: usize) {
    for _ in 0..changes {
        let mut change = begin(store).await;
        let mut working = model.clone();
        for _ in 0..rng.random_range(1..4) {
            let entry = random_entry(rng, &working, change.now());
            let expected = entry.clone();
            let event = change.append(entry).await.unwrap();
            assert_eq!(event.revision, working.head() + 1);
            assert_eq!(event.time, change.now());
            assert_eq!(event.kind.name(), expected.kind.name());
            working.events.push(event);
        }
        check_change(change.as_mut(), &working, rng).await;
        if rng.random_bool(0.9) {
            assert_eq!(change.commit().await.unwrap(), working.head());
            *model = working;
        }
    }
}

/// What a change reads must include what it appended.
async fn check_change(change: &mut dyn Transaction, model: &Model, rng: &mut StdRng) {
    let tenant_id = tenant(TENANTS.choose(rng).unwrap());
    let limit = rng.random_range(0..20);
    let mut live = model.live();
    live.retain(|grant| grant.tenant_id == tenant_id);
    assert_eq!(change.count_live_grants(&tenant_id).await.unwrap(), live.len());
    live.truncate(limit);
    assert_eq!(change.live_grants(&tenant_id, limit).await.unwrap(), live);
    let now = around(rng, change.now());
    assert_eq!(change.due_grants(now, limit).await.unwrap(), model.due(now, limit));
    assert_eq!(change.overrides(&tenant_id).await.unwrap(), model.overrides(&tenant_id));
    locks::check_change(change, model, rng).await;
    if let Some((grant, _)) = model.grants().choose(rng) {
        let expected = model.grant(&tenant_id, grant.id());
        assert_eq!(change.grant(&tenant_id, grant.id()).await.unwrap(), expected);
    }
}

fn random_entry(rng: &mut StdRng, model: &Model, now: Time) -> NewEvent {
    let live = model.live();
    let mut made = match (live.choose(rng), rng.random_range(0..14)) {
        (_, 10..) => locks::random_entry(rng, model, now),
        (_, 0) => random_policy(rng),
        (Some(grant), 1 | 2) => {
            let end = rng.random_bool(0.7).then(|| around(rng, now));
            extended(grant, end)
        }
        (Some(grant), 3 | 4) => revoked(grant, now.min(grant.terms.expire_time.unwrap_or(now))),
        // Also such as have not come to their end by our clock: the database's may be ahead.
        (Some(grant), 5 | 6) if grant.terms.expire_time.is_some() => expired(grant),
        _ => granted(random_grant(rng, now)),
    };
    let name = ["admin", "system", "O'Neill; --"].choose(rng).unwrap();
    let via = rng.random_bool(0.3).then(|| actor("spiffe://vendor.example/portal"));
    let is_asserted = via.is_some() && rng.random_bool(0.5);
    made.author = Attribution { actor: actor(name), via, is_asserted };
    made.reason =
        FreeText::new(*["", "one\r\n\ttwo", "\"quoted\" \\ 'so'"].choose(rng).unwrap()).unwrap();
    made
}

fn random_grant(rng: &mut StdRng, now: Time) -> Grant {
    let mut grant =
        new_grant(TENANTS.choose(rng).unwrap(), GROUPS.choose(rng).unwrap(), around(rng, now));
    let terms = &mut grant.terms;
    terms.access_level = *AccessLevel::ALL.choose(rng).unwrap();
    terms.expire_time = rng.random_bool(0.8).then(|| around(rng, now));
    let agents = rng.random_range(0..4);
    terms.agent_ids = (0..agents).map(|_| agent(AGENTS.choose(rng).unwrap())).collect();
    grant.create_time = now;
    grant
}

fn random_policy(rng: &mut StdRng) -> NewEvent {
    let overrides = PolicyOverrides {
        reason_required: rng.random_bool(0.5).then(|| rng.random_bool(0.5)),
        longest_duration: rng.random_bool(0.5).then(|| Span::hours(rng.random_range(1..99))),
        ..PolicyOverrides::default()
    };
    let policy = SupportPolicy::default().tightened(&overrides);
    entry(tenant(TENANTS.choose(rng).unwrap()), EventKind::PolicyUpdated { overrides, policy })
}

/// A time near `now`, on so coarse a grid that many are equal.
pub fn around(rng: &mut StdRng, now: Time) -> Time {
    let hour =
        support_access::domain::time::from_parts(now.timestamp() / 3_600 * 3_600, 0).unwrap();
    hour + TimeDelta::hours(rng.random_range(-6..=6))
}

pub fn random_grant_query(rng: &mut StdRng, model: &Model, now: Time) -> GrantQuery {
    let mut query = all_grants(TENANTS.choose(rng).unwrap(), around(rng, now));
    query.states = GrantState::ALL.into_iter().filter(|_| rng.random_bool(0.4)).collect();
    query.group_id = rng.random_bool(0.3).then(|| group(GROUPS.choose(rng).unwrap()));
    query.agent_id = rng.random_bool(0.3).then(|| agent(AGENTS.choose(rng).unwrap()));
    query.overlap_start = rng.random_bool(0.3).then(|| around(rng, now));
    query.overlap_end = rng.random_bool(0.3).then(|| around(rng, now));
    query.before = rng.random_bool(0.3).then(|| rng.random_range(0..=model.head() + 1));
    query.limit = *[0, 1, 5, 1_000, usize::MAX].choose(rng).unwrap();
    query
}

pub fn random_event_query(rng: &mut StdRng, model: &Model) -> EventQuery {
    let mut query = all_events(TENANTS.choose(rng).unwrap());
    if rng.random_bool(0.2) {
        query.tenant_id = None;
    }
    let grants = model.grants();
    query.grant_id =
        grants.choose(rng).filter(|_| rng.random_bool(0.5)).map(|(grant, _)| grant.id());
    query.before = rng.random_bool(0.3).then(|| rng.random_range(0..=model.head() + 1));
    query.limit = *[0, 1, 5, usize::MAX].choose(rng).unwrap();
    query
}
