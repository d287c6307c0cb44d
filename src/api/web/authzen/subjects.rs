//! The search for subjects. The service does not know the members of groups, so the results are
//! the agents that grants name.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{
    answer::{NextPage, SearchResults, is_allowed},
    question::Page,
};
use crate::{
    api::proto::v1::{self as pb, DecisionReason},
    domain::Reason,
    service::check::BATCH_MAX,
};

/// An explanation with this number of grants may lack others.
const CANDIDATES_MAX: usize = 100;
/// The obstacles that do not apply to the agents and groups of the grant.
const OBSTACLES_OF_OTHERS: [DecisionReason; 3] =
    [DecisionReason::GrantActive, DecisionReason::GroupMismatch, DecisionReason::AgentNotNamed];
const GROUPS: &str = "every member of group_ids may enter, and the service does not know the \
                      members; the results are the agents that grants name";

/// Groups and agents that may enter, unless a lock on one of them matches.
#[derive(Debug)]
pub(super) struct Candidates {
    /// Groups of which each member may enter.
    groups: BTreeSet<String>,
    /// Agents who may enter as a member of one of these groups.
    agents: BTreeMap<String, BTreeSet<String>>,
    is_complete: bool,
    is_stale: bool,
}

/// The agents on a page, and their checks.
#[derive(Debug)]
pub(super) struct Questions {
    /// First those of the groups, then those of the agents.
    pub(super) checks: Vec<pb::AccessCheck>,
    next_token: String,
}

#[derive(Serialize)]
struct Agent<'a> {
    #[serde(rename = "type")]
    name: &'a str,
    id: &'a str,
}

#[derive(Serialize)]
struct Context<'a> {
    message: &'static str,
    group_ids: Vec<&'a str>,
    /// Whether all grants were considered.
    is_complete: bool,
    /// `STALE`: the results are empty because the node could not decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

// === impl Candidates ===

impl Candidates {
    /// The candidates among the grants of an explanation.
    pub(super) fn of(explanation: pb::ExplainAccessResponse) -> Self {
        let reason = explanation.result.map(|result| result.reason());
        let mut candidates = Self {
            groups: BTreeSet::new(),
            agents: BTreeMap::new(),
            is_complete: explanation.candidates.len() < CANDIDATES_MAX,
            is_stale: reason.is_none_or(|reason| reason == DecisionReason::Stale),
        };
        for candidate in explanation.candidates {
            let admits_others =
                candidate.reasons().all(|reason| OBSTACLES_OF_OTHERS.contains(&reason));
            let Some(grant) = candidate.grant.filter(|_| admits_others) else { continue };
            let Some(named) = grant.named_agents else {
                candidates.groups.insert(grant.group_id);
                continue;
            };
            for agent_id in named.agent_ids {
                let groups = candidates.agents.entry(agent_id).or_default();
                groups.insert(grant.group_id.clone());
            }
        }
        candidates
    }

    /// The checks about the groups and about the agents on `page`. `any`: the check about an agent
    /// that no grant names.
    pub(super) fn questions(&self, any: &pb::AccessCheck, page: &Page) -> Questions {
        if self.is_stale {
            return Questions { checks: Vec::new(), next_token: String::new() };
        }
        let check = |agent_id: &str, group_id: &str| pb::AccessCheck {
            agent_id: agent_id.into(),
            group_ids: vec![group_id.into()],
            ..any.clone()
        };
        let mut checks: Vec<_> =
            self.groups.iter().map(|group_id| check(&any.agent_id, group_id)).collect();
        let (mut count, mut last) = (0, None);
        for (agent_id, groups) in self.agents.iter().filter(|(id, _)| **id > page.after) {
            if count == page.limit || checks.len() + groups.len() > BATCH_MAX {
                let next_token = last.map(Page::token_after).unwrap_or_default();
                return Questions { checks, next_token };
            }
            checks.extend(groups.iter().map(|group_id| check(agent_id, group_id)));
            count += 1;
            last = Some(agent_id.as_str());
        }
        Questions { checks, next_token: String::new() }
    }

    /// The response, from the results of the questions.
    pub(super) fn answer(
        &self,
        name: &str,
        questions: &Questions,
        results: &[pb::CheckAccessResponse],
    ) -> Result<Vec<u8>, serde_json::Error> {
        let is_stale =
            self.is_stale || results.iter().any(|result| result.reason() == DecisionReason::Stale);
        let mut allowed = questions
            .checks
            .iter()
            .zip(results)
            .map(|(check, result)| is_allowed(result).then_some(check));
        let groups = allowed.by_ref().take(self.groups.len()).flatten();
        let group_ids = groups.flat_map(|check| &check.group_ids).map(String::as_str).collect();
        let mut agents: Vec<&str> = allowed.flatten().map(|check| &*check.agent_id).collect();
        // The checks of an agent are neighbours.
        agents.dedup();
        serde_json::to_vec(&SearchResults {
            results: agents.into_iter().map(|id| Agent { name, id }).collect(),
            page: NextPage { next_token: questions.next_token.clone() },
            context: Context {
                message: GROUPS,
                group_ids,
                is_complete: self.is_complete,
                reason: is_stale.then_some(Reason::Stale.as_str()),
            },
        })
    }
}
