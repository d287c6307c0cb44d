//! Transactions and the data that transactions write.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    domain::{
        Attribution, Epoch, Event, EventKind, FreeText, Grant, GrantId, GroupId, Lock, LockId,
        LogName, Party, PolicyOverrides, RequestId, Revision, Sequence, TenantId, Time,
        authenticity::EventColumns,
        chain::{Content, Hash, Link},
        ids::Actor,
    },
    store::{Listed, StoreError},
};

/// An event to append: an [`Event`] without the parts that the store adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// The tenant whose history will contain the event. `None`: the vendor's own history.
    pub tenant_id: Option<TenantId>,
    /// The caller that makes the change.
    pub author: Attribution,
    /// The caller's reason.
    pub reason: FreeText,
    /// The change. The store completes the grant or lock ([`EventKind::complete`]).
    pub kind: EventKind,
}

/// Identifies a request, so that a retry does not repeat the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The tenant to which the request id is scoped. `None`: the vendor.
    pub tenant_id: Option<TenantId>,
    /// The id that the caller chose, or a random one.
    pub request_id: RequestId,
    /// The SHA-256 of the request's content.
    pub fingerprint: [u8; 32],
}

/// One transaction of an earlier request. Most requests have exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestPart {
    /// The number of the part: 0, 1, 2 and so on.
    pub part: u32,
    /// The SHA-256 of the request's content.
    pub fingerprint: [u8; 32],
    /// The first event of the transaction.
    pub first_revision: Revision,
    /// The last event of the transaction.
    pub last_revision: Revision,
}

/// Something that a change reads.
#[derive(Debug, Clone, Copy)]
pub enum Read<'a> {
    /// [`Transaction::request`].
    Request(Option<&'a TenantId>, &'a RequestId),
    /// [`Transaction::grant`].
    Grant(&'a TenantId, GrantId),
    /// [`Transaction::live_grants`], all of them.
    LiveGrants(&'a TenantId),
    /// [`Transaction::size_of_live_grants`].
    SizeOfLiveGrants(&'a TenantId),
    /// [`Transaction::overrides`].
    Overrides(&'a TenantId),
    /// [`Transaction::lock`].
    Lock(LockId),
    /// The end of the history to which [`Transaction::append`] adds an event.
    History(Option<&'a TenantId>),
}

/// One transaction, which has locked the head of the log. Reads see what the transaction has
/// appended.
#[async_trait]
pub trait Transaction: Send {
    /// The clock of the database, or of the process if the database is embedded, when the
    /// transaction began. May be wrong.
    fn clock(&self) -> Time;

    /// When the change happens: [`Self::clock`], or the time of [`Self::set_now`], but never before
    /// the last event. A transaction of a group contains several changes, one after another.
    fn now(&self) -> Time;

    /// Sets the time of the change, for a caller that knows the time better than the clock.
    fn set_now(&mut self, time: Time);

    /// The revision of the last event before this change.
    fn head(&self) -> Revision;

    /// The epoch of the log when the transaction began.
    fn epoch(&self) -> Epoch;

    /// The longest lifetime of a lease among the check nodes that registered before this
    /// transaction.
    fn max_staleness(&self) -> Duration;

    /// Begins the next change of a group in this transaction, `elapsed` after the previous one.
    /// From then on, the appended events count as earlier ones: [`Self::head`] and [`Self::now`]
    /// include them, and [`Self::record_request`] does not. The clock goes on by `elapsed`.
    fn next_change(&mut self, elapsed: Duration);

    /// Reads what the change is about to read, in one round trip if the database is remote. The
    /// change then calls the methods for these reads as usual.
    async fn read_ahead(&mut self, reads: &[Read<'_>]) -> Result<(), StoreError> {
        let _ = reads;
        Ok(())
    }

    /// One grant of a tenant.
    async fn grant(
        &mut self,
        tenant_id: &TenantId,
        grant_id: GrantId,
    ) -> Result<Option<Grant>, StoreError>;

    /// The tenant's grants that no event has ended, newest first, at most `limit`. Some may have
    /// reached their end time. With `before`, only grants with a smaller `create_sequence`.
    async fn live_grants(
        &mut self,
        tenant_id: &TenantId,
        before: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<Grant>, StoreError>;

    /// As `live_grants`, but by the events alone, in no particular order and without a limit. Rows
    /// may differ after a manipulation of the database. Reads the whole history of the tenant.
    async fn live_grants_by_events(
        &mut self,
        tenant_id: &TenantId,
        before: Option<Sequence>,
    ) -> Result<Vec<Grant>, StoreError> {
        self.live_grants(tenant_id, before, usize::MAX).await
    }

    /// Those of these grants of a tenant that no event has ended, by the events alone, in no
    /// particular order.
    async fn live_grants_of(
        &mut self,
        tenant_id: &TenantId,
        grant_ids: &[GrantId],
    ) -> Result<Vec<Grant>, StoreError> {
        let mut live = Vec::new();
        for grant_id in grant_ids {
            let grant = self.grant(tenant_id, *grant_id).await?;
            live.extend(grant.filter(|grant| !grant.terms.has_ended()));
        }
        Ok(live)
    }

    /// The total [`size`](crate::domain::GrantTerms::size) of the tenant's grants that no event has
    /// ended.
    async fn size_of_live_grants(&mut self, tenant_id: &TenantId) -> Result<usize, StoreError>;

    /// The number of the tenant's grants to a group that no event has ended.
    async fn count_live_grants(
        &mut self,
        tenant_id: &TenantId,
        group_id: &GroupId,
    ) -> Result<usize, StoreError>;

    /// Grants of all tenants that no event has ended and whose end time is `now` or earlier,
    /// earliest first, at most `limit`.
    async fn due_grants(&mut self, now: Time, limit: usize) -> Result<Vec<Grant>, StoreError>;

    /// A tenant's policy overrides. Without any, the default.
    async fn overrides(&mut self, tenant_id: &TenantId) -> Result<PolicyOverrides, StoreError>;

    /// One lock.
    async fn lock(&mut self, lock_id: LockId) -> Result<Option<Lock>, StoreError>;

    /// The number of locks of a party that no event has ended. `None`: in all histories.
    async fn count_live_locks(
        &mut self,
        party: Party,
        tenant_id: Option<&TenantId>,
    ) -> Result<usize, StoreError>;

    /// Locks that no event has ended and whose end time is `now` or earlier, earliest first, at
    /// most `limit`.
    async fn due_locks(&mut self, now: Time, limit: usize) -> Result<Vec<Lock>, StoreError>;

    /// The last event about each grant of any tenant that no event has ended, in the order of
    /// creation, at most `limit`. The position is the revision that created the grant, and is
    /// greater than `after`.
    async fn last_events_of_live_grants(
        &mut self,
        after: Revision,
        limit: usize,
    ) -> Result<Vec<Listed<Event>>, StoreError>;

    /// The grants of all tenants that no event has ended. Reads all rows of live objects, and fails
    /// if these are not authentic, so that no grant can be hidden.
    async fn live_grant_ids(&mut self) -> Result<Vec<GrantId>, StoreError>;

    /// The events with which operators accepted the clock, oldest first.
    async fn clock_events(&mut self) -> Result<Vec<Event>, StoreError>;

    /// The revision of the event at this sequence of a history, which must exist.
    async fn revision_of(
        &mut self,
        tenant_id: Option<&TenantId>,
        sequence: Sequence,
    ) -> Result<Revision, StoreError>;

    /// The parts of an earlier request with this id, in order. Empty: there was none.
    async fn request(
        &mut self,
        tenant_id: Option<&TenantId>,
        request_id: &RequestId,
    ) -> Result<Vec<RequestPart>, StoreError>;

    /// Appends an event at the next revision and sequence and at [`Transaction::now`], and updates
    /// the grant, lock or overrides that the event is about. Only the end of an existing grant or
    /// lock may change, and an ended grant or lock never changes. Returns the event as written.
    /// After an error, or if the caller drops the future, the transaction can no longer be
    /// committed. The database may reject the event later: at the next read, in [`Self::flush`] or
    /// in [`Self::commit`].
    ///
    /// [`EventKind::ClockAccepted`] must be the last event of a transaction. The event happens at
    /// [`Transaction::clock`], even if the last event is later. That time becomes the trusted time,
    /// and a new epoch begins, with another token key.
    async fn append(&mut self, new: NewEvent) -> Result<Event, StoreError>;

    /// Appends events, as [`Self::append`] does. The ends of many grants of one tenant take few
    /// statements.
    async fn append_all(&mut self, new: Vec<NewEvent>) -> Result<Vec<Event>, StoreError> {
        append_each(self, new).await
    }

    /// Stores that the events of this change are part `part` of a request. Stores nothing if there
    /// are none. Must be the last call before the commit.
    async fn record_request(&mut self, key: &IdempotencyKey, part: u32) -> Result<(), StoreError>;

    /// Writes everything, so that only the commit is left. After an error, the database has
    /// committed nothing. Only [`Self::commit`] may follow.
    async fn flush(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Commits, and returns the revision of the last event that this change saw. After a success,
    /// everything that the transaction has read is durable as well, even if nothing was appended. A
    /// read alone does not guarantee that. A primary may crash while a commit waits for a standby.
    /// After the restart, the primary shows the change, and may still lose the change in a
    /// failover. A caller that confirms an existing state must therefore commit first.
    ///
    /// If the database does not confirm the commit, the error is
    /// [`StoreError::is_outcome_unknown`].
    async fn commit(self: Box<Self>) -> Result<Revision, StoreError>;
}

/// Appends one event after another.
pub(super) async fn append_each<T: Transaction + ?Sized>(
    transaction: &mut T,
    new: Vec<NewEvent>,
) -> Result<Vec<Event>, StoreError> {
    let mut events = Vec::with_capacity(new.len());
    for new in new {
        events.push(transaction.append(new).await?);
    }
    Ok(events)
}

/// An event with everything that is stored about it.
#[derive(Debug)]
pub(super) struct StampedEvent {
    pub(super) event: Event,
    pub(super) body: String,
    pub(super) hash: Hash,
}

impl StampedEvent {
    /// Completes an event that follows `previous` in its chain.
    pub(super) fn new(
        new: NewEvent,
        log: LogName,
        previous: Link,
        revision: Revision,
        time: Time,
    ) -> Result<Self, StoreError> {
        let NewEvent { tenant_id, author, reason, mut kind } = new;
        let sequence = previous.sequence + 1;
        kind.complete(sequence);
        let body = serde_json::to_string(&kind).map_err(StoreError::broken)?;
        let event = Event { revision, tenant_id, sequence, time, author, reason, kind };
        let link = content(&event, &body).link(log, previous).map_err(StoreError::broken)?;
        Ok(Self { event, body, hash: link.hash })
    }

    /// Calls `read` with all columns of the event.
    pub(super) fn with_columns<T>(&self, read: impl FnOnce(&EventColumns<'_>) -> T) -> T {
        let Event { revision, tenant_id, sequence, time, author, reason, kind } = &self.event;
        let grant_id = kind.grant().map(|grant| grant.id().to_string());
        let lock_id = kind.lock().map(|lock| lock.id().to_string());
        read(&EventColumns {
            revision: *revision,
            tenant_id: tenant_id.as_ref().map_or("", TenantId::as_str),
            sequence: *sequence,
            hash: &self.hash.0,
            time: time.timestamp_micros(),
            actor: author.actor.as_str(),
            via: author.via.as_ref().map(Actor::as_str),
            actor_asserted: i64::from(author.is_asserted),
            reason: reason.as_str(),
            kind: kind.name(),
            grant_id: grant_id.as_deref(),
            lock_id: lock_id.as_deref(),
            body: &self.body,
        })
    }

    pub(super) fn link(&self) -> Link {
        Link { sequence: self.event.sequence, hash: self.hash }
    }
}

/// The hashed content of an event whose kind is stored as `body`.
pub(super) fn content<'a>(event: &'a Event, body: &'a str) -> Content<'a> {
    Content {
        tenant_id: event.tenant_id.as_ref().map_or("", TenantId::as_str),
        time: event.time,
        actor: event.author.actor.as_str(),
        via: event.author.via.as_ref().map(Actor::as_str),
        actor_asserted: event.author.is_asserted,
        reason: event.reason.as_str(),
        body,
    }
}
