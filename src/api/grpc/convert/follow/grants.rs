//! Grants on their way to a follower: each group stands once in a message, and each tenant once in a row of its grants.

use std::collections::HashMap;

use crate::{
    api::{
        grpc::convert::{
            fields::{Fields, Parsed},
            follow::{time, uuid},
            responses::access_level,
        },
        proto::v1 as pb,
    },
    domain::{
        AgentId, GrantId, GrantTerms, GroupId, TenantId, grant::AGENTS_MAX, violation::Violations,
    },
    store::Retained,
};

/// Writes the grants of one message.
#[derive(Default)]
pub(super) struct Writer<'a> {
    /// The groups of what was written.
    pub(super) group_ids: Vec<String>,
    indexes: HashMap<&'a str, u32>,
    tenant_id: Option<&'a TenantId>,
}

impl<'a> Writer<'a> {
    pub(super) fn write(
        &mut self,
        (tenant_id, held, terms): &'a (TenantId, Retained, GrantTerms),
    ) -> pb::FedGrant {
        let is_same = self.tenant_id == Some(tenant_id);
        self.tenant_id = Some(tenant_id);
        let GrantTerms {
            grant_id,
            group_id,
            agent_ids,
            access_level,
            start_time,
            expire_time,
            revoke_time,
        } = terms;
        pb::FedGrant {
            tenant_id: if is_same { String::new() } else { tenant_id.to_string() },
            grant_id: grant_id.0.as_bytes().to_vec(),
            group_index: self.group_index(group_id),
            agent_ids: agent_ids.iter().map(ToString::to_string).collect(),
            access_level: self::access_level(*access_level),
            start_time_us: start_time.timestamp_micros(),
            expire_time_us: expire_time.map(|time| time.timestamp_micros()),
            revoke_time_us: revoke_time.map(|time| time.timestamp_micros()),
            ended: *held == Retained::LastEnded,
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

/// Reads the grants of one message. What they share, their words share too.
pub(super) struct Reader {
    group_ids: Vec<GroupId>,
    tenant_id: Option<TenantId>,
}

impl Reader {
    pub(super) fn new(group_ids: &[String]) -> Parsed<Self> {
        let numbered = group_ids.iter().enumerate();
        let group_id = |(index, text): (usize, &String)| {
            GroupId::new(text).map_err(|error| Violations::of(format!("group_ids[{index}]"), error))
        };
        let group_ids = numbered.map(group_id).collect::<Parsed<_>>()?;
        Ok(Self { group_ids, tenant_id: None })
    }

    pub(super) fn read(
        &mut self,
        message: pb::FedGrant,
    ) -> Parsed<(TenantId, Retained, GrantTerms)> {
        let pb::FedGrant {
            tenant_id,
            grant_id,
            group_index,
            agent_ids,
            access_level,
            start_time_us,
            expire_time_us,
            revoke_time_us,
            ended,
        } = message;
        let mut fields = Fields::default();
        let group_id = usize::try_from(group_index).ok().and_then(|it| self.group_ids.get(it));
        if group_id.is_none() {
            fields.0.add("group_index", "must be the place of one of the group_ids");
        }
        let agent_ids = fields.list("agent_ids", &agent_ids, AGENTS_MAX, AgentId::new);
        let access_level = fields.level("access_level", access_level);
        let (group_id, access_level) = fields.finish(group_id.cloned().zip(access_level))?;
        let terms = GrantTerms {
            grant_id: GrantId(uuid("grant_id", &grant_id)?),
            group_id,
            agent_ids: agent_ids.into_iter().collect(),
            access_level,
            start_time: time("start_time_us", start_time_us)?,
            expire_time: expire_time_us.map(|it| time("expire_time_us", it)).transpose()?,
            revoke_time: revoke_time_us.map(|it| time("revoke_time_us", it)).transpose()?,
        };
        let held = if ended { Retained::LastEnded } else { Retained::Live };
        Ok((self.tenant(&tenant_id)?, held, terms))
    }

    fn tenant(&mut self, text: &str) -> Parsed<TenantId> {
        if !text.is_empty() {
            let read = TenantId::new(text);
            self.tenant_id = Some(read.map_err(|error| Violations::of("tenant_id", error))?);
        }
        let missing =
            || Violations::of("tenant_id", "must be given in the first grant of a message");
        self.tenant_id.clone().ok_or_else(missing)
    }
}
