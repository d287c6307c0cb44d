"""What is rendered: as it was, valid in Kubernetes, and with no failed check of checkov but those with a reason."""

import json
import os
import re
import shutil
import subprocess

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from chart import CHART, FOREIGN, NAMESPACE, ROOT, VALUES, containers, objects, one, pods, read, render, values
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
        assert [service["metadata"]["name"] for service in matching] == ["access-support-access-metrics"]
        rules = one(found, "PrometheusRule")["spec"]["groups"][0]["rules"]
        assert all('namespace="vendor",job="access-support-access-metrics"' in rule["expr"] for rule in rules)


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


def test_autoscaling_begins_with_the_replicas_that_run(tmp_path):
    """Helm removes a field that is not rendered any more, and a Deployment without a number has one replica."""
    assert one(objects(values("autoscaling")), "Deployment")["spec"]["replicas"] == 2, "the fewest, where none is known"
    shutil.copytree(CHART, tmp_path / "chart")
    path = tmp_path / "chart/templates/deployment.yaml"
    # No cluster is asked here: this is what it would say.
    text, asked = re.subn(r'lookup "apps/v1" "Deployment" \.Release\.Namespace \(include "support-access\.fullname" \.\)',
                          'dict "spec" (dict "replicas" 5)', path.read_text())
    path.write_text(text)
    assert asked == 1
    assert one(objects(values("autoscaling"), tmp_path / "chart"), "Deployment")["spec"]["replicas"] == 5
    assert one(objects(values("minimal"), tmp_path / "chart"), "Deployment")["spec"]["replicas"] == 3


def test_clients_hear_of_a_pod_that_leaves_before_it_stops():
    def paused(name, **changes):
        pod = one(objects(values(name, **changes)), "Deployment")["spec"]["template"]["spec"]
        lifecycle = pod["containers"][0].get("lifecycle")
        return lifecycle and lifecycle["preStop"]["sleep"]["seconds"], pod["terminationGracePeriodSeconds"]
    # Answers of DNS are kept for 30 seconds.
    assert paused("minimal") == (35, 35 + 10 + 10)
    assert paused("minimal", preStopSeconds=5) == (5, 5 + 10 + 10)
    assert paused("sqlite") == (None, 10 + 10), "nobody else could serve meanwhile"


def policy(found, name):
    return one(found, "NetworkPolicy", name)["spec"]["egress"]


def test_every_pod_may_reach_what_is_given():
    extra = {"ports": [{"port": 15012, "protocol": "TCP"}]}
    network = {"dnsPorts": [53, 5353], "extraEgress": [extra]}
    job = objects(values("migration-job", networkPolicy=network))
    test = objects(values("monitoring", networkPolicy=network))
    ports = {(port, protocol) for port in (53, 5353) for protocol in ("UDP", "TCP")}
    for found, name in ((job, "access-support-access"), (job, "access-support-access-migrate"), (test, "access-support-access-test")):
        names, *others = policy(found, name)
        assert {(it["port"], it["protocol"]) for it in names["ports"]} == ports
        assert extra in others, name


@pytest.mark.parametrize(("url", "port"), [
    ("http://collector.monitoring:14317", 14317), ("https://collector.example", 443), ("http://collector.example/", 80),
    ("http://[2001:db8::1]:4317", 4317), ("http://[2001:db8::1]", 80),
])
def test_the_collector_is_reached_at_its_port(url, port):
    found = objects(values("minimal", config={"otlpEndpoint": url}))
    assert policy(found, "access-support-access")[-1]["ports"] == [{"port": port, "protocol": "TCP"}]


def test_issuers_are_reached_at_their_ports():
    issuers = values("configuration")["auth"]["issuers"]
    def ports(*keys):
        auth = {"issuers": [{**issuer, "keys": it} for issuer, it in zip(issuers, keys, strict=False)]}
        egress = policy(objects(values("minimal", auth=auth)), "access-support-access")
        return [[it["port"] for it in rule["ports"]] for rule in egress[2:]]
    assert ports("https://a.example:8443/keys", "https://b.example/keys?x=:1") == [[8443, 443]]
    assert ports("https://a.example/keys", "https://b.example/keys") == [[443]]
    assert ports("/etc/keys/a.json") == [], "a file is not reached by the network"


def test_hooks_leave_nothing_behind():
    """They are no part of the release: `helm uninstall` knows nothing of them."""
    for path in VALUES:
        for made in objects(read(path)):
            annotations = made["metadata"].get("annotations", {})
            if "helm.sh/hook" in annotations:
                policies = annotations["helm.sh/hook-delete-policy"].split(",")
                assert policies == ["before-hook-creation", "hook-succeeded"], made["metadata"]["name"]


def test_a_mesh_is_told_the_protocol_and_can_be_kept_from_pods_that_end():
    def protocol(name):
        return one(objects(values(name)), "Service", "access-support-access")["spec"]["ports"][0]["appProtocol"]
    assert protocol("mesh") == "kubernetes.io/h2c"
    assert protocol("minimal") == protocol("cloudnativepg") == "https"

    off, on = {"sidecar.istio.io/inject": "false"}, {"sidecar.istio.io/inject": "true", "team": "access"}
    own = {"podLabels": off, "podAnnotations": off}
    job = objects(values("migration-job", podLabels=on, podAnnotations=on, migrations={"mode": "job", "job": own}))
    given = values("monitoring", podLabels=on, podAnnotations=on)
    given["tests"] |= own
    for metadata in (one(job, "Job")["spec"]["template"]["metadata"], one(objects(given), "Pod")["metadata"]):
        for found in (metadata["labels"], metadata["annotations"]):
            assert found.items() >= {"sidecar.istio.io/inject": "false", "team": "access"}.items()
    replicas = one(job, "Deployment")["spec"]["template"]["metadata"]
    assert replicas["labels"].items() >= on.items() and replicas["annotations"].items() >= on.items()


def rules(**changes):
    return one(objects(values("monitoring", **changes)), "PrometheusRule")["spec"]["groups"][0]["rules"]


def test_alerts_are_about_this_installation():
    written = yaml.safe_load((CHART / "alerts.yaml").read_text())["groups"][0]["rules"]
    for rule, made in zip(written, rules(), strict=True):
        assert made["annotations"]["runbook_url"] == f"https://runbooks.example/support-access/{rule['annotations']['runbook_url']}"
        expression = rule["expr"].replace('job="support-access-metrics"', 'namespace="vendor",job="access-support-access-metrics"')
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
