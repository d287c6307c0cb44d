//! Times and durations.

use std::time::Duration;

use support_access::domain::{
    Span,
    time::{SECONDS_MAX, SECONDS_MIN, SpanError, after, from_micros, from_parts},
};

#[test]
fn spans_are_written_as_they_are_read() {
    let cases = [
        (Span::days(7), "7d"),
        (Span::hours(30), "1d 6h"),
        (Span(Duration::from_secs(90)), "1m 30s"),
        (Span(Duration::from_micros(1_000_002)), "1s 2us"),
        (Span(Duration::ZERO), "0s"),
    ];
    for (span, text) in cases {
        assert_eq!(span.to_string(), text);
        assert_eq!(text.parse::<Span>().unwrap(), span);
    }
}

#[test]
fn spans_have_units_of_a_fixed_length_only() {
    let hours = |hours| Ok(Span::hours(hours));
    let cases = [
        ("2w", hours(336)),
        (" 1d6h ", hours(30)),
        ("1h 30m 1800s", hours(2)),
        ("0s", hours(0)),
        ("30M", Err(SpanError)),
        ("1month", Err(SpanError)),
        ("1y", Err(SpanError)),
        ("7D", Err(SpanError)),
        ("7", Err(SpanError)),
        ("d", Err(SpanError)),
        ("-1h", Err(SpanError)),
        ("1.5h", Err(SpanError)),
        ("1h,", Err(SpanError)),
        ("99999999999999d", Err(SpanError)),
        ("", Err(SpanError)),
    ];
    for (text, expected) in cases {
        assert_eq!(text.parse(), expected, "{text:?}");
    }
}

#[test]
fn times_outside_the_years_1_to_9999_are_rejected() {
    assert!(from_parts(SECONDS_MIN, 0).is_some());
    assert!(from_parts(SECONDS_MAX, 999_999_999).is_some());
    assert_eq!(from_parts(SECONDS_MIN - 1, 0), None);
    assert_eq!(from_parts(SECONDS_MAX + 1, 0), None);
    assert_eq!(from_parts(0, -1), None);
    assert_eq!(from_parts(0, 1_000_000_000), None);
    assert_eq!(from_parts(0, 1_999), from_micros(1), "finer digits are dropped");
    assert_eq!(after(from_parts(SECONDS_MAX, 0).unwrap(), Span::hours(1)), None);
}
