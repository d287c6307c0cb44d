//! An HTTP request at a gateway, and why the request cannot become a check.

use std::{borrow::Cow, collections::HashMap};

use serde_json::Value;

use crate::domain::Reason;

/// The parts of an HTTP request that sources read. No part is logged: headers contain credentials.
#[derive(Debug, Default)]
pub struct HttpRequest<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, with or without the query.
    pub path: &'a str,
    /// All headers. Names are in lower case. The gateway may have joined repeated headers with
    /// commas.
    pub headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Constants from the configuration of the gateway.
    pub extensions: HashMap<String, String>,
    /// The claims that the gateway has verified.
    pub verified_claims: Option<Value>,
}

/// Why a request cannot become a check. The request is denied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputError {
    /// One of the reasons for integrations.
    pub reason: Reason,
    /// The source, the problem and the fix, without values of the request.
    pub message: String,
}

impl InputError {
    pub(super) fn missing(message: String) -> Self {
        Self { reason: Reason::InputMissing, message }
    }

    pub(super) fn ambiguous(message: String) -> Self {
        Self { reason: Reason::InputAmbiguous, message }
    }

    pub(super) fn invalid(message: String) -> Self {
        Self { reason: Reason::InputInvalid, message }
    }

    pub(super) fn overflow(message: String) -> Self {
        Self { reason: Reason::ClaimOverflow, message }
    }
}

impl HttpRequest<'_> {
    /// The values of the headers with this name, in the order of the request.
    pub(super) fn header<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let named = self.headers.iter().filter(move |(found, _)| found.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_ref())
    }
}
