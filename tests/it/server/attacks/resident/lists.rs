//! Lists and exports of a tenant with the longest grants.

use futures::{StreamExt, future::join_all, stream};
use prost::Message;
use support_access::{
    api::proto::v1::{
        ExportHistoryRequest, GrantAccessRequest, ListEventsRequest, ListGrantsRequest,
        NamedAgents, RevokeAccessRequest, support_access_admin_client::SupportAccessAdminClient,
    },
    domain::{grant::AGENTS_MAX, ids::ID_LENGTH_MAX},
};
use tonic::transport::Channel;

use super::{
    super::{BackgroundClient, named, raw},
    REPLICA, Target, rejections, request_all,
};
use crate::server::{
    harness::{a_grant, eventually},
    process::Launch,
};

const TENANT: &str = "acme";
/// Their events fill a page of 3 MiB.
const GRANTS: usize = 130;

/// Grants access to the maximum number of agents with the longest names, and revokes the grant.
async fn grant_and_revoke(channel: Channel) {
    let mut admin = SupportAccessAdminClient::new(channel);
    let name = |number| format!("{number:0>3}{}", "\u{1F511}".repeat(ID_LENGTH_MAX - 3));
    let agent_ids = (0..AGENTS_MAX).map(name).collect();
    let request = GrantAccessRequest { named_agents: Some(NamedAgents { agent_ids }), ..a_grant() };
    let grant = admin.grant_access(request).await.unwrap().into_inner().grant.unwrap();
    let revoke = RevokeAccessRequest {
        tenant_id: TENANT.to_owned(),
        grant_id: grant.grant_id,
        ..RevokeAccessRequest::default()
    };
    admin.revoke_access(revoke).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_long_grants_do_not_exhaust_the_memory_of_a_replica() {
    const CONNECTIONS: usize = 2;
    const CALLS: u32 = 10;
    /// The number of responses of 3 MiB that cannot fit.
    const REJECTED: usize = 6;
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", directory.path().join("access.db").display());
    let target = Target::start(Launch::replica(&url), REPLICA);
    let channel = target.server.connect().await;
    let grants = stream::iter(0..GRANTS).map(|_| grant_and_revoke(channel.clone()));
    grants.buffer_unordered(8).collect::<()>().await;
    target.report("130 grants to 100 agents each");

    let (tenant_id, page_size) = (TENANT.to_owned(), 1_000);
    let events =
        ListEventsRequest { tenant_id: tenant_id.clone(), page_size, ..Default::default() };
    let grants =
        ListGrantsRequest { tenant_id: tenant_id.clone(), page_size, ..Default::default() };
    let export = ExportHistoryRequest { tenant_id: Some(tenant_id), ..Default::default() };
    let gateway = BackgroundClient::on(target.server.connect().await);
    for (method, message) in [
        ("ListEvents", events.encode_to_vec()),
        ("ListGrants", grants.encode_to_vec()),
        ("ExportHistory", export.encode_to_vec()),
    ] {
        let message = raw::framed(&message);
        for size in [0, 1] {
            let earlier = rejections(&target, method).await;
            let path = format!("/supportaccess.v1.SupportAccessAdmin/{method}");
            let attacks = (0..CONNECTIONS)
                .map(|_| request_all(target.server.address(), size, CALLS, &path, &message));
            let attackers = join_all(attacks).await;
            eventually(async || rejections(&target, method).await >= earlier + REJECTED).await;
            target.report(&format!("{method}, window {size}"));
            // Other callers have their own quota.
            let mut trudy = target.server.admin().await;
            let list = ListEventsRequest {
                tenant_id: TENANT.to_owned(),
                page_size: 10,
                ..ListEventsRequest::default()
            };
            trudy.list_events(named(list, "trudy")).await.unwrap();
            drop(attackers);
        }
    }
    println!("meanwhile {} checks were answered", gateway.stop().await);
    target.assert_survived();
}
