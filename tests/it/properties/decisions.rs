//! Decisions, compared with a simple model.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};
use support_access::{
    domain::{
        AccessCheck, AccessLevel, AdmittedKinds, AgentKind, AgentKindEntry, AssertedGroups, Epoch,
        GrantId, GrantState, GrantTerms, GroupId, Position, Reason, Time, TokenKey,
        decision::decide,
        explain::{ChecklistAnswer, checklist, obstacles},
        time::from_micros,
    },
    node::Snapshot,
    store::Retained,
};
use uuid::Uuid;

use crate::properties::world::{agent, group, mk_check, tenant};

pub(crate) const GROUPS: [&str; 3] = ["support", "engineering", "billing"];
pub(crate) const AGENTS: [&str; 3] = ["ada", "bob", "cyd"];

pub(crate) fn at(micros: i64) -> Time {
    from_micros(micros).unwrap()
}

/// Often humans only, at the level of the grant.
pub(crate) fn kinds() -> impl Strategy<Value = AdmittedKinds> {
    let entry = |agent_kind| {
        (proptest::option::of(proptest::sample::select(AccessLevel::ALL.to_vec())), any::<bool>())
            .prop_map(move |(max_access_level, is_required)| AgentKindEntry {
                agent_kind,
                max_access_level,
                on_behalf_of_required: is_required && agent_kind != AgentKind::Human,
            })
    };
    let kinds = proptest::sample::subsequence(AgentKind::ALL.to_vec(), 1..=3);
    let entries =
        kinds.prop_flat_map(move |kinds| kinds.into_iter().map(entry).collect::<Vec<_>>());
    let admitted = entries.prop_map(|entries| AdmittedKinds::new(entries).unwrap());
    prop_oneof![1 => Just(AdmittedKinds::HUMAN), 2 => admitted]
}

prop_compose! {
    /// Times from a small range, so that some are equal.
    pub(crate) fn terms()(
        id in any::<u128>(),
        group_index in 0..3_usize,
        agents in proptest::sample::subsequence(AGENTS.to_vec(), 0..=2),
        level in 0..3_usize,
        agent_kinds in kinds(),
        start in 0..20_i64,
        length in proptest::option::of(1..15_i64),
        revoked_after in proptest::option::of(0..20_i64),
    ) -> GrantTerms {
        let expire = length.map(|length| start + length);
        // A grant is never revoked after the end time.
        let revoke = revoked_after.filter(|revoke| expire.is_none_or(|expire| *revoke < expire));
        GrantTerms {
            grant_id: GrantId(Uuid::from_u128(id)),
            group_id: group(GROUPS[group_index]),
            agent_ids: agents.into_iter().map(agent).collect(),
            access_level: AccessLevel::ALL[level],
            agent_kinds,
            start_time: at(start),
            expire_time: expire.map(at),
            revoke_time: revoke.map(at),
            is_expired: false,
        }
    }
}

prop_compose! {
    pub(crate) fn check()(
        agent_index in proptest::option::weighted(0.9, 0..3_usize),
        groups in proptest::sample::subsequence(GROUPS.to_vec(), 0..=3),
        level in 0..3_usize,
        kind in 0..3_usize,
        human_index in proptest::option::of(0..3_usize),
    ) -> AccessCheck {
        AccessCheck {
            tenant_id: tenant("acme"),
            agent_id: agent_index.map(|index| agent(AGENTS[index])),
            groups: groups.into_iter().map(group).collect(),
            required_level: AccessLevel::ALL[level],
            agent_kind: AgentKind::ALL[kind],
            on_behalf_of: human_index.map(|index| agent(AGENTS[index])),
        }
    }
}

/// The documented rules, in the documented order.
fn expected(grants: &[GrantTerms], check: &AccessCheck, now: Time) -> Reason {
    let entry = |terms: &GrantTerms| {
        terms.agent_kinds.entries().find(|entry| entry.agent_kind == check.agent_kind)
    };
    let is_admitted = |terms: &&GrantTerms| entry(terms).is_some();
    let has_level = |terms: &&GrantTerms| {
        let limit = entry(terms).and_then(|entry| entry.max_access_level);
        terms.access_level >= check.required_level
            && limit.is_none_or(|limit| limit >= check.required_level)
    };
    let needs_human = |terms: &&GrantTerms| {
        check.on_behalf_of.is_none() && entry(terms).unwrap().on_behalf_of_required
    };
    let is_named = |terms: &&GrantTerms| match &check.agent_id {
        Some(agent) => terms.agent_ids.is_empty() || terms.agent_ids.contains(agent),
        None => terms.agent_ids.is_empty(),
    };
    let has_group = |terms: &&GrantTerms| check.groups.contains(&terms.group_id);
    let is_live = |terms: &&GrantTerms| !terms.state(now).is_ended();
    let of_group: Vec<_> = grants.iter().filter(is_live).filter(has_group).collect();
    let named: Vec<_> = of_group.iter().copied().filter(is_named).collect();
    let admitted: Vec<_> = named.iter().copied().filter(is_admitted).collect();
    let covering: Vec<_> = admitted.iter().copied().filter(has_level).collect();
    let is_active = |terms: &&&GrantTerms| terms.state(now) == GrantState::Active;
    if covering.iter().filter(is_active).any(|terms| !needs_human(terms)) {
        Reason::GrantActive
    } else if covering.iter().any(|terms| is_active(&terms)) {
        Reason::OnBehalfOfRequired
    } else if !covering.is_empty() {
        Reason::NotStarted
    } else if !admitted.is_empty() {
        Reason::LevelExceeded
    } else if !named.is_empty() {
        Reason::AgentKindNotAllowed
    } else if !of_group.is_empty() {
        Reason::AgentNotNamed
    } else {
        expected_without_kinds(grants, check, now)
    }
}

/// The same rules for grants without agent kinds, which admit humans only.
fn expected_without_kinds(grants: &[GrantTerms], check: &AccessCheck, now: Time) -> Reason {
    let of = |state: GrantState| grants.iter().filter(move |terms| terms.state(now) == state);
    let has_group = |terms: &&GrantTerms| check.groups.contains(&terms.group_id);
    let lacks_group = |terms: &&GrantTerms| !has_group(terms);
    let is_named = |terms: &&GrantTerms| {
        let named = check.agent_id.as_ref().is_some_and(|agent| terms.agent_ids.contains(agent));
        terms.agent_ids.is_empty() || named
    };
    let has_level = |terms: &&GrantTerms| terms.access_level >= check.required_level;
    let lacks_level = |terms: &&GrantTerms| !has_level(terms);
    let is_unnamed = |terms: &&GrantTerms| !is_named(terms);
    let live = || of(GrantState::Active).chain(of(GrantState::Scheduled));
    if of(GrantState::Active).filter(has_group).filter(is_named).any(|terms| has_level(&terms)) {
        return Reason::GrantActive;
    }
    if of(GrantState::Scheduled).filter(has_group).filter(is_named).any(|terms| has_level(&terms)) {
        return Reason::NotStarted;
    }
    if live().filter(has_group).filter(is_named).any(|terms| lacks_level(&terms)) {
        return Reason::LevelExceeded;
    }
    if live().filter(has_group).any(|terms| is_unnamed(&terms)) {
        return Reason::AgentNotNamed;
    }
    let ended = of(GrantState::Expired).chain(of(GrantState::Revoked)).filter(has_group);
    let last = ended.max_by_key(|terms| {
        (terms.revoke_time.or(terms.expire_time), terms.access_level, terms.grant_id)
    });
    if let Some(last) = last {
        return if last.revoke_time.is_some() { Reason::Revoked } else { Reason::Expired };
    }
    if live().any(|terms| lacks_group(&terms)) {
        return Reason::GroupMismatch;
    }
    Reason::NoGrant
}

/// The grants that a check node keeps: those that have not ended, and the latest ended grant of
/// each group.
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
    fn decisions_follow_the_documented_rules(
        grants in vec(terms(), 0..8), check in check(), now in 0..40_i64,
    ) {
        let now = at(now);
        let decision = decide([], &grants, &check, now);
        prop_assert_eq!(decision.reason, expected(&grants, &check, now));
        prop_assert_eq!(decision.terms.is_some(), decision.reason != Reason::NoGrant);
        if decision.is_allowed() {
            let terms = decision.terms.unwrap();
            let is_allowing = |terms: &&GrantTerms| {
                terms.state(now) == GrantState::Active
                    && check.groups.contains(&terms.group_id)
                    && check.agent_id.as_ref().map_or(terms.agent_ids.is_empty(), |agent| {
                        terms.names(agent)
                    })
                    && terms.level_of(check.agent_kind) >= Some(check.required_level)
                    && (check.on_behalf_of.is_some()
                        || !terms.agent_kinds.get(check.agent_kind).unwrap().on_behalf_of_required)
            };
            prop_assert!(is_allowing(&terms));
            let end = |terms: &GrantTerms| terms.expire_time.unwrap_or(Time::MAX_UTC);
            let latest = grants.iter().filter(is_allowing).map(end).max();
            prop_assert_eq!(Some(end(terms)), latest, "the grant that ends last must decide");
        }
    }

    #[test]
    fn agent_kinds_change_nothing_for_humans(
        grants in vec(terms(), 0..8), check in check(), now in 0..40_i64,
    ) {
        let now = at(now);
        let human = AccessCheck { agent_kind: AgentKind::Human, ..check.clone() };
        let without_kinds = |terms: &GrantTerms| {
            GrantTerms { agent_kinds: AdmittedKinds::HUMAN, ..terms.clone() }
        };
        let old: Vec<_> = grants.iter().map(without_kinds).collect();
        let reason = expected_without_kinds(&old, &human, now);
        prop_assert_eq!(decide([], &old, &human, now).reason, reason);

        // Any kinds: a human has the access of the grants that admit humans, at their levels.
        let for_humans: Vec<_> = grants
            .iter()
            .filter_map(|terms| {
                let access_level = terms.level_of(AgentKind::Human)?;
                Some(GrantTerms { access_level, ..without_kinds(terms) })
            })
            .collect();
        let is_allowed = expected_without_kinds(&for_humans, &human, now).is_allowed();
        prop_assert_eq!(decide([], &grants, &human, now).is_allowed(), is_allowed);
    }

    #[test]
    fn a_grant_for_humans_admits_no_other_agent(
        grants in vec(terms(), 0..8), check in check(), now in 0..40_i64,
    ) {
        let kinds = [AgentKind::Ai, AgentKind::Service, check.agent_kind];
        let other = kinds.into_iter().rfind(|kind| *kind != AgentKind::Human).unwrap();
        let check = AccessCheck { agent_kind: other, ..check };
        let for_humans: Vec<_> = grants
            .into_iter()
            .map(|terms| GrantTerms { agent_kinds: AdmittedKinds::HUMAN, ..terms })
            .collect();
        prop_assert!(!decide([], &for_humans, &check, at(now)).is_allowed());
    }

    #[test]
    fn grants_that_a_node_does_not_keep_change_no_decision(
        grants in vec(terms(), 0..8), check in check(), now in 0..40_i64,
    ) {
        let now = at(now);
        let kept = held(&grants, now);
        prop_assert_eq!(decide([], &kept, &check, now), decide([], &grants, &check, now));
    }

    #[test]
    fn a_snapshot_decides_as_all_of_its_grants(
        grants in vec(terms(), 0..8), check in check(), now in 0..40_i64, loaded in 0..8_usize,
    ) {
        let now = at(now);
        let mut snapshot = Snapshot::default();
        let held = held(&grants, now);
        let add = |snapshot: &mut Snapshot, terms: &GrantTerms| {
            // The end of a grant whose id is odd is not recorded yet.
            let is_even = terms.grant_id.0.as_u128().is_multiple_of(2);
            let is_recorded = is_even || terms.revoke_time.is_some();
            let is_ended = terms.state(now).is_ended() && is_recorded;
            let retained = if is_ended { Retained::LastEnded } else { Retained::Live };
            snapshot.insert(&check.tenant_id, terms.clone(), retained);
        };
        let (first, later) = held.split_at(loaded.min(held.len()));
        for terms in first {
            add(&mut snapshot, terms);
        }
        let position = Position { epoch: Epoch(Uuid::nil()), revision: 0, time: None };
        snapshot.set_position(position, TokenKey([0; 16]));
        for terms in later {
            add(&mut snapshot, terms);
        }
        let expected = decide([], &held, &check, now);
        prop_assert_eq!(decide([], snapshot.candidates(&check, now.into()), &check, now), expected);
        // Without the deciding grant, the next one decides.
        if let Some(decided) = expected.terms {
            let id = decided.grant_id;
            snapshot.reject(&check.tenant_id, id);
            let left = held.iter().filter(|terms| terms.grant_id != id);
            let next = decide([], snapshot.candidates(&check, now.into()), &check, now);
            prop_assert_eq!(next, decide([], left, &check, now));
        }
    }

    #[test]
    fn the_order_of_grants_changes_no_decision(
        grants in vec(terms(), 0..8), check in check(), now in 0..40_i64,
    ) {
        let now = at(now);
        let forwards = decide([], &grants, &check, now);
        prop_assert_eq!(decide([], grants.iter().rev(), &check, now), forwards);
    }

    #[test]
    fn explanations_agree_with_decisions(
        grants in vec(terms(), 0..8), check in check(), now in 0..40_i64,
    ) {
        let now = at(now);
        let decision = decide([], &grants, &check, now);
        let is_allowing =
            |terms: &GrantTerms| obstacles(terms, &check, now.into()) == [Reason::GrantActive];
        prop_assert_eq!(grants.iter().any(is_allowing), decision.is_allowed());
        if let Some(terms) = decision.terms {
            prop_assert!(obstacles(terms, &check, now.into()).contains(&decision.reason));
        }
        let items = checklist(&decision, &check);
        let obstacles = items.iter().filter(|item| item.answer == ChecklistAnswer::No);
        prop_assert_eq!(obstacles.count(), usize::from(!decision.is_allowed()));
    }
}

#[test]
fn a_denial_names_a_revoked_grant_to_the_agents_group_before_a_grant_to_another_group() {
    let base = GrantTerms {
        grant_id: GrantId(Uuid::from_u128(1)),
        group_id: group("support"),
        agent_ids: BTreeSet::new(),
        access_level: AccessLevel::Admin,
        agent_kinds: AdmittedKinds::HUMAN,
        start_time: at(0),
        expire_time: None,
        revoke_time: Some(at(5)),
        is_expired: false,
    };
    let other = GrantTerms {
        grant_id: GrantId(Uuid::from_u128(2)),
        group_id: group("engineering"),
        revoke_time: None,
        is_expired: false,
        ..base.clone()
    };
    let check = mk_check(&tenant("acme"));
    let grants = [base.clone(), other.clone()];
    let decision = decide([], &grants, &check, at(10));
    assert_eq!((decision.reason, decision.terms), (Reason::Revoked, Some(&base)));
    let decision = decide([], std::slice::from_ref(&other), &check, at(10));
    assert_eq!((decision.reason, decision.terms), (Reason::GroupMismatch, Some(&other)));
    let without_groups = AccessCheck { groups: AssertedGroups::default(), ..check };
    let decision = decide([], &grants, &without_groups, at(10));
    assert!(!decision.is_allowed(), "an agent without groups must be denied");
}
