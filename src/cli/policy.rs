//! `support-access policy get` and `set`.

use clap::{ArgGroup, Args, Subcommand, ValueEnum, builder::PossibleValue};
use prost_types::FieldMask;

use super::{
    args::{RequestArgs, parse_duration, parse_group_override, parse_kind, to_proto},
    client::{Call, Client, Remote},
    error::CliError,
    output::Report,
};
use crate::{
    api::proto::v1,
    domain::{OverrideField, Span},
};

pub(crate) mod view;

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    Get(Remote<GetArgs>),
    Set(Box<Remote<SetArgs>>),
}

/// Show the choices of a tenant for grants
///
/// The policy is the vendor's catalogue, narrowed by the tenant's overrides.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  support-access policy get acme")]
pub(crate) struct GetArgs {
    /// The tenant
    #[arg(value_name = "TENANT")]
    tenant_id: String,
}

/// Set or clear overrides of a tenant's support policy
///
/// An override is at most as permissive as the vendor's catalogue. Other overrides do not change.
/// Existing grants do not change; the output lists those that the new policy would not allow.
#[derive(Debug, Args)]
#[command(
    override_usage = "support-access policy set [OPTIONS] <TENANT>",
    group = ArgGroup::new("override").required(true).multiple(true).args([
        "groups", "no_groups", "preset_durations", "no_presets", "default_duration", "max_duration",
        "until_revoked_allowed", "reason_required", "ticket_required", "max_schedule_ahead",
        "agent_kinds", "no_kinds", "clear",
    ]),
    after_help = "Examples:
  support-access policy set acme --max-duration 7d --until-revoked-allowed false
  support-access policy set acme --group support:read-write --group engineering:read-only
  support-access policy set acme --kind human --kind ai:read-only:on-behalf-of
  support-access policy set acme --clear max-duration --clear groups"
)]
pub(crate) struct SetArgs {
    /// The tenant
    #[arg(value_name = "TENANT")]
    tenant_id: String,
    /// A group that may be granted access, and the highest level; may be repeated
    #[arg(long = "group", value_name = "ID:LEVEL", value_parser = parse_group_override)]
    groups: Vec<v1::GroupOverride>,
    /// No group may be granted access
    #[arg(long, conflicts_with = "groups")]
    no_groups: bool,
    /// A duration to offer, one of the vendor's; may be repeated
    #[arg(long = "preset", value_name = "DURATION", value_parser = parse_duration)]
    preset_durations: Vec<Span>,
    /// Offer no durations; each duration up to the maximum can still be granted
    #[arg(long, conflicts_with = "preset_durations")]
    no_presets: bool,
    /// The duration of a grant without an explicit end
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    default_duration: Option<Span>,
    /// The longest time from the start of a grant to the end
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_duration: Option<Span>,
    /// Whether a grant may last until it is revoked, regardless of the longest duration
    #[arg(long, value_name = "true|false")]
    until_revoked_allowed: Option<bool>,
    /// Whether a grant, and a later end of a grant, must have a reason
    #[arg(long, value_name = "true|false")]
    reason_required: Option<bool>,
    /// Whether a grant must have a ticket
    #[arg(long, value_name = "true|false")]
    ticket_required: Option<bool>,
    /// How far in the future a grant may start; 0s: grants start at once
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    max_schedule_ahead: Option<Span>,
    /// A kind of agents that grants may admit: human, ai or service; may be repeated
    ///
    /// The highest level of the kind and the condition that the agent acts on behalf of a human may
    /// follow, such as ai:read-only or ai:read-only:on-behalf-of.
    #[arg(long = "kind", value_name = "KIND[:LEVEL][:on-behalf-of]", value_parser = parse_kind)]
    agent_kinds: Vec<v1::AgentKindEntry>,
    /// No kind of agents may be granted access
    #[arg(long, conflicts_with = "agent_kinds")]
    no_kinds: bool,
    /// Remove an override, and inherit the vendor's catalogue again; may be repeated
    #[arg(long, value_name = "FIELD")]
    clear: Vec<OverrideField>,
    /// Only if the policy still has this etag
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
    /// Why the policy is changed
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    #[command(flatten)]
    request: RequestArgs,
}

impl PolicyCommand {
    pub(crate) async fn run(&self) -> Result<Report, CliError> {
        match self {
            Self::Get(command) => command.run().await,
            Self::Set(command) => command.run().await,
        }
    }
}

impl Call for GetArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let response = get(client, &self.tenant_id).await?;
        client.report(&response, view::got)
    }
}

impl Call for SetArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let send = async |request| client.admin().update_support_policy(request).await;
        let message = self.to_request()?;
        let request_id = message.request_id.clone();
        let response = client.change(&request_id, message, send).await?;
        let report = client.report(&response, view::updated)?;
        let mut report = report.with_enforcement(response.enforcement.as_ref());
        let policy = response.support_policy.unwrap_or_default();
        if self.max_duration.is_some()
            && self.until_revoked_allowed.is_none()
            && policy.until_revoked_allowed
        {
            report.warnings.push(
                "grants until revoked are still allowed; --until-revoked-allowed false forbids them"
                    .into(),
            );
        }
        Ok(report)
    }
}

pub(crate) async fn get(
    client: &Client,
    tenant_id: &str,
) -> Result<v1::GetSupportPolicyResponse, CliError> {
    let message = v1::GetSupportPolicyRequest { tenant_id: tenant_id.to_owned() };
    client.call(message, async |request| client.admin().get_support_policy(request).await).await
}

impl SetArgs {
    /// The server clears a field that is in the mask but not in the message.
    fn to_request(&self) -> Result<v1::UpdateSupportPolicyRequest, CliError> {
        let mut presets = self.preset_durations.clone();
        presets.sort_unstable();
        let durations = presets.into_iter().map(to_proto).collect::<Result<Vec<_>, _>>()?;
        let groups = v1::GroupOverrides { groups: self.groups.clone() };
        let has_groups = !self.groups.is_empty() || self.no_groups;
        let kinds = v1::AgentKinds { entries: self.agent_kinds.clone() };
        let has_kinds = !self.agent_kinds.is_empty() || self.no_kinds;
        let has_presets = !self.preset_durations.is_empty() || self.no_presets;
        let overrides = v1::PolicyOverrides {
            groups: has_groups.then_some(groups),
            preset_durations: has_presets.then_some(v1::PresetDurations { durations }),
            default_duration: self.default_duration.map(to_proto).transpose()?,
            max_duration: self.max_duration.map(to_proto).transpose()?,
            until_revoked_allowed: self.until_revoked_allowed,
            reason_required: self.reason_required,
            ticket_required: self.ticket_required,
            max_schedule_ahead: self.max_schedule_ahead.map(to_proto).transpose()?,
            agent_kinds: has_kinds.then_some(kinds),
        };
        let set: Vec<OverrideField> = overrides.fields().collect();
        if let Some(both) = self.clear.iter().find(|field| set.contains(field)) {
            let problem = format!("--clear: {} is also set; set or clear, not both", both.name());
            return Err(CliError::usage(problem));
        }
        let paths = set.iter().chain(&self.clear).map(|field| field.name().to_owned()).collect();
        Ok(v1::UpdateSupportPolicyRequest {
            request_id: self.request.id(),
            tenant_id: self.tenant_id.clone(),
            policy_overrides: Some(overrides),
            update_mask: Some(FieldMask { paths }),
            etag: self.etag.clone(),
            reason: self.reason.clone(),
        })
    }
}

impl ValueEnum for OverrideField {
    fn value_variants<'a>() -> &'a [Self] {
        Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name().replace('_', "-")))
    }
}
