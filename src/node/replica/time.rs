//! The trusted time that replicas record for later processes.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    domain::Time,
    node::{
        failure_log::{FailureLogger, READ_TIMEOUT, with_timeout},
        known_clocks::ClockEffect,
        lease::grantor_bound,
        replica::Replica,
        snapshot::Snapshot,
    },
    store::StoreError,
};

/// The interval between two records. Shorter than a trusted distance.
const INTERVAL: Duration = Duration::from_secs(1);

impl Replica {
    /// Continues the time in a log that was loaded with a recorded trusted time. The recorded time
    /// is not authenticated: only a replica that starts, or finds an accepted clock, uses it. Any
    /// later time is then possible.
    pub(super) async fn continue_time(
        &self,
        log: &Snapshot,
        recorded: Option<Time>,
    ) -> Result<(), StoreError> {
        let accepted = log.accepted_clocks().last();
        let accepted_revision = accepted.map_or(0, |clock| clock.revision);
        let least = recorded.max(log.time()).max(accepted.map(|clock| clock.time));
        if !self.database_clock.is_started() {
            let is_running = self.others_run().await?;
            self.database_clock.resume(least, accepted_revision, is_running);
            return Ok(());
        }
        match self.node.clock_effect(log.accepted_clocks()) {
            ClockEffect::Restart => self.database_clock.resume(least, accepted_revision, false),
            ClockEffect::Continue { later_by } => {
                self.database_clock.advance(later_by, accepted_revision);
            }
        }
        Ok(())
    }

    /// Whether another replica has run until now.
    async fn others_run(&self) -> Result<bool, StoreError> {
        let members = self.store.membership().members().await?;
        Ok(members.members.iter().any(|member| {
            member.node_id != self.registration.node_id
                && member.heartbeat_age <= grantor_bound(members.max_staleness)
        }))
    }

    /// Records the trusted time, from which later processes continue.
    pub(super) async fn record_time(&self) {
        let mut failures = FailureLogger::new("record the time");
        loop {
            sleep(INTERVAL).await;
            if let Some((time, accepted_revision)) = self.database_clock.trusted() {
                let recorded = self.store.membership().record_trusted_time(time, accepted_revision);
                let _ = failures.record(with_timeout(READ_TIMEOUT, recorded).await);
            }
        }
    }
}
