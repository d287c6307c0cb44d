//! One role of the database owns the tables, and brings them to a version; another only serves.

use support_access::store::migrate;

use crate::{
    bench::Bench, chains, changes, enforced, hints, locks, postgres::Cluster, reads, roll,
};

/// What `docs/operations.md` says that a server needs.
const GRANTS: &str = "
    GRANT USAGE ON SCHEMA public TO access_server;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO access_server;
";

/// A database that its owner has migrated, as the other role reaches it.
async fn served() -> Bench {
    let cluster = Cluster::shared();
    let owners = Bench::postgres();
    migrate(&owners.url).await.unwrap();
    let path = owners.url.strip_prefix("postgres:///").unwrap();
    cluster.psql(path.split('?').next().unwrap(), GRANTS);
    let (before, _) = owners.url.rsplit_once("&user=").unwrap();
    Bench::of_url(format!("{before}&user=access_server"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_serves_need_not_own_the_tables() {
    Cluster::shared().psql("postgres", "CREATE ROLE access_server LOGIN");
    // It cannot do more than it was granted.
    let bench = served().await;
    let refused = bench.sql("CREATE TABLE another ()").await.expect_err("it is not the owner");
    assert!(refused.to_string().contains("permission denied"), "{refused}");

    changes::events_are_read_as_they_were_written(&bench).await;
    changes::requests_are_remembered_by_tenant(&served().await).await;
    reads::reads_agree_with_a_naive_model_of_the_log(&served().await).await;
    roll::a_node_is_in_the_roll_until_it_is_struck_off(&served().await).await;
    roll::a_report_stays_until_the_next(&served().await).await;
    enforced::a_record_is_kept_with_an_event_of_a_grant(&served().await).await;
    hints::hints_come_with_what_was_committed(&served().await).await;
    chains::every_history_is_a_chain_of_its_own(&served().await).await;
    locks::locks_are_read_as_they_were_written(&served().await).await;
}
