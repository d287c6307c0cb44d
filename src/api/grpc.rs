//! Stub: stands in until the handlers are merged.
#![allow(missing_docs, reason = "a stub")]

pub mod access;
pub mod admin;
