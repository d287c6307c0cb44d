//! Locks.

use super::{
    Answer, Cell, Look, Tone, details, enforcement, moment, moment_utc, short, table, token, v1,
};

const UNTIL_LIFTED: &str = "until lifted";

const HEADER: [&str; 8] =
    ["LOCK", "STATE", "LOCKED", "PARTY", "SINCE (UTC)", "UNTIL (UTC)", "BY", "REASON"];

impl Answer for v1::LockAccessResponse {
    const NAME: &'static str = "LockAccessResponse";

    fn for_people(&self, look: Look) -> String {
        let mut rows = rows(&self.lock.clone().unwrap_or_default());
        rows.push(enforcement(self.enforcement.as_ref()));
        rows.push(token(&self.consistency_token));
        details(look, &rows)
    }
}

impl Answer for v1::UnlockAccessResponse {
    const NAME: &'static str = "UnlockAccessResponse";

    fn for_people(&self, look: Look) -> String {
        let mut rows = rows(&self.lock.clone().unwrap_or_default());
        rows.push(token(&self.consistency_token));
        details(look, &rows)
    }
}

impl Answer for v1::ListLocksResponse {
    const NAME: &'static str = "ListLocksResponse";

    fn for_people(&self, look: Look) -> String {
        if self.locks.is_empty() {
            return "No locks.\n".into();
        }
        let more = "\nThere are more; --limit shows them.\n";
        table(look, &HEADER, self.locks.iter().map(row).collect())
            + if self.next_page_token.is_empty() { "" } else { more }
    }
}

/// The checks that the lock denies.
pub(super) fn target(lock: &v1::Lock) -> String {
    use v1::lock::Target;
    let target = match &lock.target {
        Some(Target::AgentId(id)) => format!("agent {id}"),
        Some(Target::GroupId(id)) => format!("group {id}"),
        Some(Target::AgentKind(kind)) => {
            let kind = v1::AgentKind::try_from(*kind).unwrap_or_default();
            format!("kind {}", short(kind.as_str_name(), "AGENT_KIND_"))
        }
        Some(Target::Everything(_)) => "everything".into(),
        None => "-".into(),
    };
    match &lock.tenant_id {
        Some(tenant_id) => format!("{target} in tenant {tenant_id}"),
        None => format!("{target} in all tenants"),
    }
}

pub(super) fn end(lock: &v1::Lock) -> String {
    moment_utc(lock.expire_time.as_ref(), UNTIL_LIFTED)
}

fn row(lock: &v1::Lock) -> Vec<Cell> {
    vec![
        Cell::new(&lock.lock_id),
        state(lock),
        Cell::new(target(lock)),
        Cell::new(party(lock)),
        Cell::new(moment(lock.create_time.as_ref(), "-")),
        Cell::new(moment(lock.expire_time.as_ref(), UNTIL_LIFTED)),
        Cell::new(&lock.creator),
        Cell::new(&lock.reason),
    ]
}

fn rows(lock: &v1::Lock) -> Vec<(&'static str, Cell)> {
    let created = format!("{} by {}", moment_utc(lock.create_time.as_ref(), "-"), lock.creator);
    let mut rows = vec![
        ("Lock", Cell::new(&lock.lock_id)),
        ("State", state(lock)),
        ("Locked", Cell::new(target(lock))),
        ("Party", Cell::new(party(lock))),
        ("Until", Cell::new(end(lock))),
        ("Reason", Cell::new(&lock.reason)),
        ("Set", Cell::new(created)),
    ];
    if lock.unlock_time.is_some() {
        let lifted = format!("{} by {}", moment_utc(lock.unlock_time.as_ref(), "-"), lock.unlocker);
        rows.push(("Lifted", Cell::new(lifted)));
        rows.push(("Because", Cell::new(&lock.unlock_reason)));
    }
    rows.push(("Etag", Cell::new(&lock.etag)));
    rows
}

fn party(lock: &v1::Lock) -> &'static str {
    short(lock.party().as_str_name(), "PARTY_")
}

fn state(lock: &v1::Lock) -> Cell {
    let tone = match lock.state() {
        v1::LockState::Active => Some(Tone::Bad),
        v1::LockState::Expired | v1::LockState::Lifted => Some(Tone::Faint),
        v1::LockState::Unspecified => None,
    };
    Cell::new(short(lock.state().as_str_name(), "LOCK_STATE_")).toned(tone)
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp { seconds, nanos: 0 }
    }

    fn mk_lock() -> v1::Lock {
        v1::Lock {
            lock_id: "l1".into(),
            target: Some(v1::lock::Target::GroupId("support".into())),
            party: v1::Party::Vendor.into(),
            state: v1::LockState::Lifted.into(),
            reason: "two\nlines \u{1b}[31m".into(),
            create_time: Some(at(1_796_115_600)),
            creator: "alice".into(),
            unlock_time: Some(at(1_796_115_660)),
            unlocker: "carol".into(),
            unlock_reason: "over".into(),
            etag: "s4".into(),
            ..v1::Lock::default()
        }
    }

    #[test]
    fn one_lock_is_shown_with_all_there_is_to_know() {
        let text =
            v1::UnlockAccessResponse { lock: Some(mk_lock()), consistency_token: "token".into() }
                .for_people(Look::default());
        let expected = "\
Lock     l1
State    LIFTED
Locked   group support in all tenants
Party    VENDOR
Until    until lifted
Reason   two lines \u{fffd}[31m
Set      2026-12-01 09:00:00 UTC by alice
Lifted   2026-12-01 09:01:00 UTC by carol
Because  over
Etag     s4
Token    token
";
        assert_eq!(text, expected);
    }

    #[test]
    fn locks_are_a_table() {
        let everything = Some(v1::lock::Target::Everything(true));
        let held = v1::LockState::Active.into();
        let expire_time = Some(at(1_796_119_200));
        let tenant_id = Some("acme".into());
        let lock =
            v1::Lock { target: everything, tenant_id, state: held, expire_time, ..mk_lock() };
        let answer = v1::ListLocksResponse { locks: vec![lock], ..Default::default() };
        let expected = "\
LOCK  STATE   LOCKED                     PARTY   SINCE (UTC)          UNTIL (UTC)          BY     REASON
l1    ACTIVE  everything in tenant acme  VENDOR  2026-12-01 09:00:00  2026-12-01 10:00:00  alice  two lines \u{fffd}[31m
";
        assert_eq!(answer.for_people(Look::default()), expected);
        assert_eq!(v1::ListLocksResponse::default().for_people(Look::default()), "No locks.\n");
    }

    #[test]
    fn a_lock_in_the_history_says_what_and_until_when() {
        use v1::event::Payload;
        let lock = |expire_time| Some(v1::Lock { expire_time, ..mk_lock() });
        let event = |payload| v1::Event {
            sequence: 4,
            payload: Some(payload),
            actor: "alice".into(),
            reason: "stolen".into(),
            ..v1::Event::default()
        };
        let events = vec![
            event(Payload::LockExpired(v1::LockExpired { lock: lock(None) })),
            event(Payload::Unlocked(v1::Unlocked { lock: lock(None) })),
            event(Payload::Locked(v1::Locked { lock: lock(Some(at(1_796_119_200))) })),
            event(Payload::Locked(v1::Locked { lock: lock(None) })),
        ];
        let answer = v1::ListEventsResponse { events, ..Default::default() };
        let expected = "\
SEQUENCE  TIME (UTC)  EVENT         GRANT  BY     WHAT                                                        REASON
4         -           LOCK_EXPIRED  -      alice  group support in all tenants                                stolen
4         -           UNLOCKED      -      alice  group support in all tenants                                stolen
4         -           LOCKED        -      alice  group support in all tenants until 2026-12-01 10:00:00 UTC  stolen
4         -           LOCKED        -      alice  group support in all tenants until lifted                   stolen
";
        assert_eq!(answer.for_people(Look::default()), expected);
    }
}
