"""What the chart renders for Prometheus and Grafana, and where the runbooks are."""

import re
from pathlib import Path

import yaml
from chart import CHART, ROOT, one, objects, values

HERE = Path(__file__).resolve().parent
RUNBOOKS = ROOT / "docs/runbooks"
SIDECARS = "gateways/sidecar"
JOB = "access-support-access-metrics"


def rendered_rules(given=None, max_staleness="2s", replicas=1):
    """The content of a file of rules; None if these values ask for none. Without values: those of the tests here."""
    if given is None:
        given = values("monitoring", replicaCount=replicas, config={"maxStaleness": max_staleness}, prometheusRule={
            "enabled": True, "sidecarJob": "gateways/.+", "runbookUrl": "https://runbooks.example/"})
    found = [made for made in objects(given) if made["kind"] == "PrometheusRule"]
    return found[0]["spec"] if found else None


def dashboard():
    """As the chart renders it."""
    found = one(objects(values("monitoring")), "ConfigMap", f"{JOB.removesuffix('-metrics')}-dashboard")
    return yaml.safe_load(found["data"]["support-access.json"])


def metrics_in(text):
    """Every name of a metric of ours in an expression or a document. `support_access_…` alone, and logs' targets, are none."""
    return set(re.findall(r"\bsupport_access_[a-z_]+[a-z]\b", text))
