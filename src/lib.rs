//! support-access: customers decide when the vendor's support staff may enter their tenant.
//!
//! Modules, from the vocabulary to the assembly. A module imports only the modules above it in this
//! list; `tests/tidy` enforces the order.

pub mod domain;
pub mod store;

pub mod node;
pub mod service;

pub mod auth;

pub mod api;

pub mod server;

pub mod cli;
