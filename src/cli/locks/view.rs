//! Locks for people.

use crate::{
    api::proto::v1,
    cli::{
        table::{Cell, Column, Highlight, Layout, details, table},
        view::{MORE, enforcement, kind, short, time_and_caller, time_to_minute, time_utc},
    },
};

const UNTIL_LIFTED: &str = "until lifted";
const ALL_TENANTS: &str = "all tenants";

const COLUMNS: [Column; 9] = [
    Column::fixed("LOCK", 0),
    Column::fixed("STATE", 3),
    Column::fixed("TARGET", 1),
    Column::fixed("TENANT", 2),
    Column::fixed("PARTY", 5),
    Column::fixed("START (UTC)", 6),
    Column::fixed("END (UTC)", 4),
    Column::text("BY", 8),
    Column::text("REASON", 7),
];

pub(super) fn locked(layout: Layout, response: &v1::LockAccessResponse) -> String {
    let mut rows = rows(&response.lock.clone().unwrap_or_default());
    rows.extend(enforcement(response.enforcement.as_ref()));
    details(layout, &rows)
}

pub(super) fn lifted(layout: Layout, response: &v1::UnlockAccessResponse) -> String {
    let mut rows = rows(&response.lock.clone().unwrap_or_default());
    rows.push(("Token", Cell::new(&response.consistency_token)));
    details(layout, &rows)
}

pub(super) fn list(layout: Layout, list: &v1::ListLocksResponse) -> String {
    if list.locks.is_empty() {
        return "No locks.\n".into();
    }
    let rows: Vec<_> = list.locks.iter().map(row).collect();
    table(layout, &COLUMNS, &rows) + if list.next_page_token.is_empty() { "" } else { MORE }
}

/// The checks that the lock denies, without the tenant.
pub(crate) fn target(lock: &v1::Lock) -> String {
    use v1::lock::Target;
    match &lock.target {
        Some(Target::AgentId(id)) => format!("agent {id}"),
        Some(Target::GroupId(id)) => format!("group {id}"),
        Some(Target::AgentKind(number)) => {
            format!("kind {}", kind(v1::AgentKind::try_from(*number).unwrap_or_default()))
        }
        Some(Target::Everything(_)) => "everything".into(),
        None => "-".into(),
    }
}

pub(crate) fn end(lock: &v1::Lock) -> String {
    time_utc(lock.expire_time.as_ref(), UNTIL_LIFTED)
}

fn tenant(lock: &v1::Lock) -> &str {
    lock.tenant_id.as_deref().unwrap_or(ALL_TENANTS)
}

fn row(lock: &v1::Lock) -> Vec<Cell> {
    vec![
        Cell::new(&lock.lock_id),
        state(lock),
        Cell::new(target(lock)),
        Cell::new(tenant(lock)),
        Cell::new(party(lock)),
        Cell::new(time_to_minute(lock.create_time.as_ref(), "-")),
        Cell::new(time_to_minute(lock.expire_time.as_ref(), UNTIL_LIFTED)),
        Cell::new(&lock.creator),
        Cell::new(&lock.reason),
    ]
}

fn rows(lock: &v1::Lock) -> Vec<(&'static str, Cell)> {
    let mut rows = vec![
        ("Lock", Cell::new(&lock.lock_id)),
        ("State", state(lock)),
        ("Target", Cell::new(target(lock))),
        ("Tenant", Cell::new(tenant(lock))),
        ("Party", Cell::new(party(lock))),
        ("End", Cell::new(end(lock))),
        ("Reason", Cell::new(&lock.reason)),
        ("Created", time_and_caller(lock.create_time.as_ref(), &lock.creator)),
    ];
    if lock.unlock_time.is_some() {
        rows.push(("Lifted", time_and_caller(lock.unlock_time.as_ref(), &lock.unlocker)));
        rows.push(("Lift reason", Cell::new(&lock.unlock_reason)));
    }
    rows.push(("Etag", Cell::new(&lock.etag)));
    rows
}

fn party(lock: &v1::Lock) -> &'static str {
    short(lock.party().as_str_name(), "PARTY_")
}

fn state(lock: &v1::Lock) -> Cell {
    let highlight = match lock.state() {
        v1::LockState::Active => Some(Highlight::Bad),
        v1::LockState::Expired | v1::LockState::Lifted => Some(Highlight::Dim),
        v1::LockState::Unspecified => None,
    };
    Cell::new(short(lock.state().as_str_name(), "LOCK_STATE_")).highlighted(highlight)
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
    fn one_lock_is_shown_in_full() {
        let response =
            v1::UnlockAccessResponse { lock: Some(mk_lock()), consistency_token: "token".into() };
        let expected = "\
Lock         l1
State        LIFTED
Target       group support
Tenant       all tenants
Party        VENDOR
End          until lifted
Reason       two lines \u{fffd}[31m
Created      2026-12-01 09:00:00 UTC by alice
Lifted       2026-12-01 09:01:00 UTC by carol
Lift reason  over
Etag         s4
Token        token
";
        assert_eq!(lifted(Layout::default(), &response), expected);
    }

    #[test]
    fn locks_are_a_table() {
        let target = Some(v1::lock::Target::Everything(true));
        let state = v1::LockState::Active.into();
        let expire_time = Some(at(1_796_119_200));
        let tenant_id = Some("acme".into());
        let lock = v1::Lock { target, tenant_id, state, expire_time, ..mk_lock() };
        let response = v1::ListLocksResponse { locks: vec![lock], ..Default::default() };
        let expected = "\
LOCK  STATE   TARGET      TENANT  PARTY   START (UTC)       END (UTC)         BY     REASON
l1    ACTIVE  everything  acme    VENDOR  2026-12-01 09:00  2026-12-01 10:00  alice  two lines \u{fffd}[31m
";
        assert_eq!(list(Layout::default(), &response), expected);
        assert_eq!(list(Layout::default(), &v1::ListLocksResponse::default()), "No locks.\n");
    }
}
