use std::collections::BTreeMap;

use super::*;

/// The bytes of all headers of a status, with their names.
fn length(status: &Status) -> usize {
    let mut headers = HeaderMap::new();
    status.add_header(&mut headers).unwrap();
    headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum()
}

#[test]
fn the_largest_status_fits_into_the_headers_of_proxies() {
    let long = "\u{1F980}".repeat(128);
    let mut violations = Violations::default();
    for index in 0..100 {
        let description = [long.as_str(); 10].join(", ");
        violations.add(format!("f[{index}]"), ViolationReason::GroupNotAllowed, description);
    }
    let limits = BTreeMap::from([
        ("groups", long.repeat(10)),
        ("agent_kinds", "HUMAN, AI, SERVICE".into()),
        ("max_access_level", "READ_WRITE".into()),
    ]);
    let forbidden = Forbidden { violations, limits };
    let status = policy_violation(&forbidden);
    assert!(length(&status) <= 8_192, "{}", length(&status));
    let details = status.get_error_details();
    assert!(!details.bad_request().unwrap().field_violations.is_empty());
    assert!(details.error_info().unwrap().metadata["groups"].ends_with('…'));

    let mut violations = Violations::default();
    for index in 0..50 {
        violations.add(format!("f[{index}]"), ViolationReason::Malformed, "a b".repeat(30));
    }
    let status = invalid(&violations);
    assert!(length(&status) <= 8_192, "{}", length(&status));
    assert!(status.message().starts_with("f[0]: a ba ba b"));
    assert!(status.message().ends_with(" more"), "the rest is counted");

    let error = ServiceError::LockNotFound { tenant_id: None, lock_id: long };
    assert!(length(&service_error(&error)) <= 8_192);
}
