"""The sidecar in the pod of another chart, by the templates and by the snippet of the README."""

import re
import shutil

import helm_python as helm
import kubernetes_validate
import pytest
import yaml
from chart import CHART, HERE, containers, find, manifests, pod_spec, values_for
from test_rendered import LATEST, OLDEST


@pytest.fixture(name="gateway")
def make_gateway(tmp_path):
    """Another chart, with this chart as a dependency."""
    shutil.copytree(HERE / "gateway", tmp_path / "gateway")
    shutil.copytree(CHART, tmp_path / "gateway/charts/support-access")
    return tmp_path / "gateway"


def test_parent_chart_renders_only_the_sidecar(gateway):
    objects = manifests({}, gateway)
    assert sorted(manifest["kind"] for manifest in objects) == ["ConfigMap", "Deployment"]
    for version in (OLDEST, LATEST):
        for manifest in objects:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_sidecar_starts_before_the_gateway_and_shares_its_socket(gateway):
    objects = manifests({}, gateway)
    pod = pod_spec(objects)
    sidecar, gateway_container = containers(pod)
    assert sidecar["restartPolicy"] == "Always" and "startupProbe" in sidecar
    assert gateway_container["volumeMounts"] == sidecar["volumeMounts"][:1]
    mounts = {mount["name"] for mount in sidecar["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert mounts == volumes.keys()
    assert volumes["support-access-socket"]["emptyDir"] == {}
    text = find(objects, "ConfigMap")["data"]["sidecar.toml"]
    assert 'listen = ["unix:/run/support-access/check.sock"]' in text
    assert "gateway = [1000]" in text
    assert sidecar["image"] == "registry.example/support-access:0.1.0", \
        "the default tag is the appVersion of this chart, not of the parent chart"
    restricted = {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "runAsNonRoot": True,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert sidecar["securityContext"].items() >= restricted.items()


@pytest.mark.parametrize("setting", ["gatewayUsers", "upstreams"])
def test_missing_sidecar_setting_fails_the_parent_chart(gateway, setting):
    with pytest.raises(helm.HelmRenderError) as error:
        manifests({"support-access": {"sidecar": {setting: []}}}, gateway)
    assert f"sidecar.{setting}: required" in str(error.value)


def test_sidecar_can_authenticate_with_a_token_of_its_pod(gateway):
    settings = {"tokenAudience": "support-access", "certificateSecretName": "",
                "gateReadiness": True, "waitUntilServing": False}
    objects = manifests({"support-access": {"sidecar": settings}}, gateway)
    pod = pod_spec(objects)
    sidecar = pod["initContainers"][0]
    assert sidecar["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert sidecar["startupProbe"]["httpGet"]["path"] == "/healthz"
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == "support-access-token"]
    [source] = volume["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "support-access"
    text = find(objects, "ConfigMap")["data"]["sidecar.toml"]
    assert 'upstream_token_file = "/etc/support-access/token/token"' in text


def test_readme_snippet_equals_the_template(gateway):
    text = (CHART / "README.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.S)
    [snippet] = [yaml.safe_load(block) for block in blocks if "extraInitContainers" in block]
    chart_values = values_for("sidecar")
    settings = chart_values["sidecar"] | {
        "configMap": {"create": False}, "upstreamCa": {"kind": "Secret", "name": "access-ca"}}
    parent_values = {"support-access": {"image": chart_values["image"], "sidecar": settings}}
    pod = pod_spec(manifests(parent_values, gateway))
    assert snippet["extraInitContainers"] == pod["initContainers"]
    assert snippet["extraVolumes"] == pod["volumes"]
    assert snippet["extraVolumeMounts"] == pod["containers"][0]["volumeMounts"]
