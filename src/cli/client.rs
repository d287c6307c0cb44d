//! Calls to the server, and the results as reports.

use std::{error::Error, time::Duration};

use clap::Args;
use tokio::time::{Instant, sleep, timeout};
use tonic::{
    Code, Request, Response, Status, TimeoutExpired, metadata::AsciiMetadataValue,
    transport::Channel,
};
use tonic_types::StatusExt;

use super::{
    args::names,
    connection::{ConnectionArgs, Format, OutputArgs},
    error::{ArgumentNames, CliError, causes},
    exit::Exit,
    json::{JsonMessage, to_json},
    output::{Report, stdout_layout},
    table::Layout,
};
use crate::api::{
    credentials::AUTHORIZATION,
    proto::v1::{
        self, check_nodes_client::CheckNodesClient, server_info_client::ServerInfoClient,
        support_access_admin_client::SupportAccessAdminClient,
        support_access_client::SupportAccessClient,
    },
};

/// The metadata key of the actor.
const ACTOR_KEY: &str = "support-access-actor";
/// More than the longest response: 1,000 grants with the longest texts.
const MESSAGE_LENGTH_MAX: usize = 64 << 20;
/// How long the client waits after the deadline for the server's error about the deadline.
const DEADLINE_GRACE: Duration = Duration::from_millis(250);
/// The minimum delay before a retry.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const PENDING: &str = "the change is durable, but not yet known to be enforced at every check \
                       node; `support-access history wait` waits for it";

/// A command that calls the server.
pub(crate) trait Call: Args {
    /// Calls the server, and reports the result.
    async fn run(&self, client: &Client) -> Result<Report, CliError>;
}

// Without a doc comment, which would replace the help text of the command.
#[derive(Debug, Args)]
pub(crate) struct Remote<A: Args> {
    #[command(flatten)]
    args: A,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: ConnectionArgs,
}

impl<A: Call> Remote<A> {
    pub(crate) async fn run(&self) -> Result<Report, CliError> {
        let client = Client::new(&self.connection, &self.output, names::<A>()).await?;
        self.args.run(&client).await
    }
}

/// A connection to a server.
#[derive(Debug)]
pub(crate) struct Client {
    connection: ConnectionArgs,
    output: OutputArgs,
    names: ArgumentNames,
    channel: Channel,
    actor: Option<AsciiMetadataValue>,
    token: Option<AsciiMetadataValue>,
}

impl Client {
    /// Connects. Errors about a field of a request show the argument from `names` instead.
    pub(crate) async fn new(
        connection: &ConnectionArgs,
        output: &OutputArgs,
        names: ArgumentNames,
    ) -> Result<Self, CliError> {
        let (token, actor) = (connection.token()?, connection.actor()?);
        let channel = connection.connect().await?;
        let (connection, output) = (connection.clone(), output.clone());
        Ok(Self { connection, output, names, channel, actor, token })
    }

    pub(crate) fn admin(&self) -> SupportAccessAdminClient<Channel> {
        SupportAccessAdminClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_LENGTH_MAX)
    }

    pub(crate) fn checks(&self) -> SupportAccessClient<Channel> {
        SupportAccessClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LENGTH_MAX)
    }

    pub(crate) fn nodes(&self) -> CheckNodesClient<Channel> {
        CheckNodesClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_LENGTH_MAX)
    }

    pub(crate) fn info(&self) -> ServerInfoClient<Channel> {
        ServerInfoClient::new(self.channel.clone())
    }

    /// The deadline of a call that starts now.
    pub(crate) fn deadline(&self) -> Instant {
        Instant::now() + self.connection.timeout.0
    }

    /// Sends a request, within the timeout.
    pub(crate) async fn call<M: Clone, A>(
        &self,
        message: M,
        send: impl AsyncFn(Request<M>) -> Result<Response<A>, Status>,
    ) -> Result<A, CliError> {
        self.call_until(self.deadline(), message, send).await
    }

    /// Sends a change, within the timeout. If the server may have made the change, the hint states
    /// how to repeat the command without a second change.
    pub(crate) async fn change<M: Clone, A>(
        &self,
        request_id: &str,
        message: M,
        send: impl AsyncFn(Request<M>) -> Result<Response<A>, Status>,
    ) -> Result<A, CliError> {
        self.call(message, send).await.map_err(|error| {
            if !error.is_uncertain() {
                return error;
            }
            error.with_hint(format!(
                "the change may have been made; repeat the command with --request-id {request_id} \
                 to make the change only once"
            ))
        })
    }

    /// Sends a request, and retries if the server returns a retry delay. Retries are safe, because
    /// every change has a request id.
    pub(crate) async fn call_until<M: Clone, A>(
        &self,
        deadline: Instant,
        message: M,
        send: impl AsyncFn(Request<M>) -> Result<Response<A>, Status>,
    ) -> Result<A, CliError> {
        let mut retried: Option<Status> = None;
        loop {
            let remaining = deadline.saturating_duration_since(Instant::now());
            let mut request = Request::new(message.clone());
            request.set_timeout(remaining);
            if let Some(actor) = &self.actor {
                request.metadata_mut().insert(ACTOR_KEY, actor.clone());
            }
            if let Some(token) = &self.token {
                request.metadata_mut().insert(AUTHORIZATION, token.clone());
            }
            let error = match timeout(remaining + DEADLINE_GRACE, send(request)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => match retry_delay(&status) {
                    Some(delay) if Instant::now() + delay < deadline => {
                        retried = Some(status);
                        sleep(delay).await;
                        continue;
                    }
                    _ => self.error(&status).await,
                },
                Err(_) => CliError::no_response(),
            };
            // The cause of the retries is more useful than the timeout of the last retry.
            return Err(match retried {
                Some(status) if error.code == Code::DeadlineExceeded => self.error(&status).await,
                _ => error,
            });
        }
    }

    /// The error of a call. A status with a source comes from the client, not from the server.
    pub(crate) async fn error(&self, status: &Status) -> CliError {
        match status.source() {
            Some(source) if causes(source).any(<dyn Error>::is::<TimeoutExpired>) => {
                CliError::no_response()
            }
            Some(source) => self.connection.explain(source).await,
            None => CliError::from_status(status, &self.names),
        }
    }

    /// A response in the requested format.
    pub(crate) fn report<M: prost::Name>(
        &self,
        response: &M,
        to_text: impl FnOnce(Layout, &M) -> String,
    ) -> Result<Report, CliError> {
        if self.is_json() {
            return Ok(Report::new(to_json(&JsonMessage::new(response)?)?));
        }
        Ok(Report::new(to_text(self.layout(), response)))
    }

    pub(crate) fn is_json(&self) -> bool {
        self.output.output == Format::Json
    }

    pub(crate) fn layout(&self) -> Layout {
        stdout_layout(self.output.wide)
    }
}

/// The delay before a retry. `None`: the server does not suggest a retry.
fn retry_delay(status: &Status) -> Option<Duration> {
    let delay = status.get_details_retry_info()?.retry_delay?;
    Some(delay.max(RETRY_DELAY_MIN))
}

impl Report {
    /// Sets the exit code and adds the warning for a change that is not yet enforced. An unknown
    /// state guarantees nothing, and counts as pending.
    pub(crate) fn with_enforcement(mut self, enforcement: Option<&v1::Enforcement>) -> Self {
        let state = enforcement.map(v1::Enforcement::state);
        if state != Some(v1::EnforcementState::Complete) {
            self.exit = Exit::Pending;
            self.warnings.push(PENDING.into());
        }
        self
    }
}
