//! What metrics say of a process, looked up in all that it is made of.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::runtime::Handle;
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};

use crate::{
    api::{
        credentials::ClientCredentials,
        metrics::{Readings, ReplicaReadings},
    },
    auth::certificate::Certificate,
    domain::Time,
    node::CheckNode,
    server::{
        config::{UPSTREAM_CA, UPSTREAM_CERTIFICATE},
        connections::ConnectionLimiter,
        identity::Prepared,
        tls::Tls,
    },
    service::Service,
};

/// The most bytes of a file with certificates that are read.
const LENGTH_MAX: u64 = 1 << 20;

/// Where it is looked up.
pub(super) struct Sources {
    node: Arc<CheckNode>,
    gate: ConnectionLimiter,
    tls: Option<Arc<Tls>>,
    credentials: ClientCredentials,
    work: Option<Arc<Service>>,
    runtime: Handle,
}

impl Sources {
    /// Of every process.
    pub(super) fn new(
        node: &Arc<CheckNode>,
        gate: &ConnectionLimiter,
        prepared: &Prepared,
    ) -> Self {
        Self {
            node: Arc::clone(node),
            gate: gate.clone(),
            tls: prepared.identity.tls.clone(),
            credentials: ClientCredentials::default(),
            work: None,
            runtime: Handle::current(),
        }
    }

    /// And of a replica.
    pub(super) fn with_work(self, work: &Arc<Service>) -> Self {
        Self { work: Some(Arc::clone(work)), ..self }
    }

    /// And of a sidecar.
    pub(super) fn with_credentials(self, credentials: ClientCredentials) -> Self {
        Self { credentials, ..self }
    }

    /// Looks it all up.
    pub(super) fn read(&self) -> Readings {
        let runtime = self.runtime.metrics();
        let workers = runtime.num_workers();
        let busy = (0..workers).map(|worker| runtime.worker_total_busy_duration(worker));
        Readings {
            node: self.node.gauges(),
            connections: self.gate.connections_open() as u64,
            connections_limit: self.gate.connections_max() as u64,
            workers: workers as u64,
            worker_busy: busy.sum::<Duration>(),
            certificates: self.certificates(),
            handshakes_failed: self.tls.as_ref().map_or(0, |tls| tls.handshakes_failed()),
            replica: self.work.as_deref().map(of_replica),
        }
    }

    /// Those of the doors as they are in use; those for upstreams as they are in their files, which are read for each connection.
    fn certificates(&self) -> Vec<(&'static str, Time)> {
        let own = self.tls.as_ref().map(|tls| tls.ends()).unwrap_or_default();
        let ClientCredentials { ca, identity, token_file: _ } = &self.credentials;
        let certificate = identity.as_ref().map(|(certificate, _)| certificate);
        let of_upstreams = [(UPSTREAM_CERTIFICATE, certificate), (UPSTREAM_CA, ca.as_ref())];
        let of_upstreams = of_upstreams
            .into_iter()
            .filter_map(|(setting, path)| Some((setting, end_of_file(path?)?)));
        own.into_iter().chain(of_upstreams).collect()
    }
}

fn of_replica(work: &Service) -> ReplicaReadings {
    let verified = work.verified();
    ReplicaReadings {
        enforcement: work.enforcement_totals(),
        sweep_lag: work.sweep_lag(),
        history_breaks: verified.breaks,
        history_verified_at: verified.at,
        history_verified_events: verified.events,
    }
}

fn end_of_file(path: &Path) -> Option<Time> {
    // Nothing that could keep whoever opens it waiting, such as a pipe.
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    let mut pem = Vec::new();
    File::open(path).ok()?.take(LENGTH_MAX).read_to_end(&mut pem).ok()?;
    end(&CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect::<Vec<_>>())
}

/// When the first of some certificates ends.
pub(super) fn end(certificates: &[CertificateDer<'_>]) -> Option<Time> {
    let ends = certificates.iter().filter_map(|der| Certificate::from_der(der));
    ends.map(|certificate| certificate.not_after).min()
}
