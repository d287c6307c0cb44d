//! The violations of a request.

use support_access::domain::{ViolationReason, Violations};

const KEPT_MAX: usize = 20;

#[test]
fn violations_beyond_the_maximum_are_only_counted() {
    let mut first = Violations::default();
    for index in 0..15 {
        first.add(format!("f[{index}]"), ViolationReason::Malformed, "is malformed");
    }
    let mut all = first.clone();
    all.extend(first.clone());
    all.extend(first);
    all.add("last", ViolationReason::Malformed, "is malformed");
    assert_eq!((all.as_slice().len(), all.omitted()), (KEPT_MAX, 46 - KEPT_MAX));
    assert_eq!(all.as_slice()[19].field, "f[4]");
    assert!(all.to_string().ends_with("f[4]: is malformed; and 26 more"));
    assert!(all.within("check.").to_string().ends_with("check.f[4]: is malformed; and 26 more"));
}
