"""The PrometheusRule and the dashboard are alerts.yaml and dashboard.json, for one installation."""

import json

import pytest
import yaml
from chart import CHART, find, manifests, values_for

JOB = 'namespace="vendor",job="access-support-access-metrics"'
RUNBOOKS = "https://runbooks.example/support-access/"


def rules(**overrides):
    objects = manifests(values_for("monitoring", **overrides))
    return find(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]


def expression(alert, **overrides):
    [found] = [rule["expr"] for rule in rules(**overrides) if rule["alert"] == alert]
    return found


def test_rules_have_the_values_of_the_installation():
    source = yaml.safe_load((CHART / "alerts.yaml").read_text())["groups"][0]["rules"]
    for example, rule in zip(source, rules(), strict=True):
        runbook = example["annotations"]["runbook_url"]
        assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS}{runbook}"
        expected = example["expr"]
        for placeholder, value in (
            ('job="support-access-metrics"', JOB),
            ('job="support-access-sidecar"', 'job=~"gateways/.+"'),
            ("(2.0)", "(0.5)"),
            ("(2)", "(0.5)"),
            ("< 14 * ", "< 10 * "),
            (" 2 * ", " 0.5 * "),
        ):
            expected = expected.replace(placeholder, value)
        assert rule["expr"] == expected, rule["alert"]
    text = "".join(rule["expr"] for rule in rules())
    assert text.count(" (0.5)") == 8 and text.count(", (3))") == 1
    assert "< 10 * 86400 >= 0.5 * 86400" in text and "< 0.5 * 86400" in text


@pytest.mark.parametrize(("max_staleness", "limit"), [("2s", "2"), ("45s", "30"), ("5m", "75")])
def test_limit_of_the_lease_age_follows_max_staleness(max_staleness, limit):
    config = {"maxStaleness": max_staleness}
    unreachable = expression("SupportAccessDatabaseUnreachable", config=config)
    assert unreachable.endswith(f" > ({limit})")


@pytest.mark.parametrize(("overrides", "expected"), [
    ({"replicaCount": 2}, 2),
    ({"autoscaling": {"enabled": True, "minReplicas": 4}}, 4),
])
def test_expected_number_of_replicas_is_the_configured_one(overrides, expected):
    assert f", ({expected}))" in expression("SupportAccessReplicaDown", **overrides)


def test_rules_without_runbooks_and_sidecars_do_not_mention_them():
    plain = rules(prometheusRule={"enabled": True})
    assert not any("runbook_url" in rule["annotations"] for rule in plain)
    for rule in plain:
        assert "support-access-sidecar" not in rule["expr"], rule["alert"]
        assert " or support_access" not in rule["expr"], rule["alert"]


def test_dashboard_is_the_file():
    objects = manifests(values_for("monitoring"))
    config_map = find(objects, "ConfigMap", "access-support-access-dashboard")
    assert config_map["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config_map["metadata"]["annotations"] == {"grafana_folder": "Access"}
    rendered = json.loads(config_map["data"]["support-access.json"])
    assert rendered == json.loads((CHART / "dashboard.json").read_text())
