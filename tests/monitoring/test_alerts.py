"""Each alert is fired once, by a real Prometheus that reads real replicas and a real sidecar, to which happens what the alert is
about; and is over when that is. The tests share the processes, and leave them as they were."""

import threading
from contextlib import contextmanager

from harness import eventually
from parts import TENANT, stopped

JOB = "access-support-access-http"


def test_nothing_fires_while_all_is_well(service, prometheus):
    def everybody_was_read_for_long_enough():
        service.use()
        # Longer than anything in `for` or a range. (Before the first look nobody is up, and that is an alert.)
        return len(prometheus.query("up offset 18s == 1")) == 3
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
        prometheus.until_firing("SupportAccessNodeStale", severity="warning", pod="sidecar", namespace="shop")
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
        assert (alert["labels"]["pod"], alert["labels"]["severity"]) == ("second", "warning")
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
    yield
    over.set()
    for thread in threads:
        thread.join()


def test_a_forgotten_transaction_stops_all_changes(service, prometheus):
    service.use()
    assert service.grant(tenant="bolt", end="3s").returncode == 0
    with service.sql_in_the_way("SELECT FROM head FOR UPDATE;"), others(service.grant, 6):
        alert = prometheus.until_firing("SupportAccessChangesFailing")
        assert alert["labels"].items() >= {"severity": "critical", "namespace": "vendor", "job": JOB}.items()
        assert service.check_at_sidecar().returncode == 1, "checks go on"
        alert = prometheus.until_firing("SupportAccessSweepBehind")
        assert alert["labels"].items() >= {"severity": "warning", "namespace": "vendor", "job": JOB}.items()
    prometheus.until_over("SupportAccessChangesFailing", service.use)
    prometheus.until_over("SupportAccessSweepBehind")


def test_callers_are_rejected(service, prometheus):
    def ask():
        assert "error: " in service.grant(who="wrong.token").stderr
    alert = prometheus.until_firing("SupportAccessCallersRejected", ask)
    assert (alert["labels"]["code"], alert["labels"]["severity"]) == ("UNAUTHENTICATED", "warning")
    prometheus.until_over("SupportAccessCallersRejected")


def test_the_database_holds_what_it_should_not(service, prometheus):
    """As somebody could who has the database: an owner of the tables can switch off what refuses it."""
    service.use()
    where = f"WHERE revision = (SELECT min(revision) FROM events WHERE tenant_id = '{TENANT}')"
    body = service.sql(f"SELECT body FROM events {where}").replace("'", "''")

    def tamper(text):
        service.sql("ALTER TABLE events DISABLE TRIGGER events_are_permanent; "
                    f"UPDATE events SET body = '{text}' {where}; ALTER TABLE events ENABLE TRIGGER events_are_permanent")
    tamper('{"nonsense": true}')
    try:
        def read():
            assert "something is wrong inside" in service.run("history", TENANT, "--limit", "100000").stderr
        alert = prometheus.until_firing("SupportAccessErrors", read)
        assert (alert["labels"]["method"], alert["labels"]["code"]) == ("ListEvents", "INTERNAL")
        assert alert["labels"]["severity"] == "warning"
    finally:
        tamper(body)
    prometheus.until_over("SupportAccessErrors")
