//! The history.

use super::{
    Answer, Cell, Look, about, grant, level, lock as locks, moment, moment_utc, short, table, v1,
};

impl Answer for v1::ListEventsResponse {
    const NAME: &'static str = "ListEventsResponse";

    fn for_people(&self, look: Look) -> String {
        if self.events.is_empty() {
            return "No events.\n".into();
        }
        let header = ["REVISION", "TIME (UTC)", "EVENT", "GRANT", "BY", "WHAT", "REASON"];
        let more = "\nThere are more; --limit shows them.\n";
        table(look, &header, self.events.iter().map(row).collect())
            + if self.next_page_token.is_empty() { "" } else { more }
    }
}

fn row(event: &v1::Event) -> Vec<Cell> {
    vec![
        Cell::new(event.revision.to_string()),
        Cell::new(moment(event.create_time.as_ref(), "-")),
        Cell::new(short(event.r#type().as_str_name(), "EVENT_TYPE_")),
        Cell::new(&event.grant_id),
        Cell::new(author(event)),
        Cell::new(what(event)),
        Cell::new(&event.reason),
    ]
}

/// Who did it, through whom, and whether that was proven.
fn author(event: &v1::Event) -> String {
    let v1::Event { actor, via, is_asserted, .. } = event;
    match (via.as_str(), is_asserted) {
        ("", _) => actor.clone(),
        (via, false) => format!("{actor} via {via}"),
        (via, true) => format!("{actor}, says {via}"),
    }
}

/// What of the event is not in the other columns.
fn what(event: &v1::Event) -> String {
    let enforced = event.enforcement.as_ref().map(enforced);
    let parts = [Some(content(event)).filter(|text| !text.is_empty()), enforced];
    parts.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn enforced(enforcement: &v1::Enforcement) -> String {
    let elapsed = about(enforcement.elapsed.as_ref());
    let (confirmed, lapsed) = (enforcement.nodes_acknowledged, enforcement.nodes_lapsed);
    format!("in force everywhere after {elapsed} ({confirmed} confirmed, {lapsed} lapsed)")
}

fn content(event: &v1::Event) -> String {
    if let Some(policy) = &event.support_policy {
        return super::policy::summary(policy);
    }
    if let Some(found) = &event.lock {
        return lock(event.r#type(), found);
    }
    let Some(grant) = &event.grant else { return String::new() };
    match event.r#type() {
        v1::EventType::Granted => {
            let (group, level) = (&grant.group_id, level(grant.access_level()));
            let from = match grant.start_time {
                start if start == event.create_time => String::new(),
                start => format!(" from {}", moment_utc(start.as_ref(), "-")),
            };
            format!("{group} at {level}{from} {}", until(&grant::end(grant)))
        }
        v1::EventType::Extended => {
            let before = moment_utc(event.previous_expire_time.as_ref(), "until revoked");
            format!("{}, before {before}", until(&grant::end(grant)))
        }
        v1::EventType::Revoked
        | v1::EventType::Expired
        | v1::EventType::PolicyUpdated
        | v1::EventType::Locked
        | v1::EventType::Unlocked
        | v1::EventType::LockExpired
        | v1::EventType::Unspecified => String::new(),
    }
}

fn lock(kind: v1::EventType, lock: &v1::Lock) -> String {
    let target = locks::target(lock);
    match kind {
        v1::EventType::Locked => format!("{target} {}", until(&locks::end(lock))),
        _ => target,
    }
}

fn until(end: &str) -> String {
    if end.starts_with("until") { end.to_owned() } else { format!("until {end}") }
}
