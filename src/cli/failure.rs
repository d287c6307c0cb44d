//! Why a command failed, in words that help: the argument at fault, and what to do about it.

use std::{error::Error, iter};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::table::clean;

const NO_ANSWER: &str = "the server did not answer in time";

/// Which argument of a command fills which field of its request.
pub(crate) type Fields = &'static [(&'static str, &'static str)];

/// A command that did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whether the command line or configuration is wrong, and nothing was tried.
    pub(crate) is_usage: bool,
    /// What is wrong, a sentence each.
    pub(crate) problems: Vec<String>,
    /// What would help.
    pub(crate) hint: Option<String>,
    /// Whether it may have been done all the same.
    pub(crate) maybe_done: bool,
}

impl Failure {
    /// Something went wrong.
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self { is_usage: false, problems: vec![problem.into()], hint: None, maybe_done: false }
    }

    /// The command line or the configuration is wrong.
    pub(crate) fn usage(problem: impl Into<String>) -> Self {
        Self { is_usage: true, ..Self::new(problem) }
    }

    /// Something went wrong, for reasons that `error` and its sources give.
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

    /// There was no answer while one was waited for.
    pub(crate) fn no_answer() -> Self {
        let hint = hint(Code::DeadlineExceeded, Subject::Other).map(str::to_owned);
        Self { hint, maybe_done: true, ..Self::new(NO_ANSWER) }
    }

    /// What the server, or the way to it, made of a request.
    pub(crate) fn of_status(status: &Status, fields: Fields) -> Self {
        let code = status.code();
        let violations = status
            .get_details_bad_request()
            .map(|found| found.field_violations)
            .unwrap_or_default();
        let problems = if violations.is_empty() {
            vec![describe(status)]
        } else {
            let show = |field: &str, description: &str| {
                format!("{}: {}", argument(field, fields), clean(description))
            };
            violations.iter().map(|found| show(&found.field, &found.description)).collect()
        };
        let is_about = |field: &str| violations.iter().any(|found| found.field == field);
        let info = status.get_details_error_info();
        let is_too_many_locks = info.is_some_and(|info| info.reason == "TOO_MANY_LOCKS");
        let subject = match () {
            () if is_too_many_locks => Subject::Lock,
            () if is_about("grant_id") => Subject::Grant,
            () if is_about("consistency_token") => Subject::Token,
            () if is_about("lock_id") => Subject::Lock,
            () => Subject::Other,
        };
        let maybe_done = matches!(
            code,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown
        );
        let hint = hint(code, subject).map(str::to_owned);
        Self { is_usage: false, problems, hint, maybe_done }
    }
}

/// An error, what caused it, what caused that, and so on.
pub(crate) fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |&error| error.source())
}

/// The argument that fills `field`, or the field itself where there is none. Of a list's item it is the list's.
fn argument(field: &str, fields: Fields) -> String {
    let path = field.strip_prefix("policy_overrides.").unwrap_or(field);
    let path = path.strip_prefix("check.").unwrap_or(path);
    let list = path.split(['[', '.']).next().unwrap_or(path);
    match fields.iter().find(|(name, _)| *name == list) {
        Some((_, argument)) => (*argument).to_owned(),
        None => clean(field),
    }
}

fn describe(status: &Status) -> String {
    if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) {
        return NO_ANSWER.into();
    }
    // A connection that broke has its cause at the bottom of the chain.
    let cause = status.source().and_then(|source| causes(source).last());
    match (status.message(), cause) {
        (_, Some(cause)) => {
            format!("the connection to the server failed: {}", clean(&cause.to_string()))
        }
        ("", None) => status.code().description().into(),
        (message, None) => clean(message),
    }
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Grant,
    Token,
    Lock,
    Other,
}

fn hint(code: Code, subject: Subject) -> Option<&'static str> {
    Some(match code {
        Code::InvalidArgument => "--help says what each argument may be",
        Code::FailedPrecondition if subject == Subject::Grant => {
            "an ended grant stays ended; `support-access grant` makes a new one"
        }
        Code::FailedPrecondition => "`support-access policy show TENANT` shows what may be chosen",
        Code::NotFound if subject == Subject::Token => {
            "--tenant names the tenant in whose history the change is"
        }
        Code::NotFound if subject == Subject::Lock => {
            "`support-access locks --all` shows the locks there are, and --tenant names the tenant of one"
        }
        Code::NotFound => "`support-access list TENANT` shows the grants that the tenant has",
        Code::Aborted => {
            "somebody else changed it since; look again, and repeat the command with the etag of now, or without"
        }
        Code::AlreadyExists => "leave --request-id out: every call is given a new one",
        Code::ResourceExhausted if subject == Subject::Lock => {
            "lift locks that are no longer needed: `support-access locks` shows them"
        }
        Code::ResourceExhausted => "revoke grants that are no longer needed",
        Code::Unavailable => "nothing was half done; the same command may be given again",
        Code::DeadlineExceeded | Code::Cancelled => {
            "it may have been done all the same; --timeout allows more time"
        }
        Code::Unimplemented => {
            "the server may be a sidecar, which only answers checks, or of another version; --server names another"
        }
        Code::Ok
        | Code::Unknown
        | Code::PermissionDenied
        | Code::OutOfRange
        | Code::Internal
        | Code::DataLoss
        | Code::Unauthenticated => return None,
    })
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, FieldViolation};

    use super::*;

    const FIELDS: Fields = &[("duration", "--for"), ("named_agents", "--agent")];

    fn refused(code: Code, violations: &[(&str, &str)]) -> Failure {
        let violations: Vec<_> =
            violations.iter().map(|(field, text)| FieldViolation::new(*field, *text)).collect();
        let details = ErrorDetails::with_bad_request(violations);
        Failure::of_status(&Status::with_error_details(code, "refused", details), FIELDS)
    }

    #[test]
    fn fields_are_shown_as_the_arguments_that_fill_them() {
        let violations = [
            ("duration", "must be positive"),
            ("named_agents.agent_ids[2]", "must not be empty"),
            ("policy_overrides.other", "must not be \u{1b}[31m"),
        ];
        let failure = refused(Code::InvalidArgument, &violations);
        assert_eq!(
            failure,
            Failure {
                is_usage: false,
                problems: vec![
                    "--for: must be positive".into(),
                    "--agent: must not be empty".into(),
                    "policy_overrides.other: must not be \u{fffd}[31m".into(),
                ],
                hint: Some("--help says what each argument may be".into()),
                maybe_done: false,
            }
        );
    }

    #[test]
    fn a_status_without_details_is_shown_by_its_message() {
        let failure = Failure::of_status(&Status::not_found("no such grant\u{7}"), FIELDS);
        assert_eq!(failure.problems, ["no such grant\u{fffd}"]);
        let failure = Failure::of_status(&Status::new(Code::Internal, ""), FIELDS);
        assert_eq!(failure.problems, ["Internal error"]);
    }

    #[test]
    fn an_ended_grant_has_a_hint_of_its_own() {
        let hint = |field| refused(Code::FailedPrecondition, &[(field, "wrong")]).hint.unwrap();
        assert!(hint("grant_id").contains("stays ended"));
        assert!(hint("duration").contains("policy show"));
    }
}
