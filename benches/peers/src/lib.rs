//! The parts of the load generator, and the data that it asks about.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a benchmark fails by panicking"
)]

pub mod data;
pub mod http2;
pub mod messages;
pub mod socket;
