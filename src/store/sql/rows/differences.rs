//! Rows of grants and locks, each with the last event about it.

use crate::{
    domain::{EventKind, Grant, Lock, LockId},
    store::{
        Difference, DifferenceProblem as Problem, StoreError,
        sql::rows::{GrantRow, LockRow},
    },
};

row! {
    /// An event, with the number of rows that it created.
    pub(in crate::store) struct ComparedEventRow {
        pub(in crate::store) position: i64,
        tenant_id: String,
        kind: String,
        grant_id: Option<String>,
        lock_id: Option<String>,
        body: String,
        created: i64,
    }
}

row! {
    /// The columns that grants and locks have in common, and the last event about the row.
    pub(in crate::store) struct LastEventRow {
        pub(in crate::store) position: i64,
        first_revision: Option<i64>,
        ended_sequence: Option<i64>,
        last_body: Option<String>,
    }
}

row! {
    /// A grant and the last event about it.
    pub(in crate::store) struct ComparedGrantRow {} with {
        pub(in crate::store) last: LastEventRow,
        grant: GrantRow,
    }
}

row! {
    /// A lock and the last event about it.
    pub(in crate::store) struct ComparedLockRow {} with {
        pub(in crate::store) last: LastEventRow,
        lock: LockRow,
    }
}

impl ComparedEventRow {
    /// The columns repeat parts of the body, and only the body is part of the hash chain.
    pub(in crate::store) fn difference(self) -> Option<Difference> {
        let body: Option<EventKind> = serde_json::from_str(&self.body).ok();
        let is_repeated = body.is_some_and(|body| {
            body.name() == self.kind
                && body.grant().map(Grant::id).map(|id| id.to_string()) == self.grant_id
                && body.lock().map(Lock::id).map(|id: LockId| id.to_string()) == self.lock_id
        });
        let tenant_id = self.tenant_id;
        if !is_repeated {
            let (id, problem) = (self.position.to_string(), Problem::Changed);
            return Some(Difference { tenant_id, object: "event", id, problem });
        }
        let object = if self.grant_id.is_some() { "grant" } else { "lock" };
        let id = self.grant_id.or(self.lock_id).unwrap_or_default();
        let problem = Problem::Missing;
        (self.created < 1).then_some(Difference { tenant_id, object, id, problem })
    }
}

impl ComparedGrantRow {
    pub(in crate::store) fn difference(self) -> Option<Difference> {
        let (tenant_id, id) = self.grant.key();
        let problem = self
            .last
            .problem(self.grant.into_domain(), EventKind::grant, |grant| grant.sequence)?;
        Some(Difference { tenant_id, object: "grant", id, problem })
    }
}

impl ComparedLockRow {
    pub(in crate::store) fn difference(self) -> Option<Difference> {
        let (tenant_id, id) = self.lock.key();
        let problem =
            self.last.problem(self.lock.into_domain(), EventKind::lock, |lock| lock.sequence)?;
        Some(Difference { tenant_id, object: "lock", id, problem })
    }
}

impl LastEventRow {
    /// Compares the object of a row with the object after the last event.
    fn problem<T: PartialEq>(
        &self,
        found: Result<T, StoreError>,
        object: impl FnOnce(&EventKind) -> Option<&T>,
        sequence: impl FnOnce(&T) -> i64,
    ) -> Option<Problem> {
        let Some(body) = &self.last_body else { return Some(Problem::Surplus) };
        let last: Option<EventKind> = serde_json::from_str(body).ok();
        let is_equal = last.is_some_and(|last| {
            let Ok(found) = found else { return false };
            let ended_sequence = last.is_end().then(|| sequence(&found));
            object(&last) == Some(&found)
                && self.ended_sequence == ended_sequence
                && self.first_revision == Some(self.position)
        });
        (!is_equal).then_some(Problem::Changed)
    }
}
