//! What runs on the hosts: the services of a replica, and of a sidecar.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use support_access::{
    api::{
        authenticate::AuthenticateLayer,
        grpc::{access::Access, admin::Admin, nodes::Nodes},
        metrics::{Metrics, Readings},
        proto::v1::{
            check_nodes_server::CheckNodesServer,
            support_access_admin_server::SupportAccessAdminServer,
            support_access_server::SupportAccessServer,
        },
    },
    auth::Authenticator,
    domain::{
        BootTime, Clock, NodeId, NodeKind, SupportPolicy, Time, clock::SystemClock,
        time::from_micros,
    },
    node::{CheckNode, following, replica::Replica},
    store::Store,
    work::{Limits, Work, check::Checks},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Router};
use tower::layer::util::{Identity, Stack};

use crate::net;

pub(crate) const MAX_STALENESS: Duration = Duration::from_secs(2);

/// A host's clocks: the one runs at its own rate, the other is wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostClock {
    /// In millionths more than the simulation's.
    pub(crate) rate_ppm: i64,
    /// What the wall clock is ahead.
    pub(crate) ahead: TimeDelta,
}

impl Clock for HostClock {
    fn now(&self) -> Time {
        from_micros(1_700_000_000_000_000).unwrap() + elapsed() + self.ahead
    }

    fn boot_time(&self) -> BootTime {
        let elapsed = i64::try_from(elapsed().as_nanos()).unwrap();
        BootTime(elapsed + elapsed / 1_000_000 * self.rate_ppm)
    }
}

/// The simulation's time. It has none while a host that has crashed is cleared away.
fn elapsed() -> Duration {
    turmoil::sim_elapsed().unwrap_or_default()
}

/// A replica, until its host crashes.
pub(crate) async fn replica(
    id: NodeId,
    clock: HostClock,
    store: Arc<dyn Store>,
) -> turmoil::Result {
    let node = CheckNode::new(id, NodeKind::Replica, Arc::new(clock));
    let replica = Replica::new(Arc::clone(&node), Arc::clone(&store), MAX_STALENESS);
    while replica.join().await.is_err() {
        tokio::time::sleep(Duration::from_millis(200)).await; // of the simulation's time
    }
    let limits = Limits { live_grants_per_tenant: 1_000, max_staleness: MAX_STALENESS };
    let work = Arc::new(Work::new(Arc::clone(&replica), SupportPolicy::default(), limits));
    let stop = CancellationToken::new();
    let enforcer = Arc::clone(replica.enforcer());
    let running = async { tokio::join!(replica.run(stop.clone()), enforcer.run(stop.clone())) };
    let checks = Checks::new(Arc::clone(&node), Some(store));
    let admin = SupportAccessAdminServer::new(Admin::new(Arc::clone(&work)));
    tokio::select! {
        biased;
        _ = running => {}
        served = router(node, checks, Some(work)).add_service(admin).serve_with_incoming(net::incoming().await) => served?,
    }
    Ok(())
}

/// A sidecar, until its host crashes.
pub(crate) async fn sidecar(id: NodeId, clock: HostClock, upstreams: &[&str]) -> turmoil::Result {
    let node = CheckNode::new(id, NodeKind::Sidecar, Arc::new(clock));
    let upstreams = net::Host::upstreams(upstreams);
    let following = following::run(Arc::clone(&node), upstreams, CancellationToken::new());
    let checks = Checks::new(Arc::clone(&node), None);
    tokio::select! {
        biased;
        refused = following => refused?,
        served = router(node, checks, None).serve_with_incoming(net::incoming().await) => served?,
    }
    Ok(())
}

fn router(
    node: Arc<CheckNode>,
    checks: Checks,
    work: Option<Arc<Work>>,
) -> Router<Stack<AuthenticateLayer, Identity>> {
    let metrics = Arc::new(Metrics::new(Readings::default, None));
    // Everybody on this network is a local caller.
    let authenticator = Arc::new(Authenticator::new(None, Arc::new(SystemClock)));
    Server::builder()
        .layer(AuthenticateLayer::new(authenticator))
        .add_service(CheckNodesServer::new(Nodes::new(node, work, usize::MAX)))
        .add_service(SupportAccessServer::new(Access::new(Arc::new(checks), metrics)))
}
