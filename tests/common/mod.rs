//! Shared by the test binaries: databases, server processes, proxies and terminals.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each binary uses a part")]

pub mod authority;
pub mod backend;
pub mod event_key;
pub mod grants;
pub mod later;
pub mod postgres;
pub mod proxy;
pub mod requests;
pub mod server;
pub mod terminal;
