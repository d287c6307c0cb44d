"""The rules, as the chart renders them: promtool reads them, and each alert fires at its limit, and not just below."""

import re
import shutil
import subprocess

import pytest
import yaml
from chart import HERE as CHART_TESTS
from monitoring import HERE, RUNBOOKS, rendered_rules

TESTS = sorted((HERE / "rules").glob("*.yaml"))
RULES = rendered_rules()["groups"][0]["rules"]
# What a file of tests has in its name, after the alert's: an installation that is not like the others, or a time that is.
INSTALLATIONS = {"": {}, "day": {}, "30s": {"max_staleness": "30s"}, "5m": {"max_staleness": "5m"}, "three": {"replicas": 3}}


def promtool(*arguments):
    assert shutil.which("promtool"), "promtool is not there: install Debian's package prometheus"
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("golden", [None, *sorted((CHART_TESTS / "values").glob("*.yaml"))], ids=lambda path: path and path.stem)
def test_prometheus_reads_them(golden, tmp_path):
    """With the values of the tests here, and with those of each file of the chart's matrix that has rules."""
    rules = rendered_rules() if golden is None else rendered_rules(yaml.safe_load(golden.read_text()))
    if rules is None:
        return
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "--lint=all", "--lint-fatal", str(tmp_path / "rules.yaml"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_it_fires_at_its_limit_and_not_below(path, tmp_path):
    installation = INSTALLATIONS[path.stem.partition(".")[2]]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rendered_rules(**installation)))
    (tmp_path / "test.yaml").write_text(path.read_text())
    promtool("test", "rules", str(tmp_path / "test.yaml"))


def test_each_alert_has_its_tests():
    alerts = {rule["alert"] for rule in RULES}
    assert {path.stem.partition(".")[0] for path in TESTS} == alerts
    for path in [path for path in TESTS if path.stem in alerts]:
        cases = [test for case in yaml.safe_load(path.read_text())["tests"] for test in case["promql_expr_test"]]
        fired = "".join(sample["labels"] for test in cases for sample in test["exp_samples"])
        for severity in {rule["labels"]["severity"] for rule in RULES if rule["alert"] == path.stem}:
            assert f'alertname="{path.stem}",alertstate="firing",severity="{severity}"' in fired
        assert any(not test["exp_samples"] for test in cases)


def test_each_alert_says_what_is_wrong_how_urgent_it_is_and_where_to_read_on():
    for rule in RULES:
        name, annotations = rule["alert"], rule["annotations"]
        assert rule["labels"].keys() == {"severity"} and rule["labels"]["severity"] in ("critical", "warning")
        assert annotations.keys() == {"summary", "description", "runbook_url"}, name
        assert annotations["runbook_url"] == f"https://runbooks.example/{name}.md"
        assert "$value" in annotations["description"] or name == "SupportAccessDown", "what would it be the value of?"
        assert all(text.endswith((".", "?")) for text in (annotations["summary"], annotations["description"]))
        assert not re.search(r"\n|  ", annotations["summary"])


def test_each_alert_has_a_runbook_and_each_runbook_an_alert():
    names = {rule["alert"] for rule in RULES}
    assert {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"} == names
    index = (RUNBOOKS / "README.md").read_text()
    assert set(re.findall(r"\]\((\w+)\.md\)", index)) == names
    headings = ["Meaning", "Severity", "Diagnosis", "Causes", "Resolved when", "Exercise"]
    for name in names:
        text = (RUNBOOKS / f"{name}.md").read_text()
        assert text.startswith(f"# {name}\n"), name
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == headings, name
        severities = {rule["labels"]["severity"] for rule in RULES if rule["alert"] == name}
        urgency = text.split("## Severity\n")[1].split("## ")[0]
        assert severities == set(re.findall(r"\*\*(critical|warning)\*\*", urgency)), name
