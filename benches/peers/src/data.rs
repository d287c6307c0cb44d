//! The grants that the benchmark writes and asks about.

use clap::Args;

/// The grants in the database.
#[derive(Debug, Clone, Args)]
pub struct Data {
    /// The number of live grants.
    #[arg(long, default_value_t = 1_000_000)]
    pub grants: usize,
    /// The number of live grants of each tenant.
    #[arg(long, default_value_t = 10)]
    pub grants_per_tenant: usize,
    /// The number of groups that have grants.
    #[arg(long, default_value_t = 5)]
    pub groups: usize,
}

impl Data {
    /// The tenant and the group of a grant.
    pub fn grant(&self, number: usize) -> (String, String) {
        let tenant = format!("tenant-{:06}", number / self.grants_per_tenant);
        (tenant, format!("group-{}", number % self.groups))
    }

    /// A different grant for each number, far from the grant of the number before, so that the
    /// processor's cache cannot hold what the checks need.
    pub fn spread(&self, number: usize) -> (String, String) {
        /// A prime.
        const STRIDE: usize = 1_299_709;
        self.grant(number.wrapping_mul(STRIDE) % self.grants)
    }
}
