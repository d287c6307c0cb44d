//! Replicated grants. A message contains each group once. A grant without a tenant has the tenant
//! of the previous grant in the message.

use std::collections::HashMap;

use crate::{
    api::{
        grpc::convert::{
            enums::ProtoEnum,
            fields::Parsed,
            grants::agent_kind_entry,
            replication::{malformed, out_of_range, parse_time, parse_uuid},
        },
        proto::{replication::v1 as rpb, v1 as pb},
    },
    domain::{
        AccessLevel, AdmittedKinds, AgentId, AgentKind, AgentKindEntry, GrantId, GrantTerms,
        GroupId, TenantId, ViolationReason, grant::AGENTS_MAX, ids::TextError,
        violation::Violations,
    },
    store::Retained,
};

/// Writes the grants of one message.
#[derive(Default)]
pub(super) struct GrantWriter<'a> {
    /// The groups of the grants.
    pub(super) group_ids: Vec<String>,
    indexes: HashMap<&'a str, u32>,
    tenant_id: Option<&'a TenantId>,
}

impl<'a> GrantWriter<'a> {
    pub(super) fn message(
        &mut self,
        (tenant_id, retained, terms): &'a (TenantId, Retained, GrantTerms),
    ) -> rpb::ReplicatedGrant {
        let is_same = self.tenant_id == Some(tenant_id);
        self.tenant_id = Some(tenant_id);
        let GrantTerms {
            grant_id,
            group_id,
            agent_ids,
            access_level,
            agent_kinds,
            start_time,
            expire_time,
            revoke_time,
            is_expired: _,
        } = terms;
        rpb::ReplicatedGrant {
            tenant_id: if is_same { String::new() } else { tenant_id.to_string() },
            grant_id: grant_id.0.as_bytes().to_vec(),
            group_index: self.group_index(group_id),
            agent_ids: agent_ids.iter().map(ToString::to_string).collect(),
            access_level: access_level.to_proto(),
            start_time_us: start_time.timestamp_micros(),
            expire_time_us: expire_time.map(|time| time.timestamp_micros()),
            revoke_time_us: revoke_time.map(|time| time.timestamp_micros()),
            ended: *retained == Retained::LastEnded,
            agent_kinds: agent_kinds.entries().map(agent_kind_entry).collect(),
        }
    }

    fn group_index(&mut self, group_id: &'a GroupId) -> u32 {
        let Self { group_ids, indexes, .. } = self;
        *indexes.entry(group_id.as_str()).or_insert_with(|| {
            group_ids.push(group_id.to_string());
            u32::try_from(group_ids.len() - 1).unwrap_or(u32::MAX)
        })
    }
}

/// Parses the grants of one message. The parsed grants share their groups and tenants in memory.
pub(super) struct GrantReader {
    group_ids: Vec<GroupId>,
    tenant_id: Option<TenantId>,
}

impl GrantReader {
    pub(super) fn new(group_ids: &[String]) -> Parsed<Self> {
        let group_ids = parse_ids("group_ids", group_ids, GroupId::new)?;
        Ok(Self { group_ids, tenant_id: None })
    }

    pub(super) fn parse(
        &mut self,
        message: rpb::ReplicatedGrant,
    ) -> Parsed<(TenantId, Retained, GrantTerms)> {
        let rpb::ReplicatedGrant {
            tenant_id,
            grant_id,
            group_index,
            agent_ids,
            access_level,
            start_time_us,
            expire_time_us,
            revoke_time_us,
            ended,
            agent_kinds,
        } = message;
        let index = usize::try_from(group_index).unwrap_or(usize::MAX);
        let group_id = self.group_ids.get(index).cloned();
        if agent_ids.len() > AGENTS_MAX {
            return Err(out_of_range(
                "agent_ids",
                &format!("must have at most {AGENTS_MAX} items"),
            ));
        }
        let agent_ids = parse_ids("agent_ids", &agent_ids, AgentId::new)?;
        let access_level = AccessLevel::from_proto(access_level);
        let terms = GrantTerms {
            grant_id: GrantId(parse_uuid("grant_id", &grant_id)?),
            group_id: group_id
                .ok_or_else(|| out_of_range("group_index", "must be an index of group_ids"))?,
            agent_ids: agent_ids.into_iter().collect(),
            access_level: access_level
                .ok_or_else(|| malformed("access_level", "must be an access level"))?,
            agent_kinds: parse_kinds(agent_kinds)?,
            start_time: parse_time("start_time_us", start_time_us)?,
            expire_time: expire_time_us.map(|us| parse_time("expire_time_us", us)).transpose()?,
            revoke_time: revoke_time_us.map(|us| parse_time("revoke_time_us", us)).transpose()?,
            is_expired: ended && revoke_time_us.is_none(),
        };
        let retained = if ended { Retained::LastEnded } else { Retained::Live };
        Ok((self.tenant(&tenant_id)?, retained, terms))
    }

    fn tenant(&mut self, text: &str) -> Parsed<TenantId> {
        if !text.is_empty() {
            let tenant_id = TenantId::new(text);
            let invalid = |error| Violations::of_text("tenant_id", error);
            self.tenant_id = Some(tenant_id.map_err(invalid)?);
        }
        let description = "must be set in the first grant of a message";
        let missing = || Violations::of("tenant_id", ViolationReason::Required, description);
        self.tenant_id.clone().ok_or_else(missing)
    }
}

/// A missing or unknown kind must not become another one.
fn parse_kinds(messages: Vec<pb::AgentKindEntry>) -> Parsed<AdmittedKinds> {
    let field = "agent_kinds";
    let parse = |message| {
        let pb::AgentKindEntry { agent_kind, max_access_level, on_behalf_of_required } = message;
        let max_access_level = match max_access_level {
            0 => None,
            level => Some(AccessLevel::from_proto(level)?),
        };
        let agent_kind = AgentKind::from_proto(agent_kind)?;
        Some(AgentKindEntry { agent_kind, max_access_level, on_behalf_of_required })
    };
    let entries = messages.into_iter().map(parse).collect::<Option<Vec<_>>>();
    let entries = entries.ok_or_else(|| malformed(field, "must have known kinds and levels"))?;
    AdmittedKinds::new(entries).map_err(|error| malformed(field, &error.to_string()))
}

fn parse_ids<T>(
    field: &str,
    texts: &[String],
    new: fn(&str) -> Result<T, TextError>,
) -> Parsed<Vec<T>> {
    let numbered = texts.iter().enumerate();
    let parse = |(index, text): (usize, &String)| {
        new(text).map_err(|error| Violations::of_text(format!("{field}[{index}]"), error))
    };
    numbered.map(parse).collect()
}
