//! The trusted time that replicas record for later processes.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    domain::Time,
    node::{
        failure_log::{FailureLogger, READ_TIMEOUT, with_timeout},
        lease::grantor_bound,
        replica::Replica,
    },
    store::{StoreError, TrustedTime},
};

/// The interval between two records. Shorter than a trusted distance.
const INTERVAL: Duration = Duration::from_secs(1);

impl Replica {
    /// Continues from the recorded trusted time, or from the last event if that is later. Only at
    /// the start, and after an operator has accepted the clock: any later time is then possible.
    pub(super) async fn resume_time(
        &self,
        recorded: TrustedTime,
        last_event: Option<Time>,
    ) -> Result<(), StoreError> {
        let TrustedTime { time, clock_epoch } = recorded;
        let known = self.database_clock.clock_epoch();
        if known != Some(clock_epoch) {
            let is_running = known.is_none() && self.others_run().await?;
            self.database_clock.resume(time.max(last_event), clock_epoch, is_running);
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
            if let Some((time, clock_epoch)) = self.database_clock.trusted() {
                let recorded = self.store.membership().record_trusted_time(time, clock_epoch);
                let _ = failures.record(with_timeout(READ_TIMEOUT, recorded).await);
            }
        }
    }
}
