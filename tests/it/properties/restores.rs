//! After an operator has declared a restore, running nodes drop the leases and load new snapshots.

use support_access::domain::{
    Reason,
    token::{TokenEvent, TokenInvalid},
};

use crate::properties::world::{World, mk_check, mk_request, soon, tenant};

#[tokio::test]
async fn a_node_loads_a_new_snapshot_after_the_epoch_was_replaced() {
    let world = World::new().await;
    world.grant(mk_request(&tenant("acme"))).await;
    let check = mk_check(&tenant("acme"));
    assert_eq!(world.check(&check).await.reason, Reason::GrantActive);
    let old_key = world.node.view().snapshot().token_key().unwrap();

    let epoch = world.store.log().replace_epoch().await.unwrap();
    let mut progress = world.node.watch();
    world.advance(1).await;
    let reloaded = async {
        while world.node.position().is_none_or(|held| held.epoch != epoch) {
            progress.changed().await;
        }
    };
    tokio::time::timeout_at(soon(), reloaded).await.expect("the node loads a new snapshot");
    let loaded = world.store.log().load(&mut |_, _, _| {}).await.unwrap();
    let view = world.node.view();
    assert_eq!(view.snapshot().position(), Some(loaded.position));
    assert_eq!(view.snapshot().token_key(), Some(loaded.token_key));
    assert_ne!(loaded.token_key, old_key);
    let event = TokenEvent::new(loaded.position.revision, loaded.position.time);
    let old_token = old_key.encrypt(event).unwrap().to_string();
    assert_eq!(loaded.token_key.decrypt(&old_token), Err(TokenInvalid));
    world.advance(1).await;
    assert_eq!(world.check(&check).await.reason, Reason::GrantActive);
}
