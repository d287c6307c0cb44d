//! The answer to a gateway, independent of the protocol: a status, headers and a JSON body.

use std::time::Duration;

use chrono::SecondsFormat;
use http::{
    HeaderName, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use serde_json::json;
use tonic::Status;
use tonic_types::StatusExt;

use crate::{
    domain::{AccessLevel, Reason, Remedy},
    service::check::CheckResult,
};

/// The grant that allows the request.
pub const GRANT_ID: HeaderName = HeaderName::from_static("x-support-grant-id");
/// The level of the grant.
pub const LEVEL: HeaderName = HeaderName::from_static("x-support-level");
/// The end of the grant in the form of RFC 3339, or [`UNTIL_REVOKED`].
pub const UNTIL: HeaderName = HeaderName::from_static("x-support-until");
/// The value of [`UNTIL`] for a grant without an end.
const UNTIL_REVOKED: &str = "revoked";
/// Delay before a retry, unless the error states a longer one.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// 200 allows. 403 is a decision to deny. 503 is no decision, and denies, too.
    pub status: StatusCode,
    /// If the request is allowed, headers of the request that replace those of the client.
    /// Otherwise, headers of the response.
    pub headers: Vec<(HeaderName, String)>,
    /// The reason, the message and the remedy as JSON. Empty: the request is allowed.
    pub body: String,
}

impl Answer {
    /// The answer for a decision.
    pub fn decision(result: &CheckResult) -> Self {
        if let (Reason::GrantActive, Some(grant_id)) = (result.reason, result.grant_id) {
            let until = result.expire_time.map_or(UNTIL_REVOKED.into(), |time| {
                time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
            });
            let level = result.access_level.map_or("", AccessLevel::as_str);
            let headers =
                vec![(GRANT_ID, grant_id.to_string()), (LEVEL, level.into()), (UNTIL, until)];
            return Self { status: StatusCode::OK, headers, body: String::new() };
        }
        let (reason, remedy) = (result.reason.as_str(), result.remedy.as_str());
        let retry_after = (result.reason == Reason::Stale).then_some(RETRY_DELAY);
        Self::denial(reason, &result.message, remedy, retry_after)
    }

    /// The answer for a call that was refused before a decision.
    pub fn refusal(status: &Status) -> Self {
        let details = status.get_error_details();
        let reason = details.error_info().map_or("INTERNAL", |info| info.reason.as_str());
        let delay = details.retry_info().and_then(|info| info.retry_delay);
        let delay = delay.map_or(RETRY_DELAY, |delay| delay.max(RETRY_DELAY));
        Self::denial(reason, status.message(), Remedy::Retry.as_str(), Some(delay))
    }

    fn denial(reason: &str, message: &str, remedy: &str, retry_after: Option<Duration>) -> Self {
        let body = json!({ "reason": reason, "message": message, "remedy": remedy }).to_string();
        let mut headers =
            vec![(CONTENT_TYPE, "application/json".into()), (CACHE_CONTROL, "no-store".into())];
        let Some(delay) = retry_after else {
            return Self { status: StatusCode::FORBIDDEN, headers, body };
        };
        let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        headers.push((RETRY_AFTER, seconds.to_string()));
        Self { status: StatusCode::SERVICE_UNAVAILABLE, headers, body }
    }
}
