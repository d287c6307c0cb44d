//! Random calls of the tenant and of others.

use proptest::prelude::*;

/// A call of the tenant.
#[derive(Debug, Clone)]
pub(super) enum Call {
    Grant {
        level: i32,
        days: i64,
        agents: usize,
        request: usize,
    },
    Extend {
        grant: usize,
        days: i64,
        has_etag: bool,
        request: usize,
    },
    Revoke {
        grant: usize,
        has_etag: bool,
        request: usize,
    },
    RevokeAll {
        request: usize,
    },
    /// Reads a grant of this tenant, or of the other tenant.
    Get {
        grant: usize,
        is_foreign: bool,
    },
    ListGrants {
        size: i32,
        is_oldest_first: bool,
        has_token: bool,
    },
    ListEvents {
        size: i32,
        is_oldest_first: bool,
        has_token: bool,
    },
    Export,
    Checkpoint,
    Policy,
    Update {
        days: i64,
        request: usize,
    },
    Lock {
        target: usize,
        request: usize,
    },
    Unlock {
        lock: usize,
        is_foreign: bool,
    },
    ListLocks {
        include_ended: bool,
        size: i32,
    },
    Wait {
        change: usize,
    },
    Check {
        has_token: bool,
        kind: i32,
    },
    Explain {
        has_agent: bool,
    },
    /// Time passes, and grants expire.
    Pass {
        days: u64,
    },
}

/// A call of the other tenant or of the vendor.
#[derive(Debug, Clone)]
pub(super) enum Foreign {
    Grant {
        agents: usize,
    },
    Extend {
        days: i64,
    },
    Revoke,
    RevokeAll,
    Update {
        days: i64,
    },
    Lock {
        target: usize,
    },
    Unlock,
    /// The vendor locks agents and groups that the tenant does not ask about, in all tenants.
    VendorLock {
        target: usize,
    },
    VendorUnlock,
    Check,
}

pub(super) fn calls() -> impl Strategy<Value = Call> {
    let index = || 0..4_usize;
    prop_oneof![
        4 => (0..5, 1..100_i64, index(), index()).prop_map(|(level, days, agents, request)| {
            Call::Grant { level, days, agents, request }
        }),
        2 => (index(), 1..100_i64, any::<bool>(), index()).prop_map(
            |(grant, days, has_etag, request)| Call::Extend { grant, days, has_etag, request }
        ),
        2 => (index(), any::<bool>(), index())
            .prop_map(|(grant, has_etag, request)| Call::Revoke { grant, has_etag, request }),
        1 => index().prop_map(|request| Call::RevokeAll { request }),
        2 => (index(), any::<bool>())
            .prop_map(|(grant, is_foreign)| Call::Get { grant, is_foreign }),
        3 => (1..4, any::<bool>(), any::<bool>()).prop_map(|(size, is_oldest_first, has_token)| {
            Call::ListGrants { size, is_oldest_first, has_token }
        }),
        3 => (1..4, any::<bool>(), any::<bool>()).prop_map(|(size, is_oldest_first, has_token)| {
            Call::ListEvents { size, is_oldest_first, has_token }
        }),
        1 => Just(Call::Export),
        1 => Just(Call::Checkpoint),
        1 => Just(Call::Policy),
        1 => (1..100_i64, index()).prop_map(|(days, request)| Call::Update { days, request }),
        2 => (index(), index()).prop_map(|(target, request)| Call::Lock { target, request }),
        2 => (index(), any::<bool>())
            .prop_map(|(lock, is_foreign)| Call::Unlock { lock, is_foreign }),
        1 => (any::<bool>(), 1..4)
            .prop_map(|(include_ended, size)| Call::ListLocks { include_ended, size }),
        2 => index().prop_map(|change| Call::Wait { change }),
        2 => (any::<bool>(), 0..4).prop_map(|(has_token, kind)| Call::Check { has_token, kind }),
        1 => any::<bool>().prop_map(|has_agent| Call::Explain { has_agent }),
        1 => (1..60_u64).prop_map(|days| Call::Pass { days }),
    ]
}

pub(super) fn foreign() -> impl Strategy<Value = Foreign> {
    prop_oneof![
        4 => (0..4_usize).prop_map(|agents| Foreign::Grant { agents }),
        1 => (1..90_i64).prop_map(|days| Foreign::Extend { days }),
        2 => Just(Foreign::Revoke),
        1 => Just(Foreign::RevokeAll),
        1 => (1..90_i64).prop_map(|days| Foreign::Update { days }),
        1 => (0..4_usize).prop_map(|target| Foreign::Lock { target }),
        1 => Just(Foreign::Unlock),
        1 => (0..2_usize).prop_map(|target| Foreign::VendorLock { target }),
        1 => Just(Foreign::VendorUnlock),
        1 => Just(Foreign::Check),
    ]
}
