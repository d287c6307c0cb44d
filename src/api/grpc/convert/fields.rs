//! Fields become words, and what is wrong with them is collected.

use prost_types::{Duration as ProtoDuration, Timestamp};

use crate::{
    api::proto::v1 as pb,
    domain::{
        AccessLevel, End, FreeText, GrantState, Revision, Span, TenantId, Time,
        text::{TextError, check_id},
        time,
        violation::Violations,
    },
    service::{GrantRef, page::PageRequest},
};

/// The longest `google.protobuf.Duration`, in seconds: about 10,000 years.
pub(super) const DURATION_SECONDS_MAX: i64 = 315_576_000_000;
const LEVELS: &str =
    "must be ACCESS_LEVEL_READ_ONLY, ACCESS_LEVEL_READ_WRITE or ACCESS_LEVEL_ADMIN";

/// What a message says in words, or everything that is wrong with it.
pub(in crate::api::grpc) type Parsed<T> = Result<T, Violations>;

/// Collects violations while a message is taken apart; a field that is wrong becomes `None`.
#[derive(Default)]
pub(super) struct Fields(pub(super) Violations);

impl Fields {
    /// All of a message's fields, or all that is wrong with them.
    pub(super) fn finish<T>(self, word: Option<T>) -> Parsed<T> {
        self.0.into_result()?;
        word.ok_or_else(Violations::default)
    }

    pub(super) fn text<T>(
        &mut self,
        field: &str,
        text: &str,
        new: impl Fn(&str) -> Result<T, TextError>,
    ) -> Option<T> {
        self.0.keep(field, new(text))
    }

    /// A field that may be left empty.
    pub(super) fn optional<T>(
        &mut self,
        field: &str,
        text: &str,
        new: impl Fn(&str) -> Result<T, TextError>,
    ) -> Option<T> {
        if text.is_empty() { None } else { self.text(field, text, new) }
    }

    pub(super) fn note(&mut self, field: &str, text: String) -> FreeText {
        self.0.keep(field, FreeText::new(text)).unwrap_or_default()
    }

    pub(super) fn list<T>(
        &mut self,
        field: &str,
        texts: &[String],
        limit: usize,
        new: impl Fn(&str) -> Result<T, TextError>,
    ) -> Vec<T> {
        if texts.len() > limit {
            self.0.add(field, format!("must be at most {limit}, but are {}", texts.len()));
            return Vec::new();
        }
        let numbered = texts.iter().enumerate();
        numbered
            .filter_map(|(index, text)| self.text(&format!("{field}[{index}]"), text, &new))
            .collect()
    }

    pub(super) fn level(&mut self, field: &str, level: i32) -> Option<AccessLevel> {
        match pb::AccessLevel::try_from(level) {
            Ok(pb::AccessLevel::ReadOnly) => Some(AccessLevel::ReadOnly),
            Ok(pb::AccessLevel::ReadWrite) => Some(AccessLevel::ReadWrite),
            Ok(pb::AccessLevel::Admin) => Some(AccessLevel::Admin),
            Ok(pb::AccessLevel::Unspecified) | Err(_) => {
                self.0.add(field, LEVELS);
                None
            }
        }
    }

    pub(super) fn state(&mut self, field: &str, state: i32) -> Option<GrantState> {
        match pb::GrantState::try_from(state) {
            Ok(pb::GrantState::Scheduled) => Some(GrantState::Scheduled),
            Ok(pb::GrantState::Active) => Some(GrantState::Active),
            Ok(pb::GrantState::Expired) => Some(GrantState::Expired),
            Ok(pb::GrantState::Revoked) => Some(GrantState::Revoked),
            Ok(pb::GrantState::Unspecified) | Err(_) => {
                self.0.add(field, "must be a state of a grant");
                None
            }
        }
    }

    pub(super) fn time(&mut self, field: &str, timestamp: Timestamp) -> Option<Time> {
        let time = time::from_parts(timestamp.seconds, timestamp.nanos);
        if time.is_none() {
            self.0.add(field, "must be a valid time in the years 1 to 9999");
        }
        time
    }

    pub(super) fn span(&mut self, field: &str, duration: ProtoDuration) -> Option<Span> {
        let ProtoDuration { seconds, nanos } = duration;
        let valid = 0..=DURATION_SECONDS_MAX;
        if seconds < 0 || nanos < 0 {
            self.0.add(field, "must not be negative");
            return None;
        }
        if !valid.contains(&seconds) || nanos >= 1_000_000_000 {
            self.0.add(field, format!("must be valid, and at most {DURATION_SECONDS_MAX} seconds"));
            return None;
        }
        let (seconds, micros) = (seconds.unsigned_abs(), nanos.unsigned_abs() / 1_000);
        Some(Span(std::time::Duration::new(seconds, micros * 1_000)))
    }

    pub(super) fn until_revoked(&mut self, is_asked: bool) -> Option<End> {
        if !is_asked {
            self.0.add("until_revoked", "must be true if it is given");
            return None;
        }
        Some(End::UntilRevoked)
    }

    pub(super) fn etag(&mut self, etag: &str) -> Option<String> {
        self.optional("etag", etag, |text| check_id(text).map(|()| text.to_owned()))
    }

    pub(super) fn revision(&mut self, field: &str, revision: i64) -> Revision {
        if revision < 0 {
            self.0.add(field, "must not be negative");
        }
        revision
    }

    pub(super) fn page(&mut self, size: i32, token: String) -> PageRequest {
        let size = usize::try_from(size).unwrap_or_else(|_| {
            self.0.add("page_size", "must not be negative");
            0
        });
        PageRequest { size, token, ..PageRequest::default() }
    }

    pub(super) fn grant_ref(&mut self, tenant_id: &str, grant_id: String) -> Option<GrantRef> {
        let tenant_id = self.text("tenant_id", tenant_id, TenantId::new);
        let is_id = self.text("grant_id", &grant_id, check_id);
        is_id.and(tenant_id).map(|tenant_id| GrantRef { tenant_id, text: grant_id })
    }
}
