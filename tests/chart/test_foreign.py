"""What kubectl makes of the objects without a cluster, and what is known of those for others' operators.

`kubectl create --dry-run=client` asks a cluster what kinds there are; `--local` does not. Neither cert-manager's nor the Prometheus
operator's definitions are in a package, but models that are generated from them are: `models.py` asks those."""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from chart import FOREIGN, HERE, ROOT, VALUES, containers, objects, read


def kubectl(arguments, given):
    """What it prints, as objects. There is no cluster, and none is asked."""
    environment = {"PATH": os.environ["PATH"], "KUBECONFIG": "/dev/null", "HOME": "/nonexistent"}
    # That of scripts/requirements.txt, and no other that the machine may have.
    program = Path(sys.executable).with_name("kubectl")
    done = subprocess.run([program, *arguments, "--local", "--dry-run=client", "--output=json", "--filename=-"], env=environment,
                          input=yaml.safe_dump_all(given), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    decoder, text, found = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        made, end = decoder.raw_decode(text)
        found += made["items"] if made["kind"] == "List" else [made]
        text = text[end:].strip()
    return found


def missing(given, found, path=""):
    """The paths of what was given and is not found."""
    if isinstance(given, dict) and isinstance(found, dict):
        return [it for key in given for it in missing(given[key], found.get(key), f"{path}.{key}")]
    if isinstance(given, list) and isinstance(found, list) and len(given) == len(found):
        return [it for number, pair in enumerate(zip(given, found, strict=True)) for it in missing(*pair, f"{path}[{number}]")]
    # The types write {} for what is empty as nothing.
    return [] if given == found or (given == {} and found is None) else [f"{path}: {given!r} became {found!r}"]


IMAGE = "registry.example/other:1"


def with_image(made):
    """The same object, after `kubectl set image`."""
    made = copy.deepcopy(made)
    pod = made["spec"] if made["kind"] == "Pod" else made["spec"]["template"]["spec"]
    for container in containers(pod):
        container["image"] = IMAGE
    return made


def with_pods(found):
    return [made for made in found if made["kind"] in ("Deployment", "Job", "Pod")]


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)
def test_kubectl_reads_every_object(path):
    given = objects(read(path))
    found = kubectl(["label", "read=yes"], given)
    assert [it["metadata"].pop("labels") for it in found] == [it["metadata"].pop("labels") | {"read": "yes"} for it in given]
    assert found == given


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)
def test_kubectls_own_types_know_every_field_of_pods(path):
    """It reads them into its types, and writes them again: what those do not know is gone then."""
    given = with_pods(objects(read(path)))
    assert given or not read(path).get("enabled", True)
    if given:
        assert missing([with_image(made) for made in given], kubectl(["set", "image", f"*={IMAGE}"], given)) == []


def test_kubectl_is_not_asked_in_vain():
    """A field that is misspelt is gone; the pod is one with a native sidecar, which is not."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
           "spec": {"initContainers": [{"name": "a", "image": "a", "restartPolicy": "Always", "restartPolice": "Always"}],
                    "containers": [{"name": "b", "image": "b"}]}}
    found = kubectl(["set", "image", f"*={IMAGE}"], [pod])
    assert missing([with_image(pod)], found) == ["[0].spec.initContainers[0].restartPolice: 'Always' became None"]


def modelled(given):
    """What the models make of objects: each again, or what is wrong with it."""
    python = ROOT / os.environ.get("MODELS_PYTHON", ".venv/models/bin/python")
    assert python.exists(), f"{python} is not there: install scripts/requirements-models.txt into a virtual environment at .venv/models"
    asked = [python, HERE / "models.py"]
    return json.loads(subprocess.run(asked, input=json.dumps(given), capture_output=True, text=True, check=True).stdout)


def test_others_operators_know_every_field():
    """As above: what the models do not know is gone when they write it again."""
    given = [made for path in VALUES for made in objects(read(path)) if made["apiVersion"] in FOREIGN]
    assert {"Certificate", "ServiceMonitor", "PrometheusRule"} == {made["kind"] for made in given}
    assert missing(given, modelled(given)) == []

    # Or else this test could not fail.
    unknown = [made | {"spec": made["spec"] | {"nonsense": 1}} for made in given]
    assert missing(unknown, modelled(unknown)) == [f"[{number}].spec.nonsense: 1 became None" for number in range(len(unknown))]
    wrong = [made | {"spec": "nonsense"} for made in given]
    assert all("validation error" in said for said in modelled(wrong))
