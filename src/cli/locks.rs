//! `support-access lock create`, `lift` and `list`.

use clap::{ArgGroup, Args, Subcommand};
use prost_types::Timestamp;

use super::{
    args::{LimitArgs, RequestArgs, parse_duration, parse_time, to_proto},
    client::{Call, Client, Remote},
    error::CliError,
    output::Report,
};
use crate::{api::proto::v1, domain::Span};

pub(crate) mod view;

#[derive(Debug, Subcommand)]
pub(crate) enum LockCommand {
    Create(Remote<CreateArgs>),
    Lift(Remote<LiftArgs>),
    List(Remote<ListArgs>),
}

/// Lock an agent, a group, a kind of agents or everything
///
/// A lock denies every matching check, regardless of present and future grants. Returns when no
/// check node can allow such a check.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("scope").required(true).args(["tenant_id", "all_tenants"]),
    group = ArgGroup::new("target").required(true)
        .args(["agent_id", "group_id", "agent_kind", "everything"]),
    after_help = "Examples:
  support-access lock create acme --everything --reason \"Under investigation\"
  support-access lock create --all-tenants --agent dana --reason \"Stolen laptop\" --for 1d
  support-access lock create --all-tenants --kind ai --reason \"Model incident\""
)]
pub(crate) struct CreateArgs {
    /// The tenant in which the lock applies
    #[arg(value_name = "TENANT")]
    tenant_id: Option<String>,
    /// The lock applies in all tenants; for operators
    #[arg(long)]
    all_tenants: bool,
    /// Lock this agent, and every agent that acts on behalf of this agent
    #[arg(long = "agent", value_name = "ID")]
    agent_id: Option<String>,
    /// Lock every agent of this group
    #[arg(long = "group", value_name = "ID")]
    group_id: Option<String>,
    /// Lock every agent of this kind
    #[arg(long = "kind", value_name = "KIND", ignore_case = true)]
    agent_kind: Option<v1::AgentKind>,
    /// Lock every agent
    #[arg(long)]
    everything: bool,
    /// Why the lock is created
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// How long the lock applies, such as 8h [default: until it is lifted]
    #[arg(
        long = "for",
        value_name = "DURATION",
        value_parser = parse_duration,
        conflicts_with = "expire_time"
    )]
    duration: Option<Span>,
    /// When the lock ends by itself [default: when it is lifted]
    #[arg(long = "until", value_name = "TIME", value_parser = parse_time)]
    expire_time: Option<Timestamp>,
    #[command(flatten)]
    request: RequestArgs,
}

/// Lift a lock
///
/// Only the party that created a lock may lift the lock: the tenant or the vendor. A lock that has
/// ended does not change.
#[derive(Debug, Args)]
#[command(
    allow_missing_positional = true,
    group = ArgGroup::new("scope").required(true).args(["tenant_id", "all_tenants"]),
    override_usage = "support-access lock lift [OPTIONS] --reason <TEXT> <TENANT|--all-tenants> \
        <LOCK>",
    after_help = "Examples:
  support-access lock lift acme $LOCK --reason \"Investigation closed\"
  support-access lock lift --all-tenants $LOCK --reason \"Laptop found\""
)]
pub(crate) struct LiftArgs {
    /// The tenant in which the lock applies
    #[arg(value_name = "TENANT")]
    tenant_id: Option<String>,
    /// The lock
    #[arg(value_name = "LOCK", required = true)]
    lock_id: String,
    /// The lock applies in all tenants
    #[arg(long)]
    all_tenants: bool,
    /// Why the lock is lifted
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Only if the lock still has this etag
    #[arg(long, default_value = "", hide_default_value = true)]
    etag: String,
    #[command(flatten)]
    request: RequestArgs,
}

/// List the locks in one tenant, or all locks, newest first
///
/// With --output json, all pages are one object.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("scope").required(true).args(["tenant_id", "all_tenants"]),
    after_help = "Examples:
  support-access lock list acme
  support-access lock list --all-tenants --ended"
)]
pub(crate) struct ListArgs {
    /// The tenant in which the locks apply
    #[arg(value_name = "TENANT")]
    tenant_id: Option<String>,
    /// Every lock, in one tenant or in all tenants
    #[arg(long)]
    all_tenants: bool,
    /// Include locks that have ended
    #[arg(long = "ended")]
    include_ended: bool,
    #[command(flatten)]
    limit: LimitArgs,
}

impl LockCommand {
    pub(crate) async fn run(&self) -> Result<Report, CliError> {
        match self {
            Self::Create(command) => command.run().await,
            Self::Lift(command) => command.run().await,
            Self::List(command) => command.run().await,
        }
    }
}

impl Call for CreateArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let request_id = self.request.id();
        let message = v1::LockAccessRequest {
            request_id: request_id.clone(),
            tenant_id: self.tenant_id.clone(),
            agent_id: self.agent_id.clone().unwrap_or_default(),
            group_id: self.group_id.clone().unwrap_or_default(),
            agent_kind: self.agent_kind.unwrap_or_default().into(),
            everything: self.everything,
            reason: self.reason.clone(),
            expire_time: self.expire_time,
            duration: self.duration.map(to_proto).transpose()?,
        };
        let send = async |request| client.admin().lock_access(request).await;
        let response = client.change(&request_id, message, send).await?;
        let report = client.report(&response, view::locked)?;
        Ok(report.with_enforcement(response.enforcement.as_ref()))
    }
}

impl Call for LiftArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let request_id = self.request.id();
        let message = v1::UnlockAccessRequest {
            request_id: request_id.clone(),
            tenant_id: self.tenant_id.clone(),
            lock_id: self.lock_id.clone(),
            etag: self.etag.clone(),
            reason: self.reason.clone(),
        };
        let send = async |request| client.admin().unlock_access(request).await;
        let response = client.change(&request_id, message, send).await?;
        client.report(&response, view::lifted)
    }
}

impl Call for ListArgs {
    async fn run(&self, client: &Client) -> Result<Report, CliError> {
        let scope = if self.all_tenants { v1::Scope::All } else { v1::Scope::Tenant };
        let read_page = async |page_size, page_token| {
            let message = v1::ListLocksRequest {
                scope: scope.into(),
                tenant_id: self.tenant_id.clone().unwrap_or_default(),
                include_ended: self.include_ended,
                page_size,
                page_token,
            };
            let send = async |request| client.admin().list_locks(request).await;
            let page = client.call(message, send).await?;
            Ok((page.locks, page.next_page_token))
        };
        let (locks, next_page_token) = self.limit.read(read_page).await?;
        client.report(&v1::ListLocksResponse { locks, next_page_token }, view::list)
    }
}
