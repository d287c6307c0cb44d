//! Canonical JSON, with the examples of RFC 8785.

use proptest::prelude::*;
use serde_json::Value;
use support_access::domain::chain::{NotCanonical, to_canonical};

const WHOLE_MAX: i64 = (1 << 53) - 1;

fn canonical(json: &str) -> Result<String, NotCanonical> {
    to_canonical(&serde_json::from_str(json).unwrap())
}

#[test]
fn strings_are_escaped_as_in_rfc_8785() {
    // The example of section 3.2.2, without its floats.
    let given = r#"{
        "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
        "literals": [null, true, false]
    }"#;
    let expected =
        "{\"literals\":[null,true,false],\"string\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
    assert_eq!(canonical(given).unwrap(), expected);
    let all: String = (0..0x20).map(|code| char::from_u32(code).unwrap()).collect();
    let expected = "\"\\u0000\\u0001\\u0002\\u0003\\u0004\\u0005\\u0006\\u0007\\b\\t\\n\
                    \\u000b\\f\\r\\u000e\\u000f\\u0010\\u0011\\u0012\\u0013\\u0014\\u0015\
                    \\u0016\\u0017\\u0018\\u0019\\u001a\\u001b\\u001c\\u001d\\u001e\\u001f\"";
    assert_eq!(to_canonical(&Value::from(all)).unwrap(), expected);
    let plain = "\u{7f}\u{80}\u{2028}é支援👩‍🚒\u{fffd}";
    assert_eq!(to_canonical(&Value::from(plain)).unwrap(), format!("\"{plain}\""));
}

#[test]
fn names_are_sorted_as_in_rfc_8785() {
    // The example of section 3.2.3: by UTF-16 code units, in which an emoji comes before
    // U+FB33.
    let given = r#"{
        "\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\ud83d\ude00": 5, "\u0080": 6, "\u00f6": 7
    }"#;
    let expected = "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"ö\":7,\"€\":1,\"😀\":5,\"\u{fb33}\":3}";
    assert_eq!(canonical(given).unwrap(), expected);
    assert_eq!(
        canonical(r#"{"b": {"d": 1, "c": []}, "a": {}}"#).unwrap(),
        r#"{"a":{},"b":{"c":[],"d":1}}"#
    );
}

#[test]
fn only_integers_that_every_parser_reads_alike_are_accepted() {
    for number in ["0", "-1", "9007199254740991", "-9007199254740991"] {
        assert_eq!(canonical(number).unwrap(), number);
    }
    let others = [
        "1.0",
        "0.5",
        "1e2",
        "-0",
        "9007199254740992",
        "-9007199254740992",
        "18446744073709551615",
        "1e400",
    ];
    for number in others {
        let parsed = serde_json::from_str::<Value>(number);
        assert!(parsed.is_err() || canonical(number).is_err(), "{number}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-WHOLE_MAX..=WHOLE_MAX).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map("[ -~]{0,6}", inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_canonical_text_is_parsed_to_the_same_value(value in value()) {
        let text = to_canonical(&value).unwrap();
        let back: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&back, &value);
        prop_assert_eq!(to_canonical(&back).unwrap(), text.clone());
        // If all names are ASCII, serde_json writes the same text.
        prop_assert_eq!(serde_json::to_string(&value).unwrap(), text);
    }
}
