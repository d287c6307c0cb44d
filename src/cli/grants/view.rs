//! Grants for people.

use crate::{
    api::proto::v1,
    cli::{
        table::{Cell, Column, Highlight, Layout, details, table},
        view::{MORE, enforcement, kinds, level, short, time_and_caller, time_to_minute, time_utc},
    },
};

pub(crate) const UNTIL_REVOKED: &str = "until revoked";

/// The columns of a list. The tenant is shown for a list of all tenants.
const COLUMNS: [Column; 12] = [
    Column::fixed("GRANT", 0),
    Column::fixed("TENANT", 1),
    Column::fixed("STATE", 1),
    Column::fixed("GROUP", 3),
    Column::text("AGENTS", 8),
    Column::fixed("LEVEL", 5),
    Column::text("KINDS", 5),
    Column::fixed("START (UTC)", 4),
    Column::fixed("END (UTC)", 2),
    Column::text("BY", 6),
    Column::text("TICKET", 9),
    Column::text("REASON", 7),
];
/// The columns of the candidates of an explanation.
const CANDIDATE_COLUMNS: [Column; 9] = [
    Column::fixed("GRANT", 0),
    Column::fixed("STATE", 3),
    Column::fixed("GROUP", 2),
    Column::text("AGENTS", 7),
    Column::fixed("LEVEL", 6),
    Column::text("KINDS", 6),
    Column::fixed("START (UTC)", 5),
    Column::fixed("END (UTC)", 4),
    Column::wrapped("FINDING", 0),
];

pub(super) fn grant_details(layout: Layout, grant: &v1::Grant) -> String {
    details(layout, &rows(grant))
}

pub(super) fn granted(layout: Layout, response: &v1::GrantAccessResponse) -> String {
    let mut rows = rows(&response.grant.clone().unwrap_or_default());
    rows.push(("Token", Cell::new(&response.consistency_token)));
    details(layout, &rows)
}

pub(super) fn extended(layout: Layout, response: &v1::ExtendAccessResponse) -> String {
    let mut rows = rows(&response.grant.clone().unwrap_or_default());
    let previous = time_utc(response.previous_expire_time.as_ref(), UNTIL_REVOKED);
    for (key, cell) in &mut rows {
        if *key == "End" {
            let end = response.grant.as_ref().map(end).unwrap_or_default();
            *cell = Cell::new(format!("{end} (before: {previous})"));
        }
    }
    rows.extend(enforcement(response.enforcement.as_ref()));
    details(layout, &rows)
}

pub(super) fn revoked(layout: Layout, response: &v1::RevokeAccessResponse) -> String {
    let mut rows = rows(&response.grant.clone().unwrap_or_default());
    rows.extend(enforcement(response.enforcement.as_ref()));
    let text = details(layout, &rows);
    if response.remaining_grants.is_empty() {
        return text + "\nThe tenant has no other live grants.\n";
    }
    text + "\nOther live grants of the tenant:\n\n" + &grants(layout, &response.remaining_grants)
}

pub(super) fn revoked_all(layout: Layout, response: &v1::RevokeAllAccessResponse) -> String {
    let count = ("Revoked", Cell::new(response.revoked_count.to_string()));
    let rows: Vec<_> =
        [count].into_iter().chain(enforcement(response.enforcement.as_ref())).collect();
    let text = details(layout, &rows);
    if response.grants.is_empty() { text } else { text + "\n" + &grants(layout, &response.grants) }
}

pub(super) fn list(layout: Layout, list: &v1::ListGrantsResponse, all_tenants: bool) -> String {
    if list.grants.is_empty() {
        return "No grants.\n".into();
    }
    let text =
        if all_tenants { with_tenants(layout, &list.grants) } else { grants(layout, &list.grants) };
    text + if list.next_page_token.is_empty() { "" } else { MORE }
}

/// A table of the grants of one tenant.
pub(crate) fn grants(layout: Layout, grants: &[v1::Grant]) -> String {
    const TENANT: usize = 1;
    let without_tenant = |grant: &v1::Grant| {
        let mut cells = row(grant).to_vec();
        cells.remove(TENANT);
        cells
    };
    let mut columns = COLUMNS.to_vec();
    columns.remove(TENANT);
    table(layout, &columns, &grants.iter().map(without_tenant).collect::<Vec<_>>())
}

fn with_tenants(layout: Layout, grants: &[v1::Grant]) -> String {
    table(layout, &COLUMNS, &grants.iter().map(|grant| row(grant).to_vec()).collect::<Vec<_>>())
}

/// A table of grants, each with the finding of a check.
pub(crate) fn candidates(
    layout: Layout,
    candidates: &[v1::CandidateGrant],
    finding: impl Fn(&v1::CandidateGrant) -> String,
) -> String {
    let row = |candidate: &v1::CandidateGrant| {
        let grant = candidate.grant.clone().unwrap_or_default();
        let [id, _, state, group, agents, level, kinds, start, end, ..] = row(&grant);
        vec![id, state, group, agents, level, kinds, start, end, Cell::new(finding(candidate))]
    };
    table(layout, &CANDIDATE_COLUMNS, &candidates.iter().map(row).collect::<Vec<_>>())
}

pub(crate) fn end(grant: &v1::Grant) -> String {
    time_utc(grant.expire_time.as_ref(), UNTIL_REVOKED)
}

/// The named agents, or `absent` for every agent of the group.
fn agents(grant: &v1::Grant, absent: &str) -> String {
    match &grant.named_agents {
        Some(named) => named.agent_ids.join(", "),
        None => absent.into(),
    }
}

fn row(grant: &v1::Grant) -> [Cell; COLUMNS.len()] {
    [
        Cell::new(&grant.grant_id),
        Cell::new(&grant.tenant_id),
        state(grant),
        Cell::new(&grant.group_id),
        Cell::new(agents(grant, "every agent")),
        Cell::new(level(grant.access_level())),
        Cell::new(kinds(grant.agent_kinds.as_ref(), grant.access_level())),
        Cell::new(time_to_minute(grant.start_time.as_ref(), "-")),
        Cell::new(time_to_minute(grant.expire_time.as_ref(), UNTIL_REVOKED)),
        Cell::new(&grant.creator),
        Cell::new(&grant.ticket),
        Cell::new(&grant.reason),
    ]
}

fn rows(grant: &v1::Grant) -> Vec<(&'static str, Cell)> {
    let mut rows = vec![
        ("Grant", Cell::new(&grant.grant_id)),
        ("State", state(grant)),
        ("Tenant", Cell::new(&grant.tenant_id)),
        ("Group", Cell::new(&grant.group_id)),
        ("Agents", Cell::new(agents(grant, "every agent of the group"))),
        ("Kinds", Cell::new(kinds(grant.agent_kinds.as_ref(), grant.access_level()))),
        ("Level", Cell::new(level(grant.access_level()))),
        ("Start", Cell::new(time_utc(grant.start_time.as_ref(), "-"))),
        ("End", Cell::new(end(grant))),
        ("Reason", Cell::new(&grant.reason)),
        ("Ticket", Cell::new(&grant.ticket)),
        ("Created", time_and_caller(grant.create_time.as_ref(), &grant.creator)),
    ];
    if grant.revoke_time.is_some() {
        rows.push(("Revoked", time_and_caller(grant.revoke_time.as_ref(), &grant.revoker)));
        rows.push(("Revoke reason", Cell::new(&grant.revoke_reason)));
    }
    rows.push(("Etag", Cell::new(&grant.etag)));
    rows
}

fn state(grant: &v1::Grant) -> Cell {
    let highlight = match grant.state() {
        v1::GrantState::Active => Some(Highlight::Good),
        v1::GrantState::Scheduled => Some(Highlight::Warning),
        v1::GrantState::Expired | v1::GrantState::Revoked => Some(Highlight::Dim),
        v1::GrantState::Unspecified => None,
    };
    Cell::new(short(grant.state().as_str_name(), "GRANT_STATE_")).highlighted(highlight)
}
