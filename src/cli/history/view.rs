//! Events for people.

use v1::event::Payload;

use crate::{
    api::proto::v1,
    cli::{
        grants, locks, policy,
        table::{Cell, Column, Highlight, Layout, details, table},
        view::{
            MORE, clock_distance, kinds, level, measured, node_counts, pending, time_to_second,
            time_utc,
        },
    },
};

/// The columns of a list. The tenant is shown for a list of all histories.
const COLUMNS: [Column; 8] = [
    Column::fixed("SEQUENCE", 0),
    Column::fixed("TENANT", 1),
    Column::fixed("TIME (UTC)", 1),
    Column::fixed("EVENT", 2),
    Column::fixed("GRANT OR LOCK", 3),
    Column::text("BY", 4),
    Column::text("CHANGE", 5),
    Column::text("REASON", 6),
];
const VENDOR: &str = "(vendor)";

pub(super) fn list(layout: Layout, list: &v1::ListEventsResponse, all: bool) -> String {
    const TENANT: usize = 1;
    if list.events.is_empty() {
        return "No events.\n".into();
    }
    let mut columns = COLUMNS.to_vec();
    let mut rows: Vec<Vec<Cell>> = list.events.iter().map(row).collect();
    if !all {
        columns.remove(TENANT);
        for row in &mut rows {
            row.remove(TENANT);
        }
    }
    table(layout, &columns, &rows) + if list.next_page_token.is_empty() { "" } else { MORE }
}

/// The response to `history wait`, without the duration. If no duration was recorded, the server
/// returns the time until the response instead.
pub(super) fn waited(layout: Layout, response: &v1::WaitEnforcedResponse) -> String {
    let state = match &response.enforcement {
        None => Cell::new("unknown").highlighted(Highlight::Warning),
        Some(found) if found.state() == v1::EnforcementState::Complete => {
            Cell::new(format!("at every check node ({})", node_counts(found)))
                .highlighted(Highlight::Good)
        }
        Some(found) => pending(found),
    };
    details(layout, &[("Enforced", state)])
}

fn row(event: &v1::Event) -> Vec<Cell> {
    let (name, object, change) = describe(event);
    let enforced = event.enforcement.as_ref().map(enforced);
    let changes = [Some(change).filter(|text| !text.is_empty()), enforced];
    let change = changes.into_iter().flatten().collect::<Vec<_>>().join("; ");
    vec![
        Cell::new(event.sequence.to_string()),
        Cell::new(event.tenant_id.as_deref().unwrap_or(VENDOR)),
        Cell::new(time_to_second(event.create_time.as_ref(), "-")),
        Cell::new(name),
        Cell::new(object),
        Cell::new(attribution(event)),
        Cell::new(change),
        Cell::new(&event.reason),
    ]
}

/// The actor, and the service through which the actor called.
fn attribution(event: &v1::Event) -> String {
    let v1::Event { actor, via, actor_asserted, .. } = event;
    match (via.as_str(), actor_asserted) {
        ("", _) => actor.clone(),
        (via, false) => format!("{actor} via {via}"),
        (via, true) => format!("{actor}, asserted by {via}"),
    }
}

/// The recorded enforcement.
fn enforced(enforcement: &v1::Enforcement) -> String {
    let elapsed = measured(enforcement.elapsed.as_ref());
    format!("enforced everywhere after {elapsed} ({})", node_counts(enforcement))
}

/// The name of the event, the grant or lock, and the change.
fn describe(event: &v1::Event) -> (&'static str, String, String) {
    let grant_id = |grant: &Option<v1::Grant>| {
        grant.as_ref().map(|grant| grant.grant_id.clone()).unwrap_or_default()
    };
    let lock_id = |lock: &Option<v1::Lock>| {
        lock.as_ref().map(|lock| lock.lock_id.clone()).unwrap_or_default()
    };
    let target =
        |lock: &Option<v1::Lock>| lock.as_ref().map(locks::view::target).unwrap_or_default();
    match &event.payload {
        Some(Payload::Granted(v1::Granted { grant })) => {
            let change = grant.as_ref().map(|grant| granted(event, grant));
            ("GRANTED", grant_id(grant), change.unwrap_or_default())
        }
        Some(Payload::Extended(v1::Extended { grant, previous_expire_time, clock_step })) => {
            let previous = previous_expire_time.as_ref();
            let previous = time_utc(previous, grants::view::UNTIL_REVOKED);
            let end = grant.as_ref().map(|grant| until(&grants::view::end(grant)));
            let cause = match clock_step {
                Some(step) => format!("; clock {}", clock_distance(Some(step))),
                None => String::new(),
            };
            let change = format!("{} (before: {previous}{cause})", end.unwrap_or_default());
            ("EXTENDED", grant_id(grant), change)
        }
        Some(Payload::Revoked(v1::Revoked { grant })) => {
            ("REVOKED", grant_id(grant), String::new())
        }
        Some(Payload::Expired(v1::Expired { grant })) => {
            ("EXPIRED", grant_id(grant), String::new())
        }
        Some(Payload::PolicyUpdated(v1::PolicyUpdated { support_policy, .. })) => {
            let summary = support_policy.as_ref().map(policy::view::summary);
            ("POLICY_UPDATED", String::new(), summary.unwrap_or_default())
        }
        Some(Payload::Locked(v1::Locked { lock })) => {
            let end = lock.as_ref().map(|lock| until(&locks::view::end(lock)));
            let change = format!("{} {}", target(lock), end.unwrap_or_default());
            ("LOCKED", lock_id(lock), change)
        }
        Some(Payload::Unlocked(v1::Unlocked { lock })) => ("UNLOCKED", lock_id(lock), target(lock)),
        Some(Payload::LockExpired(v1::LockExpired { lock })) => {
            ("LOCK_EXPIRED", lock_id(lock), target(lock))
        }
        Some(Payload::ClockAccepted(v1::ClockAccepted { step, moved_count })) => {
            let change =
                format!("clock {}; moved grants: {moved_count}", clock_distance(step.as_ref()));
            ("CLOCK_ACCEPTED", String::new(), change)
        }
        None => ("-", String::new(), String::new()),
    }
}

fn granted(event: &v1::Event, grant: &v1::Grant) -> String {
    let (group, level) = (&grant.group_id, level(grant.access_level()));
    let kinds = kinds(grant.agent_kinds.as_ref(), grant.access_level());
    let from = match grant.start_time {
        start if start == event.create_time => String::new(),
        start => format!(" from {}", time_utc(start.as_ref(), "-")),
    };
    format!("{group} at {level} for {kinds}{from} {}", until(&grants::view::end(grant)))
}

fn until(end: &str) -> String {
    if end.starts_with("until") { end.to_owned() } else { format!("until {end}") }
}
