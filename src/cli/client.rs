//! The way to the server.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::time::{Instant, sleep, timeout};
use tonic::{
    Request, Response, Status,
    metadata::AsciiMetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use super::{
    args::parse_span,
    failure::{Failure, Fields, causes},
    json::to_json,
    output::{Exit, Report, look_of_stdout},
    table::Look,
};
use crate::{
    api::proto::v1::{
        self, check_nodes_client::CheckNodesClient,
        support_access_admin_client::SupportAccessAdminClient,
        support_access_client::SupportAccessClient,
    },
    domain::{Caller, Span},
};

/// The metadata key that says who acts.
const ACTOR_KEY: &str = "support-access-actor";
/// An answer of 1,000 grants with everything at its longest.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// What the server's own word about a deadline may take to arrive.
const GRACE: Duration = Duration::from_millis(250);
/// Above the arguments of [`ClientArgs`] in help texts.
const HEADING: &str = "Options of the commands that ask a server";
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

/// How to reach the server, and how to show its answer.
#[derive(Debug, Clone, Args)]
struct ClientArgs {
    #[arg(
        long,
        help = "The server: http://HOST:PORT, or unix:PATH for a socket on this machine",
        global = true,
        help_heading = HEADING,
        value_name = "URL",
        env = "SUPPORT_ACCESS_SERVER",
        hide_env_values = true,
        default_value = "http://127.0.0.1:50051",
        value_parser = parse_server
    )]
    server: String,
    /// Who acts, for the history: 1 to 128 ASCII characters. Default: the user of this machine ($USER, or $LOGNAME).
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "NAME",
        env = "SUPPORT_ACCESS_ACTOR",
        hide_env_values = true,
        value_parser = parse_actor
    )]
    actor: Option<AsciiMetadataValue>,
    /// How long to wait for an answer, such as 500ms, 10s or 1m. The server is told, and gives up then too.
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "DURATION",
        env = "SUPPORT_ACCESS_TIMEOUT",
        hide_env_values = true,
        default_value = "10s",
        value_parser = parse_timeout
    )]
    timeout: Span,
    /// How to show the answer: a table for people, or JSON for scripts. JSON is the answer's message in protobuf's JSON
    /// mapping, under the field names of the .proto files; 64-bit numbers are strings there.
    #[arg(
        long,
        global = true,
        help_heading = HEADING,
        value_name = "FORMAT",
        env = "SUPPORT_ACCESS_OUTPUT",
        hide_env_values = true,
        default_value = "table"
    )]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
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
    timeout: Duration,
    output: Format,
}

impl Client {
    async fn connect(args: &ClientArgs) -> Result<Self, Failure> {
        let ClientArgs { server, actor, timeout: Span(limit), output } = args.clone();
        let actor = actor.map_or_else(os_user, |actor| Ok(Some(actor)))?;
        let endpoint = Endpoint::from_shared(server.clone())
            .map_err(|_| Failure::usage(format!("--server: {server:?} is not an address")))?;
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
        Ok(Self { channel, actor, timeout: limit, output })
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

fn parse_server(text: &str) -> Result<String, String> {
    const EXAMPLE: &str = "write it like http://127.0.0.1:50051 or unix:/run/support-access.sock";
    let is_path = text.strip_prefix("unix:").is_some_and(|path| !path.is_empty());
    let is_url = text.starts_with("http://")
        && text.parse::<http::Uri>().is_ok_and(|uri| matches!(uri.path(), "" | "/"));
    if text.starts_with("https://") {
        return Err(format!("TLS is not supported yet; {EXAMPLE}"));
    }
    if is_path || is_url { Ok(text.to_owned()) } else { Err(EXAMPLE.into()) }
}

fn parse_timeout(text: &str) -> Result<Span, String> {
    parse_span(text).and_then(|span| {
        let is_sensible = !span.is_zero() && span <= Span::hours(24);
        is_sensible.then_some(span).ok_or_else(|| "it must be more than 0, and at most 24h".into())
    })
}

fn parse_actor(text: &str) -> Result<AsciiMetadataValue, String> {
    Caller::local(Some(text)).map_err(|error| format!("the name {error}"))?;
    if !text.is_ascii() {
        return Err("the name must be ASCII".into());
    }
    text.parse().map_err(|_| "the name cannot be sent".into())
}

/// The user of this machine; `None` if it does not say, and then the server calls the caller anonymous.
fn os_user() -> Result<Option<AsciiMetadataValue>, Failure> {
    let get = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(user) = get("USER").or_else(|| get("LOGNAME")) else { return Ok(None) };
    let refuse = |found| {
        Failure::usage(format!("this machine's user {user:?} cannot be the actor: {found}"))
            .with_hint("--actor, or SUPPORT_ACCESS_ACTOR, gives another name")
    };
    parse_actor(&user).map(Some).map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_urls_or_sockets() {
        for text in
            ["http://127.0.0.1:50051", "http://[::1]:1/", "http://host", "unix:/a", "unix:a"]
        {
            assert_eq!(parse_server(text), Ok(text.to_owned()));
        }
        for text in
            ["", "unix:", "127.0.0.1:50051", "http://", "http://a/b", "https://a", "ftp://a"]
        {
            assert!(parse_server(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn actors_are_ascii_and_not_the_system() {
        assert!(parse_actor("alice@acme.example").is_ok());
        for text in ["", " a", "é", "system", "a\nb", &"x".repeat(129)] {
            assert!(parse_actor(text).is_err(), "{text:?}");
        }
    }
}
