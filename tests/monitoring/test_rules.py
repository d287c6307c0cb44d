"""promtool accepts the rendered rules, and each alert fires at its limit and not below."""

import re
import shutil
import subprocess

import pytest
import yaml
from chart import VALUES_FILES, load_values
from monitoring import HERE, RUNBOOK_URL, RUNBOOKS, rendered_rules

TESTS = sorted((HERE / "rules").glob("*.yaml"))
RULES = rendered_rules()["groups"][0]["rules"]
ALERTS = {rule["alert"] for rule in RULES}
# The values for a test file, by the suffix after the name of the alert.
VARIANTS = {
    "": {},
    "day": {},
    "30s": {"max_staleness": "30s"},
    "5m": {"max_staleness": "5m"},
    "three": {"replicas": 3},
}


def promtool(*arguments):
    assert shutil.which("promtool"), "promtool is missing; install Debian's package prometheus"
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("path", [None, *VALUES_FILES], ids=lambda path: path and path.stem)
def test_promtool_accepts_the_rules(path, tmp_path):
    """Checks the values of these tests, and each values file of the chart that creates rules."""
    rules = rendered_rules() if path is None else rendered_rules(load_values(path))
    if rules is None:
        return
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    printed = promtool("check", "rules", "--lint=all", "--lint-fatal", str(tmp_path / "rules.yaml"))
    assert f"{len(RULES)} rules found" in printed


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alert_fires_at_its_limit_and_not_below(path, tmp_path):
    variant = VARIANTS[path.stem.partition(".")[2]]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rendered_rules(**variant)))
    (tmp_path / "test.yaml").write_text(path.read_text())
    promtool("test", "rules", str(tmp_path / "test.yaml"))


def test_each_alert_has_a_firing_and_a_silent_case():
    assert {path.stem.partition(".")[0] for path in TESTS} == ALERTS
    for path in [path for path in TESTS if path.stem in ALERTS]:
        cases = yaml.safe_load(path.read_text())["tests"]
        expectations = [test for case in cases for test in case["promql_expr_test"]]
        samples = [sample for test in expectations for sample in test["exp_samples"]]
        labels = "".join(sample["labels"] for sample in samples)
        rules = [rule for rule in RULES if rule["alert"] == path.stem]
        for severity in {rule["labels"]["severity"] for rule in rules}:
            firing = f'alertname="{path.stem}",alertstate="firing",severity="{severity}"'
            assert firing in labels
        assert any(not test["exp_samples"] for test in expectations)


def test_each_alert_has_a_severity_texts_and_a_runbook():
    for rule in RULES:
        name, annotations = rule["alert"], rule["annotations"]
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert annotations.keys() == {"summary", "description", "runbook_url"}, name
        assert annotations["runbook_url"] == f"{RUNBOOK_URL}{name}.md"
        # The value of SupportAccessDown has no meaning.
        assert "$value" in annotations["description"] or name == "SupportAccessDown"
        for text in (annotations["summary"], annotations["description"]):
            assert text.endswith("."), text
        assert not re.search(r"\n|  ", annotations["summary"])


def test_each_alert_has_a_runbook_and_each_runbook_an_alert():
    assert {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"} == ALERTS
    index = (RUNBOOKS / "README.md").read_text()
    assert set(re.findall(r"\]\((\w+)\.md\)", index)) == ALERTS
    headings = ["Meaning", "Severity", "Diagnosis", "Causes", "Resolved when", "Exercise"]
    for name in ALERTS:
        text = (RUNBOOKS / f"{name}.md").read_text()
        assert text.startswith(f"# {name}\n"), name
        assert re.findall(r"^## (.*)$", text, re.MULTILINE) == headings, name
        severities = {rule["labels"]["severity"] for rule in RULES if rule["alert"] == name}
        section = text.split("## Severity\n")[1].split("## ")[0]
        assert severities == set(re.findall(r"\*\*(critical|warning)\*\*", section)), name
