"""What runbooks, alerts and the dashboard ask for is there: metrics, commands and tables."""

import os
import re
import subprocess
import time

import pytest
from chart import objects, one, values
from harness import BINARY, DEADLINE_S, eventually
from monitoring import JOB, RUNBOOKS, dashboard, metrics_in, rendered_rules

PAGES = sorted(RUNBOOKS.glob("*.md"))
PANELS = dashboard()["panels"]
QUERIES = [(panel, target) for panel in PANELS for target in panel.get("targets", [])]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def exposed(text):
    """The names of the samples that metrics in OpenMetrics text have."""
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "info": ["_info"], "gauge": [""]}
    families = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    return {name + ending for name, kind in families for ending in endings[kind]}


def test_every_metric_that_somebody_asks_for_is_there(service):
    service.use()
    there = exposed(service.first.get("/metrics")[1]) | exposed(service.sidecar.get("/metrics")[1])
    told = {"alerts": str(rendered_rules()), "the dashboard": str(dashboard())} | {page.name: page.read_text() for page in PAGES}
    for name, text in told.items():
        assert metrics_in(text) <= there, f"{name}: {metrics_in(text) - there}"
    assert len(metrics_in(told["the dashboard"])) > 15


def test_the_labels_that_somebody_asks_for_are_there(service):
    service.use()
    text = service.first.get("/metrics")[1]
    for expression in [rule["expr"] for rule in rendered_rules()["groups"][0]["rules"]] + [it["expr"] for _, it in QUERIES]:
        for label in re.findall(r"(\w+)[=!]~?\"", expression):
            assert label in ("namespace", "job", "instance", "alertname", "alertstate", "severity") or re.search(rf'[{{,]{label}="', text), (label, expression)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_promql_in_runbooks_can_be_asked(page, prometheus):
    for line in "".join(blocks(page, "promql")).splitlines():
        prometheus.query(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_sql_in_runbooks_can_be_run(page, service):
    for block in blocks(page, "sql"):
        service.sql(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_in_runbooks_can_be_given(page, service):
    """Those of ours, by an operator. (kubectl has nobody to ask here.)"""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines() if line.startswith("support-access ")]
    if not lines:
        return
    service.use()
    shown = {"SERVER": f"https://localhost:{service.first.port('grpc')}", "CA": "ca.crt", "CERTIFICATE": "operator.crt", "KEY": "operator.key"}
    named = (RUNBOOKS / "README.md").read_text()
    assert all(f"SUPPORT_ACCESS_{name}=" in named for name in shown)
    more = {f"SUPPORT_ACCESS_{name}": value for name, value in shown.items()} | {"PATH": f"{BINARY.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-euc", "\n".join(lines)], cwd=service.directory, env=os.environ | more, capture_output=True, text=True,
                          timeout=DEADLINE_S, check=False)
    assert done.returncode == 0, f"{lines}: {done.stdout}{done.stderr}"


def test_what_runbooks_quote_of_the_log_is_logged():
    """`grep` of a word that is not there finds nothing, at the worst moment."""
    sources = "".join(path.read_text() for path in (RUNBOOKS.parents[1] / "src").rglob("*.rs"))
    for page in PAGES:
        for quoted in re.findall(r"\| grep '([^']+)'", page.read_text()):
            assert quoted in sources or quoted.replace("cannot ", "", 1) in sources, (page.name, quoted)


def test_logs_are_read_of_all_replicas_or_of_a_pod_that_is_named():
    pod = one(objects(values("minimal")), "Deployment")["spec"]["template"]
    labels = pod["metadata"]["labels"] | {"app.kubernetes.io/instance": "$RELEASE"}
    found = [(page.name, line) for page in PAGES for block in blocks(page, "sh") for line in block.splitlines() if " logs " in line]
    assert len(found) > 8 and labels["app.kubernetes.io/instance"] in str(found)
    for name, line in found:
        if " logs $POD " in line:
            continue
        selector = re.search(r" logs --selector (\S+) --prefix --tail=-1 --since \w+( \\)?$", line)
        assert selector and "--previous" not in line, (name, line)
        assert dict(it.split("=") for it in selector[1].split(",")).items() <= labels.items()


def test_no_rollback_leaves_the_configuration_behind():
    """The ConfigMap has one name, so the Deployment alone cannot go back."""
    for page in [*PAGES, RUNBOOKS.parent / "operations.md"]:
        for place in re.finditer("rollout undo", page.read_text()):
            near = page.read_text()[max(0, place.start() - 300):place.end() + 150]
            assert "helm rollback" in near and "ConfigMap" in near, page.name


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)


def test_panels_have_a_place_of_their_own_and_say_what_they_show():
    identities = [panel["id"] for panel in PANELS]
    assert len(identities) == len(set(identities))
    taken = {}
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["w"] > 0 and place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"], f"{panel['title']} lies on {taken[x, y]}"
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith(".") and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["targets"] and all(target["datasource"] == panel["datasource"] for target in panel["targets"])
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references))
        for target in panel["targets"]:
            ours = set(re.findall(r"support_access_\w+(\{[^}]*\})?", target["expr"]))
            assert all(it.startswith('{namespace=~"$namespace",job=~"$job"') for it in ours), panel["title"]
            # What holds for a whole installation does not depend on the chosen instances.
            whole = [it for it in ours if 'instance=~"$instance"' not in it]
            assert not whole or re.search(r"max( by \(namespace, job\) )?\(support_access_", target["expr"]), panel["title"]
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert dashboard()["schemaVersion"] >= 38, "Grafana 10"


def test_the_dashboards_variables_have_values(prometheus):
    eventually(lambda: len(prometheus.query("support_access_revision")) == 5, "Prometheus has read everybody")
    variables = {it["name"]: it for it in dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "job", "instance"]
    assert not any(variables[name]["includeAll"] for name in ("namespace", "job")), "the logs of two installations have nothing in common"
    chosen = {"$namespace": "vendor|shop", "$job": ".*"}
    values = {}
    for name in ("namespace", "job", "instance"):
        metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variables[name]["query"]["query"]).groups()
        for variable, value in chosen.items():
            metric = metric.replace(variable, value)
        values[name] = {found[label] for found in prometheus.get("series", **{"match[]": metric})}
    assert values["namespace"] == {"vendor", "shop"} and JOB in values["job"] and len(values["instance"]) == 5


@pytest.fixture(name="busy", scope="session")
def make_busy(service, prometheus):
    """Something of all that can happen, for long enough that there are rates of it."""
    refused_until = time.monotonic() + 5
    while time.monotonic() < refused_until:
        service.use()
        service.grant(who="wrong.token")
        service.run("show", "acme", "00000000-0000-7000-8000-000000000000", who="operator")
    with service.sql_in_the_way("SELECT FROM head FOR UPDATE;"):
        assert "error: " in service.grant(timeout="1s").stderr
    return prometheus


def test_every_query_of_the_dashboard_has_an_answer(service, busy):
    chosen = {"$namespace": "vendor|shop", "$job": ".*", "$instance": ".*", "$__rate_interval": "30s"}

    def has_an_answer(panel, target):
        expression = target["expr"]
        for variable, value in chosen.items():
            expression = expression.replace(variable, value)
        assert "$" not in expression
        found = busy.query(expression)
        for series in found:
            missing = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) - series["metric"].keys()
            assert not missing, f"{panel['title']}: the legend asks for {missing}"
        return any(series["value"][1] != "NaN" for series in found)

    left = list(QUERIES)

    def all_have():
        service.use()
        left[:] = [(panel, target) for panel, target in left if not has_an_answer(panel, target)]
        return not left
    try:
        eventually(all_have, "every query has an answer")
    except AssertionError as error:
        raise AssertionError([(panel["title"], target["expr"]) for panel, target in left]) from error
