//! The parts of a request that a support policy forbids.

use std::{collections::BTreeMap, fmt};

use crate::domain::violation::{ViolationReason, Violations};

/// Why a request cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No policy allows the request.
    #[error("{0}")]
    Invalid(#[from] Violations),
    /// This policy forbids the request.
    #[error("{0}")]
    Forbidden(#[from] Forbidden),
}

/// The fields that the policy forbids, and the limits that they exceed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forbidden {
    /// The fields.
    pub violations: Violations,
    /// The exceeded limits by name, such as `max_duration: "604800s"`. Contains the limit of the
    /// first field if several fields exceed limits of the same name.
    pub limits: BTreeMap<&'static str, String>,
}

impl Forbidden {
    /// Adds a field that exceeds the limit of this name and value.
    pub(in crate::domain) fn add(
        &mut self,
        field: &str,
        reason: ViolationReason,
        limit: (&'static str, String),
        description: impl fmt::Display,
    ) {
        self.violations.add(field, reason, description);
        self.limits.entry(limit.0).or_insert(limit.1);
    }

    /// The same violations, of fields inside `prefix`.
    pub fn within(self, prefix: &str) -> Self {
        Self { violations: self.violations.within(prefix), ..self }
    }

    pub(in crate::domain) fn into_result(self) -> Result<(), Self> {
        if self.violations.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the tenant's support policy forbids the request: {}", self.violations)
    }
}

impl std::error::Error for Forbidden {}
