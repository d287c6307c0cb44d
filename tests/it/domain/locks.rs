//! The time at which a lock applies.

use support_access::domain::{LockId, LockTarget, LockTerms, Now, Party, Time, time::from_micros};
use uuid::Uuid;

#[test]
fn a_lock_never_ends_early() {
    let at = |micros| from_micros(micros).unwrap();
    let terms = LockTerms {
        lock_id: LockId(Uuid::nil()),
        tenant_id: None,
        target: LockTarget::Everything,
        party: Party::Vendor,
        expire_time: Some(at(20)),
    };
    assert!(terms.applies_at(at(0)));
    assert!(terms.applies_at(at(19)));
    assert!(!terms.applies_at(at(20)));
    let uncertain = Now { earliest: at(19), latest: at(30) };
    assert!(terms.applies_at(uncertain), "the end may not have passed");
    assert!(!terms.applies_at(Now { earliest: at(20), latest: at(30) }));
    assert!(LockTerms { expire_time: None, ..terms }.applies_at(Time::MAX_UTC));
}
