"""What is rendered: as it was, valid in Kubernetes, and with no failed check of checkov but those with a reason."""

import json
import os
import shutil
import subprocess

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from chart import CHART, FOREIGN, HERE, NAMESPACE, ROOT, VALUES, containers, objects, one, pods, read, render, values
from kubernetes_validate.utils import all_versions

# Chart.yaml's kubeVersion.
OLDEST = "1.30"

# Checks of checkov that fail, and why they may.
ACCEPTED = {
    "CKV_K8S_11": "no limit of CPU: throttling makes proofs late, and late proofs deny",
    "CKV_K8S_35": "the database's URL is read from the environment, or from a file that is no secret",
    "CKV_K8S_43": "one of the values files names the image by a tag, since that is possible",
    "CKV_K8S_40": "one of the values files lets the platform choose the user, as OpenShift does",
    "CKV_K8S_8": "the pods of jobs and tests end by themselves, and serve nobody",
    "CKV_K8S_9": "as CKV_K8S_8",
}


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)
def test_it_is_what_it_was(path):
    texts = render(read(path)).items()
    found = "".join(f"# {name}\n{text}" for name, text in texts)
    golden = HERE / "golden" / path.name
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(found)
    assert found == golden.read_text(), "if that is meant: UPDATE_GOLDEN=1 pytest tests/chart, and read the difference"


def test_nothing_golden_is_left_over():
    assert {path.name for path in (HERE / "golden").iterdir()} == {path.name for path in VALUES}
    assert len(VALUES) >= 12


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)
def test_helm_has_nothing_against_it(path):
    report = helm.lint(CHART, read(path), strict=True, namespace=NAMESPACE, kube_version=f"v{OLDEST}.0")
    messages = [it for it in report["messages"] if "icon is recommended" not in it["error"]]
    assert not messages and not report["errors"], report


def test_the_oldest_version_is_that_of_the_chart():
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert metadata["kubeVersion"] == f">={OLDEST}.0-0"
    assert f"{OLDEST}.0" in all_versions()


@pytest.mark.parametrize("version", [OLDEST, ".".join(kubernetes_validate.latest_version().split(".")[:2])])
@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)
def test_kubernetes_knows_every_field(path, version):
    found = objects(read(path))
    assert found
    for made in found:
        if made["apiVersion"] not in FOREIGN:
            kubernetes_validate.validate(made, version, strict=True)


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)
def test_what_belongs_together_is_named_alike(path):
    found = objects(read(path))
    names = [(made["kind"], made["metadata"]["name"]) for made in found]
    assert len(names) == len(set(names))
    assert all(made["metadata"]["namespace"] == NAMESPACE for made in found)
    deployments = [made for made in found if made["kind"] == "Deployment"]
    for deployment in deployments:
        labels = deployment["spec"]["template"]["metadata"]["labels"].items()
        selectors = [deployment["spec"]["selector"]["matchLabels"]]
        selectors += [made["spec"]["selector"] for made in found if made["kind"] == "Service"]
        selectors += [made["spec"]["selector"]["matchLabels"] for made in found if made["kind"] == "PodDisruptionBudget"]
        assert all(selector.items() <= labels for selector in selectors)
        pod = deployment["spec"]["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == volumes
    monitors = [made for made in found if made["kind"] == "ServiceMonitor"]
    for monitor in monitors:
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        matching = [made for made in found if made["kind"] == "Service" and wanted <= made["metadata"]["labels"].items()]
        assert [service["metadata"]["name"] for service in matching] == ["access-support-access-http"]
        rules = one(found, "PrometheusRule")["spec"]["groups"][0]["rules"]
        assert all('namespace="vendor",job="access-support-access-http"' in rule["expr"] for rule in rules)


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)
def test_pods_are_restricted(path):
    """The level of the Pod Security Standards that namespaces enforce, and more."""
    made = objects(read(path))
    for metadata, pod in pods(made):
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False, metadata
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"].get("runAsUser") != 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        kinds = {kind for volume in pod.get("volumes", []) for kind in volume.keys() - {"name"}}
        assert kinds <= {"configMap", "secret", "persistentVolumeClaim", "projected", "emptyDir"}
        for container in containers(pod):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() == {"cpu", "memory"} and "memory" in container["resources"]["limits"]
    secret = [it for it in made if it["kind"] == "Secret"]
    assert not secret, "the chart takes secrets by their names only"


def test_a_changed_configuration_rolls_the_pods_and_nothing_else_does():
    def template(**changes):
        return one(objects(values("minimal", **changes)), "Deployment")["spec"]["template"]
    assert template() == template(replicaCount=5, annotations={"a": "b"}, serviceMonitor={"enabled": True})
    before, after = (it["metadata"]["annotations"]["checksum/config"] for it in (template(), template(config={"log": "debug"})))
    assert before != after


def rules(**changes):
    return one(objects(values("monitoring", **changes)), "PrometheusRule")["spec"]["groups"][0]["rules"]


def test_alerts_are_about_this_installation():
    written = yaml.safe_load((CHART / "alerts.yaml").read_text())["groups"][0]["rules"]
    for rule, made in zip(written, rules(), strict=True):
        assert made["annotations"]["runbook_url"] == f"https://runbooks.example/support-access/{rule['annotations']['runbook_url']}"
        expression = rule["expr"].replace('job="support-access-http"', 'namespace="vendor",job="access-support-access-http"')
        expression = expression.replace('job="support-access-sidecar"', 'job=~"gateways/.+"')
        expression = expression.replace("(2.0)", "(0.5)").replace("(2)", "(0.5)")
        assert made["expr"] == expression.replace("< 14 * ", "< 10 * ").replace(" 2 * ", " 0.5 * "), rule["alert"]
    text = "".join(rule["expr"] for rule in rules())
    assert text.count(" (0.5)") == 8 and text.count(", (3))") == 1 and "< 10 * 86400 >= 0.5 * 86400" in text and "< 0.5 * 86400" in text
    for staleness, late in (("2s", "2"), ("45s", "30"), ("5m", "75")):
        [unreachable] = [rule for rule in rules(config={"maxStaleness": staleness}) if rule["alert"] == "SupportAccessDatabaseUnreachable"]
        assert unreachable["expr"].endswith(f" > ({late})")
    for changes, expected in (({"replicaCount": 2}, 2), ({"autoscaling": {"enabled": True, "minReplicas": 4}}, 4)):
        [missing] = [rule for rule in rules(**changes) if rule["alert"] == "SupportAccessReplicaDown"]
        assert f", ({expected}))" in missing["expr"]
    plain = rules(prometheusRule={"enabled": True})
    assert not any("runbook_url" in rule["annotations"] for rule in plain)
    assert not any("support-access-sidecar" in rule["expr"] or " or support_access" in rule["expr"] for rule in plain)


def test_the_dashboard_is_the_file():
    found = one(objects(values("monitoring")), "ConfigMap", "access-support-access-dashboard")
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert found["metadata"]["annotations"] == {"grafana_folder": "Access"}
    assert json.loads(found["data"]["support-access.json"]) == json.loads((CHART / "dashboard.json").read_text())


def test_the_chart_is_for_this_version():
    version = next(line for line in (ROOT / "Cargo.toml").read_text().splitlines() if line.startswith("version"))
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert version == f'version = "{metadata["appVersion"]}"'


def checkov():
    """The program. It is in an environment of its own, since it wants older libraries than the other tools."""
    named = os.environ.get("CHECKOV", ROOT / ".venv/checkov/bin/checkov")
    found = shutil.which(named)
    assert found, f"{named} is not there: install scripts/requirements-checkov.txt into a virtual environment at .venv/checkov"
    return found


def test_checkov_finds_nothing_without_a_reason(tmp_path):
    for path in VALUES:
        made = [it for it in objects(read(path)) if it["apiVersion"] not in FOREIGN]
        for it in made:
            # Else what is in one file would make up for what is missing in another.
            it["metadata"]["namespace"] = path.stem
        (tmp_path / path.name).write_text(yaml.safe_dump_all(made))
    asked = [checkov(), "--directory", tmp_path, "--framework", "kubernetes", "--output", "json", "--compact", "--quiet",
             "--skip-download", "--soft-fail"]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 500 and not report["summary"]["parsing_errors"], report["summary"]
    failed = {}
    for check in report["results"]["failed_checks"]:
        failed.setdefault(check["check_id"], []).append(f"{check['check_name']}: {check['file_path']} {check['resource']}")
    unknown = {check: where for check, where in failed.items() if check not in ACCEPTED}
    assert not unknown, json.dumps(unknown, indent=2)
    assert failed.keys() == ACCEPTED.keys(), "what fails no more needs no reason"


def test_the_packaged_chart_renders_the_same(tmp_path):
    archive = helm.package(CHART, destination=tmp_path)
    assert render(values("monitoring"), archive) == render(values("monitoring"))
