//! Rows of locks.

use uuid::Uuid;

use crate::{
    domain::{
        AgentId, AgentKind, GroupId, Lock, LockId, LockTarget, LockTerms, Party, ids::Actor,
        lock::Lifting,
    },
    store::{
        StoreError,
        sql::rows::{corrupt, free_text, maybe_time, parse, present, tenant, time},
    },
};

row! {
    /// The part of a row of `locks` that decides checks.
    pub(in crate::store) struct LockTermsRow {
        lock_id: String,
        tenant_id: String,
        target: String,
        target_id: String,
        party: String,
        expire_time: Option<i64>,
    }
}

row! {
    /// A row of `locks`.
    pub(in crate::store) struct LockRow {
        reason: String,
        create_time: i64,
        creator: String,
        unlock_time: Option<i64>,
        unlocker: Option<String>,
        unlock_reason: Option<String>,
        create_sequence: i64,
        sequence: i64,
        pub(super) ended_sequence: Option<i64>,
    } with {
        terms: LockTermsRow,
    }
}

impl LockTermsRow {
    pub(in crate::store) fn into_domain(self) -> Result<LockTerms, StoreError> {
        Ok(LockTerms {
            lock_id: LockId(parse("lock_id", self.lock_id, Uuid::parse_str)?),
            tenant_id: tenant(self.tenant_id)?,
            target: target(&self.target, self.target_id)?,
            party: Party::ALL
                .into_iter()
                .find(|party| party.as_str() == self.party)
                .ok_or_else(|| corrupt("party", self.party, None))?,
            expire_time: maybe_time("expire_time", self.expire_time)?,
        })
    }
}

/// The inverse of [`LockTarget::field`] and [`LockTarget::id`].
fn target(field: &str, id: String) -> Result<LockTarget, StoreError> {
    match field {
        "agent_id" => Ok(LockTarget::Agent(parse("target_id", id, AgentId::new)?)),
        "group_id" => Ok(LockTarget::Group(parse("target_id", id, GroupId::new)?)),
        "agent_kind" => {
            let kind = AgentKind::ALL.into_iter().find(|kind| kind.as_str() == id);
            kind.map(LockTarget::AgentKind).ok_or_else(|| corrupt("target_id", id, None))
        }
        "everything" => Ok(LockTarget::Everything),
        _ => Err(corrupt("target", field, None)),
    }
}

impl LockRow {
    /// The last event about the object, in its history.
    pub(in crate::store) fn sequence(&self) -> i64 {
        self.sequence
    }

    /// The tenant and the id, as stored.
    pub(in crate::store) fn key(&self) -> (String, String) {
        (self.terms.tenant_id.clone(), self.terms.lock_id.clone())
    }

    pub(in crate::store) fn into_domain(self) -> Result<Lock, StoreError> {
        let lifting = match maybe_time("unlock_time", self.unlock_time)? {
            Some(time) => Some(Lifting {
                time,
                actor: parse("unlocker", present("unlocker", self.unlocker)?, Actor::new)?,
                reason: free_text("unlock_reason", present("unlock_reason", self.unlock_reason)?)?,
            }),
            None => None,
        };
        Ok(Lock {
            terms: self.terms.into_domain()?,
            reason: free_text("reason", self.reason)?,
            create_time: time("create_time", self.create_time)?,
            creator: parse("creator", self.creator, Actor::new)?,
            is_expired: self.ended_sequence.is_some() && lifting.is_none(),
            lifting,
            create_sequence: self.create_sequence,
            sequence: self.sequence,
        })
    }
}
