//! Rows of grants.

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::{
    domain::{
        AdmittedKinds, AgentId, Grant, GrantId, GrantTerms, GroupId, Revocation, TenantId, Ticket,
        ids::Actor,
    },
    store::{
        StoreError,
        sql::rows::{free_text, from_json, level, maybe_time, parse, time},
    },
};

/// [`AdmittedKinds::HUMAN`] as stored.
const HUMAN: &str = r#"[{"agent_kind":"HUMAN"}]"#;

row! {
    /// The part of a row of `grants` that decides checks.
    pub(in crate::store) struct GrantTermsRow {
        tenant_id: String,
        grant_id: String,
        group_id: String,
        agent_ids: String,
        access_level: i64,
        agent_kinds: String,
        start_time: i64,
        expire_time: Option<i64>,
        revoke_time: Option<i64>,
        pub(super) ended_sequence: Option<i64>,
    }
}

row! {
    /// A row of `grants`.
    pub(in crate::store) struct GrantRow {
        reason: String,
        ticket: String,
        create_time: i64,
        creator: String,
        revoker: Option<String>,
        revoke_reason: Option<String>,
        create_sequence: i64,
        sequence: i64,
    } with {
        pub(super) terms: GrantTermsRow,
    }
}

impl GrantTermsRow {
    pub(in crate::store) fn into_domain(self) -> Result<(TenantId, GrantTerms), StoreError> {
        let terms = GrantTerms {
            grant_id: GrantId(parse("grant_id", self.grant_id, Uuid::parse_str)?),
            group_id: parse("group_id", self.group_id, GroupId::new)?,
            agent_ids: agents(&self.agent_ids)?,
            access_level: level(self.access_level)?,
            agent_kinds: kinds(&self.agent_kinds)?,
            start_time: time("start_time", self.start_time)?,
            expire_time: maybe_time("expire_time", self.expire_time)?,
            revoke_time: maybe_time("revoke_time", self.revoke_time)?,
            is_expired: self.ended_sequence.is_some() && self.revoke_time.is_none(),
        };
        Ok((parse("tenant_id", self.tenant_id, TenantId::new)?, terms))
    }
}

/// Skips the parser for the usual case: most grants admit humans only.
fn kinds(json: &str) -> Result<AdmittedKinds, StoreError> {
    if json == HUMAN { Ok(AdmittedKinds::HUMAN) } else { from_json("agent_kinds", json) }
}

/// Skips the parser for the usual case: most grants name no agent.
fn agents(json: &str) -> Result<BTreeSet<AgentId>, StoreError> {
    if json == "[]" { Ok(BTreeSet::new()) } else { from_json("agent_ids", json) }
}

impl GrantRow {
    /// The last event about the object, in its history.
    pub(in crate::store) fn sequence(&self) -> i64 {
        self.sequence
    }

    /// The tenant and the id, as stored.
    pub(in crate::store) fn key(&self) -> (String, String) {
        (self.terms.tenant_id.clone(), self.terms.grant_id.clone())
    }

    pub(in crate::store) fn into_domain(self) -> Result<Grant, StoreError> {
        let (tenant_id, terms) = self.terms.into_domain()?;
        let revocation = match self.revoker.zip(self.revoke_reason) {
            Some((revoker, reason)) => Some(Revocation {
                revoker: parse("revoker", revoker, Actor::new)?,
                reason: free_text("revoke_reason", reason)?,
            }),
            None => None,
        };
        Ok(Grant {
            tenant_id,
            terms,
            reason: free_text("reason", self.reason)?,
            ticket: parse("ticket", self.ticket, Ticket::new)?,
            create_time: time("create_time", self.create_time)?,
            creator: parse("creator", self.creator, Actor::new)?,
            revocation,
            create_sequence: self.create_sequence,
            sequence: self.sequence,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sql::rows::to_json;

    #[test]
    fn the_usual_kinds_are_recognized_as_stored() {
        assert_eq!(to_json(&AdmittedKinds::HUMAN).unwrap(), HUMAN);
        assert_eq!(kinds(HUMAN).unwrap(), AdmittedKinds::HUMAN);
        assert_eq!(from_json::<AdmittedKinds>("agent_kinds", HUMAN).unwrap(), AdmittedKinds::HUMAN);
        for json in ["[]", r#"[{"agent_kind":"HUMAN"},{"agent_kind":"HUMAN"}]"#, "[{}]"] {
            assert!(kinds(json).is_err(), "{json}");
        }
    }
}
