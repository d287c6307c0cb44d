//! Messages and words: [`requests`] and [`questions`] check what comes in, field by field; [`responses`] puts what goes out
//! into messages. [`follow`] does both for what check nodes say to each other.

mod fields;
pub(super) mod follow;
pub(super) mod questions;
pub(super) mod requests;
pub(super) mod responses;
