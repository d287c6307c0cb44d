//! The way to the server.

use std::time::Duration;

use clap::Args;
use tokio::time::{Instant, sleep, timeout};
use tonic::{
    Request, Response, Status,
    metadata::AsciiMetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use super::{
    failure::{Failure, Fields, causes},
    json::to_json,
    output::{Exit, Report, look_of_stdout},
    table::Look,
};
use crate::{
    api::{
        credentials::{AUTHORIZATION, is_exposed},
        proto::v1::{
            self, check_nodes_client::CheckNodesClient,
            support_access_admin_client::SupportAccessAdminClient,
            support_access_client::SupportAccessClient,
        },
    },
    domain::Span,
};

use args::{ClientArgs, Format, os_user};

mod args;

/// The metadata key that says who acts.
const ACTOR_KEY: &str = "support-access-actor";
/// An answer of 1,000 grants with everything at its longest.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// What the server's own word about a deadline may take to arrive.
const GRACE: Duration = Duration::from_millis(250);
/// For the commands whose answers say how far a change has come.
pub(crate) const CHANGE_EXIT_CODES: &str = "\
Exit codes: 0 done, and in force at every check node; 1 failed; 2 done, and permanent, but not yet
known at every check node (PENDING); 64 wrong usage.";
/// What is to be known about a change that is not known to be in force.
const PENDING: &str = "the change is permanent, but not yet known at every check node";
/// Between two attempts, at least.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);

// No doc comment, since it would take the place of the command's, which is that of `A`.
#[derive(Debug, Args)]
pub(crate) struct Asking<A: Args> {
    #[command(flatten)]
    client: ClientArgs,
    #[command(flatten)]
    pub(crate) args: A,
}

impl<A: Args> Asking<A> {
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        Client::connect(&self.client).await
    }
}

/// An answer of the server that can be shown.
pub(crate) trait Answer: prost::Message + Sized {
    /// Its message in `supportaccess.v1`.
    const NAME: &'static str;

    /// It, for people.
    fn for_people(&self, look: Look) -> String;
}

/// What is to be known about a kind of request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// Which arguments fill its fields.
    pub(crate) fields: Fields,
    /// Whether sending it twice does what sending it once does.
    pub(crate) repeatable: bool,
}

/// A connection to a server.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    channel: Channel,
    actor: Option<AsciiMetadataValue>,
    token: Option<AsciiMetadataValue>,
    timeout: Duration,
    output: Format,
}

impl Client {
    async fn connect(args: &ClientArgs) -> Result<Self, Failure> {
        let ClientArgs { server, actor, timeout: Span(limit), output, .. } = args.clone();
        let credentials = args.credentials();
        let token = credentials.token().map_err(Failure::usage)?;
        if token.is_some() && is_exposed(&server) {
            return Err(Failure::usage(format!(
                "the token would be sent to {server} for everybody on the way to read: write the server with https://"
            )));
        }
        let actor = actor.map_or_else(os_user, |actor| Ok(Some(actor)))?;
        let endpoint = Endpoint::from_shared(server.clone())
            .map_err(|_| Failure::usage(format!("--server: {server:?} is not an address")))?;
        let endpoint = if server.starts_with("https://") {
            let secured = endpoint.tls_config(credentials.tls().map_err(Failure::usage)?);
            secured.map_err(|error| {
                let cause = causes(&error).last().map(ToString::to_string).unwrap_or_default();
                Failure::usage(format!("the certificates cannot be used: {cause}"))
            })?
        } else {
            endpoint
        };
        let unreachable = |cause: &str| {
            Failure::new(format!("the server at {server} cannot be reached: {cause}")).with_hint(
                "`support-access serve` starts one on this machine; --server, or SUPPORT_ACCESS_SERVER, names another",
            )
        };
        let channel = match timeout(limit, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => {
                let cause = causes(&error).last().map(ToString::to_string).unwrap_or_default();
                return Err(unreachable(&cause));
            }
            Err(_) => return Err(unreachable("no answer in time")),
        };
        Ok(Self { channel, actor, token, timeout: limit, output })
    }

    pub(crate) fn admin(&self) -> SupportAccessAdminClient<Channel> {
        SupportAccessAdminClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn checks(&self) -> SupportAccessClient<Channel> {
        SupportAccessClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(crate) fn nodes(&self) -> CheckNodesClient<Channel> {
        CheckNodesClient::new(self.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// How long answers may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The same, with less patience.
    pub(crate) fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// Sends `message`; again, if that does no harm and the server says when. All of it within the time there is.
    pub(crate) async fn call<M: Clone, A>(
        &self,
        call: &Call,
        message: M,
        send: impl AsyncFn(Request<M>) -> Result<Response<A>, Status>,
    ) -> Result<A, Failure> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut request = Request::new(message.clone());
            request.set_timeout(left);
            if let Some(actor) = &self.actor {
                request.metadata_mut().insert(ACTOR_KEY, actor.clone());
            }
            if let Some(token) = &self.token {
                request.metadata_mut().insert(AUTHORIZATION, token.clone());
            }
            let status = match timeout(left + GRACE, send(request)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => return Err(Failure::no_answer()),
            };
            let delay = status.get_details_retry_info().and_then(|retry| retry.retry_delay);
            match delay.map(|delay| delay.max(RETRY_DELAY_MIN)) {
                Some(delay) if call.repeatable && Instant::now() + delay < deadline => {
                    sleep(delay).await;
                }
                _ => return Err(Failure::of_status(&status, call.fields)),
            }
        }
    }

    /// `answer` as it was asked for.
    pub(crate) fn report<A: Answer>(&self, answer: &A) -> Result<Report, Failure> {
        let text = match self.output {
            Format::Table => answer.for_people(look_of_stdout()),
            Format::Json => to_json(A::NAME, answer)?,
        };
        Ok(Report { text, ..Report::default() })
    }

    /// `answer` as it was asked for, and how far the change that it tells of has come.
    pub(crate) fn report_change<A: Answer>(
        &self,
        answer: &A,
        enforcement: Option<&v1::Enforcement>,
    ) -> Result<Report, Failure> {
        let report = self.report(answer)?;
        match enforcement.map(v1::Enforcement::state) {
            Some(v1::EnforcementState::Complete) => Ok(report),
            // A state whose name is unknown here is no promise either.
            _ => Ok(Report { exit: Exit::Unknown, warning: Some(PENDING.into()), ..report }),
        }
    }
}
