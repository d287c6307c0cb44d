"""The rules and the dashboard as the chart renders them, and the directory of the runbooks."""

import re
from pathlib import Path

import yaml
from chart import ROOT, find, manifests, values_for

HERE = Path(__file__).resolve().parent
RUNBOOKS = ROOT / "docs/runbooks"
RUNBOOK_URL = "https://runbooks.example/"
# The scrape jobs of the sidecars and of the replicas.
SIDECAR_JOB = "gateways/sidecar"
JOB = "access-support-access-metrics"


def rendered_rules(chart_values=None, max_staleness="2s", replicas=1):
    """The content of the rule file, or None if the values create none."""
    if chart_values is None:
        settings = {"enabled": True, "sidecarJob": "gateways/.+", "runbookUrl": RUNBOOK_URL}
        chart_values = values_for("monitoring", replicaCount=replicas, prometheusRule=settings,
                                  config={"maxStaleness": max_staleness})
    objects = manifests(chart_values)
    rules = [manifest["spec"] for manifest in objects if manifest["kind"] == "PrometheusRule"]
    return rules[0] if rules else None


def dashboard():
    name = f"{JOB.removesuffix('-metrics')}-dashboard"
    config_map = find(manifests(values_for("monitoring")), "ConfigMap", name)
    return yaml.safe_load(config_map["data"]["support-access.json"])


def metrics_in(text):
    """The names of the service's metrics in a text, without log targets and the bare prefix."""
    return set(re.findall(r"\bsupport_access_[a-z_]+[a-z]\b", text))
