//! States of grants.

use std::collections::BTreeSet;

use support_access::domain::{
    AccessLevel, AdmittedKinds, GrantId, GrantState, GrantTerms, GroupId, Now, time::from_micros,
};

#[test]
fn the_start_is_inclusive_and_the_end_exclusive() {
    let at = |micros| from_micros(micros).unwrap();
    let terms = GrantTerms {
        grant_id: GrantId(uuid::Uuid::nil()),
        group_id: GroupId::new("support").unwrap(),
        agent_ids: BTreeSet::new(),
        access_level: AccessLevel::ReadOnly,
        agent_kinds: AdmittedKinds::HUMAN,
        start_time: at(10),
        expire_time: Some(at(20)),
        revoke_time: None,
        is_expired: false,
    };
    assert_eq!(terms.state(at(9)), GrantState::Scheduled);
    assert_eq!(terms.state(at(10)), GrantState::Active);
    assert_eq!(terms.state(at(19)), GrantState::Active);
    assert_eq!(terms.state(at(20)), GrantState::Expired);
    let until_revoked = GrantTerms { expire_time: None, ..terms.clone() };
    assert_eq!(until_revoked.state(at(i64::from(u32::MAX))), GrantState::Active);
    let between = |earliest, latest| Now { earliest: at(earliest), latest: at(latest) };
    assert_eq!(
        terms.state(between(9, 11)),
        GrantState::Scheduled,
        "the grant may not have started"
    );
    assert_eq!(terms.state(between(19, 21)), GrantState::Expired, "the grant may have ended");
    assert_eq!(terms.state(between(10, 19)), GrantState::Active);
    let expired = GrantTerms { is_expired: true, ..terms.clone() };
    assert_eq!(expired.state(at(12)), GrantState::Expired, "a recorded expiry is final");
    let revoked = GrantTerms { revoke_time: Some(at(15)), ..terms };
    for now in [5, 12, 15, 25] {
        assert_eq!(revoked.state(at(now)), GrantState::Revoked);
    }
}
