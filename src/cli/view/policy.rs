//! Support policies.

use super::{Answer, Cell, Look, details, enforcement, grant, level, span, table, v1, yes_or_no};

impl Answer for v1::GetSupportPolicyResponse {
    const NAME: &'static str = "GetSupportPolicyResponse";

    fn for_people(&self, look: Look) -> String {
        policy(look, &self.support_policy.clone().unwrap_or_default(), None)
    }
}

impl Answer for v1::UpdateSupportPolicyResponse {
    const NAME: &'static str = "UpdateSupportPolicyResponse";

    fn for_people(&self, look: Look) -> String {
        let in_force = enforcement(self.enforcement.as_ref());
        let text = policy(look, &self.support_policy.clone().unwrap_or_default(), Some(in_force));
        if self.grants_outside_policy.is_empty() {
            return text;
        }
        text + "\nThese grants were made before, and the policy would not allow them now. They were not changed:\n\n"
            + &grant::grants(look, &self.grants_outside_policy)
    }
}

fn policy(look: Look, policy: &v1::SupportPolicy, more: Option<(&str, Cell)>) -> String {
    let presets = policy.preset_durations.iter().map(|preset| span(Some(preset)));
    let presets = presets.collect::<Vec<_>>().join(", ");
    let mut rows = vec![
        ("Tenant", Cell::new(&policy.tenant_id)),
        ("Preset durations", Cell::new(presets)),
        ("Default duration", Cell::new(span(policy.default_duration.as_ref()))),
        ("Max duration", Cell::new(span(policy.max_duration.as_ref()))),
        ("Until revoked allowed", yes_or_no(policy.until_revoked_allowed)),
        ("Reason required", yes_or_no(policy.reason_required)),
        ("Ticket required", yes_or_no(policy.ticket_required)),
        ("Max schedule ahead", Cell::new(span(policy.max_schedule_ahead.as_ref()))),
        ("Etag", Cell::new(&policy.etag)),
    ];
    rows.extend(more);
    let text = details(look, &rows);
    if policy.groups.is_empty() {
        return text + "\nNo group may be granted access.\n";
    }
    let row = |group: &v1::SupportGroup| {
        vec![
            Cell::new(&group.group_id),
            Cell::new(level(group.max_access_level())),
            Cell::new(&group.display_name),
            Cell::new(&group.description),
        ]
    };
    let header = ["GROUP", "MAX LEVEL", "NAME", "DESCRIPTION"];
    text + "\n" + &table(look, &header, policy.groups.iter().map(row).collect())
}

/// What the policy allows, in a line.
pub(super) fn summary(policy: &v1::SupportPolicy) -> String {
    let group = |group: &v1::SupportGroup| {
        format!("{}:{}", group.group_id, level(group.max_access_level()))
    };
    let groups = policy.groups.iter().map(group).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "groups {}; at most {}; starts up to {} ahead",
        if groups.is_empty() { "none" } else { &groups },
        span(policy.max_duration.as_ref()),
        span(policy.max_schedule_ahead.as_ref()),
    );
    let rules = [
        (policy.until_revoked_allowed, "; until revoked allowed"),
        (policy.reason_required, "; reason required"),
        (policy.ticket_required, "; ticket required"),
    ];
    rules.into_iter().filter(|(holds, _)| *holds).for_each(|(_, rule)| text += rule);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_updated_policy_states_its_enforcement() {
        let state = v1::EnforcementState::Complete.into();
        let enforcement = Some(v1::Enforcement { state, ..v1::Enforcement::default() });
        let answer = v1::UpdateSupportPolicyResponse { enforcement, ..Default::default() };
        let text = answer.for_people(Look::default());
        let (_, tail) = text.split_once("Etag                   -\n").unwrap();
        let line =
            "In force               at every check node, after - (0 acknowledged, 0 lapsed)\n\n";
        assert!(tail.starts_with(line), "{text}");
    }
}
