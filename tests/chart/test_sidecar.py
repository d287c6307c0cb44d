"""The sidecar in somebody else's pod: by our templates, and by the snippet of the README."""

import re
import shutil

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from chart import CHART, HERE, containers, objects, one, values
from test_rendered import OLDEST


@pytest.fixture(name="gateway")
def make_gateway(tmp_path):
    """Somebody else's chart, with ours in it."""
    shutil.copytree(HERE / "gateway", tmp_path / "gateway")
    shutil.copytree(CHART, tmp_path / "gateway/charts/support-access")
    return tmp_path / "gateway"


def test_nothing_but_the_sidecar_comes_into_another_chart(gateway):
    found = objects({}, gateway)
    assert sorted(it["kind"] for it in found) == ["ConfigMap", "Deployment"]
    latest = ".".join(kubernetes_validate.latest_version().split(".")[:2])
    for version in (OLDEST, latest):
        for made in found:
            kubernetes_validate.validate(made, version, strict=True)


def test_it_starts_before_and_shares_its_socket(gateway):
    found = objects({}, gateway)
    pod = one(found, "Deployment")["spec"]["template"]["spec"]
    sidecar, asking = containers(pod)
    assert sidecar["restartPolicy"] == "Always" and "startupProbe" in sidecar
    assert asking["volumeMounts"] == sidecar["volumeMounts"][:1]
    assert {mount["name"] for mount in sidecar["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert next(it for it in pod["volumes"] if it["name"] == "support-access-socket")["emptyDir"] == {}
    text = one(found, "ConfigMap")["data"]["sidecar.toml"]
    assert 'listen = ["unix:/run/support-access/check.sock"]' in text and "gateway = [1000]" in text
    assert sidecar["image"] == "registry.example/support-access:0.1.0", "the version of our chart, not of theirs"
    restricted = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True,
                  "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}
    assert sidecar["securityContext"].items() >= restricted.items()


def test_another_chart_is_told_what_is_missing(gateway):
    with pytest.raises(helm.HelmRenderError) as refusal:
        objects({"support-access": {"sidecar": {"gatewayUsers": []}}}, gateway)
    assert "sidecar.gatewayUsers: required" in str(refusal.value)
    with pytest.raises(helm.HelmRenderError) as refusal:
        objects({"support-access": {"sidecar": {"upstreams": []}}}, gateway)
    assert "sidecar.upstreams: required" in str(refusal.value)


def test_a_token_of_the_pod_can_be_its_credential(gateway):
    found = objects({"support-access": {"sidecar": {"tokenAudience": "support-access", "certificateSecretName": "",
                                                    "gateReadiness": True, "waitUntilServing": False}}}, gateway)
    pod = one(found, "Deployment")["spec"]["template"]["spec"]
    sidecar = pod["initContainers"][0]
    assert sidecar["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/healthz"
    volume = next(it for it in pod["volumes"] if it["name"] == "support-access-token")
    assert volume["projected"]["sources"][0]["serviceAccountToken"]["audience"] == "support-access"
    assert 'upstream_token_file = "/etc/support-access/token/token"' in one(found, "ConfigMap")["data"]["sidecar.toml"]


def test_the_snippet_of_the_readme_is_what_the_template_makes(gateway):
    text = (CHART / "README.md").read_text()
    snippet = next(yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.S) if "extraInitContainers" in block)
    made = values("sidecar")
    with_sidecar = {"support-access": {"image": made["image"], "sidecar": made["sidecar"] | {"configMap": {"create": False}}}}
    with_sidecar["support-access"]["sidecar"]["upstreamCa"] = {"kind": "Secret", "name": "access-ca"}
    pod = one(objects(with_sidecar, gateway), "Deployment")["spec"]["template"]["spec"]
    assert snippet["extraInitContainers"] == pod["initContainers"]
    assert snippet["extraVolumes"] == pod["volumes"]
    assert snippet["extraVolumeMounts"] == pod["containers"][0]["volumeMounts"]
