"""The metrics, commands, tables and tests that runbooks, alerts and the dashboard name exist."""

import os
import re
import subprocess
import time

import pytest
from chart import ROOT, find, manifests, values_for
from harness import BINARY, DEADLINE_S, eventually
from monitoring import JOB, RUNBOOKS, dashboard, metrics_in, rendered_rules
from service import UNAVAILABLE

PAGES = sorted(RUNBOOKS.glob("*.md"))
OPERATIONS = ROOT / "docs/operations.md"
PANELS = dashboard()["panels"]
QUERIES = [(panel, target) for panel in PANELS for target in panel.get("targets", [])]
RULES = rendered_rules()["groups"][0]["rules"]
# Labels that Prometheus adds.
PROMETHEUS_LABELS = {"namespace", "job", "instance", "alertname", "alertstate", "severity"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def blocks(page, language):
    text = page.read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def lines(page, language):
    return [line for block in blocks(page, language) for line in block.splitlines()]


def exposed(text):
    """The names of the samples in OpenMetrics text."""
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"],
                "info": ["_info"], "gauge": [""]}
    families = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    return {name + suffix for name, kind in families for suffix in suffixes[kind]}


def test_all_named_metrics_exist(service):
    service.use()
    # Only one of the replicas verifies the histories, and has metrics of the verification.
    nodes = (service.first, service.second, service.sidecar)

    def names():
        return set().union(*(exposed(node.get("/metrics")[1]) for node in nodes))

    eventually(lambda: "support_access_history_breaks" in names(), "a replica has verified")
    existing = names()
    texts = {"alerts": str(RULES), "dashboard": str(dashboard())}
    texts |= {page.name: page.read_text() for page in PAGES}
    for name, text in texts.items():
        assert metrics_in(text) <= existing, f"{name}: {metrics_in(text) - existing}"
    assert len(metrics_in(texts["dashboard"])) > 15


def test_all_selected_labels_exist(service):
    service.use()
    metrics = service.first.get("/metrics")[1]
    expressions = [rule["expr"] for rule in RULES] + [target["expr"] for _, target in QUERIES]
    for expression in expressions:
        for label in set(re.findall(r"(\w+)[=!]~?\"", expression)) - PROMETHEUS_LABELS:
            assert re.search(rf'[{{,]{label}="', metrics), (label, expression)


@every_page
def test_promql_of_runbooks_is_valid(page, prometheus):
    for line in lines(page, "promql"):
        prometheus.query(line)


@every_page
def test_sql_of_runbooks_succeeds(page, service):
    for block in blocks(page, "sql"):
        service.sql(block)


@every_page
def test_commands_of_runbooks_succeed(page, service):
    """Runs the commands of `support-access` as an operator. kubectl has no cluster here."""
    commands = [line for line in lines(page, "sh") if line.startswith("support-access ")]
    if not commands:
        return
    service.use()
    settings = {
        "SUPPORT_ACCESS_SERVER": f"https://localhost:{service.first.grpc_port()}",
        "SUPPORT_ACCESS_CA": "ca.crt",
        "SUPPORT_ACCESS_CERTIFICATE": "operator.crt",
        "SUPPORT_ACCESS_KEY": "operator.key",
    }
    setup = (RUNBOOKS / "README.md").read_text()
    assert all(f"{name}=" in setup for name in settings)
    environment = os.environ | settings | {"PATH": f"{BINARY.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-euc", "\n".join(commands)], cwd=service.directory,
                          env=environment, capture_output=True, text=True, timeout=DEADLINE_S,
                          check=False)
    assert done.returncode == 0, f"{commands}: {done.stdout}{done.stderr}"


def test_log_lines_of_runbooks_exist_in_the_sources():
    """A grep for a text that is not logged would find nothing during an incident."""
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.rs"))
    for page in PAGES:
        for quoted in re.findall(r"\| grep '([^']+)'", page.read_text()):
            # The failure log composes "cannot" and the name of the operation.
            assert quoted in sources or quoted.replace("cannot ", "", 1) in sources, \
                (page.name, quoted)


def test_logs_are_read_from_all_replicas_or_a_named_pod():
    pod = find(manifests(values_for("minimal")), "Deployment")["spec"]["template"]
    labels = pod["metadata"]["labels"] | {"app.kubernetes.io/instance": "$RELEASE"}
    commands = [(page.name, line) for page in PAGES for line in lines(page, "sh")
                if " logs " in line]
    assert len(commands) > 8
    selectors = 0
    for name, command in commands:
        if " logs $POD " in command:
            continue
        pattern = r" logs --selector (\S+) --prefix --tail=-1 --since \w+( \\)?$"
        match = re.search(pattern, command)
        assert match and "--previous" not in command, (name, command)
        selector = dict(label.split("=") for label in match[1].split(","))
        assert selector.items() <= labels.items()
        selectors += 1
    assert selectors > 0


def test_no_document_rolls_back_the_pods_without_the_configuration():
    """All versions share one ConfigMap, so `rollout undo` keeps the new configuration."""
    for page in [*PAGES, OPERATIONS]:
        text = page.read_text()
        for match in re.finditer("rollout undo", text):
            context = text[max(0, match.start() - 300):match.end() + 150]
            assert "helm rollback" in context and "ConfigMap" in context, page.name


def test_tests_that_operations_names_exist():
    named = re.findall(r"`([\w/]+\.rs)::(\w+)`", OPERATIONS.read_text())
    assert len(named) > 20
    for file, name in named:
        paths = [ROOT / file] if "/" in file else list((ROOT / "tests").rglob(file))
        sources = [path.read_text() for path in paths if path.exists()]
        assert any(re.search(rf"\b{name}\b", source) for source in sources), (file, name)


def test_links_of_runbooks_exist():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)


def test_panels_do_not_overlap():
    ids = [panel["id"] for panel in PANELS]
    assert len(ids) == len(set(ids))
    occupied = {}
    for panel in PANELS:
        area = panel["gridPos"]
        assert area["x"] >= 0 and area["w"] > 0 and area["x"] + area["w"] <= 24, panel["title"]
        for x in range(area["x"], area["x"] + area["w"]):
            for y in range(area["y"], area["y"] + area["h"]):
                other = occupied.setdefault((x, y), panel["title"])
                assert other == panel["title"], f"{panel['title']} overlaps {other}"


def test_panels_have_a_description_a_unit_and_selective_queries():
    assert len({panel["title"] for panel in PANELS}) == len(PANELS)
    assert dashboard()["schemaVersion"] >= 38, "Grafana 10"
    for panel in PANELS:
        if panel["type"] == "row":
            continue
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        targets = panel["targets"]
        assert targets and all(target["datasource"] == panel["datasource"] for target in targets)
        references = [target["refId"] for target in targets]
        assert len(references) == len(set(references))
        for target in targets:
            expression = target["expr"]
            selectors = set(re.findall(r"support_access_\w+(\{[^}]*\})?", expression))
            for selector in selectors:
                assert selector.startswith('{namespace=~"$namespace",job=~"$job"'), panel["title"]
                # A value of a whole installation does not depend on the selected instances.
                aggregated = r"max( by \(namespace, job\) )?\(support_access_"
                assert 'instance=~"$instance"' in selector or re.search(aggregated, expression), \
                    panel["title"]


def test_dashboard_variables_have_values(prometheus):
    eventually(lambda: len(prometheus.query("support_access_revision")) == 5,
               "Prometheus has scraped all nodes")
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert list(variables) == ["datasource", "namespace", "job", "instance"]
    assert not any(variables[name]["includeAll"] for name in ("namespace", "job")), \
        "revisions of separate installations cannot be compared"
    selected = {"$namespace": "vendor|shop", "$job": ".*"}
    values = {}
    for name in ("namespace", "job", "instance"):
        query = variables[name]["query"]["query"]
        metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
        for variable, value in selected.items():
            metric = metric.replace(variable, value)
        series = prometheus.get("series", **{"match[]": metric})
        values[name] = {labels[label] for labels in series}
    assert values["namespace"] == {"vendor", "shop"}
    assert JOB in values["job"] and len(values["instance"]) == 5


@pytest.fixture(name="busy", scope="session")
def make_busy(service, prometheus):
    """Calls of all kinds, for long enough to have rates."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        service.use()
        service.grant(caller="wrong.token")
        service.run("show", "acme", "00000000-0000-7000-8000-000000000000", caller="operator")
    with service.open_transaction("SELECT FROM head FOR UPDATE;"):
        assert service.grant(timeout="1s").returncode == UNAVAILABLE
    return prometheus


def test_every_query_of_the_dashboard_has_data(service, busy):
    selected = {"$namespace": "vendor|shop", "$job": ".*", "$instance": ".*",
                "$__rate_interval": "30s"}

    def has_data(panel, target):
        expression = target["expr"]
        for variable, value in selected.items():
            expression = expression.replace(variable, value)
        assert "$" not in expression
        result = busy.query(expression)
        legend = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        for series in result:
            missing = legend - series["metric"].keys()
            assert not missing, f"{panel['title']}: the legend uses {missing}"
        return any(series["value"][1] != "NaN" for series in result)

    remaining = list(QUERIES)

    def all_have_data():
        service.use()
        remaining[:] = [query for query in remaining if not has_data(*query)]
        return not remaining

    try:
        eventually(all_have_data, "every query has data")
    except AssertionError as error:
        titles = [(panel["title"], target["expr"]) for panel, target in remaining]
        raise AssertionError(titles) from error
