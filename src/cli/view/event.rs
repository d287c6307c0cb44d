//! The history.

use super::{
    Answer, Cell, Look, about, grant, level, lock as locks, moment, moment_utc, policy, table, v1,
};
use v1::event::Payload;

impl Answer for v1::ListEventsResponse {
    const NAME: &'static str = "ListEventsResponse";

    fn for_people(&self, look: Look) -> String {
        if self.events.is_empty() {
            return "No events.\n".into();
        }
        let header = ["SEQUENCE", "TIME (UTC)", "EVENT", "GRANT", "BY", "WHAT", "REASON"];
        let more = "\nThere are more; --limit shows them.\n";
        table(look, &header, self.events.iter().map(row).collect())
            + if self.next_page_token.is_empty() { "" } else { more }
    }
}

fn row(event: &v1::Event) -> Vec<Cell> {
    let (name, grant_id, content) = describe(event);
    let enforced = event.enforcement.as_ref().map(enforced);
    let parts = [Some(content).filter(|text| !text.is_empty()), enforced];
    let content = parts.into_iter().flatten().collect::<Vec<_>>().join("; ");
    vec![
        Cell::new(event.sequence.to_string()),
        Cell::new(moment(event.create_time.as_ref(), "-")),
        Cell::new(name),
        Cell::new(grant_id),
        Cell::new(author(event)),
        Cell::new(content),
        Cell::new(&event.reason),
    ]
}

/// The actor, the service in between, and whether the actor was proven.
fn author(event: &v1::Event) -> String {
    let v1::Event { actor, via, actor_asserted, .. } = event;
    match (via.as_str(), actor_asserted) {
        ("", _) => actor.clone(),
        (via, false) => format!("{actor} via {via}"),
        (via, true) => format!("{actor}, asserted by {via}"),
    }
}

fn enforced(enforcement: &v1::Enforcement) -> String {
    let elapsed = about(enforcement.elapsed.as_ref());
    let (acknowledged, lapsed) = (enforcement.nodes_acknowledged, enforcement.nodes_lapsed);
    format!("in force everywhere after {elapsed} ({acknowledged} acknowledged, {lapsed} lapsed)")
}

/// The name of the event, its grant, and its further content.
fn describe(event: &v1::Event) -> (&'static str, String, String) {
    let grant_id = |grant: &Option<v1::Grant>| {
        grant.as_ref().map(|grant| grant.grant_id.clone()).unwrap_or_default()
    };
    let target = |lock: &Option<v1::Lock>| lock.as_ref().map(locks::target).unwrap_or_default();
    match &event.payload {
        Some(Payload::Granted(v1::Granted { grant })) => (
            "GRANTED",
            grant_id(grant),
            grant.as_ref().map(|it| granted(event, it)).unwrap_or_default(),
        ),
        Some(Payload::Extended(v1::Extended { grant, previous_expire_time })) => {
            let before = moment_utc(previous_expire_time.as_ref(), "until revoked");
            let end = grant.as_ref().map(|grant| until(&grant::end(grant))).unwrap_or_default();
            ("EXTENDED", grant_id(grant), format!("{end}, before {before}"))
        }
        Some(Payload::Revoked(v1::Revoked { grant })) => {
            ("REVOKED", grant_id(grant), String::new())
        }
        Some(Payload::Expired(v1::Expired { grant })) => {
            ("EXPIRED", grant_id(grant), String::new())
        }
        Some(Payload::PolicyUpdated(v1::PolicyUpdated { support_policy, .. })) => {
            let summary = support_policy.as_ref().map(policy::summary).unwrap_or_default();
            ("POLICY_UPDATED", String::new(), summary)
        }
        Some(Payload::Locked(v1::Locked { lock })) => {
            let end = lock.as_ref().map(|lock| until(&locks::end(lock))).unwrap_or_default();
            ("LOCKED", String::new(), format!("{} {end}", target(lock)))
        }
        Some(Payload::Unlocked(v1::Unlocked { lock })) => ("UNLOCKED", String::new(), target(lock)),
        Some(Payload::LockExpired(v1::LockExpired { lock })) => {
            ("LOCK_EXPIRED", String::new(), target(lock))
        }
        None => ("-", String::new(), String::new()),
    }
}

fn granted(event: &v1::Event, grant: &v1::Grant) -> String {
    let (group, level) = (&grant.group_id, level(grant.access_level()));
    let from = match grant.start_time {
        start if start == event.create_time => String::new(),
        start => format!(" from {}", moment_utc(start.as_ref(), "-")),
    };
    format!("{group} at {level}{from} {}", until(&grant::end(grant)))
}

fn until(end: &str) -> String {
    if end.starts_with("until") { end.to_owned() } else { format!("until {end}") }
}
