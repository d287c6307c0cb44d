//! Rows of grants and locks, each with the last event about it.

use crate::{
    domain::{EventKind, Grant, Lock},
    store::{
        Difference, DifferenceProblem as Problem, StoreError,
        sql::rows::{EventReader, EventRow, GrantRow, LockRow},
    },
};

row! {
    /// An event, with the number of rows that it created.
    pub(in crate::store) struct ComparedEventRow {
        pub(in crate::store) position: i64,
        created: i64,
    } with {
        event: EventRow,
    }
}

row! {
    /// The columns that grants and locks have in common, and the last event about the row.
    pub(in crate::store) struct LastEventRow {
        pub(in crate::store) position: i64,
        first_revision: Option<i64>,
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

/// A row that is compared with the body of an event.
pub(in crate::store) trait ComparedRow {
    /// The difference, if there is one.
    fn difference(self, reader: &EventReader) -> Option<Difference>;

    /// The length of the body in bytes.
    fn body_length(&self) -> usize;
}

impl ComparedRow for ComparedEventRow {
    fn difference(self, reader: &EventReader) -> Option<Difference> {
        let tenant_id = self.event.stored_tenant_id().to_owned();
        let (object, id, problem) = match self.event.object(reader) {
            Ok(_) if self.created > 0 => return None,
            Ok((object, id)) => (object, id, Problem::Missing),
            Err(_) => ("event", self.position.to_string(), Problem::Forged),
        };
        Some(Difference { tenant_id, object, id, problem })
    }

    fn body_length(&self) -> usize {
        self.event.body_length()
    }
}

impl ComparedRow for ComparedGrantRow {
    fn difference(self, _reader: &EventReader) -> Option<Difference> {
        let (tenant_id, id) = self.grant.key();
        let ended_sequence = self.grant.terms.ended_sequence;
        let sequence = |grant: &Grant| grant.sequence;
        let grant = self.grant.into_domain();
        let problem = self.last.problem(grant, ended_sequence, EventKind::grant, sequence)?;
        Some(Difference { tenant_id, object: "grant", id, problem })
    }

    fn body_length(&self) -> usize {
        self.last.body_length()
    }
}

impl ComparedRow for ComparedLockRow {
    fn difference(self, _reader: &EventReader) -> Option<Difference> {
        let (tenant_id, id) = self.lock.key();
        let ended_sequence = self.lock.ended_sequence;
        let sequence = |lock: &Lock| lock.sequence;
        let lock = self.lock.into_domain();
        let problem = self.last.problem(lock, ended_sequence, EventKind::lock, sequence)?;
        Some(Difference { tenant_id, object: "lock", id, problem })
    }

    fn body_length(&self) -> usize {
        self.last.body_length()
    }
}

impl LastEventRow {
    fn body_length(&self) -> usize {
        self.last_body.as_ref().map_or(0, String::len)
    }

    /// Compares the object of a row with the object after the last event.
    fn problem<T: PartialEq>(
        &self,
        found: Result<T, StoreError>,
        ended_sequence: Option<i64>,
        object: impl FnOnce(&EventKind) -> Option<&T>,
        sequence: impl FnOnce(&T) -> i64,
    ) -> Option<Problem> {
        let Some(body) = &self.last_body else { return Some(Problem::Surplus) };
        let last: Option<EventKind> = serde_json::from_str(body).ok();
        let is_equal = last.is_some_and(|last| {
            let Ok(found) = found else { return false };
            let expected = last.is_end().then(|| sequence(&found));
            object(&last) == Some(&found)
                && ended_sequence == expected
                && self.first_revision == Some(self.position)
        });
        (!is_equal).then_some(Problem::Changed)
    }
}
