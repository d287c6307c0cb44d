//! An operator declares a restore: running nodes drop their leases, and load everything again.

use support_access::domain::{AccessLevel, AgentKind, Question, Reason};

use crate::world::{World, agent, group, mk_request, soon, tenant};

#[tokio::test]
async fn a_node_loads_again_after_the_epoch_was_replaced() {
    let world = World::new().await;
    world.grant(mk_request(&tenant("acme"))).await;
    let question = Question {
        tenant_id: tenant("acme"),
        agent_id: agent("ada"),
        agent_kind: AgentKind::Human,
        group_ids: [group("support")].into(),
        required_level: AccessLevel::ReadOnly,
    };
    assert_eq!(world.check(&question).await.reason, Reason::GrantActive);
    let old_key = world.node.view().snapshot().token_key().unwrap();

    let epoch = world.store.log().replace_epoch().await.unwrap();
    let mut progress = world.node.watch();
    world.advance(1).await;
    let reloaded = async {
        while world.node.held().is_none_or(|held| held.epoch != epoch) {
            progress.changed().await;
        }
    };
    tokio::time::timeout_at(soon(), reloaded).await.expect("the node loads again");
    let loaded = world.store.log().load(&mut |_, _, _| {}).await.unwrap();
    let view = world.node.view();
    assert_eq!(view.snapshot().position(), Some(loaded.position));
    assert_eq!(view.snapshot().token_key(), Some(loaded.token_key));
    assert_ne!(loaded.token_key, old_key);
    world.advance(1).await;
    assert_eq!(world.check(&question).await.reason, Reason::GrantActive);
}
