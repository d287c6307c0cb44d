//! Messages and words: [`requests`] and [`questions`] check what comes in, field by field; [`responses`] puts what goes out
//! into messages.

mod fields;
pub(super) mod questions;
pub(super) mod requests;
pub(super) mod responses;
