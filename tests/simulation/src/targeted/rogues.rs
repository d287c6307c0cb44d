//! The steps of scenarios with a follower that does not keep to the protocol.

use std::sync::Arc;

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    domain::{End, NodeId},
    fixture::Fixture,
    link::LinkConditions,
    node::{
        follower_session::{FollowerSession, SessionEnd},
        message::{Hello, PROTOCOL, ToUpstream},
    },
    targeted::plans::LEASE,
};

fn hello(node_id: NodeId) -> ToUpstream {
    ToUpstream::Hello(Hello {
        protocol: PROTOCOL,
        node_id,
        version: "0".into(),
        position: None,
        lease_age: None,
    })
}

/// The session of a rogue at replica 0.
fn session(fixture: &Fixture) -> FollowerSession {
    FollowerSession::new(Arc::clone(&fixture.running(0).node), "rogue".into())
}

/// A rogue leaves in the name of a sidecar, which is cut off and still has a lease.
pub(super) async fn impostor(fixture: Fixture) {
    fixture.start_all(2).await;
    let grant = fixture.grant(0, End::UntilRevoked).await;
    fixture.set_route(1, 0, LinkConditions::CUT);
    let mut rogue = session(&fixture);
    let leave = |rogue: &mut FollowerSession| {
        rogue.receive(hello(fixture.running(1).node.id()))?;
        rogue.next_message()?;
        rogue.receive(ToUpstream::Leave)
    };
    let _ = leave(&mut rogue);
    fixture.expect_enforced(fixture.revoke(0, &grant)).await;
}

/// A rogue acknowledges nothing, and soon returns with another node id each time. In the end, the
/// rogue delays no revocation.
pub(super) async fn returning_rogue(fixture: Fixture) {
    const REVOCATIONS: u32 = 20;
    fixture.start_all(1).await;
    let rogue = async {
        for number in 1.. {
            let _ = stay(session(&fixture), NodeId(Uuid::from_u128(number))).await;
            sleep(LEASE / 20).await; // virtual time
        }
    };
    let revoking = async {
        for _ in 0..REVOCATIONS {
            let grant = fixture.grant(0, End::UntilRevoked).await;
            fixture.expect_enforced(fixture.revoke(0, &grant)).await;
        }
        let grant = fixture.grant(0, End::UntilRevoked).await;
        fixture.expect_prompt_revoke(0, &grant).await;
    };
    tokio::select! {
        () = rogue => {}
        () = revoking => {}
    }
}

/// Gets leases for half a lease, but acknowledges nothing.
async fn stay(mut session: FollowerSession, node_id: NodeId) -> Result<(), SessionEnd> {
    let start = Instant::now();
    session.receive(hello(node_id))?;
    for seq in 1.. {
        while session.next_message()?.is_some() {}
        if start.elapsed() > LEASE / 2 {
            break;
        }
        session.receive(ToUpstream::Ping { seq })?;
        sleep(LEASE / 20).await; // virtual time
    }
    Ok(())
}
