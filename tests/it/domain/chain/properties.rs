//! Random histories with one alteration.

use proptest::{prelude::*, sample::Index};
use serde_json::{Map, Value, json};
use support_access::domain::{Sequence, chain::to_canonical};

use super::*;

fn sample() -> impl Strategy<Value = Sample> {
    let body = (any::<String>(), any::<i32>(), any::<bool>()).prop_map(
        |(text, number, truth)| json!({"type": "granted", "b": text, "a": [number, truth, null]}),
    );
    let via = prop::option::of("[a-z]{1,9}");
    (".{1,9}", via, any::<bool>(), any::<String>(), body).prop_map(
        |(actor, via, actor_asserted, reason, body)| Sample {
            actor,
            actor_asserted: actor_asserted && via.is_some(),
            via,
            reason,
            body: body.to_string(),
        },
    )
}

/// The record of `line` with this previous hash and reason, rewritten by an attacker who knows the
/// format.
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

/// Rewrites all lines from `at` on, the first with another reason.
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
    fn an_unchanged_history_verifies(
        events in prop::collection::vec(sample(), 0..12),
        tenant in "[a-zäö支]{0,5}",
        split in any::<Index>(),
    ) {
        let (mut lines, last) = export(log(1), &tenant, &events);
        let records = lines.clone();
        lines.push(checkpoint(log(1), &tenant, last, Some(&key())).line());
        let report = verify(&lines, Some(key().public()), None).unwrap();
        prop_assert_eq!((report.last, &report.tenant_id), (last, &tenant));
        prop_assert_eq!(report.log, log(1).to_string());
        // A checkpoint of any earlier time matches.
        let seen = split.index(events.len() + 1);
        let kept = checkpoint(log(1), &tenant, export(log(1), &tenant, &events[..seen]).1, None);
        prop_assert!(verify(&lines, None, Some(&kept)).is_ok());
        prop_assert!(records.is_empty() || verify(&records, None, Some(&kept)).is_ok());
    }

    #[test]
    fn a_changed_byte_is_found_in_its_line(
        events in prop::collection::vec(sample(), 1..8),
        place in any::<Index>(),
        flip in 1..=255_u8,
    ) {
        let (lines, last) = export(log(1), "acme", &events);
        let kept = checkpoint(log(1), "acme", last, None);
        let mut file = lines.join("\n").into_bytes();
        let at = place.index(file.len());
        let line = file[..at].split(|byte| *byte == b'\n').count();
        file[at] ^= flip;
        let altered: Vec<_> = file.split(|byte| *byte == b'\n').collect();
        let found = verify(&altered, None, Some(&kept)).unwrap_err().line;
        prop_assert_eq!(found, line as u64, "{}", String::from_utf8_lossy(&file));
    }

    #[test]
    fn a_moved_or_replaced_line_is_named(
        events in prop::collection::vec(sample(), 2..9),
        alteration in 0..7,
        place in any::<Index>(),
        other in any::<Index>(),
    ) {
        let (lines, last) = export(log(1), "acme", &events);
        let kept = checkpoint(log(1), "acme", last, None);
        let count = lines.len();
        let at = place.index(count);
        let to = other.index(count);
        let number = |count: usize| Sequence::try_from(count).unwrap();
        let not_next = |at: usize, found: usize| ChainError::NotNext {
            expected: number(at + 1),
            found: number(found + 1),
        };
        let cut_short = |found: usize| ChainError::CutShort {
            expected: number(count),
            found: number(found),
        };
        let mut altered = lines.clone();
        let expected = match alteration {
            0 => {
                altered.remove(at);
                match at {
                    at if at + 1 == count => fault(count, cut_short(at)),
                    at => fault(at + 1, not_next(at, at + 1)),
                }
            }
            1 => {
                altered.insert(at, lines[to].clone());
                if at == to {
                    fault(at + 2, not_next(at + 1, at))
                } else {
                    fault(at + 1, not_next(at, to))
                }
            }
            2 => {
                prop_assume!(at != to);
                altered.swap(at, to);
                fault(at.min(to) + 1, not_next(at.min(to), at.max(to)))
            }
            3 => {
                altered.truncate(at.max(1));
                prop_assume!(altered.len() < count);
                let found = altered.len();
                fault(found + 1, cut_short(found))
            }
            4 => {
                altered[at] = export(log(1), "bolt", &events).0.swap_remove(at);
                let (expected, found) = ("acme".into(), "bolt".into());
                fault(at + 1, ChainError::OtherTenant { expected, found })
            }
            5 => {
                altered[at] = export(log(2), "acme", &events).0.swap_remove(at);
                fault(at + 1, ChainError::OtherLog)
            }
            _ => {
                // One record is rewritten with its hash. The next record does not match. Without a
                // next record, only a checkpoint can show the change.
                altered[at] = forged(&lines, at).swap_remove(at);
                prop_assume!(altered[at] != lines[at]);
                if at + 1 == count {
                    fault(count, ChainError::CheckpointMismatch)
                } else {
                    fault(at + 2, ChainError::NotFollowing)
                }
            }
        };
        prop_assert_eq!(verify(&altered, None, Some(&kept)), expected);
    }

    #[test]
    fn only_a_checkpoint_shows_that_a_history_was_rewritten(
        events in prop::collection::vec(sample(), 1..8),
        place in any::<Index>(),
    ) {
        let (lines, last) = export(log(1), "acme", &events);
        let at = place.index(lines.len());
        prop_assume!(events[at].reason != "forged");
        let mut altered = forged(&lines, at);
        let forged_end: Value = serde_json::from_str(altered.last().unwrap()).unwrap();
        let hash = forged_end["hash"].as_str().unwrap().parse().unwrap();
        let end = Link { hash, ..last };
        prop_assert!(verify(&altered, None, None).is_ok(), "all hashes match");
        let kept = checkpoint(log(1), "acme", last, None);
        let count = lines.len();
        let mismatch = |line| fault(line, ChainError::CheckpointMismatch);
        prop_assert_eq!(verify(&altered, None, Some(&kept)), mismatch(count));
        let real = checkpoint(log(1), "acme", last, Some(&key()));
        altered.push(real.line());
        let public = Some(key().public());
        prop_assert_eq!(verify(&altered, public, None), mismatch(count + 1));
        // The checkpoint is forged as well, without the key.
        altered[count] = checkpoint(log(1), "acme", end, None).line();
        prop_assert!(verify(&altered, None, None).is_ok(), "nothing in the file shows the change");
        let expected = fault(count + 1, ChainError::NotSigned);
        prop_assert_eq!(verify(&altered, public, None), expected);
        let unsigned = checkpoint(log(1), "acme", end, None);
        altered[count] = Checkpoint { signature: real.signature, ..unsigned }.line();
        let expected = fault(count + 1, ChainError::WrongSignature);
        prop_assert_eq!(verify(&altered, public, None), expected);
    }
}
