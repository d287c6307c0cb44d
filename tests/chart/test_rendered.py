"""The rendered objects are valid in Kubernetes, restricted, consistent, and pass checkov."""

import json
import os
import re
import shutil
import subprocess

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from chart import (
    CHART, CUSTOM_RESOURCE_APIS, NAMESPACE, ROOT, VALUES_FILES, containers, find, load_values,
    manifests, pod_spec, pods, render, values_for)
from kubernetes_validate.utils import all_versions

# kubeVersion of Chart.yaml.
OLDEST = "1.30"
LATEST = ".".join(kubernetes_validate.latest_version().split(".")[:2])
NAME = "access-support-access"

# Checks of checkov that fail, and the reasons to accept this.
ACCEPTED_CHECKS = {
    "CKV_K8S_11": "no CPU limit: throttling delays lease renewals, and a stale node denies",
    "CKV_K8S_35": "the service reads the database URL from the environment only, or from its "
                  "configuration, which is not a secret",
    "CKV_K8S_43": "one values file identifies the image by a tag, which is supported",
    "CKV_K8S_40": "in one values file the platform assigns the user, as OpenShift does",
    "CKV_K8S_8": "pods of jobs and tests end by themselves and serve no calls",
    "CKV_K8S_9": "as for CKV_K8S_8",
}

every_values_file = pytest.mark.parametrize("path", VALUES_FILES, ids=lambda path: path.stem)


@every_values_file
def test_helm_lint_reports_nothing(path):
    report = helm.lint(CHART, load_values(path), strict=True, namespace=NAMESPACE,
                       kube_version=f"v{OLDEST}.0")
    messages = [message for message in report["messages"]
                if "icon is recommended" not in message["error"]]
    assert not messages and not report["errors"], report


def test_oldest_kubernetes_version_is_that_of_the_chart():
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert metadata["kubeVersion"] == f">={OLDEST}.0-0"
    assert f"{OLDEST}.0" in all_versions()


@pytest.mark.parametrize("version", [OLDEST, LATEST])
@every_values_file
def test_kubernetes_knows_every_field(path, version):
    objects = manifests(load_values(path))
    assert objects
    for manifest in objects:
        if manifest["apiVersion"] not in CUSTOM_RESOURCE_APIS:
            kubernetes_validate.validate(manifest, version, strict=True)


@every_values_file
def test_names_are_unique_and_in_the_namespace(path):
    objects = manifests(load_values(path))
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in objects]
    assert len(names) == len(set(names))
    assert {manifest["metadata"]["namespace"] for manifest in objects} == {NAMESPACE}


@every_values_file
def test_selectors_match_the_pods(path):
    objects = manifests(load_values(path))
    for deployment in of_kind(objects, "Deployment"):
        labels = deployment["spec"]["template"]["metadata"]["labels"].items()
        disruption_budgets = of_kind(objects, "PodDisruptionBudget")
        selectors = [
            deployment["spec"]["selector"]["matchLabels"],
            *(service["spec"]["selector"] for service in of_kind(objects, "Service")),
            *(budget["spec"]["selector"]["matchLabels"] for budget in disruption_budgets),
        ]
        assert all(selector.items() <= labels for selector in selectors)
        pod = deployment["spec"]["template"]["spec"]
        mounts = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounts == {volume["name"] for volume in pod["volumes"]}


@every_values_file
def test_service_monitor_selects_the_metrics_service_of_the_alerts(path):
    objects = manifests(load_values(path))
    for monitor in of_kind(objects, "ServiceMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"].items()
        services = [service for service in of_kind(objects, "Service")
                    if selector <= service["metadata"]["labels"].items()]
        [name] = [service["metadata"]["name"] for service in services]
        assert name == f"{NAME}-metrics"
        [endpoint] = monitor["spec"]["endpoints"]
        assert endpoint["port"] in [port["name"] for port in services[0]["spec"]["ports"]]
        rules = find(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]
        assert all(f'namespace="{NAMESPACE}",job="{name}"' in rule["expr"] for rule in rules)


def of_kind(objects, kind):
    return [manifest for manifest in objects if manifest["kind"] == kind]


@every_values_file
def test_pods_meet_the_restricted_pod_security_standard(path):
    objects = manifests(load_values(path))
    for metadata, pod in pods(objects):
        assert pod["automountServiceAccountToken"] is False, metadata
        assert pod["enableServiceLinks"] is False, metadata
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"].get("runAsUser") != 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys()
        kinds = {kind for volume in pod.get("volumes", []) for kind in volume.keys() - {"name"}}
        allowed = {"configMap", "secret", "persistentVolumeClaim", "projected", "emptyDir"}
        assert kinds <= allowed
        for container in containers(pod):
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
    assert of_kind(objects, "Secret") == [], "the chart takes secrets by name only"


def test_only_a_changed_configuration_replaces_the_pods():
    def template(**overrides):
        objects = manifests(values_for("minimal", **overrides))
        return find(objects, "Deployment")["spec"]["template"]

    def checksum(**overrides):
        return template(**overrides)["metadata"]["annotations"]["checksum/config"]

    unrelated = {"replicaCount": 5, "annotations": {"a": "b"}, "serviceMonitor": {"enabled": True}}
    assert template() == template(**unrelated)
    assert checksum() != checksum(config={"log": "debug"})


def test_autoscaling_starts_with_the_current_number_of_replicas(tmp_path):
    """Helm removes a field that is no longer rendered, and the default of a Deployment is one."""
    def replicas(name, path=CHART):
        return find(manifests(values_for(name), path), "Deployment")["spec"]["replicas"]

    assert replicas("autoscaling") == 2, "without a cluster, minReplicas is rendered"
    copied = tmp_path / "chart"
    shutil.copytree(CHART, copied)
    template = copied / "templates/deployment.yaml"
    # Replaces the lookup in the cluster by a result.
    lookup = (r'lookup "apps/v1" "Deployment" \.Release\.Namespace '
              r'\(include "support-access\.fullname" \.\)')
    text, count = re.subn(lookup, 'dict "spec" (dict "replicas" 5)', template.read_text())
    template.write_text(text)
    assert count == 1
    assert replicas("autoscaling", copied) == 5
    assert replicas("minimal", copied) == 3


def test_pods_pause_before_they_stop():
    def pause_and_grace(name, **overrides):
        pod = pod_spec(manifests(values_for(name, **overrides)))
        lifecycle = pod["containers"][0].get("lifecycle")
        pause = lifecycle and lifecycle["preStop"]["sleep"]["seconds"]
        return pause, pod["terminationGracePeriodSeconds"]

    # Longer than DNS responses are cached (30 s).
    assert pause_and_grace("minimal") == (35, 35 + 10 + 10)
    assert pause_and_grace("minimal", preStopSeconds=5) == (5, 5 + 10 + 10)
    assert pause_and_grace("sqlite") == (None, 10 + 10), "no other pod could serve meanwhile"


def egress(objects, name):
    return find(objects, "NetworkPolicy", name)["spec"]["egress"]


def test_every_pod_has_the_common_egress_rules():
    extra = {"ports": [{"port": 15012, "protocol": "TCP"}]}
    network = {"dnsPorts": [53, 5353], "extraEgress": [extra]}
    with_job = manifests(values_for("migration-job", networkPolicy=network))
    with_test = manifests(values_for("monitoring", networkPolicy=network))
    dns_ports = {(port, protocol) for port in (53, 5353) for protocol in ("UDP", "TCP")}
    policies = ((with_job, NAME), (with_job, f"{NAME}-migrate"), (with_test, f"{NAME}-test"))
    for objects, name in policies:
        dns, *others = egress(objects, name)
        assert {(port["port"], port["protocol"]) for port in dns["ports"]} == dns_ports
        assert extra in others, name


@pytest.mark.parametrize(("url", "port"), [
    ("http://collector.monitoring:14317", 14317),
    ("https://collector.example", 443),
    ("http://collector.example/", 80),
    ("http://[2001:db8::1]:4317", 4317),
    ("http://[2001:db8::1]", 80),
])
def test_egress_to_the_collector_uses_the_port_of_its_url(url, port):
    objects = manifests(values_for("minimal", config={"otlpEndpoint": url}))
    assert egress(objects, NAME)[-1]["ports"] == [{"port": port, "protocol": "TCP"}]


def test_egress_to_issuers_uses_the_ports_of_their_urls():
    issuers = values_for("configuration")["auth"]["issuers"]

    def ports(*keys):
        pairs = zip(issuers, keys, strict=False)
        auth = {"issuers": [{**issuer, "keys": location} for issuer, location in pairs]}
        rules = egress(manifests(values_for("minimal", auth=auth)), NAME)
        return [[port["port"] for port in rule["ports"]] for rule in rules[2:]]

    assert ports("https://a.example:8443/keys", "https://b.example/keys?x=:1") == [[8443, 443]]
    assert ports("https://a.example/keys", "https://b.example/keys") == [[443]]
    assert ports("/etc/keys/a.json") == [], "keys in a file need no egress"


def test_hooks_are_deleted_after_success():
    """Hooks do not belong to the release, so `helm uninstall` does not delete them."""
    for path in VALUES_FILES:
        for manifest in manifests(load_values(path)):
            annotations = manifest["metadata"].get("annotations", {})
            if "helm.sh/hook" in annotations:
                policies = annotations["helm.sh/hook-delete-policy"].split(",")
                assert policies == ["before-hook-creation", "hook-succeeded"], manifest["metadata"]


def test_grpc_service_declares_its_protocol_to_meshes():
    def app_protocol(name):
        service = find(manifests(values_for(name)), "Service", NAME)
        return service["spec"]["ports"][0]["appProtocol"]

    assert app_protocol("mesh") == "kubernetes.io/h2c"
    assert app_protocol("minimal") == app_protocol("cloudnativepg") == "https"


def test_short_lived_pods_can_opt_out_of_a_mesh():
    injected = {"sidecar.istio.io/inject": "true", "team": "access"}
    not_injected = {"sidecar.istio.io/inject": "false"}
    for_all = {"podLabels": injected, "podAnnotations": injected}
    for_one = {"podLabels": not_injected, "podAnnotations": not_injected}
    migrations = {"mode": "job", "job": for_one}
    with_job = manifests(values_for("migration-job", **for_all, migrations=migrations))
    test_values = values_for("monitoring", **for_all)
    test_values["tests"] |= for_one
    with_test = manifests(test_values)
    job_template = find(with_job, "Job")["spec"]["template"]
    for metadata in (job_template["metadata"], find(with_test, "Pod")["metadata"]):
        assert metadata["labels"].items() >= (injected | not_injected).items()
        assert metadata["annotations"].items() >= (injected | not_injected).items()
    replicas = find(with_job, "Deployment")["spec"]["template"]["metadata"]
    assert replicas["labels"].items() >= injected.items()
    assert replicas["annotations"].items() >= injected.items()


def test_app_version_is_the_version_of_the_crate():
    lines = (ROOT / "Cargo.toml").read_text().splitlines()
    version = next(line for line in lines if line.startswith("version"))
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert version == f'version = "{metadata["appVersion"]}"'


def checkov():
    """The path of checkov, whose dependencies conflict with those of the other tools."""
    name = os.environ.get("CHECKOV", ROOT / ".venv/checkov/bin/checkov")
    path = shutil.which(name)
    assert path, (f"{name} does not exist; install scripts/requirements-checkov.txt into a virtual "
                  "environment at .venv/checkov")
    return path


def test_checkov_fails_only_accepted_checks(tmp_path):
    for path in VALUES_FILES:
        objects = [manifest for manifest in manifests(load_values(path))
                   if manifest["apiVersion"] not in CUSTOM_RESOURCE_APIS]
        for manifest in objects:
            # Separate namespaces: an object of one file must not satisfy a check of another file.
            manifest["metadata"]["namespace"] = path.stem
        (tmp_path / path.name).write_text(yaml.safe_dump_all(objects))
    command = [checkov(), "--directory", tmp_path, "--framework", "kubernetes", "--output", "json",
               "--compact", "--quiet", "--skip-download", "--soft-fail"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["summary"]["passed"] > 500, report["summary"]
    assert not report["summary"]["parsing_errors"], report["summary"]
    failed = {}
    for check in report["results"]["failed_checks"]:
        location = f"{check['check_name']}: {check['file_path']} {check['resource']}"
        failed.setdefault(check["check_id"], []).append(location)
    unexpected = {name: where for name, where in failed.items() if name not in ACCEPTED_CHECKS}
    assert not unexpected, json.dumps(unexpected, indent=2)
    assert failed.keys() == ACCEPTED_CHECKS.keys(), "remove the accepted checks that pass"


def test_packaged_chart_renders_the_same(tmp_path):
    archive = helm.package(CHART, destination=tmp_path)
    assert render(values_for("monitoring"), archive) == render(values_for("monitoring"))
