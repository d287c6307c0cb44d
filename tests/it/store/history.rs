//! Random histories and random queries.

use chrono::TimeDelta;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use support_access::{
    domain::{
        AccessLevel, AdmittedKinds, AgentKind, AgentKindEntry, Attribution, FreeText, Grant,
        GrantState, PolicyOverrides, Span, Time,
    },
    store::{
        EventFilter, EventQuery, GrantFilter, GrantQuery, ListOrder, NewEvent, PageBounds,
        QueryScope, Store, Transaction,
    },
};

use crate::store::{
    locks,
    model::Model,
    samples::{
        actor, agent, begin, expired, extended, granted, group, new_grant, policy_updated, revoked,
        tenant,
    },
};

pub const TENANTS: [&str; 3] = ["acme", "Zoë & söhne", "_"];
pub const GROUPS: [&str; 3] = ["support", "engineering", "支援"];
pub const AGENTS: [&str; 4] = ["ann", "bob", "cem", "d'arcy"];

/// A random generator. The environment variable `SEED` repeats a run.
pub fn seeded() -> StdRng {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    println!("SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// Commits transactions of a few events, drops others, and updates the model.
pub async fn make_random_changes(
    store: &Store,
    model: &mut Model,
    rng: &mut StdRng,
    changes: usize,
) {
    for _ in 0..changes {
        let mut change = begin(store).await;
        let mut working = model.clone();
        for _ in 0..rng.random_range(1..4) {
            let entry = random_entry(rng, &working, change.now());
            let expected = entry.clone();
            let event = change.append(entry).await.unwrap();
            assert_eq!(event.revision, working.head() + 1);
            assert_eq!(event.sequence, working.sequence(event.tenant_id.as_ref()) + 1);
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

/// The reads of a transaction must include its own events.
async fn check_change(change: &mut dyn Transaction, model: &Model, rng: &mut StdRng) {
    let tenant_id = tenant(TENANTS.choose(rng).unwrap());
    let limit = rng.random_range(0..20);
    let mut live = model.live();
    live.retain(|grant| grant.tenant_id == tenant_id);
    let size = live.iter().map(|grant| grant.terms.size()).sum::<usize>();
    assert_eq!(change.size_of_live_grants(&tenant_id).await.unwrap(), size);
    if let Some(group_id) = live.choose(rng).map(|grant| grant.terms.group_id.clone()) {
        let count = live.iter().filter(|grant| grant.terms.group_id == group_id).count();
        assert_eq!(change.count_live_grants(&tenant_id, &group_id).await.unwrap(), count);
    }
    let before = rng.random_bool(0.5).then(|| rng.random_range(0..=model.head() + 1));
    live.retain(|grant| before.is_none_or(|before| grant.create_sequence < before));
    live.truncate(limit);
    assert_eq!(change.live_grants(&tenant_id, before, limit).await.unwrap(), live);
    let now = around(rng, change.now());
    assert_eq!(change.due_grants(now, limit).await.unwrap(), model.due(now, limit));
    assert_eq!(change.overrides(&tenant_id).await.unwrap(), model.overrides(&tenant_id));
    locks::check_change(change, model, rng).await;
    if let Some(known) = model.grants().choose(rng) {
        let id = known.item.id();
        assert_eq!(change.grant(&tenant_id, id).await.unwrap(), model.grant(&tenant_id, id));
    }
    if let Some(event) = model.events.choose(rng) {
        let revision = change.revision_of(event.tenant_id.as_ref(), event.sequence).await;
        assert_eq!(revision.unwrap(), event.revision);
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
        // The clock of the database may be ahead of the test's, so that later ends are included.
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
    terms.agent_kinds = random_kinds(rng);
    let agents = rng.random_range(0..4);
    terms.agent_ids = (0..agents).map(|_| agent(AGENTS.choose(rng).unwrap())).collect();
    grant.create_time = now;
    grant
}

fn random_kinds(rng: &mut StdRng) -> AdmittedKinds {
    let end = rng.random_range(1..=3);
    let start = rng.random_range(0..end);
    let entries = AgentKind::ALL[start..end].iter().map(|agent_kind| AgentKindEntry {
        agent_kind: *agent_kind,
        max_access_level: AccessLevel::ALL.get(rng.random_range(0..6)).copied(),
        on_behalf_of_required: rng.random_bool(0.5),
    });
    AdmittedKinds::new(entries).unwrap()
}

fn random_policy(rng: &mut StdRng) -> NewEvent {
    let overrides = PolicyOverrides {
        reason_required: rng.random_bool(0.5).then(|| rng.random_bool(0.5)),
        max_duration: rng.random_bool(0.5).then(|| Span::hours(rng.random_range(1..99))),
        ..PolicyOverrides::default()
    };
    policy_updated(Some(tenant(TENANTS.choose(rng).unwrap())), overrides)
}

/// A time near `now`, on a coarse grid so that many times are equal.
pub fn around(rng: &mut StdRng, now: Time) -> Time {
    let hour =
        support_access::domain::time::from_parts(now.timestamp() / 3_600 * 3_600, 0).unwrap();
    hour + TimeDelta::hours(rng.random_range(-6..=6))
}

pub fn random_scope(rng: &mut StdRng) -> QueryScope {
    match rng.random_range(0..6) {
        0 => QueryScope::All,
        1 => QueryScope::Vendor,
        _ => QueryScope::Tenant(tenant(TENANTS.choose(rng).unwrap())),
    }
}

pub fn random_page(rng: &mut StdRng, model: &Model) -> PageBounds {
    PageBounds {
        order: *[ListOrder::NewestFirst, ListOrder::OldestFirst].choose(rng).unwrap(),
        after: rng.random_bool(0.3).then(|| rng.random_range(0..=model.head() + 1)),
        limit: *[0, 1, 5, 1_000, usize::MAX].choose(rng).unwrap(),
    }
}

pub fn random_grant_query(rng: &mut StdRng, model: &Model, now: Time) -> GrantQuery {
    let filter = GrantFilter {
        scope: random_scope(rng),
        states: GrantState::ALL.into_iter().filter(|_| rng.random_bool(0.4)).collect(),
        group_id: rng.random_bool(0.3).then(|| group(GROUPS.choose(rng).unwrap())),
        agent_id: rng.random_bool(0.3).then(|| agent(AGENTS.choose(rng).unwrap())),
        overlap_start: rng.random_bool(0.3).then(|| around(rng, now)),
        overlap_end: rng.random_bool(0.3).then(|| around(rng, now)),
    };
    GrantQuery { filter, now: around(rng, now), page: random_page(rng, model) }
}

pub fn random_event_query(rng: &mut StdRng, model: &Model) -> EventQuery {
    let grants = model.grants();
    let grant = grants.choose(rng).filter(|_| rng.random_bool(0.5));
    let grant_id = grant.map(|known| known.item.id());
    let filter = EventFilter { scope: random_scope(rng), grant_id };
    EventQuery { filter, page: random_page(rng, model) }
}
