//! Errors of commands: the message, the argument at fault, the exit code and a hint.

use std::{collections::BTreeMap, error::Error, iter};

use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{exit::Exit, table::clean};
use crate::api::proto::v1::ErrorReason;

/// The names of a command's arguments by id. An id is the name of the field of the request
/// that the argument fills.
pub(crate) type ArgumentNames = BTreeMap<String, String>;

/// The metadata key that names the actor, and the argument.
const ACTOR: (&str, &str) = ("support-access-actor", "--actor");

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CliError {
    /// The exit code.
    pub(crate) exit: Exit,
    /// The gRPC code of the server, or the matching code for an error of the client.
    pub(crate) code: Code,
    /// The error reason of the server. Empty: no error reason.
    pub(crate) reason: String,
    /// The problem, in one sentence.
    pub(crate) message: String,
    /// The arguments at fault, which replace the message in output for people.
    pub(crate) violations: Box<[Violation]>,
    /// The limits that the request exceeds.
    pub(crate) metadata: BTreeMap<String, String>,
    /// The remedy.
    pub(crate) hint: Option<String>,
}

/// An argument at fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Violation {
    /// The field of the request. Empty: the error is not about a request.
    pub(crate) field: String,
    /// The argument that fills the field. Empty: the description names the argument.
    pub(crate) argument: String,
    /// The violation reason of the server.
    pub(crate) reason: String,
    /// The problem, in one sentence.
    pub(crate) description: String,
}

impl CliError {
    /// An unexpected error.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Unexpected,
            code: Code::Unknown,
            reason: String::new(),
            message: message.into(),
            violations: Box::default(),
            metadata: BTreeMap::new(),
            hint: None,
        }
    }

    /// An error in the command line or in the configuration.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, code: Code::InvalidArgument, ..Self::new(message) }
    }

    /// Several errors in the configuration.
    pub(crate) fn invalid(problems: Vec<String>) -> Self {
        let message = problems.join("; ");
        let to_violation = |description| Violation {
            field: String::new(),
            argument: String::new(),
            reason: String::new(),
            description,
        };
        let violations = problems.into_iter().map(to_violation).collect();
        Self { violations, ..Self::usage(message) }
    }

    /// The server cannot be reached.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self { exit: Exit::Unavailable, code: Code::Unavailable, ..Self::new(message) }
    }

    /// The server did not respond before the deadline.
    pub(crate) fn no_response() -> Self {
        Self {
            exit: Exit::Unavailable,
            code: Code::DeadlineExceeded,
            hint: hint(Code::DeadlineExceeded, None).map(Into::into),
            ..Self::new("the server did not respond before the deadline")
        }
    }

    /// An unexpected error with all causes.
    pub(crate) fn because(error: &(dyn Error + 'static)) -> Self {
        let mut text = error.to_string();
        for cause in causes(error).map(ToString::to_string) {
            if !text.contains(&cause) {
                text = format!("{text}: {cause}");
            }
        }
        Self::new(text)
    }

    pub(crate) fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// An error that the server returned.
    pub(crate) fn from_status(status: &Status, names: &ArgumentNames) -> Self {
        let code = status.code();
        if matches!(code, Code::DeadlineExceeded | Code::Cancelled) {
            return Self::no_response();
        }
        let info = status.get_details_error_info();
        let (name, metadata) = info.map(|info| (info.reason, info.metadata)).unwrap_or_default();
        let reason = ErrorReason::from_str_name(&format!("ERROR_REASON_{name}"));
        let message = match status.message() {
            "" => code.description().into(),
            message => clean(message),
        };
        let violations = status.get_details_bad_request().map(|found| found.field_violations);
        let violations = violations.into_iter().flatten().map(|found| Violation {
            argument: argument(&found.field, names),
            field: clean(&found.field),
            reason: clean(&found.reason),
            description: clean(&found.description),
        });
        let metadata = metadata.iter().map(|(key, value)| (clean(key), clean(value)));
        Self {
            exit: exit(code, reason),
            code,
            reason: clean(&name),
            message,
            violations: violations.collect(),
            metadata: metadata.collect(),
            hint: hint(code, reason).map(Into::into),
        }
    }

    /// Whether the server may have made the change.
    pub(crate) fn is_uncertain(&self) -> bool {
        matches!(self.code, Code::Unavailable | Code::DeadlineExceeded | Code::Unknown)
    }

    /// The lines for people: a line for each argument at fault, or the message.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> {
        let message = self.violations.is_empty().then(|| self.message.clone());
        let to_line = |found: &Violation| match found.argument.as_str() {
            "" => found.description.clone(),
            argument => format!("{argument}: {}", found.description),
        };
        message.into_iter().chain(self.violations.iter().map(to_line))
    }
}

impl From<&clap::Error> for CliError {
    /// The message without the usage lines that follow.
    fn from(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let message = text.split("\n\nUsage:").next().unwrap_or(&text);
        let words: Vec<&str> = message.split_whitespace().collect();
        let message = words.join(" ");
        Self::usage(clean(message.strip_prefix("error: ").unwrap_or(&message)))
    }
}

/// An error, its cause, the cause of that cause, and so on.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

/// The argument that fills `field`. Without such an argument, the name of the field.
fn argument(field: &str, names: &ArgumentNames) -> String {
    if field == ACTOR.0 {
        return ACTOR.1.into();
    }
    let path = field.strip_prefix("policy_overrides.").unwrap_or(field);
    let path = path.strip_prefix("check.").unwrap_or(path);
    let id = path.split(['[', '.']).next().unwrap_or(path);
    names.get(id).cloned().unwrap_or_else(|| clean(field))
}

fn exit(code: Code, reason: Option<ErrorReason>) -> Exit {
    match (reason, code) {
        (Some(ErrorReason::PolicyViolation), _) => Exit::PolicyViolation,
        (Some(ErrorReason::LockOfOtherParty), _)
        | (_, Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists) => Exit::Conflict,
        (_, Code::InvalidArgument | Code::OutOfRange) => Exit::Usage,
        (_, Code::NotFound) => Exit::NotFound,
        (_, Code::Unauthenticated | Code::PermissionDenied) => Exit::NotPermitted,
        (
            _,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted,
        ) => Exit::Unavailable,
        (_, Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss | Code::Unimplemented) => {
            Exit::Unexpected
        }
    }
}

fn hint(code: Code, reason: Option<ErrorReason>) -> Option<&'static str> {
    use ErrorReason as Reason;
    let by_reason = match reason {
        Some(Reason::PolicyViolation) => {
            "`support-access policy get TENANT` shows what the policy allows"
        }
        Some(Reason::GrantNotFound) => "`support-access list TENANT` lists the tenant's grants",
        Some(Reason::GrantEnded) => "`support-access grant` creates a new grant",
        Some(Reason::LockNotFound) => {
            "`support-access lock list TENANT --ended` lists the locks in a tenant; --all-tenants \
             instead of TENANT lists every lock"
        }
        Some(Reason::EtagMismatch) => "read the object again, and use its new etag",
        Some(Reason::RequestIdReused) => {
            "omit --request-id, so that each command has a separate id"
        }
        Some(Reason::TooManyLiveGrants) => {
            "revoke grants that are no longer needed, or name fewer agents"
        }
        Some(Reason::TooManyLiveGrantsToGroup) => {
            "revoke grants to the group that are no longer needed, or name further agents in one \
             grant"
        }
        Some(Reason::TooManyLocks) => "lift locks that are no longer needed",
        Some(Reason::ConsistencyTokenInvalid) => {
            "omit --token, or use the token of a change after the restore of the database"
        }
        Some(Reason::ClockUnreliable) => {
            "an operator must correct the clock of the database, or run support-access clock accept"
        }
        Some(Reason::EventNotFound) => "name the tenant whose history contains the change",
        Some(Reason::ReplicaRequired) => "the server is a sidecar; name a replica with --server",
        Some(Reason::CredentialsMissing) => {
            "--certificate and --key, or --token-file, name the credentials"
        }
        Some(Reason::RoleMissing | Reason::NotOwnTenant) => {
            "`support-access whoami` shows the caller's roles and tenants"
        }
        _ => return hint_of_code(code),
    };
    Some(by_reason)
}

fn hint_of_code(code: Code) -> Option<&'static str> {
    match code {
        Code::InvalidArgument => Some("--help describes each argument"),
        Code::Unavailable => Some("a change was made as a whole or not at all; repeat the command"),
        Code::DeadlineExceeded => {
            Some("a change may have been made; --timeout sets a longer timeout")
        }
        Code::Unimplemented => Some("the server may have another version; see `version`"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    fn names() -> ArgumentNames {
        let names = [("duration", "--for"), ("named_agents", "--agent")];
        names.map(|(id, name)| (id.to_owned(), name.to_owned())).into()
    }

    fn status(reason: ErrorReason, violations: &[(&str, &str)]) -> Status {
        let to_violation = |(field, text): &(&str, &str)| FieldViolation::new(*field, *text);
        let mut details = ErrorDetails::new();
        let metadata = HashMap::from([("max_duration".to_owned(), "604800s".to_owned())]);
        details.set_error_info(reason.name(), "supportaccess.v1", metadata);
        details.set_bad_request(violations.iter().map(to_violation).collect::<Vec<_>>());
        Status::with_error_details(reason.description().code, "rejected", details)
    }

    #[test]
    fn violations_name_the_argument_that_fills_the_field() {
        let violations = [
            ("duration", "must be positive"),
            ("named_agents.agent_ids[2]", "must not be empty"),
            ("policy_overrides.other", "must not be \u{1b}[31m"),
            ("support-access-actor", "must be ASCII"),
        ];
        let error =
            CliError::from_status(&status(ErrorReason::InvalidField, &violations), &names());
        let lines: Vec<String> = error.lines().collect();
        let expected = [
            "--for: must be positive",
            "--agent: must not be empty",
            "policy_overrides.other: must not be \u{fffd}[31m",
            "--actor: must be ASCII",
        ];
        assert_eq!(lines, expected);
        assert_eq!((error.exit, error.reason.as_str()), (Exit::Usage, "INVALID_FIELD"));
        assert_eq!(error.metadata["max_duration"], "604800s");
    }

    #[test]
    fn a_status_without_details_is_shown_by_its_message() {
        let lines =
            |status| -> Vec<String> { CliError::from_status(&status, &names()).lines().collect() };
        assert_eq!(lines(Status::not_found("no such grant\u{7}")), ["no such grant\u{fffd}"]);
        assert_eq!(lines(Status::new(Code::Internal, "")), ["Internal error"]);
    }

    #[test]
    fn every_reason_has_the_documented_exit_code() {
        let exits = |exit: Exit| -> Vec<&str> {
            ErrorReason::all()
                .filter(|reason| {
                    CliError::from_status(&status(*reason, &[]), &names()).exit == exit
                })
                .map(ErrorReason::name)
                .collect()
        };
        assert_eq!(exits(Exit::NotFound), ["GRANT_NOT_FOUND", "LOCK_NOT_FOUND", "EVENT_NOT_FOUND"]);
        assert_eq!(exits(Exit::PolicyViolation), ["POLICY_VIOLATION"]);
        let conflicts = exits(Exit::Conflict);
        for reason in ["GRANT_ENDED", "LOCK_OF_OTHER_PARTY", "ETAG_MISMATCH", "REQUEST_ID_REUSED"] {
            assert!(conflicts.contains(&reason), "{conflicts:?}");
        }
        assert!(exits(Exit::NotPermitted).contains(&"ROLE_MISSING"));
        for reason in ["TOO_MANY_LIVE_GRANTS", "TOO_MANY_LIVE_GRANTS_TO_GROUP"] {
            assert!(exits(Exit::Unavailable).contains(&reason));
        }
        let unexpected = ["INTERNAL", "REPLICA_REQUIRED", "METHOD_NOT_FOUND"];
        assert_eq!(exits(Exit::Unexpected), unexpected);
    }
}
