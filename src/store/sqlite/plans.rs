//! How SQLite finds the rows: by one index that is in the answer's order, whatever is asked. No sort, and no walk through a
//! long history.

use std::sync::Arc;

use sqlx::{ConnectOptions, Connection, Executor, SqliteConnection};

use super::*;
use crate::{
    domain::{
        AgentId, Clock, GrantId, GrantState, GroupId, LockId, Party, TenantId, clock::ManualClock,
        time::from_parts,
    },
    store::{
        EventQuery, GrantQuery, LockQuery,
        sql::statements::{Statement, chain, locks, membership, read},
    },
};

/// 20,000 grants of one tenant, all ended but the last ten; every tenth of them names an agent.
const HISTORY: &str = "
    CREATE TABLE numbers AS
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i FROM n;
    INSERT INTO events (revision, tenant_id, time, actor, reason, kind, grant_id, body)
        SELECT i, 'acme', i, 'admin', '', 'granted', printf('%036d', i), '{}' FROM numbers;
    INSERT INTO grants (tenant_id, create_revision, revision, ended_revision, grant_id, group_id, agent_ids,
            access_level, start_time, expire_time, revoke_time, reason, ticket, create_time, creator,
            revoker, revoke_reason)
        SELECT 'acme', i, i, iif(i > 19990, NULL, i), printf('%036d', i), 'g' || (i % 3), '[]', 1, i, i + 9,
            iif(i > 19990 OR i % 2, NULL, i), '', '', i, 'admin', iif(i > 19990 OR i % 2, NULL, 'x'),
            iif(i > 19990 OR i % 2, NULL, '')
        FROM numbers;
    INSERT INTO grant_agents (tenant_id, agent_id, create_revision)
        SELECT 'acme', 'ann', i FROM numbers WHERE i % 10 = 0;
    INSERT INTO locks (create_revision, ended_revision, lock_id, tenant_id, side, expire_time, body)
        SELECT i, iif(i > 19990, NULL, i + 1), printf('%036d', i), iif(i % 2, 'acme', ''), 'vendor', i + 9, '{}' FROM numbers;
    DROP TABLE numbers;
";

async fn history() -> (tempfile::TempDir, SqliteConnection) {
    let directory = tempfile::TempDir::new().unwrap();
    let path = directory.path().join("plans.db");
    let url = format!("sqlite://{}", path.display());
    let clock = Arc::new(ManualClock::at(from_parts(1_800_000_000, 0).unwrap()));
    open(&url, clock).await.unwrap().close().await;
    let mut connection = options(&path).connect().await.unwrap();
    connection.execute(HISTORY).await.unwrap();
    (directory, connection)
}

async fn plan(connection: &mut SqliteConnection, ask: Statement) -> Vec<String> {
    let sql = format!("EXPLAIN QUERY PLAN {}", ask.sql);
    let values: sqlx::sqlite::SqliteArguments = arguments(ask.values).unwrap();
    let ask = sqlx::query_as_with::<_, (i64, i64, i64, String), _>(AssertSqlSafe(sql), values);
    let rows = ask.fetch_all(connection).await.unwrap();
    rows.into_iter().map(|(_, _, _, detail)| detail).collect()
}

fn query() -> GrantQuery {
    GrantQuery {
        tenant_id: TenantId::new("acme").unwrap(),
        states: vec![],
        group_id: None,
        agent_id: None,
        overlap_start: None,
        overlap_end: None,
        now: from_parts(1_800_000_000, 0).unwrap(),
        before: None,
        limit: 50,
    }
}

#[tokio::test]
async fn a_page_of_grants_is_read_off_one_index() {
    use GrantState::{Active, Expired, Revoked, Scheduled};
    const ALL: &str = "SEARCH g USING PRIMARY KEY (tenant_id=? AND create_revision<?)";
    const LIVE: &str = "SEARCH g USING INDEX grants_live (tenant_id=? AND create_revision<?)";
    const REVOKED: &str = "SEARCH g USING INDEX grants_revoked (tenant_id=? AND create_revision<?)";
    const UNREVOKED: &str =
        "SEARCH g USING INDEX grants_unrevoked (tenant_id=? AND create_revision<?)";
    const GROUP: &str =
        "SEARCH g USING INDEX grants_of_group (tenant_id=? AND group_id=? AND create_revision<?)";
    const AGENT: &str =
        "SEARCH a USING PRIMARY KEY (tenant_id=? AND agent_id=? AND create_revision<?)";
    const ITS_GRANT: &str = "SEARCH g USING PRIMARY KEY (tenant_id=? AND create_revision=?)";
    const NAMES: &str =
        "SEARCH a USING PRIMARY KEY (tenant_id=? AND agent_id=? AND create_revision=?)";
    let (_directory, mut connection) = history().await;
    let cases: [(&[GrantState], bool, bool, &[&str]); 12] = [
        (&[], false, false, &[ALL]),
        (&GrantState::ALL, false, false, &[ALL]),
        (&[Active], false, false, &[LIVE]),
        (&[Scheduled, Active], true, false, &[LIVE]),
        (&[Scheduled, Active], true, true, &[LIVE, NAMES]),
        (&[Revoked], false, false, &[REVOKED]),
        (&[Expired], false, false, &[UNREVOKED]),
        (&[Expired, Revoked], false, false, &[ALL]),
        (&[], true, false, &[GROUP]),
        (&[Revoked], true, false, &[GROUP]),
        (&[], false, true, &[AGENT, ITS_GRANT]),
        (&[Expired], true, true, &[AGENT, ITS_GRANT]),
    ];
    for (states, by_group, by_agent, expected) in cases {
        for has_window in [false, true] {
            let window = has_window.then_some(query().now);
            let query = GrantQuery {
                states: states.to_vec(),
                group_id: by_group.then(|| GroupId::new("g1").unwrap()),
                agent_id: by_agent.then(|| AgentId::new("ann").unwrap()),
                overlap_start: window,
                overlap_end: window,
                ..query()
            };
            let ask = read::list_grants(&Sqlite::DIALECT, &query);
            assert_eq!(plan(&mut connection, ask).await, expected, "{query:?}");
        }
    }
}

#[tokio::test]
async fn everything_else_is_found_by_an_index_too() {
    const RECORD: &str = "SEARCH n USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN";
    const LINK: &str = "SEARCH c USING INTEGER PRIMARY KEY (rowid=?) LEFT-JOIN";
    const SUBQUERY: &str = "CORRELATED SCALAR SUBQUERY 1";
    const NEXT_RECORD: &str = "SEARCH enforcements USING INTEGER PRIMARY KEY (rowid>?)";
    let (_directory, mut connection) = history().await;
    let tenant_id = query().tenant_id;
    let clock: &dyn Clock = &ManualClock::at(query().now);
    let events = |grant_id| EventQuery {
        tenant_id: Some(tenant_id.clone()),
        grant_id,
        before: None,
        limit: 50,
    };
    let id = GrantId(uuid::Uuid::nil());
    let events_of = |index| vec![index, LINK, RECORD, SUBQUERY, NEXT_RECORD];
    let cases = [
        (
            read::list_events(&Sqlite::DIALECT, &events(None)),
            events_of("SEARCH e USING INDEX events_of_tenant (tenant_id=? AND rowid<?)"),
        ),
        (
            read::list_events(&Sqlite::DIALECT, &events(Some(id))),
            events_of(
                "SEARCH e USING INDEX events_of_grant (tenant_id=? AND grant_id=? AND rowid<?)",
            ),
        ),
        (
            membership::enforced(7),
            vec![
                "CO-ROUTINE n",
                "SEARCH enforcements USING INTEGER PRIMARY KEY (rowid>?)",
                "SCAN n",
            ],
        ),
        (read::events_after(7, 50), vec!["SEARCH e USING INTEGER PRIMARY KEY (rowid>?)"]),
        (
            read::grant(&tenant_id, id),
            vec!["SEARCH g USING INDEX sqlite_autoindex_grants_1 (grant_id=?)"],
        ),
        (
            read::live_grants(&Sqlite::DIALECT, &tenant_id, 50),
            vec!["SEARCH g USING INDEX grants_live (tenant_id=?)"],
        ),
        (
            read::count_live_grants(&Sqlite::DIALECT, &tenant_id),
            vec!["SEARCH grants USING INDEX grants_live (tenant_id=?)"],
        ),
        (
            read::due_grants(clock.now(), 50),
            vec!["SEARCH g USING INDEX grants_due (expire_time>? AND expire_time<?)"],
        ),
        (
            read::next_expiry(),
            vec![
                "SCAN CONSTANT ROW",
                "SCALAR SUBQUERY 1",
                "SEARCH grants USING INDEX grants_due (expire_time>?)",
                "SCALAR SUBQUERY 2",
                "SEARCH locks USING INDEX locks_due (expire_time>?)",
            ],
        ),
    ];
    for (ask, expected) in cases {
        let sql = ask.sql.to_string();
        assert_eq!(plan(&mut connection, ask).await, expected, "{sql}");
    }
    connection.close().await.unwrap();
}

#[tokio::test]
async fn locks_are_found_by_an_index_too() {
    let (_directory, mut connection) = history().await;
    let GrantQuery { tenant_id, now, .. } = query();
    let list = |tenant_id, include_ended| {
        let query = LockQuery { tenant_id, include_ended, now, before: None, limit: 50 };
        locks::list(&Sqlite::DIALECT, &query)
    };
    let acme = Some(tenant_id.clone());
    let cases = [
        (list(None, true), "SEARCH l USING INTEGER PRIMARY KEY (rowid<?)"),
        (list(None, false), "SEARCH l USING INDEX locks_live (create_revision<?)"),
        (
            list(acme.clone(), true),
            "SEARCH l USING INDEX locks_of_tenant (tenant_id=? AND create_revision<?)",
        ),
        (
            list(acme, false),
            "SEARCH l USING INDEX locks_live_of_tenant (tenant_id=? AND create_revision<?)",
        ),
        (
            locks::lock(LockId(uuid::Uuid::nil())),
            "SEARCH locks USING INDEX sqlite_autoindex_locks_1 (lock_id=?)",
        ),
        (
            locks::count_live(&Sqlite::DIALECT, Party::Vendor, None),
            "SEARCH locks USING INDEX locks_live_of_side (side=?)",
        ),
        (
            locks::count_live(&Sqlite::DIALECT, Party::Tenant, Some(&tenant_id)),
            "SEARCH locks USING INDEX locks_live_of_side (side=? AND tenant_id=?)",
        ),
        (
            locks::due(now, 50),
            "SEARCH locks USING INDEX locks_due (expire_time>? AND expire_time<?)",
        ),
    ];
    for (ask, expected) in cases {
        let sql = ask.sql.to_string();
        assert_eq!(plan(&mut connection, ask).await, [expected], "{sql}");
    }
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_chain_is_read_off_its_index() {
    let (_directory, mut connection) = history().await;
    let tenant_id = query().tenant_id;
    let cases = [
        (
            chain::records(Some(&tenant_id), 7, 50),
            vec![
                "SEARCH c USING INDEX sqlite_autoindex_chain_1 (tenant_id=? AND sequence>?)",
                "SEARCH h USING INTEGER PRIMARY KEY (rowid=?)",
                "SEARCH e USING INTEGER PRIMARY KEY (rowid=?)",
                "SEARCH p USING INDEX sqlite_autoindex_chain_1 (tenant_id=? AND sequence=?) LEFT-JOIN",
            ],
        ),
        (
            chain::head(Some(&tenant_id)),
            vec![
                "SEARCH h USING INTEGER PRIMARY KEY (rowid=?)",
                "SEARCH c USING INDEX sqlite_autoindex_chain_1 (tenant_id=? AND sequence=?) LEFT-JOIN",
                "SCALAR SUBQUERY 1",
                "SEARCH chain USING COVERING INDEX sqlite_autoindex_chain_1 (tenant_id=?)",
            ],
        ),
        (
            chain::last("acme"),
            vec!["SEARCH chain USING INDEX sqlite_autoindex_chain_1 (tenant_id=?)"],
        ),
        (
            chain::tenant_after("acme"),
            vec!["SEARCH chain USING COVERING INDEX sqlite_autoindex_chain_1 (tenant_id>?)"],
        ),
        (
            chain::unlinked(50),
            vec![
                "SEARCH e USING INTEGER PRIMARY KEY (rowid>?)",
                "SCALAR SUBQUERY 1",
                "SEARCH chain",
            ],
        ),
        (
            chain::is_behind(),
            vec![
                "SEARCH head USING INTEGER PRIMARY KEY (rowid=?)",
                "SCALAR SUBQUERY 1",
                "SEARCH chain",
            ],
        ),
    ];
    for (ask, expected) in cases {
        let sql = ask.sql.to_string();
        assert_eq!(plan(&mut connection, ask).await, expected, "{sql}");
    }
    connection.close().await.unwrap();
}
