//! The data that the benchmark fills in and asks about.

/// The number of live grants of each tenant.
pub const GRANTS_PER_TENANT: usize = 10;
/// The number of groups that have grants.
pub const GROUPS: usize = 5;

/// The id of a tenant.
pub fn tenant(number: usize) -> String {
    format!("tenant-{number:06}")
}

/// The id of a group that has grants.
pub fn group(number: usize) -> String {
    format!("group-{number}")
}
