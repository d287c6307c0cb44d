//! Ids and free texts.

use support_access::domain::{
    FreeText, GroupId, TenantId,
    ids::{TextError, check_id, shown_id},
};

#[test]
fn ids_are_short_normalized_and_visible() {
    let too_long = "x".repeat(129);
    let cases = [
        ("acme", Ok(())),
        ("Ünïcode id", Ok(())),
        ("日本 \u{2800} \u{e000}", Ok(())),
        ("", Err(TextError::Empty)),
        (" acme", Err(TextError::SurroundingSpace)),
        ("acme\u{a0}", Err(TextError::SurroundingSpace)),
        (" ", Err(TextError::SurroundingSpace)),
        ("ac\u{0}me", Err(TextError::ControlCharacter)),
        ("acme\n", Err(TextError::ControlCharacter)),
        ("ac\u{85}me", Err(TextError::ControlCharacter)),
        ("\u{2800}", Err(TextError::NothingVisible)),
        ("\u{13430}", Err(TextError::NothingVisible)),
        ("e\u{301}", Err(TextError::NotNormalized)),
        ("\u{212b}", Err(TextError::NotNormalized)),
        (&too_long, Err(TextError::TooLong { limit: 128, length: 129 })),
    ];
    for (text, expected) in cases {
        assert_eq!(TenantId::new(text).map(drop), expected, "{text:?}");
    }
    assert!(TenantId::new(&"é".repeat(128)).is_ok(), "characters are counted, not bytes");
}

#[test]
fn ids_contain_no_character_that_is_not_shown() {
    let invisible = [
        '\u{ad}',
        '\u{34f}',
        '\u{61c}',
        '\u{115f}',
        '\u{1160}',
        '\u{17b5}',
        '\u{180b}',
        '\u{180e}',
        '\u{200b}',
        '\u{200c}',
        '\u{200d}',
        '\u{200e}',
        '\u{202e}',
        '\u{2066}',
        '\u{2060}',
        '\u{3164}',
        '\u{fe0f}',
        '\u{feff}',
        '\u{ffa0}',
        '\u{fdd0}',
        '\u{ffff}',
        '\u{1bca0}',
        '\u{1d173}',
        '\u{e0001}',
        '\u{e0100}',
        '\u{e0fff}',
        '\u{10ffff}',
    ];
    for c in invisible {
        for text in [format!("ac{c}me"), format!("dana{c}"), c.to_string()] {
            assert_eq!(check_id(&text), Err(TextError::InvisibleCharacter), "{text:?}");
        }
    }
    for separator in ["ac\u{2028}me", "ac\u{2029}me"] {
        assert_eq!(check_id(separator), Err(TextError::InvisibleCharacter));
    }
}

#[test]
fn a_shown_id_is_normalized_and_lacks_what_is_not_shown() {
    let shown = |text| shown_id(text, GroupId::new).map(String::from);
    assert_eq!(shown("sup\u{200b}port\u{0}").as_deref(), Some("support"));
    assert_eq!(shown("Jose\u{200d}\u{301}").as_deref(), Some("José"));
    assert_eq!(shown("\u{202e}support").as_deref(), Some("support"));
    assert_eq!(shown(" support"), None, "white space is shown");
    assert_eq!(shown("\u{200b}"), None);
    assert_eq!(shown(&"x".repeat(129)), None);
}

#[test]
fn free_texts_may_have_lines_but_no_other_control_characters() {
    assert!(FreeText::new("first\r\n\tsecond").is_ok());
    assert!(FreeText::new("").is_ok());
    assert_eq!(FreeText::new("a\u{1b}[31m"), Err(TextError::ControlCharacter));
    assert_eq!(
        FreeText::new("x".repeat(1_001)),
        Err(TextError::TooLong { limit: 1_000, length: 1_001 })
    );
}
