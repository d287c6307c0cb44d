//! Random histories, and what was done to them.

use proptest::{prelude::*, sample::Index};
use serde_json::json;

use super::*;

fn said() -> impl Strategy<Value = Said> {
    let body = (any::<String>(), any::<i32>(), any::<bool>()).prop_map(
        |(text, number, truth)| json!({"type": "granted", "b": text, "a": [number, truth, null]}),
    );
    let via = prop::option::of("[a-z]{1,9}");
    (".{1,9}", via, any::<bool>(), any::<String>(), body).prop_map(
        |(actor, via, actor_asserted, reason, body)| Said {
            actor,
            actor_asserted: actor_asserted && via.is_some(),
            via,
            reason,
            body: body.to_string(),
        },
    )
}

/// The record of `line`, after `previous`, with another reason if one is given: as somebody would write it who knows the format.
fn rewritten(line: &str, previous: Hash, reason: Option<&str>) -> (String, Hash) {
    let mut members: Map<String, Value> = serde_json::from_str(line).unwrap();
    members.remove("hash");
    members.insert("previous_hash".into(), previous.to_string().into());
    if let Some(reason) = reason {
        members.insert("reason".into(), reason.into());
    }
    let hash = Hash::of(&to_canonical(&Value::Object(members.clone())).unwrap());
    members.insert("hash".into(), hash.to_string().into());
    (to_canonical(&Value::Object(members)).unwrap(), hash)
}

/// All lines from `at` on anew, the first with another reason.
fn forged(lines: &[String], at: usize) -> Vec<String> {
    let mut forged = lines[..at].to_vec();
    let mut previous = at.checked_sub(1).map_or(Hash::ZERO, |index| {
        let line: Value = serde_json::from_str(&lines[index]).unwrap();
        line["hash"].as_str().unwrap().parse().unwrap()
    });
    let mut reason = Some("forged");
    for line in &lines[at..] {
        let (line, hash) = rewritten(line, previous, reason.take());
        forged.push(line);
        previous = hash;
    }
    forged
}

proptest! {
    #[test]
    fn a_history_fits(events in prop::collection::vec(said(), 0..12), tenant in "[a-zäö支]{0,5}", split in any::<Index>()) {
        let (mut lines, last) = export(log(1), &tenant, &events);
        let records = lines.clone();
        lines.push(checkpoint(log(1), &tenant, last, Some(&key())).line());
        let verdict = verify(&lines, Some(key().public()), None).unwrap();
        prop_assert_eq!((verdict.last, &verdict.tenant_id), (last, &tenant));
        prop_assert_eq!(verdict.log, log(1).to_string());
        // A checkpoint that was kept at any earlier time vouches for the beginning.
        let seen = split.index(events.len() + 1);
        let kept = checkpoint(log(1), &tenant, export(log(1), &tenant, &events[..seen]).1, None);
        prop_assert!(verify(&lines, None, Some(&kept)).is_ok());
        prop_assert!(records.is_empty() || verify(&records, None, Some(&kept)).is_ok());
    }

    #[test]
    fn one_byte_that_was_changed_is_found_in_its_line(
        events in prop::collection::vec(said(), 1..8),
        place in any::<Index>(),
        flip in 1..=255_u8,
    ) {
        let (lines, last) = export(log(1), "acme", &events);
        let kept = checkpoint(log(1), "acme", last, None);
        let mut file = lines.join("\n").into_bytes();
        let at = place.index(file.len());
        let line = file[..at].split(|byte| *byte == b'\n').count();
        file[at] ^= flip;
        let found = verify(&file.split(|byte| *byte == b'\n').collect::<Vec<_>>(), None, Some(&kept));
        let found = found.unwrap_err().line;
        prop_assert_eq!(found, line as u64, "{}", String::from_utf8_lossy(&file));
    }

    #[test]
    fn one_line_that_was_moved_is_named(
        events in prop::collection::vec(said(), 2..9),
        what in 0..7,
        place in any::<Index>(),
        other in any::<Index>(),
    ) {
        let (lines, last) = export(log(1), "acme", &events);
        let kept = checkpoint(log(1), "acme", last, None);
        let count = lines.len();
        let at = place.index(count);
        let to = other.index(count);
        let number = |count: usize| Sequence::try_from(count).unwrap();
        let not_next = |at: usize, found: usize| ChainError::NotNext { expected: number(at + 1), found: number(found + 1) };
        let mut told = lines.clone();
        let expected = match what {
            0 => {
                told.remove(at);
                match at {
                    at if at + 1 == count => fault(count, ChainError::CutShort { expected: number(count), found: number(at) }),
                    at => fault(at + 1, not_next(at, at + 1)),
                }
            }
            1 => {
                told.insert(at, lines[to].clone());
                if at == to { fault(at + 2, not_next(at + 1, at)) } else { fault(at + 1, not_next(at, to)) }
            }
            2 => {
                prop_assume!(at != to);
                told.swap(at, to);
                fault(at.min(to) + 1, not_next(at.min(to), at.max(to)))
            }
            3 => {
                told.truncate(at.max(1));
                prop_assume!(told.len() < count);
                let found = told.len();
                fault(found + 1, ChainError::CutShort { expected: number(count), found: number(found) })
            }
            4 => {
                told[at] = export(log(1), "bolt", &events).0.swap_remove(at);
                let misfit = ChainError::OtherTenant { expected: "acme".into(), found: "bolt".into() };
                fault(at + 1, misfit)
            }
            5 => {
                told[at] = export(log(2), "acme", &events).0.swap_remove(at);
                fault(at + 1, ChainError::OtherLog)
            }
            _ => {
                // One record made anew, hash and all: it fits, and what follows does not. The last can only be told by a checkpoint.
                told[at] = forged(&lines, at).swap_remove(at);
                prop_assume!(told[at] != lines[at]);
                if at + 1 == count { fault(count, ChainError::NotVouchedFor) } else { fault(at + 2, ChainError::NotFollowing) }
            }
        };
        prop_assert_eq!(verify(&told, None, Some(&kept)), expected);
    }

    #[test]
    fn a_history_that_was_rewritten_from_a_line_on_is_found_by_a_checkpoint_alone(
        events in prop::collection::vec(said(), 1..8),
        place in any::<Index>(),
    ) {
        let (lines, last) = export(log(1), "acme", &events);
        let at = place.index(lines.len());
        prop_assume!(events[at].reason != "forged");
        let mut told = forged(&lines, at);
        let forged_end: Value = serde_json::from_str(told.last().unwrap()).unwrap();
        let hash = forged_end["hash"].as_str().unwrap().parse().unwrap();
        let end = Link { hash, ..last };
        prop_assert!(verify(&told, None, None).is_ok(), "it fits together");
        let kept = checkpoint(log(1), "acme", last, None);
        let count = lines.len();
        prop_assert_eq!(verify(&told, None, Some(&kept)), fault(count, ChainError::NotVouchedFor));
        let real = checkpoint(log(1), "acme", last, Some(&key()));
        told.push(real.line());
        prop_assert_eq!(verify(&told, Some(key().public()), None), fault(count + 1, ChainError::NotVouchedFor));
        // Who forges the checkpoint as well, but has not the key:
        told[count] = checkpoint(log(1), "acme", end, None).line();
        prop_assert!(verify(&told, None, None).is_ok(), "nothing in the file contradicts it");
        prop_assert_eq!(verify(&told, Some(key().public()), None), fault(count + 1, ChainError::NotSigned));
        let stolen = Checkpoint { signature: real.signature, ..checkpoint(log(1), "acme", end, None) };
        told[count] = stolen.line();
        prop_assert_eq!(verify(&told, Some(key().public()), None), fault(count + 1, ChainError::WrongSignature));
    }
}
