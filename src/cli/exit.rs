//! The exit codes.

/// The exit code of a command.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Exit {
    #[default]
    Success = 0,
    Unexpected = 1,
    Denied = 2,
    Pending = 3,
    NotFound = 4,
    Conflict = 5,
    PolicyViolation = 6,
    NotPermitted = 7,
    Unavailable = 8,
    Usage = 64,
}

impl Exit {
    /// Every exit code with a meaning, for the help text.
    pub(crate) const MEANINGS: [(Self, &str); 10] = [
        (Self::Success, "success; check: allowed"),
        (Self::Unexpected, "unexpected error; health check: not serving"),
        (Self::Denied, "check: denied, or not as expected; history verify: not valid"),
        (Self::Pending, "the change is durable, but not yet enforced at every check node"),
        (Self::NotFound, "not found"),
        (
            Self::Conflict,
            "conflict: etag mismatch, reused request id, ended grant, or lock of the other party",
        ),
        (Self::PolicyViolation, "the tenant's support policy forbids the request"),
        (Self::NotPermitted, "not authenticated, or not permitted"),
        (Self::Unavailable, "unavailable: connection, database, deadline, quota, or STALE"),
        (Self::Usage, "invalid usage, argument or configuration"),
    ];
}
