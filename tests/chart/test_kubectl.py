"""kubectl and the models of custom resources know every rendered field.

`kubectl create --dry-run=client` asks a cluster for its resource types; `--local` does not. No
package contains the definitions of cert-manager and the Prometheus operator. `models.py` uses
models that are generated from these definitions."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from chart import (
    CUSTOM_RESOURCE_APIS, HERE, ROOT, VALUES_FILES, containers, load_values, manifests)

IMAGE = "registry.example/other:1"


def kubectl(arguments, objects):
    """The objects that kubectl prints, without a cluster."""
    environment = {"PATH": os.environ["PATH"], "KUBECONFIG": "/dev/null", "HOME": "/nonexistent"}
    # The kubectl of scripts/requirements.txt, not of the machine.
    program = Path(sys.executable).with_name("kubectl")
    options = ["--local", "--dry-run=client", "--output=json", "--filename=-"]
    done = subprocess.run([program, *arguments, *options], env=environment, check=False,
                          input=yaml.safe_dump_all(objects), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    decoder, text, printed = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        manifest, end = decoder.raw_decode(text)
        printed += manifest["items"] if manifest["kind"] == "List" else [manifest]
        text = text[end:].strip()
    return printed


def differences(expected, actual, path=""):
    """The paths at which `actual` differs from `expected`."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        return [difference for key in expected
                for difference in differences(expected[key], actual.get(key), f"{path}.{key}")]
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        pairs = enumerate(zip(expected, actual, strict=True))
        return [difference for index, pair in pairs
                for difference in differences(*pair, f"{path}[{index}]")]
    # Go types omit an empty object.
    if expected == actual or (expected == {} and actual is None):
        return []
    return [f"{path}: {expected!r} became {actual!r}"]


def with_image(manifest):
    """The object after `kubectl set image`."""
    manifest = copy.deepcopy(manifest)
    spec = manifest["spec"]
    for container in containers(spec if manifest["kind"] == "Pod" else spec["template"]["spec"]):
        container["image"] = IMAGE
    return manifest


@pytest.mark.parametrize("path", VALUES_FILES, ids=lambda path: path.stem)
def test_kubectl_reads_every_object(path):
    objects = manifests(load_values(path))
    printed = kubectl(["label", "read=yes"], objects)
    labels = [manifest["metadata"].pop("labels") | {"read": "yes"} for manifest in objects]
    assert [manifest["metadata"].pop("labels") for manifest in printed] == labels
    assert printed == objects


@pytest.mark.parametrize("path", VALUES_FILES, ids=lambda path: path.stem)
def test_kubectl_types_know_every_field_of_pods(path):
    """`set image` parses an object into Go types and serializes it: unknown fields disappear."""
    chart_values = load_values(path)
    kinds = ("Deployment", "Job", "Pod")
    objects = [manifest for manifest in manifests(chart_values) if manifest["kind"] in kinds]
    assert objects or not chart_values.get("enabled", True)
    if objects:
        expected = [with_image(manifest) for manifest in objects]
        assert differences(expected, kubectl(["set", "image", f"*={IMAGE}"], objects)) == []


def test_kubectl_drops_an_unknown_field():
    pod = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"initContainers": [{"name": "a", "image": "a", "restartPolicy": "Always",
                                     "restartPolice": "Always"}],
                 "containers": [{"name": "b", "image": "b"}]},
    }
    printed = kubectl(["set", "image", f"*={IMAGE}"], [pod])
    assert differences([with_image(pod)], printed) == [
        "[0].spec.initContainers[0].restartPolice: 'Always' became None"]


def round_trip(objects):
    """Each object as serialized by its model, or the validation error."""
    python = ROOT / os.environ.get("MODELS_PYTHON", ".venv/models/bin/python")
    assert python.exists(), (f"{python} does not exist; install scripts/requirements-models.txt "
                             "into a virtual environment at .venv/models")
    done = subprocess.run([python, HERE / "models.py"], input=json.dumps(objects),
                          capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def custom_resources():
    return [manifest for path in VALUES_FILES for manifest in manifests(load_values(path))
            if manifest["apiVersion"] in CUSTOM_RESOURCE_APIS]


def test_models_know_every_field_of_custom_resources():
    objects = custom_resources()
    kinds = {manifest["kind"] for manifest in objects}
    assert kinds == {"Certificate", "ServiceMonitor", "PrometheusRule"}
    assert differences(objects, round_trip(objects)) == []


def test_models_drop_unknown_fields_and_reject_wrong_types():
    objects = custom_resources()
    unknown = [manifest | {"spec": manifest["spec"] | {"nonsense": 1}} for manifest in objects]
    assert differences(unknown, round_trip(unknown)) == [
        f"[{index}].spec.nonsense: 1 became None" for index in range(len(unknown))]
    wrong = [manifest | {"spec": "nonsense"} for manifest in objects]
    assert all("validation error" in error for error in round_trip(wrong))
