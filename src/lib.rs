//! support-access: customers decide when the vendor's support staff may enter their tenant.
//!
//! Rooms, from the words to the assembly. A room uses only those above it; `tests/tidy.rs` holds that.

pub mod domain;
pub mod store;

pub mod node;
pub mod service;

pub mod auth;

pub mod api;

pub mod server;

pub mod cli;
