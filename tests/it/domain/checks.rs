//! The groups of a check.

use support_access::domain::{AssertedGroups, GroupId};

#[test]
fn a_long_value_is_ignored_and_still_shows_the_group_of_a_lock() {
    let hidden = "\u{200b}".repeat(400) + "support";
    let long = "é".repeat(513);
    let groups = AssertedGroups::new([hidden.clone(), long, "engineering".to_owned()]);
    let [support, engineering] = ["support", "engineering"].map(|id| GroupId::new(id).unwrap());
    assert!(groups.contains(&engineering) && !groups.contains(&support));
    assert!(groups.shows(&support), "a lock applies to every value that shows its group");
    assert_eq!(groups.ignored(), [hidden[..1_023].to_owned(), "é".repeat(512)]);
}
