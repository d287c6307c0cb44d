//! The state of a process for its metrics.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    sync::Arc,
};

use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::{
    api::{
        credentials::ClientCredentials,
        metrics::{Readings, ReplicaReadings},
    },
    auth::certificate::earliest_expiry,
    domain::Time,
    node::CheckNode,
    server::{
        connections::ConnectionLimiter,
        identity::Identity,
        running::Running,
        telemetry::{LinesNotWritten, lines_not_written},
        tls::Tls,
        workers::Workers,
    },
    service::Service,
};

/// Maximum number of bytes that are read from a certificate file.
const LENGTH_MAX: u64 = 1 << 20;

/// The components whose state is read.
pub(super) struct ReadingsSource {
    node: Arc<CheckNode>,
    connections: ConnectionLimiter,
    tls: Option<Arc<Tls>>,
    credentials: ClientCredentials,
    service: Option<Arc<Service>>,
    workers: Arc<Workers>,
}

impl ReadingsSource {
    /// The components of every process.
    pub(super) fn new(node: &Arc<CheckNode>, running: &Running, identity: &Identity) -> Self {
        Self {
            node: Arc::clone(node),
            connections: running.connections.clone(),
            tls: identity.tls.clone(),
            credentials: ClientCredentials::default(),
            service: None,
            workers: Arc::clone(&running.workers),
        }
    }

    /// Adds the service of a replica.
    pub(super) fn with_service(self, service: &Arc<Service>) -> Self {
        Self { service: Some(Arc::clone(service)), ..self }
    }

    /// Adds the credentials of a sidecar.
    pub(super) fn with_credentials(self, credentials: ClientCredentials) -> Self {
        Self { credentials, ..self }
    }

    /// Reads the current state.
    pub(super) fn read(&self) -> Readings {
        let LinesNotWritten { dropped, left_out } = lines_not_written();
        Readings {
            node: self.node.gauges(),
            connections: self.connections.connections_open() as u64,
            connections_limit: self.connections.connections_max() as u64,
            workers: self.workers.count() as u64,
            worker_busy: self.workers.busy(),
            certificates: self.certificates(),
            handshakes_failed: self.tls.as_ref().map_or(0, |tls| tls.handshakes_failed()),
            log_lines_dropped: vec![("BACKLOG", dropped), ("RATE_LIMIT", left_out)],
            replica: self.service.as_deref().map(of_replica),
        }
    }

    /// Expiries of the certificates that the server uses, and of the certificates in the files for
    /// upstreams. Each connection to an upstream reads these files.
    fn certificates(&self) -> Vec<(&'static str, Time)> {
        let own = self.tls.as_ref().map(|tls| tls.expiries()).unwrap_or_default();
        let ClientCredentials { ca, identity, token_file: _ } = &self.credentials;
        let certificate = identity.as_ref().map(|(certificate, _)| certificate);
        let for_upstreams = [("upstream-certificate", certificate), ("upstream-ca", ca.as_ref())];
        let for_upstreams = for_upstreams
            .into_iter()
            .filter_map(|(setting, path)| Some((setting, expiry_of_file(path?)?)));
        own.into_iter().chain(for_upstreams).collect()
    }
}

fn of_replica(service: &Service) -> ReplicaReadings {
    ReplicaReadings {
        enforcement: service.enforcement_totals(),
        sweep_lag: service.sweep_lag(),
        clock_distance: service.clock_distance(),
        verification: service.verification(),
    }
}

fn expiry_of_file(path: &Path) -> Option<Time> {
    // Opening a file of another kind, such as a pipe, may block.
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let mut pem = Vec::new();
    File::open(path).ok()?.take(LENGTH_MAX).read_to_end(&mut pem).ok()?;
    let certificates = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok);
    earliest_expiry(&certificates.collect::<Vec<_>>())
}
