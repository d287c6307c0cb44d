//! Features of sidecars, one test for each.

use std::{sync::Arc, time::Duration};

use support_access::{
    api::proto::v1::{
        BatchCheckAccessRequest, CheckAccessResponse, Decision, EnforcementState,
        ExplainAccessRequest, ListCheckNodesRequest, NodeKind, RevokeAccessRequest,
        WaitEnforcedRequest, check_nodes_client::CheckNodesClient,
        support_access_admin_client::SupportAccessAdminClient,
    },
    server::SystemClock,
    store,
};
use tempfile::TempDir;
use tonic::{Code, Request};

use crate::{
    common::{event_key::event_key_file, grants::new_grant},
    nodes::{
        fleet::{ENFORCEMENT_BOUND, FAST, Fleet, grant, replica, sidecar},
        history::Verdict,
        load::Load,
        postgres::Cluster,
        proxy::{Proxy, Target},
        requests::access_check,
        server::{connect, eventually, is_serving},
    },
};

fn sqlite(directory: &TempDir) -> String {
    format!("sqlite://{}", directory.path().join("test.db").display())
}

/// A sidecar whose replica is killed switches to another replica without a stale answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_switches_replicas_without_a_stale_answer() {
    let cluster = Cluster::launch();
    let mut fleet = Fleet::replicas(&cluster.fresh_database(), 3).await;
    let urls: Vec<String> =
        fleet.replicas.iter().map(|node| node.server.url().to_owned()).collect();
    let upstreams: Vec<&str> = urls.iter().map(String::as_str).collect();
    let number = fleet.add_sidecar(&upstreams).await.number;
    fleet.serving().await;
    let kept = fleet.grant_everywhere(2, "kept").await;
    let mut load = Load::new(&fleet.history, &["kept".into()], Duration::from_millis(2));
    load.add(&fleet.sidecars[0]);
    for replica in [0, 1] {
        fleet.replicas[replica].server.kill();
        fleet.revoke_until_fast(2).await;
        eventually("the sidecar acknowledges revocations again", async || {
            let grant = grant(&mut fleet.admin(2), "interim").await.unwrap();
            let enforcement = fleet.revoke_within_bound(2, &grant).await.enforcement;
            enforcement.nodes_acknowledged == 2 - i32::try_from(replica).unwrap() + 1
        })
        .await;
    }
    assert_eq!(load.failures(), 0);
    drop(load);
    let answers =
        fleet.history.answers(|answer| answer.node == number && answer.tenant_id == "kept");
    let denied = answers.iter().filter(|answer| !answer.verdict.is_allowed_by(&kept)).count();
    println!("{} checks, {denied} of them denied", answers.len());
    assert_eq!(denied, 0, "the grant was live at all times");
}

/// A sidecar knows two replicas by one name. If one of them hangs, the sidecar follows the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_tries_every_address_of_a_name() {
    let cluster = Cluster::launch();
    let url = cluster.fresh_database();
    let mut fleet = Fleet::new();
    let launch = |number, address: &str| {
        replica(&url, number).flags(&["--max-staleness", "6s"]).on_address(address)
    };
    fleet.add_replicas(vec![launch(0, "127.0.0.2:0")]).await;
    let port = fleet.replicas[0].server.address().port();
    fleet.add_replicas(vec![launch(1, &format!("127.0.0.3:{port}"))]).await;
    let hosts = fleet.socket("hosts");
    std::fs::write(&hosts, "127.0.0.2 access.test\n127.0.0.3 access.test\n").unwrap();
    fleet.replicas[0].server.pause();
    let launch = sidecar(&[&format!("http://access.test:{port}")], 0).flags(&["--insecure"]);
    fleet.add_sidecars(vec![launch.with_hosts(&hosts)]).await;
    fleet.sidecars[0].server.serving().await;
    fleet.replicas[0].server.resume();
    fleet.serving().await;
    let kept = fleet.grant_everywhere(1, "kept").await;
    let mut load = Load::new(&fleet.history, &["kept".into()], Duration::from_millis(2));
    load.add(&fleet.sidecars[0]);
    // The sidecar follows replica 1, because replica 0 was silent. Then it follows replica 0.
    for (hanging, other) in [(1, 0), (0, 1)] {
        fleet.replicas[hanging].server.pause();
        let granted = grant(&mut fleet.admin(other), "interim").await.unwrap();
        fleet.wait_until_allowed(&fleet.sidecars[0], &granted).await;
        fleet.replicas[hanging].server.resume();
        fleet.serving().await;
    }
    assert_eq!(load.failures(), 0);
    drop(load);
    let answers = fleet.history.answers(|answer| answer.tenant_id == "kept");
    let number = fleet.sidecars[0].number;
    let denied = answers
        .iter()
        .filter(|answer| answer.node == number && !answer.verdict.is_allowed_by(&kept));
    assert_eq!(denied.count(), 0, "the sidecar had a lease at all times");
}

const MANY: usize = 2_000;

/// Creates a database with many grants.
async fn fill(database_url: &str) {
    let store = store::open(database_url, Arc::new(SystemClock), event_key_file(database_url))
        .await
        .unwrap();
    let mut transaction = store.begin().await.unwrap();
    let now = transaction.now();
    for number in 0..MANY {
        let grant = new_grant(&format!("tenant-{number}"), "support", now, None);
        transaction.append(grant).await.unwrap();
    }
    transaction.commit().await.unwrap();
    store.close().await;
}

/// A reconnecting sidecar resumes from its revision, at the same replica or at another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_reconnecting_sidecar_resumes_without_a_snapshot() {
    let cluster = Cluster::launch();
    let url = cluster.fresh_database();
    fill(&url).await;
    let mut fleet = Fleet::replicas(&url, 2).await;
    let first = Proxy::start(Target::Tcp(fleet.replicas[0].server.address())).await;
    let second = Proxy::start(Target::Tcp(fleet.replicas[1].server.address())).await;
    fleet.add_sidecar(&[&first.url(), &second.url()]).await;
    fleet.serving().await;
    let snapshot = first.bytes_to_client();
    assert!(snapshot > 20 * MANY as u64, "a snapshot has more than {snapshot} bytes");
    for (lost, remaining) in [(&first, &second), (&second, &first)] {
        let before = remaining.bytes_to_client();
        lost.cut();
        let missed = grant(&mut fleet.admin(1), "missed").await.unwrap();
        fleet.wait_until_allowed(&fleet.sidecars[0], &missed).await;
        fleet.revoke(1, &missed).await.unwrap();
        lost.heal();
        let resumed = remaining.bytes_to_client() - before;
        println!("a snapshot took {snapshot} bytes, resuming {resumed}");
        assert!(
            resumed < snapshot / 4,
            "resuming must not transfer a snapshot: {resumed} of {snapshot} bytes"
        );
    }
}

/// A replica on SQLite serves a chain of sidecars over Unix sockets.
#[tokio::test(flavor = "multi_thread")]
async fn sidecars_follow_a_replica_on_sqlite() {
    let directory = TempDir::with_prefix("support-access-").unwrap();
    let mut fleet = Fleet::replicas(&sqlite(&directory), 1).await;
    let mut upstream = fleet.replicas[0].server.url().to_owned();
    for number in 0..4 {
        let launch = sidecar(&[&upstream], number).on_socket(&fleet.socket(&number.to_string()));
        fleet.add_sidecars(vec![launch]).await;
        upstream = fleet.sidecars[number].server.url().to_owned();
        fleet.serving().await;
    }
    let tenants = ["acme".to_owned()];
    let load = Load::on(&fleet, &tenants, Duration::from_millis(10));
    for _ in 0..20 {
        let grant = fleet.grant_everywhere(0, "acme").await;
        let revoked = fleet.revoke_within_bound(0, &grant).await;
        assert_eq!(revoked.enforcement.nodes_acknowledged, fleet.count(), "{revoked:?}");
    }
    drop(load);
    fleet.history.verify(&crate::nodes::history::log(&mut fleet.admin(0), &tenants).await);

    // A fifth sidecar would exceed the maximum depth and logs that.
    fleet.add_sidecar(&[&upstream]).await;
    let fifth = &fleet.sidecars[4];
    fifth.server.wait_for_log("5 steps from the replica, and at most 4 are allowed");
    assert!(!is_serving(&fifth.channel).await);
    assert_eq!(fleet.check(fifth, "acme", "").await, Verdict::Stale);
}

/// Every listener serves the health service and the gateway API. Only replicas serve the admin API.
#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_serves_the_gateway_api() {
    let directory = TempDir::with_prefix("support-access-").unwrap();
    let mut fleet = Fleet::replicas(&sqlite(&directory), 1).await;
    let upstream = fleet.replicas[0].server.url().to_owned();
    let launch = sidecar(&[&upstream], 0).on_port().on_socket(&fleet.socket("check"));
    fleet.add_sidecars(vec![launch]).await;
    fleet.serving().await;
    let sidecar = &fleet.sidecars[0];
    let revoked = fleet.grant_everywhere(0, "acme").await;
    fleet.revoke_within_bound(0, &revoked).await;
    let kept = fleet.grant_everywhere(0, "acme").await;

    assert_eq!(sidecar.server.urls.len(), 2);
    for url in &sidecar.server.urls {
        assert!(is_serving(&connect(url).await).await, "{url}");
    }
    let checks = vec![access_check("acme"), access_check("other")];
    let request = BatchCheckAccessRequest { checks, ..Default::default() };
    let batch = sidecar.client.clone().batch_check_access(request).await.unwrap().into_inner();
    let decisions: Vec<_> = batch.results.iter().map(CheckAccessResponse::decision).collect();
    assert_eq!(decisions, [Decision::Allowed, Decision::Denied]);

    for (node, is_truncated) in [(&fleet.replicas[0], false), (sidecar, true)] {
        let check = Some(access_check("acme"));
        let request = ExplainAccessRequest { check, ..Default::default() };
        let explained = node.client.clone().explain_access(request).await.unwrap().into_inner();
        assert_eq!(explained.candidates_truncated, is_truncated, "{}", node.server.name);
        let candidates = explained.candidates.iter();
        let candidates: Vec<_> =
            candidates.map(|candidate| &candidate.grant.as_ref().unwrap().grant_id).collect();
        assert_eq!(candidates, [&kept.grant_id, &revoked.grant_id], "{}", node.server.name);
        assert_eq!(explained.result.unwrap().grant_id, kept.grant_id);
    }
    let mut admin = SupportAccessAdminClient::new(sidecar.channel.clone());
    let error = grant(&mut admin, "acme").await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented, "{error:?}");
}

/// A replica lists all replicas and their followers, but no node that only a sidecar knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_lists_replicas_and_their_followers() {
    let cluster = Cluster::launch();
    let mut fleet = Fleet::replicas(&cluster.fresh_database(), 2).await;
    let upstream = fleet.replicas[0].server.url().to_owned();
    let upstream = fleet.add_sidecar(&[&upstream]).await.server.url().to_owned();
    fleet.add_sidecar(&[&upstream]).await;
    fleet.serving().await;
    fleet.grant_everywhere(0, "acme").await;
    let last = fleet.head_revision(0).await;
    for replica in &fleet.replicas {
        eventually("the nodes are listed with the last revision", async || {
            let mut client = CheckNodesClient::new(replica.channel.clone());
            let listed = client.list_check_nodes(ListCheckNodesRequest {}).await.unwrap();
            let nodes = listed.into_inner().check_nodes;
            let count = |kind| nodes.iter().filter(|node| node.kind() == kind).count();
            (count(NodeKind::Replica), count(NodeKind::Sidecar)) == (2, 1)
                && nodes.iter().all(|node| node.revision >= last && node.lease_age.is_some())
        })
        .await;
    }
    let mut client = CheckNodesClient::new(fleet.sidecars[0].channel.clone());
    let error = client.list_check_nodes(ListCheckNodesRequest {}).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented, "{error:?}");
}

/// A caller whose deadline ends first gets the state `PENDING`, and can wait again at any replica.
#[tokio::test(flavor = "multi_thread")]
async fn a_pending_revocation_can_be_awaited_at_any_replica() {
    let cluster = Cluster::launch();
    let mut fleet = Fleet::replicas(&cluster.fresh_database(), 2).await;
    let upstream = fleet.replicas[0].server.url().to_owned();
    fleet.add_sidecar(&[&upstream]).await;
    fleet.serving().await;
    let revoked = fleet.grant_everywhere(0, "revoked").await;
    fleet.sidecars[0].server.pause();
    let mut request = Request::new(RevokeAccessRequest {
        tenant_id: revoked.tenant_id.clone(),
        grant_id: revoked.grant_id.clone(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_millis(500));
    let pending = fleet.admin(0).revoke_access(request).await.unwrap().into_inner();
    let pending = pending.enforcement.unwrap();
    assert_eq!(pending.state(), EnforcementState::Pending, "{pending:?}");
    for replica in [1, 0] {
        let request = WaitEnforcedRequest {
            tenant_id: Some(revoked.tenant_id.clone()),
            consistency_token: pending.consistency_token.clone(),
        };
        let waited = fleet.admin(replica).wait_enforced(request).await.unwrap().into_inner();
        let waited = waited.enforcement.unwrap();
        println!("{waited:?}");
        assert_eq!(waited.state(), EnforcementState::Complete, "{waited:?}");
        let elapsed: Duration = waited.elapsed.unwrap().try_into().unwrap();
        // After the commit, a replica waits for the leases as of the new call.
        assert!(waited.nodes_lapsed > 0, "the paused node's lease must expire: {waited:?}");
        assert!(elapsed < ENFORCEMENT_BOUND + FAST, "{waited:?}");
        fleet.assert_denied(&revoked).await;
    }
    fleet.sidecars[0].server.resume();
    assert!(!fleet.check(&fleet.sidecars[0], "revoked", "").await.is_allowed_by(&revoked));
}
