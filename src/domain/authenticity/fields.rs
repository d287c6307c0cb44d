//! The encoding of authenticated fields.

use crate::domain::{admission::AgentKind, grant::GrantTerms, ids::TenantId};

/// Encodes fields so that different fields have different bytes.
pub(super) struct Fields(pub(super) Vec<u8>);

impl Fields {
    pub(super) fn new() -> Self {
        Self(Vec::with_capacity(256))
    }

    pub(super) fn number(&mut self, number: i64) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&(bytes.len() as u64).to_be_bytes());
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub(super) fn maybe_text(&mut self, text: Option<&str>) {
        self.0.push(u8::from(text.is_some()));
        self.text(text.unwrap_or_default());
    }

    pub(super) fn maybe_number(&mut self, number: Option<i64>) {
        self.0.push(u8::from(number.is_some()));
        self.number(number.unwrap_or_default());
    }

    pub(super) fn grant(&mut self, tag: i64, tenant_id: &TenantId, terms: &GrantTerms) {
        self.number(tag);
        self.text(tenant_id.as_str());
        self.bytes(terms.grant_id.0.as_bytes());
        self.text(terms.group_id.as_str());
        self.number(terms.agent_ids.len().try_into().unwrap_or(i64::MAX));
        for agent_id in &terms.agent_ids {
            self.text(agent_id.as_str());
        }
        self.text(terms.access_level.as_str());
        for kind in AgentKind::ALL {
            let admission = terms.agent_kinds.get(kind);
            let level = admission.map(|admission| admission.max_access_level.as_str());
            let is_human_needed = admission.is_some_and(|it| it.on_behalf_of_required);
            self.maybe_text(level);
            self.number(i64::from(is_human_needed));
        }
        self.number(terms.start_time.timestamp_micros());
        self.maybe_number(terms.expire_time.map(|time| time.timestamp_micros()));
        self.maybe_number(terms.revoke_time.map(|time| time.timestamp_micros()));
    }
}
