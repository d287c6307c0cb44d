//! Loads the grants and locks for a check node.
//!
//! The rows are trusted if their sum equals the sum in `head` (see
//! [`authenticity`](crate::domain::authenticity)). Otherwise, or if this process has read a forged
//! event, all events are read and authenticated. A grant whose row differs from its events is then
//! not used. The locks are those of the events, whatever the rows say. If an event is not
//! authentic, everything is denied in its tenant. If one is missing, everything is denied
//! everywhere.

use std::collections::BTreeSet;

use tracing::{error, warn};

use crate::{
    domain::{
        Event, GrantId, GrantTerms, LockTerms, TenantId,
        authenticity::{LogKeys, StateRow, StateSum},
    },
    store::{
        Loaded, Retained, StoreError,
        fold::Fold,
        sql::{
            Backend, Connection, SqlStore, Statement, only,
            rows::{
                AcceptedClockRow, EventReader, EventRow, GrantTermsRow, HeadRow, LockTermsRow,
                PolicyEventRow, StateHeadRow, TrustedTimeRow,
            },
            statements::{log, members},
            with_timeout,
        },
    },
};

/// The state by all events, without the grants whose rows were found.
pub(super) struct Replayed {
    fold: Fold,
    /// Grants whose rows differ.
    rejected: Vec<(TenantId, GrantId)>,
}

type Visit<'a> = &'a mut (dyn FnMut(TenantId, GrantTerms, Retained) + Send);

/// Maximum number of grants that are logged in a load.
const LOGGED_MAX: usize = 20;

fn grants() -> [(Statement, Retained); 2] {
    [(log::load_live(), Retained::Live), (log::load_latest_ended(), Retained::LastEnded)]
}

/// A row that contributes to the sum.
pub(super) fn grant_row<'a>(
    tenant_id: &'a TenantId,
    terms: &'a GrantTerms,
    retained: Retained,
) -> StateRow<'a> {
    match retained {
        Retained::Live => StateRow::LiveGrant(tenant_id, terms),
        Retained::LastEnded => StateRow::EndedGrant(tenant_id, terms),
    }
}

impl<DB: Backend> SqlStore<DB> {
    /// Everything that [`Log::load`](crate::store::Log::load) reads, in one snapshot.
    pub(super) async fn load_all(
        &self,
        connection: &mut Connection<DB>,
        known_forgeries: &BTreeSet<Option<TenantId>>,
        visit: Visit<'_>,
    ) -> Result<Loaded, StoreError> {
        let head: HeadRow = only(with_timeout(connection.first(log::head())).await?)?;
        let state: StateHeadRow = only(with_timeout(connection.first(log::state_head())).await?)?;
        let (position, token_key) = head.into_domain()?;
        let reader = self.keys.reader_of(state.log()?);
        let expected = state.sum(reader.keys()).ok();
        let (sum, locks) = Self::load_rows(reader.keys(), connection, visit).await?;
        let is_authentic = sum.is_some() && sum == expected;
        let trusted_time = with_timeout(connection.first(members::trusted_time())).await?;
        let trusted_time = only::<TrustedTimeRow>(trusted_time)?.into_domain()?;
        let clock_events: Vec<EventRow> = with_timeout(connection.all(log::clock_events())).await?;
        let clock_events = clock_events.into_iter().map(|row| row.into_domain(&reader));
        let clock_events = clock_events.collect::<Result<Vec<_>, _>>()?;
        let mut loaded = Loaded {
            position,
            token_key,
            locks,
            accepted_clocks: clock_events.iter().filter_map(Event::accepted_clock).collect(),
            trusted_time,
            rejected: Vec::new(),
            is_authentic,
        };
        if !is_authentic || !known_forgeries.is_empty() {
            let revision = position.revision;
            if is_authentic {
                warn!(
                    revision,
                    "this replica has read a forged event; comparing all rows with their events; \
                     see the runbook SupportAccessDatabaseForged"
                );
            } else {
                warn!(
                    revision,
                    "the rows do not match the sum in head; comparing all rows with their events; \
                     see the runbook SupportAccessDatabaseForged"
                );
            }
            let replayed = Self::replay(&reader, connection, revision).await?;
            reader.forged_histories().confirm(known_forgeries, replayed.fold.forged());
            replayed.log();
            (loaded.locks, loaded.rejected) = (replayed.fold.into_locks(), replayed.rejected);
        }
        Ok(loaded)
    }

    /// Visits all rows, and returns their sum. `None`: a row cannot be read.
    pub(super) async fn load_rows(
        keys: &LogKeys,
        connection: &mut Connection<DB>,
        visit: Visit<'_>,
    ) -> Result<(Option<StateSum>, Vec<LockTerms>), StoreError> {
        let (mut sum, mut is_readable) = (StateSum::ZERO, true);
        for (statement, retained) in grants() {
            let mut visit_row = |row: GrantTermsRow| {
                if let Ok((tenant_id, terms)) = row.into_domain() {
                    let row = grant_row(&tenant_id, &terms, retained);
                    sum = sum.plus(keys.hash(row));
                    visit(tenant_id, terms, retained);
                } else {
                    is_readable = false;
                }
                Ok(())
            };
            connection.each(statement, &mut visit_row).await?;
        }
        let mut locks = Vec::new();
        let mut add_row = |row: LockTermsRow| {
            if let Ok(terms) = row.into_domain() {
                sum = sum.plus(keys.hash(StateRow::Lock(&terms)));
                locks.push(terms);
            } else {
                is_readable = false;
            }
            Ok(())
        };
        connection.each(log::load_locks(), &mut add_row).await?;
        let mut add_policy = |row: PolicyEventRow| {
            sum = sum.plus(keys.hash(row.state()));
            Ok(())
        };
        connection.each(log::load_policies(), &mut add_policy).await?;
        let mut add_clock = |row: AcceptedClockRow| {
            sum = sum.plus(keys.hash(row.state()));
            Ok(())
        };
        connection.each(log::load_accepted_clocks(), &mut add_clock).await?;
        Ok((is_readable.then_some(sum), locks))
    }

    /// Compares the rows of grants with all events up to `head`.
    pub(super) async fn replay(
        reader: &EventReader,
        connection: &mut Connection<DB>,
        head: i64,
    ) -> Result<Replayed, StoreError> {
        let mut fold = Fold::default();
        let mut apply = |row: EventRow| {
            fold.apply(row.into_domain(reader)?);
            Ok(())
        };
        connection.each(log::all_events(), &mut apply).await?;
        fold.expect(head);
        let mut rejected = Vec::new();
        for (statement, retained) in grants() {
            let mut compare = |row: GrantTermsRow| {
                if let Ok((tenant_id, terms)) = row.into_domain()
                    && !fold.take(&tenant_id, &terms, retained)
                {
                    rejected.push((tenant_id, terms.grant_id));
                }
                Ok(())
            };
            connection.each(statement, &mut compare).await?;
        }
        Ok(Replayed { fold, rejected })
    }
}

impl Replayed {
    /// Whether every row equals the state by the events, with these rows of locks.
    pub(super) fn equals_rows(&self, locks: &[LockTerms]) -> bool {
        self.rejected.is_empty() && self.fold.is_found(locks)
    }

    fn log(&self) {
        let differing = self.rejected.iter().map(|(tenant_id, grant_id)| (tenant_id, *grant_id));
        for (tenant_id, grant_id) in differing.chain(self.fold.missing()).take(LOGGED_MAX) {
            error!(
                %tenant_id,
                %grant_id,
                "a grant differs from the history, and is not used; see the runbook \
                 SupportAccessDatabaseForged"
            );
        }
    }
}
