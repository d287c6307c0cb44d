"""A real Prometheus fires each alert for real replicas and sidecars, and resolves the alert
afterwards. The tests share the processes, and undo each fault."""

import threading
from contextlib import contextmanager

import pytest
from harness import eventually
from monitoring import JOB
from service import CONNECTIONS, DENIED, NOT_PERMITTED, TENANT, UNAVAILABLE, paused

REPLICAS = {"namespace": "vendor", "job": JOB}


def assert_labels(alert, severity, **labels):
    expected = {"severity": severity} | labels
    assert alert["labels"].items() >= expected.items()


@contextmanager
def background_threads(job, count):
    """Calls `job` repeatedly in `count` threads."""
    stopped = threading.Event()

    def work():
        while not stopped.is_set():
            job()

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()


def test_no_alert_fires_in_normal_operation(service, prometheus):
    def all_were_scraped_for_long_enough():
        service.use()
        # Longer than any `for` or range. Before the first scrape, an alert for `up` is correct.
        return len(prometheus.query("up offset 18s == 1")) == 5

    eventually(all_were_scraped_for_long_enough, "Prometheus has scraped all nodes for 18 s")
    rules = prometheus.get("rules")["groups"][0]["rules"]
    assert all(rule["health"] == "ok" for rule in rules), rules
    assert prometheus.query('max_over_time(ALERTS{alertstate="firing"}[16s])') == []


def test_replica_without_database_is_stale(service, prometheus):
    with service.database_link.cut():
        alert = prometheus.until_firing("SupportAccessNodeStale", severity="warning")
        assert_labels(alert, "warning", pod="second", job=JOB)
        summary = alert["annotations"]["summary"]
        assert summary.startswith("The check node second has no valid lease")
        assert "STALE" in service.check(node=service.second).stdout
        assert not prometheus.firing("SupportAccessDatabaseUnreachable")
        assert not prometheus.firing("SupportAccessNodeStale", severity="critical"), \
            "one of two is not most"
    prometheus.until_resolved("SupportAccessNodeStale")


def test_most_sidecars_without_upstream_are_critical(service, prometheus):
    with service.sidecar_link.cut():
        alert = prometheus.until_firing("SupportAccessNodeStale", severity="critical")
        annotations = alert["annotations"]
        assert annotations["summary"].startswith("Most check nodes of gateways/sidecar")
        assert "100% of the nodes" in annotations["description"]
        assert not prometheus.firing("SupportAccessNodeStale", severity="warning"), \
            "the critical alert replaces the warnings"
    prometheus.until_resolved("SupportAccessNodeStale")


def test_unavailable_database(service, prometheus):
    service.postgres.stop()
    try:
        alert = prometheus.until_firing("SupportAccessDatabaseUnreachable")
        assert_labels(alert, "critical", **REPLICAS)
        assert not prometheus.firing("SupportAccessNodeStale")
    finally:
        service.postgres.start()
    prometheus.until_resolved("SupportAccessDatabaseUnreachable")
    eventually(lambda: service.grant().returncode == 0, "changes succeed again")


def test_paused_replicas_are_down(service, prometheus):
    with paused(service.second):
        alert = prometheus.until_firing("SupportAccessReplicaDown")
        assert_labels(alert, "warning", **REPLICAS)
        assert not prometheus.firing("SupportAccessDown")
        with paused(service.first):
            alert = prometheus.until_firing("SupportAccessDown")
            assert_labels(alert, "critical", **REPLICAS)
    prometheus.until_resolved("SupportAccessDown")
    prometheus.until_resolved("SupportAccessReplicaDown")


def test_open_transaction_blocks_changes_and_sweep(service, prometheus):
    service.use()
    assert service.grant(tenant="bolt", duration="3s").returncode == 0
    transaction = service.open_transaction("SELECT FROM head FOR UPDATE;")
    with transaction, background_threads(service.grant, 6):
        alert = prometheus.until_firing("SupportAccessChangesFailing")
        assert_labels(alert, "critical", **REPLICAS)
        assert service.check_at_sidecar().returncode == DENIED, "checks are still answered"
        alert = prometheus.until_firing("SupportAccessSweepBehind")
        assert_labels(alert, "warning", **REPLICAS)
        assert not prometheus.firing("SupportAccessDatabaseUnreachable")
    prometheus.until_resolved("SupportAccessChangesFailing", service.use)
    prometheus.until_resolved("SupportAccessSweepBehind")


def test_database_clock_is_set_back(service, prometheus):
    with service.clock_set_back("1 hour"):
        alert = prometheus.until_firing("SupportAccessClockUnreliable")
        assert_labels(alert, "critical", **REPLICAS)
        rejected = service.grant()
        assert rejected.returncode != 0 and "CLOCK_UNRELIABLE" in rejected.stderr
    prometheus.until_resolved("SupportAccessClockUnreliable")
    eventually(lambda: service.grant().returncode == 0, "grants succeed again")


def test_locked_events_block_verification(service, prometheus):
    """Heartbeats read the table too, so that other alerts fire as well."""
    with service.open_transaction("LOCK TABLE events;"):
        alert = prometheus.until_firing("SupportAccessHistoryUnverified")
        assert_labels(alert, "warning", **REPLICAS)
    prometheus.until_resolved("SupportAccessHistoryUnverified")
    prometheus.until_resolved("SupportAccessNodeStale")


def test_callers_with_short_deadlines_while_changes_wait(service, prometheus):
    """The calls end before the timeout of the server, and reads succeed."""
    def read():
        assert service.run("history", "list", TENANT).returncode == 0

    def failing(code):
        labels = f'namespace="vendor",method="GrantAccess",code="{code}"'
        return prometheus.query(f"rate(support_access_rpcs_total{{{labels}}}[5s]) > 0")

    eventually(lambda: not failing("UNAVAILABLE"), "the failures of other tests are out of range")
    transaction = service.open_transaction("SELECT FROM head FOR UPDATE;")
    with transaction, background_threads(lambda: service.grant(timeout="1s"), 2):
        prometheus.until_firing("SupportAccessChangesFailing", read)
        assert failing("DEADLINE_EXCEEDED")
        assert not failing("UNAVAILABLE")
    prometheus.until_resolved("SupportAccessChangesFailing", service.use)


def test_expiring_certificates_of_replicas_and_sidecars(service, prometheus):
    alert_name = "SupportAccessCertificateExpiring"
    service.renew_server(days=10)
    alert = prometheus.until_firing(alert_name, severity="warning", pod="first",
                                    certificate="tls-certificate")
    assert "expires in 9d 23h" in alert["annotations"]["description"]
    service.renew_server(days=1)
    for pod in ("first", "second"):
        labels = {"pod": pod, "certificate": "tls-certificate", "job": JOB}
        alert = prometheus.until_firing(alert_name, severity="critical", **labels)
        assert "expires in 23h 59m" in alert["annotations"]["description"]
        assert not prometheus.firing(alert_name, severity="warning", **labels)
    service.renew_server(days=30)
    prometheus.until_resolved(alert_name)
    service.renew_sidecar(days=1)
    prometheus.until_firing(alert_name, severity="critical", pod="sidecar-0",
                            certificate="upstream-certificate")
    service.renew_sidecar(days=30)
    prometheus.until_resolved(alert_name)


def test_paused_sidecar_slows_revocations(service, prometheus):
    def revoke_while_paused():
        service.sidecar.until_ready()
        assert service.grant().returncode == 0
        with paused(service.sidecar):
            done = service.run("revoke", "--all", TENANT)
            assert "at every check node" in done.stdout and " 1 lapsed" in done.stdout, done

    alert = prometheus.until_firing("SupportAccessRevokeSlow", revoke_while_paused)
    assert_labels(alert, "warning", **REPLICAS)
    service.sidecar.until_ready()


def test_replica_is_nearly_out_of_connections(service, prometheus):
    with service.connections(service.second, CONNECTIONS * 9 // 10):
        alert = prometheus.until_firing("SupportAccessSaturated")
        assert_labels(alert, "warning", pod="second", resource="connections")


@pytest.mark.parametrize(("call", "caller", "code", "exit_code"), [
    ("grant", "wrong.token", "UNAUTHENTICATED", NOT_PERMITTED),
    ("check", "foreign/gateway", "TLS", UNAVAILABLE),
])
def test_rejected_callers(service, prometheus, call, caller, code, exit_code):
    def call_and_fail():
        assert getattr(service, call)(caller=caller).returncode == exit_code

    alert = prometheus.until_firing("SupportAccessCallersRejected", call_and_fail, code=code)
    assert_labels(alert, "warning", **REPLICAS)


def test_failed_handshakes_leave_audit_lines(service):
    assert service.check(caller="foreign/gateway").returncode == UNAVAILABLE

    def audit_lines():
        # Without the lines that count further failures.
        message = '"message":"a TLS handshake has failed"'
        return [line for line in service.first.lines if message in line]

    for line in eventually(audit_lines, "the handshake is logged"):
        assert all(part in line for part in ("support_access::audit", "address", "error")), line


def test_changed_event_breaks_the_history(service, prometheus):
    """The owner of the tables can disable the trigger that rejects such a change."""
    service.use()
    event = f"WHERE revision = (SELECT min(revision) FROM events WHERE tenant_id = '{TENANT}')"
    body = service.sql(f"SELECT body FROM events {event}").replace("'", "''")

    def tamper(text):
        service.sql("ALTER TABLE events DISABLE TRIGGER events_are_never_updated; "
                    f"UPDATE events SET body = '{text}' {event}; "
                    "ALTER TABLE events ENABLE TRIGGER events_are_never_updated")

    def read():
        done = service.run("history", "list", TENANT, "--limit", "100000")
        assert done.returncode == 1 and "internal error" in done.stderr

    tamper('{"nonsense": true}')
    try:
        alert = prometheus.until_firing("SupportAccessHistoryBroken", read)
        assert_labels(alert, "critical", **REPLICAS)
        alert = prometheus.until_firing("SupportAccessErrors", read)
        assert_labels(alert, "warning", method="ListEvents", code="INTERNAL")
    finally:
        tamper(body)
    # The replicas have read the event, and deny everything in its tenant until they load again.
    service.load_again()
    prometheus.until_resolved("SupportAccessHistoryBroken")
    prometheus.until_resolved("SupportAccessDatabaseForged")


def test_changed_grant_differs_from_the_history(service, prometheus):
    """The owner of the tables can disable the trigger that rejects such a change."""
    service.use()

    def tamper(reason):
        service.sql("ALTER TABLE grants DISABLE TRIGGER grants_move_forward; "
                    f"UPDATE grants SET reason = {reason} WHERE create_revision = "
                    "(SELECT min(create_revision) FROM grants); "
                    "ALTER TABLE grants ENABLE TRIGGER grants_move_forward")

    tamper("reason || 'x'")
    try:
        alert = prometheus.until_firing("SupportAccessHistoryDiffers")
        assert_labels(alert, "critical", **REPLICAS)
    finally:
        tamper("left(reason, -1)")
    prometheus.until_resolved("SupportAccessHistoryDiffers")


def test_inserted_event_is_forged(service, prometheus):
    """Running replicas read the event, and its HMAC fails."""
    service.use()
    insert = ("INSERT INTO events SELECT head.revision + 1, 'forged', 1, hash, head.time, actor, "
              "via, actor_asserted, reason, kind, grant_id, lock_id, body, mac, owner_mac "
              "FROM events, head WHERE events.revision = 1; "
              "UPDATE head SET revision = revision + 1")
    remove = ("DELETE FROM events WHERE tenant_id = 'forged'; "
              "UPDATE head SET revision = revision - 1")
    service.sql(f"SET session_replication_role = replica; {insert}")
    try:
        alert = prometheus.until_firing("SupportAccessDatabaseForged")
        assert_labels(alert, "critical", **REPLICAS)
    finally:
        service.sql(f"SET session_replication_role = replica; {remove}")
    prometheus.until_resolved("SupportAccessDatabaseForged")


def test_every_alert_has_fired_and_is_resolved(service, prometheus):
    fired = prometheus.query('count by (alertname, severity) '
                             '(count_over_time(ALERTS{alertstate="firing"}[10m]))')
    rules = prometheus.get("rules")["groups"][0]["rules"]
    names = {(alert["metric"]["alertname"], alert["metric"]["severity"]) for alert in fired}
    assert names == {(rule["name"], rule["labels"]["severity"]) for rule in rules}

    def nothing_fires():
        alerts = prometheus.get("alerts")["alerts"]
        return not any(alert["state"] == "firing" for alert in alerts)

    eventually(nothing_fires, "all alerts are resolved")
