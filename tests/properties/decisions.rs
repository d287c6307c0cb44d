//! The decision against a model that is as naive as can be.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};
use support_access::domain::{
    AccessLevel, AgentKind, GrantId, GrantState, GrantTerms, GroupId, Question, Reason, Time,
    decide,
    explain::{ChecklistAnswer, checklist, obstacles},
    time::from_micros,
};
use uuid::Uuid;

use crate::world::{agent, group, tenant};

pub(crate) const GROUPS: [&str; 3] = ["support", "engineering", "billing"];
pub(crate) const AGENTS: [&str; 3] = ["ada", "bob", "cyd"];

pub(crate) fn at(micros: i64) -> Time {
    from_micros(micros).unwrap()
}

prop_compose! {
    /// Times from a small range, so that boundaries meet.
    pub(crate) fn terms()(
        id in any::<u128>(),
        group_index in 0..3_usize,
        agents in proptest::sample::subsequence(AGENTS.to_vec(), 0..=2),
        level in 0..3_usize,
        start in 0..20_i64,
        length in proptest::option::of(1..15_i64),
        revoked_after in proptest::option::of(0..20_i64),
    ) -> GrantTerms {
        let expire = length.map(|length| start + length);
        // A grant is never revoked after its end.
        let revoke = revoked_after.filter(|revoke| expire.is_none_or(|expire| *revoke < expire));
        GrantTerms {
            grant_id: GrantId(Uuid::from_u128(id)),
            group_id: group(GROUPS[group_index]),
            agent_ids: agents.into_iter().map(agent).collect(),
            access_level: AccessLevel::ALL[level],
            start_time: at(start),
            expire_time: expire.map(at),
            revoke_time: revoke.map(at),
        }
    }
}

prop_compose! {
    pub(crate) fn question()(
        agent_index in 0..3_usize,
        groups in proptest::sample::subsequence(GROUPS.to_vec(), 0..=3),
        level in 0..3_usize,
        kind in 0..3_usize,
    ) -> Question {
        Question {
            tenant_id: tenant("acme"),
            agent_id: agent(AGENTS[agent_index]),
            agent_kind: AgentKind::ALL[kind],
            group_ids: groups.into_iter().map(group).collect(),
            required_level: AccessLevel::ALL[level],
        }
    }
}

/// What the words say, in the order in which they say it.
fn naive(grants: &[GrantTerms], question: &Question, now: Time) -> Reason {
    let of = |state: GrantState| grants.iter().filter(move |terms| terms.state(now) == state);
    let my_group = |terms: &&GrantTerms| question.group_ids.contains(&terms.group_id);
    let other_group = |terms: &&GrantTerms| !my_group(terms);
    let me = |terms: &&GrantTerms| {
        terms.agent_ids.is_empty() || terms.agent_ids.contains(&question.agent_id)
    };
    let high = |terms: &&GrantTerms| terms.access_level >= question.required_level;
    let low = |terms: &&GrantTerms| !high(terms);
    let not_me = |terms: &&GrantTerms| !me(terms);
    let live = || of(GrantState::Active).chain(of(GrantState::Scheduled));
    if of(GrantState::Active).filter(my_group).filter(me).any(|terms| high(&terms)) {
        return Reason::GrantActive;
    }
    if of(GrantState::Scheduled).filter(my_group).filter(me).any(|terms| high(&terms)) {
        return Reason::NotStarted;
    }
    if live().filter(my_group).filter(me).any(|terms| low(&terms)) {
        return Reason::LevelExceeded;
    }
    if live().filter(my_group).any(|terms| not_me(&terms)) {
        return Reason::AgentNotNamed;
    }
    let ended = of(GrantState::Expired).chain(of(GrantState::Revoked)).filter(my_group);
    let last = ended.max_by_key(|terms| {
        (terms.revoke_time.or(terms.expire_time), terms.access_level, terms.grant_id)
    });
    if let Some(last) = last {
        return if last.revoke_time.is_some() { Reason::Revoked } else { Reason::Expired };
    }
    if live().any(|terms| other_group(&terms)) {
        return Reason::GroupMismatch;
    }
    Reason::NoGrant
}

/// The grants that a check node keeps: all that have not ended, and the last of each group that has.
fn held(grants: &[GrantTerms], now: Time) -> Vec<GrantTerms> {
    let groups: BTreeSet<GroupId> = grants.iter().map(|terms| terms.group_id.clone()).collect();
    let live = grants.iter().filter(|terms| !terms.state(now).is_ended());
    let last_ended = groups.iter().filter_map(|group_id| {
        grants
            .iter()
            .filter(|terms| terms.group_id == *group_id && terms.state(now).is_ended())
            .max_by_key(|terms| (terms.end_time(), terms.access_level, terms.grant_id))
    });
    live.chain(last_ended).cloned().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn the_decision_is_what_the_words_say(
        grants in vec(terms(), 0..8), question in question(), now in 0..40_i64,
    ) {
        let now = at(now);
        let decision = decide([], &grants, &question, now);
        prop_assert_eq!(decision.reason, naive(&grants, &question, now));
        prop_assert_eq!(decision.terms.is_some(), decision.reason != Reason::NoGrant);
        if decision.is_allowed() {
            let terms = decision.terms.unwrap();
            let lets_in = |terms: &&GrantTerms| {
                terms.state(now) == GrantState::Active
                    && question.group_ids.contains(&terms.group_id)
                    && terms.names(&question.agent_id)
                    && terms.access_level >= question.required_level
            };
            prop_assert!(lets_in(&terms));
            let longest = |terms: &GrantTerms| terms.expire_time.unwrap_or(Time::MAX_UTC);
            let best = grants.iter().filter(lets_in).map(longest).max();
            prop_assert_eq!(Some(longest(terms)), best, "the one that lets in longest answers");
        }
    }

    #[test]
    fn what_a_node_forgets_changes_nothing(
        grants in vec(terms(), 0..8), question in question(), now in 0..40_i64,
    ) {
        let now = at(now);
        let kept = held(&grants, now);
        prop_assert_eq!(decide([], &kept, &question, now), decide([], &grants, &question, now));
    }

    #[test]
    fn the_order_of_grants_changes_nothing(
        grants in vec(terms(), 0..8), question in question(), now in 0..40_i64,
    ) {
        let now = at(now);
        let forwards = decide([], &grants, &question, now);
        prop_assert_eq!(decide([], grants.iter().rev(), &question, now), forwards);
    }

    #[test]
    fn the_explanation_agrees_with_the_decision(
        grants in vec(terms(), 0..8), question in question(), now in 0..40_i64,
    ) {
        let now = at(now);
        let decision = decide([], &grants, &question, now);
        let lets_in = |terms: &GrantTerms| obstacles(terms, &question, now.into()) == [Reason::GrantActive];
        prop_assert_eq!(grants.iter().any(lets_in), decision.is_allowed());
        if let Some(terms) = decision.terms {
            prop_assert!(obstacles(terms, &question, now.into()).contains(&decision.reason));
        }
        let lines = checklist(&decision, &question);
        let in_the_way = lines.iter().filter(|line| line.answer == ChecklistAnswer::No);
        prop_assert_eq!(in_the_way.count(), usize::from(!decision.is_allowed()));
    }
}

#[test]
fn a_revoked_grant_of_the_right_group_is_nearer_than_one_of_another_group() {
    let base = GrantTerms {
        grant_id: GrantId(Uuid::from_u128(1)),
        group_id: group("support"),
        agent_ids: BTreeSet::new(),
        access_level: AccessLevel::Admin,
        start_time: at(0),
        expire_time: None,
        revoke_time: Some(at(5)),
    };
    let other = GrantTerms {
        grant_id: GrantId(Uuid::from_u128(2)),
        group_id: group("engineering"),
        revoke_time: None,
        ..base.clone()
    };
    let question = Question {
        tenant_id: tenant("acme"),
        agent_id: agent("ada"),
        agent_kind: AgentKind::Human,
        group_ids: [group("support")].into(),
        required_level: AccessLevel::ReadOnly,
    };
    let grants = [base.clone(), other.clone()];
    let decision = decide([], &grants, &question, at(10));
    assert_eq!((decision.reason, decision.terms), (Reason::Revoked, Some(&base)));
    let decision = decide([], std::slice::from_ref(&other), &question, at(10));
    assert_eq!((decision.reason, decision.terms), (Reason::GroupMismatch, Some(&other)));
    let nobody = Question { group_ids: BTreeSet::new(), ..question };
    assert!(!decide([], &grants, &nobody, at(10)).is_allowed(), "no groups means nobody");
}
