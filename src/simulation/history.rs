//! What has truly happened in one log, and what that allows.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{task, time::Instant};

use crate::{
    domain::{
        AccessCheck, Epoch, Event, GrantId, GrantTerms, LockTerms, Position, Revision, TenantId,
        Time,
    },
    node::Snapshot,
    store::Retained,
};

/// What a snapshot has to hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    grants: BTreeMap<(TenantId, GrantId), (Retained, GrantTerms)>,
    /// By the revisions that made them, so that they are in an order that the seed decides.
    locks: BTreeMap<Revision, LockTerms>,
}

/// One log, from its beginning.
#[derive(Debug, Clone)]
pub(super) struct History {
    epoch: Epoch,
    log: Vec<Logged>,
    /// By revision.
    models: Vec<Arc<Model>>,
    /// Everything up to this is in force everywhere, somebody was told.
    pub(super) complete: Revision,
}

#[derive(Debug, Clone)]
pub(super) struct Logged {
    pub(super) event: Event,
    /// When whoever made the change knew that it was made, and in which task that was.
    pub(super) answered: Option<(Instant, Option<task::Id>)>,
}

impl History {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self { epoch, log: Vec::new(), models: vec![Arc::default()], complete: 0 }
    }

    pub(super) fn head(&self) -> Revision {
        self.log.last().map_or(0, |logged| logged.event.revision)
    }

    pub(super) fn push(&mut self, event: Event) {
        let mut model = self.models.last().map(|model| Model::clone(model)).unwrap_or_default();
        if let Some(grant) = event.kind.grant() {
            let held = if event.kind.is_end() { Retained::LastEnded } else { Retained::Live };
            // Each tenant grants access to a group once only, so that every grant is held.
            let key = (grant.tenant_id.clone(), grant.id());
            model.grants.insert(key, (held, grant.terms.clone()));
        }
        if let Some(lock) = event.kind.lock() {
            if event.kind.is_end() {
                model.locks.retain(|_, terms| terms.lock_id != lock.id());
            } else {
                model.locks.insert(event.revision, lock.terms.clone());
            }
        }
        self.models.push(Arc::new(model));
        self.log.push(Logged { event, answered: None });
    }

    pub(super) fn answered(&mut self, revision: Revision) {
        if let Some(logged) = self.at_mut(revision) {
            logged.answered.get_or_insert_with(|| (Instant::now(), task::try_id()));
        }
    }

    /// As it was at `head`.
    pub(super) fn truncate(&mut self, head: Revision) {
        let length = usize::try_from(head).unwrap_or(0);
        self.log.truncate(length);
        self.models.truncate(length + 1);
        self.complete = self.complete.min(head);
    }

    pub(super) fn at(&self, revision: Revision) -> Option<&Logged> {
        self.log.get(usize::try_from(revision - 1).ok()?)
    }

    fn at_mut(&mut self, revision: Revision) -> Option<&mut Logged> {
        self.log.get_mut(usize::try_from(revision - 1).ok()?)
    }

    /// Whether the position is in this log.
    pub(super) fn holds(&self, position: &Position) -> bool {
        let time = self.at(position.revision).map(|logged| logged.event.time);
        position.epoch == self.epoch
            && (position.revision == 0 || (time.is_some() && time == position.time))
    }

    /// What is wrong with a snapshot of a position in this log.
    pub(super) fn fault(&self, snapshot: &Snapshot) -> Option<String> {
        let held: BTreeMap<_, _> = snapshot
            .iter()
            .map(|(tenant_id, held, terms)| {
                ((tenant_id.clone(), terms.grant_id), (held, terms.clone()))
            })
            .collect();
        let model = self.models.get(usize::try_from(snapshot.revision()).ok()?)?;
        let mut locks: Vec<_> = snapshot.locks().collect();
        let mut expected: Vec<_> = model.locks.values().collect();
        locks.sort_by_key(|lock| lock.lock_id);
        expected.sort_by_key(|lock| lock.lock_id);
        if locks != expected {
            let (revision, count) = (snapshot.revision(), locks.len());
            return Some(format!(
                "holds {count} locks at revision {revision}, which are not those of the log"
            ));
        }
        let is_same = held == model.grants && snapshot.iter().count() == held.len();
        (!is_same).then(|| {
            format!(
                "holds {} grants at revision {}, which are not the {} of the log",
                held.len(),
                snapshot.revision(),
                model.grants.len()
            )
        })
    }

    /// Whether somebody may still be let in by a grant, at `now` by the database's clock: by what is known to be in force
    /// everywhere, or by something later. What was over or had begun stays so if that clock is set back from `latest`.
    pub(super) fn may_allow(
        &self,
        question: &AccessCheck,
        grant_id: GrantId,
        now: Time,
        latest: Time,
    ) -> bool {
        let key = (question.tenant_id.clone(), grant_id);
        let lets_in = |terms: &GrantTerms| {
            terms.revoke_time.is_none()
                && terms.start_time <= latest
                && terms.expire_time.is_none_or(|end| now < end)
        };
        let locks_out = |lock: &LockTerms| lock.matches(question) && lock.applies_at(latest);
        let complete = usize::try_from(self.complete).unwrap_or(0);
        self.models.iter().skip(complete).any(|model| {
            model.grants.get(&key).is_some_and(|(_, terms)| lets_in(terms))
                && !model.locks.values().any(locks_out)
        })
    }

    /// The locks that no event has ended, the oldest first.
    pub(super) fn locks(&self) -> impl Iterator<Item = &LockTerms> {
        self.models.last().into_iter().flat_map(|model| model.locks.values())
    }

    /// The grants as they are.
    pub(super) fn grants(&self) -> impl Iterator<Item = (&TenantId, Retained, &GrantTerms)> {
        let model = self.models.last();
        model
            .into_iter()
            .flat_map(|model| model.grants.iter())
            .map(|((tenant_id, _), (held, terms))| (tenant_id, *held, terms))
    }
}
