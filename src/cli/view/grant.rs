//! Grants, and the answers that have some.

use super::{
    Answer, Cell, Look, Timestamp, Tone, details, enforcement, level, moment, moment_utc, short,
    table, token, v1,
};

const UNTIL_REVOKED: &str = "until revoked";

/// The columns of [`row`].
const HEADER: [&str; 8] =
    ["GRANT", "STATE", "GROUP", "LEVEL", "START (UTC)", "END (UTC)", "BY", "REASON"];

impl Answer for v1::GrantAccessResponse {
    const NAME: &'static str = "GrantAccessResponse";

    fn for_people(&self, look: Look) -> String {
        let mut rows = rows(&self.grant.clone().unwrap_or_default());
        rows.push(token(&self.consistency_token));
        details(look, &rows)
    }
}

impl Answer for v1::GetGrantResponse {
    const NAME: &'static str = "GetGrantResponse";

    fn for_people(&self, look: Look) -> String {
        details(look, &rows(&self.grant.clone().unwrap_or_default()))
    }
}

impl Answer for v1::ExtendAccessResponse {
    const NAME: &'static str = "ExtendAccessResponse";

    fn for_people(&self, look: Look) -> String {
        let mut rows = rows(&self.grant.clone().unwrap_or_default());
        rows.push(("Previous end", Cell::new(end_of(self.previous_expire_time.as_ref()))));
        rows.push(enforcement(self.enforcement.as_ref()));
        rows.push(token(&self.consistency_token));
        details(look, &rows)
    }
}

impl Answer for v1::RevokeAccessResponse {
    const NAME: &'static str = "RevokeAccessResponse";

    fn for_people(&self, look: Look) -> String {
        let mut rows = rows(&self.grant.clone().unwrap_or_default());
        rows.push(enforcement(self.enforcement.as_ref()));
        rows.extend(self.enforcement.as_ref().map(|found| token(&found.consistency_token)));
        let text = details(look, &rows);
        if self.remaining_grants.is_empty() {
            return text + "\nNo other grant of the tenant lets anybody in.\n";
        }
        text + "\nOther grants of the tenant still let somebody in:\n\n"
            + &grants(look, &self.remaining_grants)
    }
}

impl Answer for v1::RevokeAllAccessResponse {
    const NAME: &'static str = "RevokeAllAccessResponse";

    fn for_people(&self, look: Look) -> String {
        let mut rows = vec![
            ("Revoked", Cell::new(self.revoked_count.to_string())),
            enforcement(self.enforcement.as_ref()),
        ];
        rows.extend(self.enforcement.as_ref().map(|found| token(&found.consistency_token)));
        let text = details(look, &rows);
        if self.grants.is_empty() { text } else { text + "\n" + &grants(look, &self.grants) }
    }
}

impl Answer for v1::ListGrantsResponse {
    const NAME: &'static str = "ListGrantsResponse";

    fn for_people(&self, look: Look) -> String {
        if self.grants.is_empty() {
            return "No grants.\n".into();
        }
        let more = "\nThere are more; --limit shows them.\n";
        grants(look, &self.grants) + if self.next_page_token.is_empty() { "" } else { more }
    }
}

/// A table of grants.
pub(super) fn grants(look: Look, grants: &[v1::Grant]) -> String {
    table(look, &HEADER, grants.iter().map(row).collect())
}

/// A table of grants, each with why it does or does not apply.
pub(super) fn candidates(look: Look, candidates: &[v1::CandidateGrant]) -> String {
    let row = |candidate: &v1::CandidateGrant| {
        let reasons = candidate.reasons().map(super::check::reason).collect::<Vec<_>>().join(", ");
        let mut cells = row(&candidate.grant.clone().unwrap_or_default());
        cells.splice(6.., [Cell::new(reasons)]);
        cells
    };
    let header = [&HEADER[..6], &["FINDING"]].concat();
    table(look, &header, candidates.iter().map(row).collect())
}

pub(super) fn end(grant: &v1::Grant) -> String {
    end_of(grant.expire_time.as_ref())
}

fn end_of(expire_time: Option<&Timestamp>) -> String {
    moment_utc(expire_time, UNTIL_REVOKED)
}

/// The named agents of a grant. Empty: every agent of the group.
fn agents(grant: &v1::Grant) -> &[String] {
    grant.named_agents.as_ref().map_or(&[], |named| &named.agent_ids)
}

fn row(grant: &v1::Grant) -> Vec<Cell> {
    let group = match agents(grant) {
        [] => grant.group_id.clone(),
        agents => format!("{} (only {})", grant.group_id, agents.join(", ")),
    };
    vec![
        Cell::new(&grant.grant_id),
        state(grant),
        Cell::new(group),
        Cell::new(level(grant.access_level())),
        Cell::new(moment(grant.start_time.as_ref(), "-")),
        Cell::new(moment(grant.expire_time.as_ref(), UNTIL_REVOKED)),
        Cell::new(&grant.creator),
        Cell::new(&grant.reason),
    ]
}

fn rows(grant: &v1::Grant) -> Vec<(&'static str, Cell)> {
    let agents = match agents(grant) {
        [] => "every agent of the group".into(),
        agents => format!("only {}", agents.join(", ")),
    };
    let created = format!("{} by {}", moment_utc(grant.create_time.as_ref(), "-"), grant.creator);
    let mut rows = vec![
        ("Grant", Cell::new(&grant.grant_id)),
        ("State", state(grant)),
        ("Tenant", Cell::new(&grant.tenant_id)),
        ("Group", Cell::new(&grant.group_id)),
        ("Agents", Cell::new(agents)),
        ("Level", Cell::new(level(grant.access_level()))),
        ("Start", Cell::new(moment_utc(grant.start_time.as_ref(), "-"))),
        ("End", Cell::new(end(grant))),
        ("Reason", Cell::new(&grant.reason)),
        ("Ticket", Cell::new(&grant.ticket)),
        ("Granted", Cell::new(created)),
    ];
    if grant.revoke_time.is_some() {
        let revoked =
            format!("{} by {}", moment_utc(grant.revoke_time.as_ref(), "-"), grant.revoker);
        rows.push(("Revoked", Cell::new(revoked)));
        rows.push(("Because", Cell::new(&grant.revoke_reason)));
    }
    rows.push(("Etag", Cell::new(&grant.etag)));
    rows
}

fn state(grant: &v1::Grant) -> Cell {
    let tone = match grant.state() {
        v1::GrantState::Active => Some(Tone::Good),
        v1::GrantState::Scheduled => Some(Tone::Notice),
        v1::GrantState::Expired | v1::GrantState::Revoked => Some(Tone::Faint),
        v1::GrantState::Unspecified => None,
    };
    Cell::new(short(grant.state().as_str_name(), "GRANT_STATE_")).toned(tone)
}
