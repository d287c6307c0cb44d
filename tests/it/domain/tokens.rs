//! Consistency tokens.

use support_access::domain::{
    Revision, TokenKey,
    time::from_micros,
    token::{TokenEvent, TokenInvalid},
};

const LENGTH: usize = 22;
const KEY: TokenKey = TokenKey([7; 16]);

fn event(revision: Revision, micros: i64) -> TokenEvent {
    TokenEvent::new(revision, from_micros(micros))
}

#[test]
fn a_token_is_opaque_and_identifies_its_event() {
    for event in [event(0, 0), event(1, 1_800_000_000_000_000), event((1 << 48) - 1, (1 << 56) - 1)]
    {
        let token = KEY.encrypt(event).unwrap().to_string();
        assert_eq!(token.len(), LENGTH);
        assert_eq!(KEY.decrypt(&token), Ok(event));
        assert_eq!(TokenKey([8; 16]).decrypt(&token), Err(TokenInvalid), "another epoch");
    }
    let time = 1_800_000_000_000_000;
    let tokens = [1, 2].map(|revision| KEY.encrypt(event(revision, time)).unwrap().to_string());
    let equal = tokens[0].bytes().zip(tokens[1].bytes()).filter(|(a, b)| a == b).count();
    assert!(equal < LENGTH / 2, "tokens of adjacent events must not look alike: {tokens:?}");
}

#[test]
fn forged_tokens_are_invalid() {
    let token = KEY.encrypt(event(1, 1_800_000_000_000_000)).unwrap().to_string();
    for index in 0..LENGTH {
        for replacement in ["A", "B", "_", "=", "é"] {
            let mut forged = token.clone();
            forged.replace_range(index..=index, replacement);
            assert!(forged == token || KEY.decrypt(&forged).is_err(), "{forged}");
        }
    }
    for forged in ["", "1", "AAAAAAAAAAAAAAAAAAAAAA", &token[1..], &format!("{token}A")] {
        assert_eq!(KEY.decrypt(forged), Err(TokenInvalid), "{forged}");
    }
}

#[test]
fn events_of_one_log_do_not_contradict_each_other() {
    let head = event(5, 50);
    for (other, contradicts) in [
        (event(5, 50), false),
        (event(5, 51), true),
        (event(4, 50), false),
        (event(4, 51), true),
        (event(6, 50), false),
        (event(6, 49), true),
        (TokenEvent::new(0, None), false),
    ] {
        assert_eq!(other.contradicts(head), contradicts, "{other:?}");
    }
}
