"""Each alert is fired once, by a real Prometheus that reads real replicas and a real sidecar, to which happens what the alert is
about; and is over when that is. The tests share the processes, and leave them as they were."""

import threading
from contextlib import contextmanager

from harness import eventually
from parts import CONNECTIONS, TENANT, stopped

JOB = "access-support-access-metrics"


def test_nothing_fires_while_all_is_well(service, prometheus):
    def everybody_was_read_for_long_enough():
        service.use()
        # Longer than anything in `for` or a range. (Before the first look nobody is up, and that is an alert.)
        return len(prometheus.query("up offset 18s == 1")) == 5
    eventually(everybody_was_read_for_long_enough, "Prometheus has read everybody for a while")
    rules = prometheus.get("rules")["groups"][0]["rules"]
    assert all(rule["health"] == "ok" for rule in rules), rules
    assert prometheus.query('max_over_time(ALERTS{alertstate="firing"}[16s])') == []


def test_one_replica_does_not_reach_the_database(service, prometheus):
    with service.database_link.cut():
        alert = prometheus.until_firing("SupportAccessNodeStale", severity="warning")
        assert (alert["labels"]["pod"], alert["labels"]["job"]) == ("second", JOB)
        assert alert["annotations"]["summary"].startswith("The check node second has no valid proof")
        assert "STALE" in service.check(node=service.second).stdout
        assert not prometheus.firing("SupportAccessDatabaseUnreachable")
        assert not prometheus.firing("SupportAccessNodeStale", severity="critical"), "one of two is not most"
    prometheus.until_over("SupportAccessNodeStale")


def test_the_sidecars_do_not_reach_their_replica(service, prometheus):
    with service.sidecar_link.cut():
        alert = prometheus.until_firing("SupportAccessNodeStale", severity="critical")
        assert alert["annotations"]["summary"].startswith("Most check nodes of gateways/sidecar")
        assert "100% of the nodes" in alert["annotations"]["description"]
        assert not prometheus.firing("SupportAccessNodeStale", severity="warning"), "once is enough"
    prometheus.until_over("SupportAccessNodeStale")


def test_the_database_is_away(service, prometheus):
    service.postgres.stop()
    try:
        alert = prometheus.until_firing("SupportAccessDatabaseUnreachable")
        assert alert["labels"].items() >= {"severity": "critical", "namespace": "vendor", "job": JOB}.items()
        assert not prometheus.firing("SupportAccessNodeStale")
    finally:
        service.postgres.start()
    prometheus.until_over("SupportAccessDatabaseUnreachable")
    eventually(lambda: service.grant().returncode == 0, "changes are taken again")


def test_replicas_do_not_answer(service, prometheus):
    with stopped(service.second):
        alert = prometheus.until_firing("SupportAccessReplicaDown")
        assert alert["labels"].items() >= {"severity": "warning", "namespace": "vendor", "job": JOB}.items()
        assert not prometheus.firing("SupportAccessDown")
        with stopped(service.first):
            alert = prometheus.until_firing("SupportAccessDown")
            assert alert["labels"].items() >= {"severity": "critical", "namespace": "vendor", "job": JOB}.items()
    prometheus.until_over("SupportAccessDown")
    prometheus.until_over("SupportAccessReplicaDown")


@contextmanager
def others(job, count):
    """Threads that do it again and again."""
    over = threading.Event()

    def work():
        while not over.is_set():
            job()
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_a_forgotten_transaction_stops_all_changes(service, prometheus):
    service.use()
    assert service.grant(tenant="bolt", end="3s").returncode == 0
    with service.sql_in_the_way("SELECT FROM head FOR UPDATE; LOCK TABLE enforcements;"), others(service.grant, 6):
        alert = prometheus.until_firing("SupportAccessChangesFailing")
        assert alert["labels"].items() >= {"severity": "critical", "namespace": "vendor", "job": JOB}.items()
        assert service.check_at_sidecar().returncode == 1, "checks go on"
        alert = prometheus.until_firing("SupportAccessSweepBehind")
        assert alert["labels"].items() >= {"severity": "warning", "namespace": "vendor", "job": JOB}.items()
        alert = prometheus.until_firing("SupportAccessHistoryUnverified")
        assert alert["labels"].items() >= {"severity": "warning", "namespace": "vendor", "job": JOB}.items()
        assert not prometheus.firing("SupportAccessDatabaseUnreachable")
    prometheus.until_over("SupportAccessChangesFailing", service.use)
    prometheus.until_over("SupportAccessSweepBehind")
    prometheus.until_over("SupportAccessHistoryUnverified")


def test_callers_have_no_patience_while_all_changes_wait(service, prometheus):
    """They end before the server would, and others read: that goes on."""
    def read():
        assert service.run("history", TENANT).returncode == 0
    def failing(code):
        labels = f'namespace="vendor",method="GrantAccess",code="{code}"'
        return prometheus.query(f"rate(support_access_rpcs_total{{{labels}}}[5s]) > 0")
    eventually(lambda: not failing("UNAVAILABLE"), "those of other tests are past")
    with service.sql_in_the_way("SELECT FROM head FOR UPDATE;"), others(lambda: service.grant(timeout="1s"), 2):
        prometheus.until_firing("SupportAccessChangesFailing", read)
        assert failing("DEADLINE_EXCEEDED")
        assert not failing("UNAVAILABLE")
    prometheus.until_over("SupportAccessChangesFailing", service.use)


def test_a_certificate_ends(service, prometheus):
    service.renew(days=10)
    alert = prometheus.until_firing("SupportAccessCertificateEnding", severity="warning", pod="first", certificate="tls-certificate")
    assert "ends in 9d 23h" in alert["annotations"]["description"]
    service.renew(days=1)
    for pod in ("first", "second"):
        labels = {"pod": pod, "certificate": "tls-certificate", "job": JOB}
        alert = prometheus.until_firing("SupportAccessCertificateEnding", severity="critical", **labels)
        assert "ends in 23h 59m" in alert["annotations"]["description"]
        assert not prometheus.firing("SupportAccessCertificateEnding", severity="warning", **labels)
    service.renew(days=30)
    prometheus.until_over("SupportAccessCertificateEnding")
    service.renew_sidecar(days=1)
    prometheus.until_firing("SupportAccessCertificateEnding", severity="critical", pod="sidecar-0", certificate="upstream-certificate")
    service.renew_sidecar(days=30)
    prometheus.until_over("SupportAccessCertificateEnding")


def test_a_sidecar_is_paused_again_and_again(service, prometheus):
    def revoke_while_it_is_paused():
        service.sidecar.until_ready()
        assert service.grant().returncode == 0
        with stopped(service.sidecar):
            done = service.run("revoke", "--all", TENANT)
            assert "at every check node" in done.stdout and " 1 lapsed" in done.stdout, done
    alert = prometheus.until_firing("SupportAccessRevokeSlow", revoke_while_it_is_paused)
    assert alert["labels"].items() >= {"severity": "warning", "namespace": "vendor", "job": JOB}.items()
    service.sidecar.until_ready()


def test_a_replica_is_nearly_out_of_connections(service, prometheus):
    with service.connections(service.second, CONNECTIONS * 9 // 10):
        alert = prometheus.until_firing("SupportAccessSaturated")
        assert (alert["labels"]["pod"], alert["labels"]["of"], alert["labels"]["severity"]) == ("second", "connections", "warning")


def test_callers_are_rejected(service, prometheus):
    def ask():
        assert "error: " in service.grant(who="wrong.token").stderr
    alert = prometheus.until_firing("SupportAccessCallersRejected", ask)
    assert (alert["labels"]["code"], alert["labels"]["severity"]) == ("UNAUTHENTICATED", "warning")


def test_callers_have_certificates_of_a_foreign_authority(service, prometheus):
    """They get no further than the handshake."""
    def ask():
        assert "error: " in service.check(who="foreign/gateway").stderr
    alert = prometheus.until_firing("SupportAccessCallersRejected", ask, code="TLS")
    assert alert["labels"].items() >= {"severity": "warning", "namespace": "vendor", "job": JOB}.items()
    told = [line for line in service.first.lines if "a TLS handshake has failed" in line]
    assert told and all("support_access::audit" in line and "address" in line and "error" in line for line in told), told


def test_somebody_has_changed_the_history(service, prometheus):
    """As whoever has the database can: the owner of the tables can switch off what refuses it."""
    service.use()
    where = f"WHERE revision = (SELECT min(revision) FROM events WHERE tenant_id = '{TENANT}')"
    body = service.sql(f"SELECT body FROM events {where}").replace("'", "''")

    def tamper(text):
        service.sql("ALTER TABLE events DISABLE TRIGGER events_are_permanent; "
                    f"UPDATE events SET body = '{text}' {where}; ALTER TABLE events ENABLE TRIGGER events_are_permanent")

    def read():
        assert "something is wrong inside" in service.run("history", TENANT, "--limit", "100000").stderr
    tamper('{"nonsense": true}')
    try:
        alert = prometheus.until_firing("SupportAccessHistoryBroken", read)
        assert alert["labels"].items() >= {"severity": "critical", "namespace": "vendor", "job": JOB}.items()
        alert = prometheus.until_firing("SupportAccessErrors", read)
        assert (alert["labels"]["method"], alert["labels"]["code"]) == ("ListEvents", "INTERNAL")
        assert alert["labels"]["severity"] == "warning"
    finally:
        tamper(body)
    prometheus.until_over("SupportAccessHistoryBroken")


def test_in_the_end_all_is_well_again(service, prometheus):
    fired = prometheus.query('count by (alertname, severity) (count_over_time(ALERTS{alertstate="firing"}[10m]))')
    rules = prometheus.get("rules")["groups"][0]["rules"]
    assert {(it["metric"]["alertname"], it["metric"]["severity"]) for it in fired} == {
        (rule["name"], rule["labels"]["severity"]) for rule in rules}, "each alert has been fired"

    def nothing_fires():
        return [it["labels"] for it in prometheus.get("alerts")["alerts"] if it["state"] == "firing"] == []
    eventually(nothing_fires, "all alerts are over")
