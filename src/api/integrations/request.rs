//! An HTTP request at a gateway, and why the request cannot become a check.

use std::{borrow::Cow, collections::HashMap};

use serde_json::Value;

use crate::domain::Reason;

/// The context extension of requests whose method and path may be in headers.
pub(in crate::api) const FORWARDED: &str = "support-access/forwarded";
/// The headers with the path and the method of a forwarded request.
const TARGETS: [(&str, &str); 2] =
    [("x-forwarded-uri", "x-forwarded-method"), ("x-original-uri", "x-original-method")];

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

impl<'a> HttpRequest<'a> {
    /// Replaces path and method by those in the headers of a proxy. A request whose path is part of
    /// the path of the question has no such headers.
    pub(in crate::api) fn forwarded(mut self) -> Result<Self, InputError> {
        if !self.path.is_empty() {
            let is_stated_twice =
                TARGETS.iter().any(|(path, _)| self.borrowed(path).next().is_some());
            return if is_stated_twice { Err(several_targets()) } else { Ok(self) };
        }
        let (path, method) = self.target()?.ok_or_else(|| {
            let message = "no header has the path of the request; let the gateway send \
                           X-Forwarded-Uri and X-Forwarded-Method, or X-Original-URI and \
                           X-Original-Method";
            InputError::missing(message.into())
        })?;
        (self.path, self.method) = (path, method);
        Ok(self)
    }

    /// The path and the method in the headers of a proxy.
    fn target(&self) -> Result<Option<(&'a str, &'a str)>, InputError> {
        let mut paths = TARGETS
            .iter()
            .flat_map(|(path, method)| self.borrowed(path).map(move |path| (path, *method)));
        let Some((path, method)) = paths.next() else { return Ok(None) };
        if paths.next().is_some() {
            return Err(several_targets());
        }
        let mut methods = self.borrowed(method);
        let found = methods.next().ok_or_else(|| {
            let message = format!("the header {method} is missing; let the gateway send it");
            InputError::missing(message)
        })?;
        if methods.next().is_some() {
            let message = format!("the header {method} has several values; send one");
            return Err(InputError::ambiguous(message));
        }
        Ok(Some((path, found)))
    }

    /// As [`Self::header`], with values that outlive the request.
    fn borrowed(&self, name: &str) -> impl Iterator<Item = &'a str> {
        self.headers.iter().filter_map(move |(found, value)| match value {
            Cow::Borrowed(value) if found.eq_ignore_ascii_case(name) => Some(*value),
            _ => None,
        })
    }

    /// The values of the headers with this name, in the order of the request.
    pub(super) fn header<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b str> {
        let named = self.headers.iter().filter(move |(found, _)| found.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_ref())
    }
}

fn several_targets() -> InputError {
    let message = "the path of the request is stated several times; let the gateway remove the \
                   headers of the client";
    InputError::ambiguous(message.into())
}
