//! Loads the snapshot of a replica from the store.

use crate::{
    domain::Time,
    node::snapshot::Snapshot,
    store::{Loaded, Store, StoreError},
};

/// The snapshot of a replica at the end of the log, and the recorded trusted time.
pub async fn load_snapshot(store: &Store) -> Result<(Snapshot, Option<Time>), StoreError> {
    let mut snapshot = Snapshot::default();
    let mut insert = |tenant_id, terms, retained| snapshot.insert(&tenant_id, terms, retained);
    let loaded = store.log().load(&mut insert).await?;
    let Loaded { position, token_key, locks, accepted_clocks, trusted_time, .. } = loaded;
    if !loaded.is_authentic {
        snapshot.set_forged_rows();
    }
    for (tenant_id, grant_id) in loaded.rejected {
        snapshot.reject(&tenant_id, grant_id);
    }
    for terms in locks {
        snapshot.insert_lock(terms);
    }
    snapshot.set_position(position, token_key);
    snapshot.set_accepted_clocks(accepted_clocks.into());
    Ok((snapshot, trusted_time))
}
