//! `support-access policy`

use clap::{ArgGroup, Args, Subcommand};
use prost_types::FieldMask;
use uuid::Uuid;

use super::{
    args::{parse_group, parse_span, to_duration},
    client::{CHANGE_EXIT_CODES, Call, Client},
    failure::Failure,
    output::Report,
};
use crate::{api::proto::v1, domain::Span};

const CALL: Call = Call {
    fields: &[
        ("tenant_id", "TENANT"),
        ("groups", "--group"),
        ("preset_durations", "--preset"),
        ("default_duration", "--default-duration"),
        ("max_duration", "--max-duration"),
        ("until_revoked_allowed", "--until-revoked-allowed"),
        ("reason_required", "--reason-required"),
        ("ticket_required", "--ticket-required"),
        ("max_schedule_ahead", "--max-schedule-ahead"),
        ("etag", "--etag"),
        ("reason", "--reason"),
        ("support-access-actor", "--actor"),
    ],
    repeatable: true,
};
/// Show or narrow what a tenant may choose from when it grants access.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    Show(ShowArgs),
    Set(Box<SetArgs>),
}

/// Show what a tenant may choose from: the vendor's catalogue, narrowed by the tenant.
#[derive(Debug, Args)]
struct ShowArgs {
    /// The tenant.
    tenant: String,
}

/// Tighten what a tenant may choose from. What is not given stays as it is.
///
/// It can never be looser than the vendor's catalogue. Grants that exist are not changed; the answer lists those that the
/// new policy would not allow.
#[derive(Debug, Args)]
#[command(override_usage = "support-access policy set [OPTIONS] <TENANT>")]
#[command(after_help = CHANGE_EXIT_CODES)]
#[command(group = ArgGroup::new("setting").required(true).multiple(true).args([
    "groups", "no_groups", "presets", "no_presets", "default_duration", "max_duration",
    "until_revoked_allowed", "reason_required", "ticket_required", "max_schedule_ahead",
]))]
struct SetArgs {
    /// The tenant.
    tenant: String,
    /// A group that may be let in, and its highest level (READ_ONLY, READ_WRITE or ADMIN), such as support:READ_WRITE. May
    /// be repeated; groups that are not named cannot be let in any more.
    #[arg(long = "group", value_name = "ID:LEVEL", value_parser = parse_group)]
    groups: Vec<v1::GroupOverride>,
    /// No group may be let in: nobody can grant access.
    #[arg(long, conflicts_with = "groups")]
    no_groups: bool,
    /// A duration to offer, such as 8h or 7d: one of the vendor's. May be repeated; others are not offered any more.
    #[arg(long = "preset", value_name = "DURATION", value_parser = parse_span)]
    presets: Vec<Span>,
    /// Offer no durations to choose from. Any up to the longest may still be given.
    #[arg(long, conflicts_with = "presets")]
    no_presets: bool,
    /// The duration that is taken if none is given, such as 7d. At most the longest duration.
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    default_duration: Option<Span>,
    /// The longest time from a grant's start to its end, such as 30d. More than 0, at most the vendor's.
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    max_duration: Option<Span>,
    /// Whether a grant may last until it is revoked.
    #[arg(long, value_name = "true|false")]
    until_revoked_allowed: Option<bool>,
    /// Whether a grant, and an extension of one, must say why.
    #[arg(long, value_name = "true|false")]
    reason_required: Option<bool>,
    /// Whether a grant must name a ticket.
    #[arg(long, value_name = "true|false")]
    ticket_required: Option<bool>,
    /// How far ahead a grant may be scheduled to start, such as 14d; 0s: grants start at once. At most the vendor's.
    #[arg(long, value_name = "DURATION", value_parser = parse_span)]
    max_schedule_ahead: Option<Span>,
    /// Only if the policy is still as it was when `policy show` said this. Default: however it is now.
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
    /// Why, for the history: at most 1,000 characters.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

pub(crate) async fn run(client: &Client, args: &PolicyArgs) -> Result<Report, Failure> {
    match &args.command {
        PolicyCommand::Show(args) => client.report(&get(client, &args.tenant).await?),
        PolicyCommand::Set(args) => {
            let send = async |request| client.admin().update_support_policy(request).await;
            let answer = client.call(&CALL, args.to_request()?, send).await?;
            client.report_change(&answer, answer.enforcement.as_ref())
        }
    }
}

pub(crate) async fn get(
    client: &Client,
    tenant: &str,
) -> Result<v1::GetSupportPolicyResponse, Failure> {
    let message = v1::GetSupportPolicyRequest { tenant_id: tenant.to_owned() };
    client
        .call(&CALL, message, async |request| client.admin().get_support_policy(request).await)
        .await
}

impl SetArgs {
    fn to_request(&self) -> Result<v1::UpdateSupportPolicyRequest, Failure> {
        let given = [
            ("groups", !self.groups.is_empty() || self.no_groups),
            ("preset_durations", !self.presets.is_empty() || self.no_presets),
            ("default_duration", self.default_duration.is_some()),
            ("max_duration", self.max_duration.is_some()),
            ("until_revoked_allowed", self.until_revoked_allowed.is_some()),
            ("reason_required", self.reason_required.is_some()),
            ("ticket_required", self.ticket_required.is_some()),
            ("max_schedule_ahead", self.max_schedule_ahead.is_some()),
        ];
        let paths = given.into_iter().filter(|(_, is_given)| *is_given);
        let mut presets = self.presets.clone();
        presets.sort_unstable();
        let durations = presets.into_iter().map(to_duration).collect::<Result<_, _>>()?;
        let policy_overrides = v1::PolicyOverrides {
            groups: Some(v1::GroupOverrides { groups: self.groups.clone() }),
            preset_durations: Some(v1::PresetDurations { durations }),
            default_duration: self.default_duration.map(to_duration).transpose()?,
            max_duration: self.max_duration.map(to_duration).transpose()?,
            until_revoked_allowed: self.until_revoked_allowed,
            reason_required: self.reason_required,
            ticket_required: self.ticket_required,
            max_schedule_ahead: self.max_schedule_ahead.map(to_duration).transpose()?,
            agent_kinds: None,
        };
        Ok(v1::UpdateSupportPolicyRequest {
            request_id: Uuid::now_v7().to_string(),
            tenant_id: self.tenant.clone(),
            policy_overrides: Some(policy_overrides),
            update_mask: Some(FieldMask {
                paths: paths.map(|(path, _)| path.to_owned()).collect(),
            }),
            etag: self.etag.clone(),
            reason: self.reason.clone(),
        })
    }
}
