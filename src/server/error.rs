//! The errors of starting and running a server.

use std::io;

use crate::{
    server::{listeners::BindError, tasks::TaskFailure, telemetry::TelemetryError, tls::TlsError},
    store::{OpenError, StoreError},
};

/// Reason why a server could not start, or had to end. The message is a sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Logging or tracing cannot be set up.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// A listener cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A system call failed.
    #[error("a required system call failed: {0}")]
    System(#[from] io::Error),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Authentication cannot be set up.
    #[error("cannot set up authentication: {0}")]
    Auth(String),
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The grants cannot be loaded.
    #[error("cannot load the grants: {0}")]
    Load(#[from] StoreError),
    /// No upstream can be followed.
    #[error("cannot follow an upstream: {0}")]
    Upstream(String),
    /// A task failed.
    #[error("{0}")]
    Task(TaskFailure),
}
