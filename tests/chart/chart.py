"""The chart, rendered by the real Helm engine, offline."""

from pathlib import Path

import helm_python as helm
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHART = ROOT / "helm/support-access"
VALUES = sorted((HERE / "values").glob("*.yaml"))
NAME, NAMESPACE = "access", "vendor"
# Kinds of others' operators. Their schemas are not part of Kubernetes.
FOREIGN = {"cert-manager.io/v1", "monitoring.coreos.com/v1"}


def read(path):
    return helm.values_from_yaml(path.read_text())


def values(name, **changes):
    """Those of a file of the matrix, with `changes`: dotted paths, written with two underscores, to what is there instead."""
    found = read(HERE / "values" / f"{name}.yaml")
    for path, value in changes.items():
        *parents, last = path.split("__")
        table = found
        for parent in parents:
            table = table.setdefault(parent, {})
        table[last] = value
    return found


def render(given, path=CHART):
    """The text of each template, by its path in the chart; what came out empty is left out."""
    with helm.Chart.load(path) as chart:
        chart.validate_schema(given)
        texts = chart.render(given, name=NAME, namespace=NAMESPACE)
    return {name: text.strip() + "\n" for name, text in sorted(texts.items()) if text.strip()}


def objects(given, path=CHART):
    """Every object."""
    texts = (text for name, text in render(given, path).items() if not name.endswith("NOTES.txt"))
    return [made for text in texts for made in yaml.safe_load_all(text) if made]


def one(found, kind, name=None):
    """The one object of a kind, and of a name if there are several."""
    matching = [it for it in found if it["kind"] == kind and name in (None, it["metadata"]["name"])]
    assert len(matching) == 1, f"{kind} {name}: {[it['metadata']['name'] for it in matching]}"
    return matching[0]


def configuration(found):
    """The text of access.toml."""
    return next(it["data"]["access.toml"] for it in found if it["kind"] == "ConfigMap" and "access.toml" in it["data"])


def pods(found):
    """Name and specification of each pod, whatever makes it."""
    for made in found:
        if made["kind"] == "Pod":
            yield made["metadata"], made["spec"]
        elif made["kind"] in ("Deployment", "Job"):
            yield made["metadata"], made["spec"]["template"]["spec"]


def containers(pod):
    return pod.get("initContainers", []) + pod["containers"]
