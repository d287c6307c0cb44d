//! Ends many grants of a tenant with few statements.

use std::collections::{BTreeSet, HashMap};

use crate::{
    domain::{EventKind, Grant, GrantId, GrantTerms, GroupId, Sequence, TenantId},
    store::{
        NewEvent, Retained, StoreError,
        sql::{
            Backend,
            load::grant_row,
            rows::EventRow,
            statements::{grants, log},
            transaction::{
                SqlTransaction,
                state::{not_live, report_unless_equal},
            },
            with_timeout,
        },
        transaction::StampedEvent,
    },
};

/// The number of rows of a statement. The number is fixed, so that few statements are prepared.
const ROWS: usize = 50;

/// The tenant of the grants that the events end. `None` if an event does anything else.
pub(super) fn tenant_of_ends(new: &[NewEvent]) -> Option<TenantId> {
    let tenant_id = new.first()?.tenant_id.clone()?;
    let is_end = |new: &NewEvent| {
        let grant = ended(&new.kind);
        new.tenant_id.as_ref() == Some(&tenant_id)
            && grant.is_some_and(|grant| grant.tenant_id == tenant_id)
    };
    new.iter().all(is_end).then_some(tenant_id)
}

/// The grant that an event ends.
fn ended(kind: &EventKind) -> Option<&Grant> {
    match kind {
        EventKind::Revoked { grant } | EventKind::Expired { grant } => Some(grant),
        _ => None,
    }
}

impl<DB: Backend> SqlTransaction<DB> {
    /// Appends events that end grants of a tenant, and changes the rows and the sum accordingly.
    /// The wait for each statement is bounded.
    pub(super) async fn write_ends(
        &mut self,
        tenant_id: &TenantId,
        new: Vec<NewEvent>,
    ) -> Result<Vec<StampedEvent>, StoreError> {
        self.remove_live(tenant_id, &new).await?;
        let mut previous = with_timeout(self.last_link(Some(tenant_id))).await?;
        let mut stamped = Vec::with_capacity(new.len());
        for (new, revision) in new.into_iter().zip(self.revision + 1..) {
            let event = StampedEvent::new(new, self.log, previous, revision, self.now)?;
            previous = event.link();
            stamped.push(event);
        }
        for rows in batches(&stamped) {
            let insert = log::insert_events(rows, self.reader.keys());
            with_timeout(self.connection.execute(insert)).await?;
        }
        let ended: Vec<&Grant> =
            stamped.iter().filter_map(|stamped| ended(&stamped.event.kind)).collect();
        let mut written: BTreeSet<Sequence> = BTreeSet::new();
        for rows in batches(&ended) {
            let update = grants::end_all(tenant_id, rows);
            let rows: Vec<(Sequence,)> = with_timeout(self.connection.all(update)).await?;
            written.extend(rows.into_iter().map(|(create_sequence,)| create_sequence));
        }
        for grant in &ended {
            let is_written = written.contains(&grant.create_sequence);
            report_unless_equal(is_written, tenant_id.as_str(), "grant", grant.id());
        }
        self.update_latest_ended(tenant_id, &ended).await?;
        Ok(stamped)
    }

    /// Removes the grants, which must be live and different, from the sum.
    async fn remove_live(
        &mut self,
        tenant_id: &TenantId,
        new: &[NewEvent],
    ) -> Result<(), StoreError> {
        let ended: Vec<&Grant> = new.iter().filter_map(|new| ended(&new.kind)).collect();
        let ids: Vec<String> = ended.iter().map(|grant| grant.id().to_string()).collect();
        let statement = log::last_grant_events(&DB::DIALECT, tenant_id, &ids)?;
        let live = self.grants_of(statement).await?.into_iter();
        let mut live: HashMap<GrantId, Grant> = live.map(|grant| (grant.id(), grant)).collect();
        for grant in ended {
            let previous = live
                .remove(&grant.id())
                .filter(|previous| previous.create_sequence == grant.create_sequence)
                .ok_or_else(|| not_live("grant", grant.id()))?;
            self.remove(grant_row(tenant_id, &previous.terms, Retained::Live));
        }
        Ok(())
    }

    async fn update_latest_ended(
        &mut self,
        tenant_id: &TenantId,
        ended: &[&Grant],
    ) -> Result<(), StoreError> {
        let mut latest: HashMap<&GroupId, &Grant> = HashMap::new();
        for grant in ended {
            let known = latest.entry(&grant.terms.group_id).or_insert(grant);
            if grant.terms.end_rank() > known.terms.end_rank() {
                *known = grant;
            }
        }
        let groups: Vec<&str> = latest.keys().map(|group_id| group_id.as_str()).collect();
        let statement = log::latest_ended_events(&DB::DIALECT, tenant_id, &groups)?;
        let before: Vec<EventRow> = with_timeout(self.connection.all(statement)).await?;
        let mut before_by_group: HashMap<GroupId, GrantTerms> = HashMap::new();
        for row in before {
            let event = row.into_authentic(&self.reader)?;
            let terms = event.kind.grant().map(|grant| grant.terms.clone());
            before_by_group.extend(terms.map(|terms| (terms.group_id.clone(), terms)));
        }
        for (group_id, grant) in latest {
            if let Some(upsert) = self.replace_latest_ended(grant, before_by_group.get(group_id)) {
                with_timeout(self.connection.execute(upsert)).await?;
            }
        }
        Ok(())
    }
}

/// Slices of [`ROWS`] items, and then of one.
fn batches<T>(items: &[T]) -> impl Iterator<Item = &[T]> {
    let full = items.chunks_exact(ROWS);
    let rest = full.remainder().chunks(1);
    full.chain(rest)
}
