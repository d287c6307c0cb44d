//! The timeout of a call.

use std::time::Duration;

use support_access::api::grpc::parse_timeout;

#[test]
fn timeouts_are_parsed_as_in_the_grpc_protocol() {
    let cases = [
        ("1H", Some(Duration::from_hours(1))),
        ("2M", Some(Duration::from_mins(2))),
        ("3S", Some(Duration::from_secs(3))),
        ("250m", Some(Duration::from_millis(250))),
        ("99999999u", Some(Duration::from_micros(99_999_999))),
        ("5n", Some(Duration::from_nanos(5))),
        ("99999999H", Some(Duration::from_hours(99_999_999))),
        ("123456789m", None),
        ("-1S", None),
        ("+1S", None),
        ("1.5S", None),
        ("5", None),
        ("m", None),
        ("", None),
        ("5é", None),
    ];
    for (text, expected) in cases {
        assert_eq!(parse_timeout(text), expected, "{text:?}");
    }
}
