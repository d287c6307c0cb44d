//! What is wrong with a request, field by field.

use std::fmt::Display;

/// One field of a request, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// The path of the field as the API names it, such as `checks[3].tenant_id`.
    pub field: String,
    /// A sentence without a subject: what was wrong, and what would be right.
    pub description: String,
}

/// Collects everything that is wrong with one request, so that a caller can mend it all at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations(Vec<FieldViolation>);

impl Violations {
    /// Violations of a single field.
    pub fn of(field: impl Into<String>, description: impl Display) -> Self {
        let mut violations = Self::default();
        violations.add(field, description);
        violations
    }

    /// Notes that `field` is wrong.
    pub fn add(&mut self, field: impl Into<String>, description: impl Display) {
        self.0.push(FieldViolation { field: field.into(), description: description.to_string() });
    }

    /// Notes everything that `others` notes.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// The same of fields that lie within `prefix`, such as `checks[3].`.
    pub fn within(self, prefix: &str) -> Self {
        let within = |FieldViolation { field, description }| FieldViolation {
            field: format!("{prefix}{field}"),
            description,
        };
        Self(self.0.into_iter().map(within).collect())
    }

    /// Unwraps `result`, noting its error against `field`.
    pub fn keep<T, E: Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.add(field, error)).ok()
    }

    /// `Ok` if nothing was noted.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }

    /// In the order in which they were found.
    pub fn as_slice(&self) -> &[FieldViolation] {
        &self.0
    }
}

impl Display for Violations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, FieldViolation { field, description }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{field}: {description}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}
