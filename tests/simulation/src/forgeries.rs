//! An attacker that can write to the database, but lacks the event key.
//!
//! The databases detect forgeries, which `tests/it/store/forgery.rs` tests. The memory store has no
//! rows that an attacker could change. So this module returns what a database returns after it has
//! detected a forgery, and the histories show what nodes do with that.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::{
    domain::{AccessLevel, Event, EventKind, GrantId, GrantTerms, Revision, TenantId},
    store::{Loaded, Retained},
};

/// The forgeries in the database.
#[derive(Debug, Default)]
pub(crate) struct Forgeries {
    /// Whether every tenant and group has a forged grant.
    pub(crate) has_grants: bool,
    /// The events whose rows were changed.
    pub(crate) events: BTreeSet<Revision>,
}

impl Forgeries {
    /// Adds forged grants, which the database rejects, to what a replica loads.
    pub(crate) fn forge(
        &self,
        grants: &mut Vec<(TenantId, GrantTerms, Retained)>,
        loaded: &mut Loaded,
    ) {
        if !self.has_grants {
            return;
        }
        let groups: BTreeMap<_, _> = grants
            .iter()
            .map(|(tenant_id, terms, _)| {
                ((tenant_id.clone(), terms.group_id.clone()), terms.clone())
            })
            .collect();
        for (number, ((tenant_id, _), terms)) in (1..).zip(groups) {
            let grant_id = GrantId(Uuid::from_u128(number));
            let access_level = AccessLevel::Admin;
            let (expire_time, revoke_time) = (None, None);
            let forged = GrantTerms { grant_id, access_level, expire_time, revoke_time, ..terms };
            grants.push((tenant_id.clone(), forged, Retained::Live));
            loaded.rejected.push((tenant_id, grant_id));
            loaded.is_authentic = false;
        }
    }

    /// The event as a replica reads it.
    pub(crate) fn read(&self, event: Event) -> Event {
        if !self.events.contains(&event.revision) {
            return event;
        }
        Event { kind: EventKind::Forged, ..event }
    }
}
