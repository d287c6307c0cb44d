//! Who is asking.

use crate::domain::text::{Actor, TextError};

/// Who sent a request, as far as we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The name that the history keeps.
    pub actor: Actor,
}

impl Caller {
    /// A caller that gives itself a name.
    pub fn named(name: &str) -> Result<Self, TextError> {
        let caller = Self { actor: Actor::new(name)? };
        if caller == Self::system() { Err(TextError::Reserved) } else { Ok(caller) }
    }

    /// A caller that gave no name.
    pub fn anonymous() -> Self {
        Self { actor: Actor::fixed("anonymous") }
    }

    /// The service itself, when a grant ends by its own time.
    pub fn system() -> Self {
        Self { actor: Actor::fixed("system") }
    }
}
