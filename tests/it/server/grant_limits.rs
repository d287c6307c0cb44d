//! Limits on the live grants of a tenant.

use support_access::{
    api::proto::v1::{GrantAccessRequest, NamedAgents, RevokeAccessRequest},
    server::config::Config,
};
use tonic::Code;
use tonic_types::StatusExt;

use crate::server::{
    follower::reason,
    harness::{a_grant, admin, config, start},
};

#[tokio::test]
async fn each_named_agent_counts_as_a_live_grant() {
    let (running, _store) = start(Config { max_live_grants_per_tenant: 10, ..config() }).await;
    let mut admin = admin(&running).await;
    let mut grant = async |agents: usize| {
        let agent_ids: Vec<_> = (0..agents).map(|number| format!("agent-{number}")).collect();
        let named_agents = (agents > 0).then_some(NamedAgents { agent_ids });
        admin.grant_access(GrantAccessRequest { named_agents, ..a_grant() }).await
    };
    grant(6).await.unwrap();
    let rejected = grant(5).await.unwrap_err();
    assert_eq!(rejected.code(), Code::ResourceExhausted);
    assert_eq!(reason(&rejected), "TOO_MANY_LIVE_GRANTS");
    let details = rejected.get_error_details();
    let metadata = &details.error_info().unwrap().metadata;
    assert_eq!(metadata["max_live_grants_per_tenant"], "10");
    let field = &details.bad_request().unwrap().field_violations[0];
    assert_eq!(field.field, "named_agents");
    assert!(field.description.contains("name fewer agents"), "{}", field.description);
    grant(3).await.unwrap();
    grant(0).await.unwrap();
    let rejected = grant(0).await.unwrap_err();
    assert_eq!(
        rejected.get_error_details().bad_request().unwrap().field_violations[0].field,
        "tenant_id"
    );
}

#[tokio::test]
async fn the_live_grants_of_a_tenant_to_one_group_are_limited() {
    let (running, _store) = start(Config { max_live_grants_per_group: 2, ..config() }).await;
    let mut admin = admin(&running).await;
    let mut revoker = admin.clone();
    let mut grant = async |group_id: &str, tenant_id: &str| {
        let (group_id, tenant_id) = (group_id.into(), tenant_id.into());
        admin.grant_access(GrantAccessRequest { group_id, tenant_id, ..a_grant() }).await
    };
    let first = grant("support", "acme").await.unwrap().into_inner().grant.unwrap();
    grant("support", "acme").await.unwrap();
    let rejected = grant("support", "acme").await.unwrap_err();
    assert_eq!(rejected.code(), Code::ResourceExhausted);
    assert_eq!(reason(&rejected), "TOO_MANY_LIVE_GRANTS_TO_GROUP");
    let details = rejected.get_error_details();
    assert_eq!(details.error_info().unwrap().metadata["max_live_grants_per_group"], "2");
    let field = &details.bad_request().unwrap().field_violations[0];
    assert_eq!(field.field, "group_id");
    assert!(field.description.contains("2 live grants to one group"), "{}", field.description);
    assert!(field.description.contains("revoke grants to support first"), "{}", field.description);
    grant("engineering", "acme").await.unwrap();
    grant("support", "globex").await.unwrap();
    let revoke = RevokeAccessRequest {
        tenant_id: first.tenant_id,
        grant_id: first.grant_id,
        ..RevokeAccessRequest::default()
    };
    revoker.revoke_access(revoke).await.unwrap();
    grant("support", "acme").await.expect("an ended grant does not count");
}
