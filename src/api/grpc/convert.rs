//! Messages and words: [`requests`] and [`questions`] check what comes in, field by field; [`responses`] puts what goes out
//! into messages. [`locks`] does both for locks, [`follow`] for what check nodes say to each other.

mod fields;
pub(super) mod follow;
pub(super) mod locks;
pub(super) mod questions;
pub(super) mod requests;
pub(super) mod responses;
