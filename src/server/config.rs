//! Stub: stands in until the configuration is merged.
#![allow(missing_docs, reason = "a stub")]

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use crate::domain::SupportPolicy;

#[derive(Debug, Clone)]
pub struct Config {
    pub listen: Vec<ListenAddress>,
    pub http_listen: SocketAddr,
    pub database_url: String,
    pub max_staleness: Duration,
    pub drain_timeout: Duration,
    pub insecure: bool,
    pub log: String,
    pub log_format: LogFormat,
    pub max_live_grants_per_tenant: usize,
    pub catalogue: SupportPolicy,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Auto,
    Text,
    Json,
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
