//! The comparison of all grants and locks with the events about them.

use tracing::error;

use crate::{
    service::verification::{
        LOGGED_MAX, PAGE, Pass, Restored, UNITS_PER_QUERY, Verification, retry, throttle,
    },
    store::{ComparePosition, Difference},
};

impl Verification {
    /// Compares every row once. A row that cannot be read counts as different.
    pub(super) async fn compare_rows(&self, pass: &mut Pass) -> Result<(), Restored> {
        let mut position = ComparePosition::Events(0);
        loop {
            let history = self.service.store.history();
            let Some(comparison) = retry(|| history.compare(position, PAGE)).await else {
                return self.report_differences(pass, &[], 1).await;
            };
            throttle(UNITS_PER_QUERY + comparison.rows.max(comparison.bytes / 1_024)).await;
            let differences = &comparison.differences;
            self.report_differences(pass, differences, differences.len()).await?;
            match comparison.next {
                Some(next) => position = next,
                None => return Ok(()),
            }
        }
    }

    /// Counts differences, unless the pass has read rows of two states of the database.
    async fn report_differences(
        &self,
        pass: &mut Pass,
        differences: &[Difference],
        count: usize,
    ) -> Result<(), Restored> {
        if count == 0 {
            return Ok(());
        }
        self.check_not_restored(pass).await?;
        for (number, difference) in (pass.differences..LOGGED_MAX).zip(differences) {
            let Difference { tenant_id, object, id, problem } = difference;
            let tenant_id = (!tenant_id.is_empty()).then_some(tenant_id);
            error!(number, tenant_id, object, id, %problem, "a row differs from the history");
        }
        pass.differences += count as u64;
        self.service.update_verification(|status| {
            status.differences = status.differences.max(Some(pass.differences));
        });
        Ok(())
    }
}
