//! The problems of a request, field by field.

use std::fmt::Display;

use crate::domain::ids::TextError;

/// The maximum number of violations that are kept for one request, to limit memory.
const KEPT_MAX: usize = 20;

/// Why a field was rejected. The API's `ViolationReason` has the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ViolationReason {
    /// The field is required.
    Required,
    /// The value is malformed.
    Malformed,
    /// The value is too long, too large, too small, or outside the range.
    OutOfRange,
    /// The field contradicts another field.
    Conflict,
    /// Policy: the group is not allowed.
    GroupNotAllowed,
    /// Policy: the level exceeds the group's maximum.
    LevelNotAllowed,
    /// Policy: the grant would last too long.
    DurationNotAllowed,
    /// Policy: grants until revoked are not allowed.
    UntilRevokedNotAllowed,
    /// Policy: a reason is required.
    ReasonRequired,
    /// Policy: a ticket is required.
    TicketRequired,
    /// Policy: the grant would start too late.
    StartNotAllowed,
    /// Policy: the agent kind is not allowed, not at that level, or only on behalf of a human.
    AgentKindNotAllowed,
    /// Policy: the override is less strict than the vendor's catalogue.
    ExceedsCatalogue,
}

/// One field of a request, and its problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// The path of the field as the API names it, such as `checks[3].tenant_id`.
    pub field: String,
    /// The kind of problem, for programs.
    pub reason: ViolationReason,
    /// A sentence without a subject: the problem and the fix, for people.
    pub description: String,
}

/// Collects the problems of one request, so that a caller can fix them at once. Keeps the first 20,
/// and counts the rest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations {
    kept: Vec<FieldViolation>,
    omitted: usize,
}

impl ViolationReason {
    /// Every reason, in the order of the API.
    pub const ALL: [Self; 13] = [
        Self::Required,
        Self::Malformed,
        Self::OutOfRange,
        Self::Conflict,
        Self::GroupNotAllowed,
        Self::LevelNotAllowed,
        Self::DurationNotAllowed,
        Self::UntilRevokedNotAllowed,
        Self::ReasonRequired,
        Self::TicketRequired,
        Self::StartNotAllowed,
        Self::AgentKindNotAllowed,
        Self::ExceedsCatalogue,
    ];
}

impl From<TextError> for ViolationReason {
    fn from(error: TextError) -> Self {
        match error {
            TextError::Empty => Self::Required,
            TextError::TooLong { .. } => Self::OutOfRange,
            TextError::ControlCharacter
            | TextError::InvisibleCharacter
            | TextError::NothingVisible
            | TextError::NotNormalized
            | TextError::SurroundingSpace
            | TextError::Reserved => Self::Malformed,
        }
    }
}

impl Violations {
    /// The violation of a single field.
    pub fn of(
        field: impl Into<String>,
        reason: ViolationReason,
        description: impl Display,
    ) -> Self {
        let mut violations = Self::default();
        violations.add(field, reason, description);
        violations
    }

    /// The violation of a single field by a malformed text.
    pub fn of_text(field: impl Into<String>, error: TextError) -> Self {
        Self::of(field, error.into(), error)
    }

    /// Adds a violation of `field`.
    pub fn add(
        &mut self,
        field: impl Into<String>,
        reason: ViolationReason,
        description: impl Display,
    ) {
        if self.kept.len() == KEPT_MAX {
            self.omitted += 1;
            return;
        }
        let (field, description) = (field.into(), description.to_string());
        self.kept.push(FieldViolation { field, reason, description });
    }

    /// Adds all violations of `more`.
    pub fn extend(&mut self, more: Self) {
        let room = KEPT_MAX - self.kept.len();
        self.omitted += more.omitted + more.kept.len().saturating_sub(room);
        self.kept.extend(more.kept.into_iter().take(room));
    }

    /// The same violations, of fields inside `prefix`, such as `checks[3].`.
    pub fn within(mut self, prefix: &str) -> Self {
        for violation in &mut self.kept {
            violation.field.insert_str(0, prefix);
        }
        self
    }

    /// Returns the checked text, or adds the error as a violation of `field`.
    pub fn check_text<T>(&mut self, field: &str, result: Result<T, TextError>) -> Option<T> {
        result.map_err(|error| self.add(field, error.into(), error)).ok()
    }

    /// Whether there are no violations.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// `Ok` if there are no violations.
    pub fn into_result(self) -> Result<(), Self> {
        if self.is_empty() { Ok(()) } else { Err(self) }
    }

    /// The first violations, in the order in which they were added.
    pub fn as_slice(&self) -> &[FieldViolation] {
        &self.kept
    }

    /// The number of further violations.
    pub fn omitted(&self) -> usize {
        self.omitted
    }
}

impl Display for Violations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, FieldViolation { field, description, .. }) in self.kept.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{field}: {description}")?;
        }
        match self.omitted {
            0 => Ok(()),
            omitted => write!(f, "; and {omitted} more"),
        }
    }
}

impl std::error::Error for Violations {}
