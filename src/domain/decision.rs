//! The decision on a check: may this agent enter this tenant now, at this level?

use std::{
    cmp::Reverse,
    fmt::{self, Display},
};

use chrono::{Datelike, Timelike};

use crate::domain::{
    admission::{AccessLevel, Admission},
    caller::Party,
    check::AccessCheck,
    grant::{GrantState, GrantTerms},
    ids::GrantId,
    lock::{LockTarget, LockTerms, matching_lock},
    policy::join,
    time::{Now, Time},
};

/// The maximum length of a decision's message, in characters.
const MESSAGE_LENGTH_MAX: usize = 1_000;

/// The reason for a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// An active grant covers the check. The only reason that allows.
    GrantActive,
    /// The tenant has no live grant, and no grant to the agent's groups has ended.
    NoGrant,
    /// A matching grant starts later.
    NotStarted,
    /// The last grant to the agent's group has reached the end time.
    Expired,
    /// The last grant to the agent's group was revoked.
    Revoked,
    /// Other groups have grants.
    GroupMismatch,
    /// The grant to the agent's group names other agents.
    AgentNotNamed,
    /// The grant allows a lower level.
    LevelExceeded,
    /// A lock matches. A lock overrides every grant.
    Locked,
    /// The node holds no valid lease.
    Stale,
    /// The grant does not admit the agent's kind.
    AgentKindNotAllowed,
    /// The grant admits the agent's kind only on behalf of a named human.
    OnBehalfOfRequired,
    /// An integration found no value for a part of the question.
    InputMissing,
    /// An integration found several values for a part of the question.
    InputAmbiguous,
    /// An integration found a value that cannot be part of a question.
    InputInvalid,
    /// The identity provider has left out a claim that was too large for the token.
    ClaimOverflow,
}

/// The remedy for a denial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Remedy {
    /// The check was allowed.
    None,
    /// A tenant administrator grants access.
    RequestGrant,
    /// The agent waits for the start of the grant.
    WaitForStart,
    /// A tenant administrator grants a higher level.
    RequestHigherLevel,
    /// A tenant administrator lifts the lock.
    AskTenantToUnlock,
    /// An operator of the vendor lifts the lock.
    AskVendorToUnlock,
    /// The gateway retries.
    Retry,
    /// A tenant administrator grants access that admits the agent's kind.
    RequestAgentKind,
    /// The gateway states the human behind the agent.
    StateOnBehalfOf,
    /// An operator corrects the gateway, the identity provider or the integration.
    CorrectInput,
}

/// The decision on an [`AccessCheck`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision<'a> {
    /// The reason.
    pub reason: Reason,
    /// The grant that allows the check, or that came closest.
    pub terms: Option<&'a GrantTerms>,
    /// The lock that denies the check.
    pub lock: Option<&'a LockTerms>,
}

// === impl Reason, Remedy ===

names! {
    /// The name in the API without its prefix, as in logs and metrics.
    Reason {
        GrantActive = "GRANT_ACTIVE",
        NoGrant = "NO_GRANT",
        NotStarted = "NOT_STARTED",
        Expired = "EXPIRED",
        Revoked = "REVOKED",
        GroupMismatch = "GROUP_MISMATCH",
        AgentNotNamed = "AGENT_NOT_NAMED",
        LevelExceeded = "LEVEL_EXCEEDED",
        Locked = "LOCKED",
        Stale = "STALE",
        AgentKindNotAllowed = "AGENT_KIND_NOT_ALLOWED",
        OnBehalfOfRequired = "ON_BEHALF_OF_REQUIRED",
        InputMissing = "INPUT_MISSING",
        InputAmbiguous = "INPUT_AMBIGUOUS",
        InputInvalid = "INPUT_INVALID",
        ClaimOverflow = "CLAIM_OVERFLOW",
    }
}

names! {
    /// The name in the API without its prefix.
    Remedy {
        None = "NONE",
        RequestGrant = "REQUEST_GRANT",
        WaitForStart = "WAIT_FOR_START",
        RequestHigherLevel = "REQUEST_HIGHER_LEVEL",
        AskTenantToUnlock = "ASK_TENANT_TO_UNLOCK",
        AskVendorToUnlock = "ASK_VENDOR_TO_UNLOCK",
        Retry = "RETRY",
        RequestAgentKind = "REQUEST_AGENT_KIND",
        StateOnBehalfOf = "STATE_ON_BEHALF_OF",
        CorrectInput = "CORRECT_INPUT",
    }
}

impl Reason {
    /// Whether the agent may enter.
    pub fn is_allowed(self) -> bool {
        self == Self::GrantActive
    }
}

// === impl Decision ===

impl Decision<'_> {
    /// A check that cannot be answered is denied.
    pub const STALE: Self = Self { reason: Reason::Stale, terms: None, lock: None };

    /// Whether the agent may enter.
    pub fn is_allowed(&self) -> bool {
        self.reason.is_allowed()
    }

    /// The remedy for the denial.
    pub fn remedy(&self) -> Remedy {
        match self.reason {
            Reason::GrantActive => Remedy::None,
            Reason::NoGrant
            | Reason::Expired
            | Reason::Revoked
            | Reason::GroupMismatch
            | Reason::AgentNotNamed => Remedy::RequestGrant,
            Reason::NotStarted => Remedy::WaitForStart,
            Reason::LevelExceeded => Remedy::RequestHigherLevel,
            Reason::Stale => Remedy::Retry,
            Reason::Locked => match self.lock.map(|lock| lock.party) {
                Some(Party::Tenant) => Remedy::AskTenantToUnlock,
                Some(Party::Vendor) | None => Remedy::AskVendorToUnlock,
            },
            Reason::AgentKindNotAllowed => Remedy::RequestAgentKind,
            Reason::OnBehalfOfRequired => Remedy::StateOnBehalfOf,
            Reason::InputMissing
            | Reason::InputAmbiguous
            | Reason::InputInvalid
            | Reason::ClaimOverflow => Remedy::CorrectInput,
        }
    }
}

/// Decides a check. `locks` are all locks that can match, `grants` the grants of the check's
/// tenant. A lock overrides every grant.
pub fn decide<'a>(
    locks: impl IntoIterator<Item = &'a LockTerms>,
    grants: impl IntoIterator<Item = &'a GrantTerms>,
    check: &AccessCheck,
    now: impl Into<Now>,
) -> Decision<'a> {
    let now = now.into();
    if let Some(lock) = matching_lock(locks, check, now) {
        return Decision { reason: Reason::Locked, terms: None, lock: Some(lock) };
    }
    let (reason, terms) = match nearest_grant(grants, check, now) {
        Some((reason, terms)) => (reason, Some(terms)),
        None => (Reason::NoGrant, None),
    };
    Decision { reason, terms, lock: None }
}

/// The grant that decides the check. Effective access is the union of all grants. If several grants
/// allow the check, the one that ends last decides. A denial has the nearest reason, in this order:
///
/// 1. a grant that would allow the check on behalf of a human;
/// 2. a grant that covers the agent, the kind and the level, but starts later;
/// 3. a grant to the agent's group that admits the kind at a lower level;
/// 4. a grant to the agent's group that does not admit the kind;
/// 5. a grant to the agent's group that names other agents;
/// 6. the grant to one of the agent's groups that ended last;
/// 7. the grant to another group that ends last;
/// 8. no grant.
///
/// Only the latest ended grant of each group can matter. The decision therefore does not depend on
/// older grants in `grants`, nor on whether an expiry has been recorded yet.
fn nearest_grant<'a>(
    grants: impl IntoIterator<Item = &'a GrantTerms>,
    check: &AccessCheck,
    now: Now,
) -> Option<(Reason, &'a GrantTerms)> {
    let ranked = grants.into_iter().filter_map(|terms| {
        let (reason, rank) = rank(terms, check, now)?;
        Some((rank, reason, terms))
    });
    let (_, reason, terms) = ranked.max_by_key(|(rank, ..)| *rank)?;
    Some((reason, terms))
}

/// The order of the grants to one group. The first grant that covers a check is the one that ends
/// last, and decides.
pub fn preference(terms: &GrantTerms) -> impl Ord {
    Reverse((last_to_end(terms), terms.access_level, terms.grant_id))
}

/// Whether the grant allows the check, if no lock matches.
pub fn covers(terms: &GrantTerms, check: &AccessCheck, now: Now) -> bool {
    rank(terms, check, now).is_some_and(|(reason, _)| reason == Reason::GrantActive)
}

fn last_to_end(terms: &GrantTerms) -> i64 {
    terms.end_time().map_or(i64::MAX, |end| end.timestamp_micros())
}

/// How close a grant comes; a greater rank is closer. The rank of the reason, then whether the
/// grant is active, then the preferred time in microseconds since 1970, then the higher level, then
/// the newer grant. No two grants have the same rank.
type Rank = (u8, bool, i64, AccessLevel, GrantId);

fn rank(terms: &GrantTerms, check: &AccessCheck, now: Now) -> Option<(Reason, Rank)> {
    let state = terms.state(now);
    let is_named = match &check.agent_id {
        Some(agent_id) => terms.names(agent_id),
        None => terms.agent_ids.is_empty(),
    };
    let admission = terms.agent_kinds.get(check.agent_kind);
    let (reason, rank, preferred) = if !check.groups.contains(&terms.group_id) {
        if state.is_ended() {
            return None;
        }
        (Reason::GroupMismatch, 1, last_to_end(terms))
    } else if state == GrantState::Expired {
        (Reason::Expired, 2, last_to_end(terms))
    } else if state == GrantState::Revoked {
        (Reason::Revoked, 2, last_to_end(terms))
    } else if !is_named {
        (Reason::AgentNotNamed, 3, 0)
    } else if let Some(Admission { max_access_level, on_behalf_of_required }) = admission {
        if terms.access_level.min(max_access_level) < check.required_level {
            (Reason::LevelExceeded, 5, 0)
        } else if state == GrantState::Scheduled {
            (Reason::NotStarted, 6, -terms.start_time.timestamp_micros())
        } else if on_behalf_of_required && check.on_behalf_of.is_none() {
            (Reason::OnBehalfOfRequired, 7, last_to_end(terms))
        } else {
            (Reason::GrantActive, 8, last_to_end(terms))
        }
    } else {
        (Reason::AgentKindNotAllowed, 4, 0)
    };
    // A grant to another group is named only to explain the denial.
    let is_active = state == GrantState::Active || reason == Reason::GroupMismatch;
    Some((reason, (rank, is_active, preferred, terms.access_level, terms.grant_id)))
}

/// The decision as one or two sentences: the finding and the remedy. At most 1,000 characters.
pub fn message(decision: &Decision<'_>, check: &AccessCheck) -> String {
    let text = match (decision.lock, decision.terms) {
        (Some(lock), _) => lock_message(lock),
        (None, Some(terms)) => grant_message(decision.reason, terms, check),
        (None, None) => match decision.reason {
            Reason::Stale => "The check node cannot prove that its data is recent, and denies. \
                              Retry, or ask another check node."
                .into(),
            _ => format!(
                "Tenant {} has granted no access to the agent's groups. \
                 A tenant administrator can grant it.",
                check.tenant_id
            ),
        },
    };
    // A text has at most as many characters as bytes.
    if text.len() <= MESSAGE_LENGTH_MAX {
        return text;
    }
    match text.char_indices().nth(MESSAGE_LENGTH_MAX) {
        None => text,
        Some(_) => text.chars().take(MESSAGE_LENGTH_MAX - 1).chain(['…']).collect(),
    }
}

fn grant_message(reason: Reason, terms: &GrantTerms, check: &AccessCheck) -> String {
    let group = &terms.group_id;
    let agent = match &check.agent_id {
        Some(agent_id) => format!("agent {agent_id}"),
        None => "the agent".into(),
    };
    let ended = |time: Option<Time>| time.map(|time| format!(" at {}", plain(time)));
    let kind = check.agent_kind.as_str();
    match reason {
        Reason::GrantActive => match terms.expire_time {
            Some(end) => format!("Access is granted to group {group} until {}.", plain(end)),
            None => format!("Access is granted to group {group} until revoked."),
        },
        Reason::NotStarted => format!(
            "The grant to group {group} starts at {}. Wait, or ask a tenant administrator for a \
             grant that starts now.",
            plain(terms.start_time)
        ),
        Reason::Expired => format!(
            "The grant to group {group} ended{}. A tenant administrator can grant access again.",
            ended(terms.expire_time).unwrap_or_default(),
        ),
        Reason::Revoked => format!(
            "The grant to group {group} was revoked{}. A tenant administrator can grant access \
             again.",
            ended(terms.revoke_time).unwrap_or_default(),
        ),
        Reason::GroupMismatch => format!(
            "There is a grant to group {group}, but {agent} is in these groups: {}. A tenant \
             administrator can grant access to one of them.",
            join(check.groups.ids()),
        ),
        Reason::AgentNotNamed => format!(
            "The grant to group {group} does not name {agent}. A tenant administrator can grant \
             access to the agent, or to the whole group.",
        ),
        Reason::LevelExceeded => {
            let level = terms.level_of(check.agent_kind).unwrap_or(terms.access_level);
            let is_lower = level < terms.access_level;
            let agents = if is_lower { format!(" to {kind} agents") } else { String::new() };
            format!(
                "The grant to group {group} allows {}{agents}, but {} is required. A tenant \
                 administrator can grant a higher level.",
                level.as_str(),
                check.required_level.as_str(),
            )
        }
        Reason::OnBehalfOfRequired => format!(
            "The grant to group {group} admits {kind} agents only on behalf of a human. The \
             gateway must state on_behalf_of."
        ),
        _ => format!(
            "The grant to group {group} does not admit {kind} agents. A tenant administrator can \
             grant access that does."
        ),
    }
}

/// Gateways learn the target of a lock, but not its reason.
fn lock_message(lock: &LockTerms) -> String {
    let subject = match (&lock.target, &lock.tenant_id) {
        (LockTarget::Everything, None) => "All support access".to_owned(),
        (LockTarget::Everything, Some(_)) => "Support access".to_owned(),
        (LockTarget::Agent(agent_id), _) => format!("Support access of agent {agent_id}"),
        (LockTarget::Group(group_id), _) => format!("Support access of group {group_id}"),
        (LockTarget::AgentKind(kind), _) => format!("Support access of {} agents", kind.as_str()),
    };
    let tenant = lock.tenant_id.as_ref().map(|tenant_id| format!(" to tenant {tenant_id}"));
    let tenant = tenant.unwrap_or_default();
    let party = lock.party.as_str();
    let until = match lock.expire_time {
        Some(end) => format!("until {}", plain(end)),
        None => format!("until the {party} lifts the lock"),
    };
    format!(
        "{subject}{tenant} is locked by the {party}, {until}. No grant allows access before that."
    )
}

/// A time for people, to the second. chrono would parse a format for each message.
fn plain(time: Time) -> impl Display {
    let (date, time) = (time.date_naive(), time.time());
    let (year, month, day) = (date.year(), date.month(), date.day());
    let (hour, minute, second) = (time.hour(), time.minute(), time.second());
    fmt::from_fn(move |f| {
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    })
}
