//! Loads the snapshot of a replica from the store.

use crate::{
    node::snapshot::Snapshot,
    store::{Loaded, Store, StoreError, TrustedTime},
};

/// The snapshot of a replica at the end of the log, and the recorded trusted time.
pub async fn load_snapshot(store: &Store) -> Result<(Snapshot, TrustedTime), StoreError> {
    let mut snapshot = Snapshot::default();
    let mut insert = |tenant_id, terms, retained| snapshot.insert(&tenant_id, terms, retained);
    let loaded = store.log().load(&mut insert).await?;
    let Loaded { position, token_key, locks, trusted_time, rejected, is_authentic } = loaded;
    if !is_authentic {
        snapshot.set_forged_rows();
    }
    for (tenant_id, grant_id) in rejected {
        snapshot.reject(&tenant_id, grant_id);
    }
    for terms in locks {
        snapshot.insert_lock(terms);
    }
    snapshot.set_position(position, token_key);
    Ok((snapshot, trusted_time))
}
