//! Consent for humans and consent for AI agents are separate.

use std::sync::Arc;

use support_access::{
    api::proto::v1::{
        AccessCheck, AccessLevel, AgentKind, AgentKindEntry, AgentKinds, CheckAccessRequest,
        CheckAccessResponse, DecisionReason as Reason, ExplainAccessRequest, GrantAccessRequest,
        LockAccessRequest, PolicyOverrides, Remedy, UnlockAccessRequest,
        UpdateSupportPolicyRequest,
    },
    domain::{self, SupportPolicy},
    server::{self, Listeners, Running, SystemClock, config::Config},
    store,
};
use tonic::Code;

use crate::{
    common::{backend::Backend, event_key::event_key_file},
    server::{
        follower::reason,
        harness::{a_grant, access, admin, an_access_check, config, eventually, start, stop},
        sidecars::sidecar,
    },
};

/// The vendor allows AI agents to read, on behalf of a human.
fn config_with_ai() -> Config {
    let ai = domain::AgentKindEntry {
        agent_kind: domain::AgentKind::Ai,
        max_access_level: Some(domain::AccessLevel::ReadOnly),
        on_behalf_of_required: true,
    };
    let agent_kinds = vec![domain::AgentKindEntry::HUMAN, ai];
    Config { policy: SupportPolicy { agent_kinds, ..SupportPolicy::default() }, ..config() }
}

fn entry(kind: AgentKind, level: AccessLevel, on_behalf_of_required: bool) -> AgentKindEntry {
    AgentKindEntry {
        agent_kind: kind.into(),
        max_access_level: level.into(),
        on_behalf_of_required,
    }
}

fn human() -> AgentKindEntry {
    entry(AgentKind::Human, AccessLevel::Unspecified, false)
}

fn ai_that_reads() -> AgentKindEntry {
    entry(AgentKind::Ai, AccessLevel::ReadOnly, false)
}

/// Read and write access.
fn a_grant_to(entries: &[AgentKindEntry]) -> GrantAccessRequest {
    let agent_kinds = Some(AgentKinds { entries: entries.to_vec() });
    GrantAccessRequest { access_level: AccessLevel::ReadWrite.into(), agent_kinds, ..a_grant() }
}

fn by(kind: AgentKind, human: &str, level: AccessLevel) -> AccessCheck {
    AccessCheck {
        agent_kind: kind.into(),
        on_behalf_of: human.into(),
        required_level: level.into(),
        ..an_access_check()
    }
}

fn ai(human: &str) -> AccessCheck {
    by(AgentKind::Ai, human, AccessLevel::ReadOnly)
}

async fn check(running: &Running, check: AccessCheck) -> CheckAccessResponse {
    let request = CheckAccessRequest { check: Some(check), ..CheckAccessRequest::default() };
    access(running).await.check_access(request).await.unwrap().into_inner()
}

/// The decisions that follow from a grant of read and write access, in which AI agents may read on
/// behalf of a human.
async fn assert_separate(running: &Running) {
    let cases = [
        (ai("dana"), Reason::GrantActive, Remedy::None),
        (ai(""), Reason::OnBehalfOfRequired, Remedy::StateOnBehalfOf),
        (
            by(AgentKind::Ai, "dana", AccessLevel::ReadWrite),
            Reason::LevelExceeded,
            Remedy::RequestHigherLevel,
        ),
        (
            by(AgentKind::Service, "dana", AccessLevel::ReadOnly),
            Reason::AgentKindNotAllowed,
            Remedy::RequestAgentKind,
        ),
        (by(AgentKind::Human, "", AccessLevel::ReadWrite), Reason::GrantActive, Remedy::None),
    ];
    for (question, expected, remedy) in cases {
        let response = check(running, question.clone()).await;
        let found = (response.reason(), response.remedy());
        assert_eq!(found, (expected, remedy), "{question:?}: {}", response.message);
        let request = ExplainAccessRequest { check: Some(question), ..Default::default() };
        let explained = access(running).await.explain_access(request).await.unwrap().into_inner();
        let [candidate] = explained.candidates.as_slice() else { panic!("{explained:?}") };
        assert_eq!(candidate.reasons().collect::<Vec<_>>(), [expected]);
        let kinds = &candidate.grant.as_ref().unwrap().agent_kinds;
        assert_eq!(kinds.as_ref().unwrap().entries.len(), 2, "the explanation shows the kinds");
    }
    assert_eq!(check(running, ai("dana")).await.access_level(), AccessLevel::ReadOnly);
    let writing = by(AgentKind::Human, "", AccessLevel::ReadOnly);
    assert_eq!(check(running, writing).await.access_level(), AccessLevel::ReadWrite);
}

#[tokio::test]
async fn a_grant_for_humans_admits_no_ai_agent() {
    let (replica, _store) = start(config_with_ai()).await;
    assert_eq!(check(&replica, ai("dana")).await.reason(), Reason::NoGrant);
    let granted = admin(&replica).await.grant_access(a_grant()).await.unwrap().into_inner();
    let kinds = granted.grant.unwrap().agent_kinds.unwrap().entries;
    assert_eq!(kinds, [entry(AgentKind::Human, AccessLevel::ReadOnly, false)]);
    for kind in [AgentKind::Ai, AgentKind::Service] {
        let denied = check(&replica, by(kind, "dana", AccessLevel::ReadOnly)).await;
        assert_eq!(denied.reason(), Reason::AgentKindNotAllowed);
        assert_eq!(denied.access_level(), AccessLevel::Unspecified);
    }
    // Grants are independent: another grant admits AI agents, and its end changes nothing else.
    let request = a_grant_to(&[ai_that_reads()]);
    admin(&replica).await.grant_access(request).await.unwrap();
    assert_eq!(check(&replica, ai("dana")).await.reason(), Reason::GrantActive);
    let writing = by(AgentKind::Human, "", AccessLevel::ReadWrite);
    assert_eq!(check(&replica, writing).await.reason(), Reason::LevelExceeded);
    stop(replica).await.unwrap();
}

async fn start_at(url: &str, config: Config) -> Running {
    let listeners = Listeners::bind(&config.common, config.web_listen.as_ref()).unwrap();
    let clock = Arc::new(SystemClock);
    let store = store::open(url, clock.clone(), event_key_file(url)).await.unwrap();
    server::start(config, listeners, store, clock).await.unwrap()
}

#[tokio::test]
async fn admitted_kinds_reach_sidecars_and_survive_a_restart_on_sqlite() {
    admitted_kinds_reach_sidecars_and_survive_a_restart(&Backend::sqlite()).await;
}

#[tokio::test]
async fn admitted_kinds_reach_sidecars_and_survive_a_restart_on_postgres() {
    admitted_kinds_reach_sidecars_and_survive_a_restart(&Backend::postgres()).await;
}

async fn admitted_kinds_reach_sidecars_and_survive_a_restart(backend: &Backend) {
    let url = backend.database_url();
    let replica = start_at(&url, config_with_ai()).await;
    let follower = sidecar(&replica).await;
    let request = a_grant_to(&[human(), ai_that_reads()]);
    let granted = admin(&replica).await.grant_access(request).await.unwrap().into_inner();
    let expected = [
        entry(AgentKind::Human, AccessLevel::ReadWrite, false),
        // The requirement of the policy is part of the grant.
        entry(AgentKind::Ai, AccessLevel::ReadOnly, true),
    ];
    assert_eq!(granted.grant.unwrap().agent_kinds.unwrap().entries, expected);
    assert_separate(&replica).await;
    let writing = || by(AgentKind::Human, "", AccessLevel::ReadWrite);
    let has_grant = async || check(&follower, writing()).await.reason() == Reason::GrantActive;
    eventually(has_grant).await;
    assert_separate(&follower).await;
    stop(follower).await.unwrap();
    stop(replica).await.unwrap();

    // The policy of the new process allows no AI agents. Existing grants stay as they are.
    let replica = start_at(&url, config()).await;
    assert_separate(&replica).await;
    let error = admin(&replica).await.grant_access(a_grant_to(&[ai_that_reads()])).await;
    let error = error.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition);
    assert_eq!(reason(&error), "POLICY_VIOLATION");
    let follower = sidecar(&replica).await;
    eventually(async || check(&follower, writing()).await.reason() == Reason::GrantActive).await;
    assert_separate(&follower).await;
    stop(follower).await.unwrap();
    stop(replica).await.unwrap();
}

#[tokio::test]
async fn a_tighter_policy_applies_to_new_grants_only() {
    let (replica, _store) = start(config_with_ai()).await;
    let mut client = admin(&replica).await;
    let request = a_grant_to(&[human(), ai_that_reads()]);
    client.grant_access(request.clone()).await.unwrap();
    for entries in [vec![], vec![human()]] {
        let agent_kinds = Some(AgentKinds { entries });
        let update = UpdateSupportPolicyRequest {
            tenant_id: "acme".into(),
            policy_overrides: Some(PolicyOverrides { agent_kinds, ..PolicyOverrides::default() }),
            ..UpdateSupportPolicyRequest::default()
        };
        let updated = client.update_support_policy(update).await.unwrap().into_inner();
        assert_eq!(updated.grants_outside_policy.len(), 1, "the existing grant is listed");
        assert_separate(&replica).await;
        client.grant_access(request.clone()).await.unwrap_err();
    }
    client.grant_access(a_grant()).await.unwrap();
    stop(replica).await.unwrap();
}

#[tokio::test]
async fn locks_stop_ai_agents_of_one_tenant_or_all_and_those_on_behalf_of_a_human() {
    let (replica, _store) = start(config_with_ai()).await;
    let mut client = admin(&replica).await;
    client.grant_access(a_grant_to(&[human(), ai_that_reads()])).await.unwrap();
    let lock = LockAccessRequest { reason: "incident".into(), ..LockAccessRequest::default() };
    let kind = AgentKind::Ai.into();
    let acme = Some("acme".to_owned());
    let locks = [
        LockAccessRequest { agent_kind: kind, tenant_id: acme.clone(), ..lock.clone() },
        LockAccessRequest { agent_kind: kind, ..lock.clone() },
        LockAccessRequest { agent_id: "dana".into(), tenant_id: acme, ..lock.clone() },
        LockAccessRequest { agent_id: "dana".into(), ..lock },
    ];
    for request in locks {
        let is_kind = request.agent_kind == kind;
        let tenant_id = request.tenant_id.clone();
        let locked = client.lock_access(request).await.unwrap().into_inner();
        let lock_id = locked.lock.unwrap().lock_id;
        let denied = check(&replica, ai("dana")).await;
        assert_eq!((denied.reason(), &denied.lock_id), (Reason::Locked, &lock_id));
        let other = check(&replica, ai("erin")).await.reason();
        assert_eq!(other, if is_kind { Reason::Locked } else { Reason::GrantActive });
        let human = check(&replica, by(AgentKind::Human, "", AccessLevel::ReadWrite)).await;
        assert_eq!(human.reason(), Reason::GrantActive);
        let reason = "resolved".into();
        let lift = UnlockAccessRequest { tenant_id, lock_id, reason, ..Default::default() };
        client.unlock_access(lift).await.unwrap();
        assert_eq!(check(&replica, ai("dana")).await.reason(), Reason::GrantActive);
    }
    stop(replica).await.unwrap();
}
