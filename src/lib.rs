//! support-access: customers decide when the vendor's support staff may enter their tenant.
//!
//! The modules are listed from the bottom level to the top level. A module uses only modules above
//! it in this list, which `tests/tidy` enforces.

pub mod domain;
pub mod store;

pub mod node;
pub mod service;

pub mod auth;

pub mod api;

pub mod server;

pub mod cli;
