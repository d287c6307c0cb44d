"""Renders the chart with the Helm engine, without a cluster."""

from pathlib import Path

import helm_python as helm
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHART = ROOT / "helm/support-access"
VALUES_FILES = sorted((HERE / "values").glob("*.yaml"))
RELEASE, NAMESPACE = "access", "vendor"
# APIs of custom resources, whose schemas are not part of Kubernetes.
CUSTOM_RESOURCE_APIS = {"cert-manager.io/v1", "monitoring.coreos.com/v1"}


def load_values(path):
    return helm.values_from_yaml(path.read_text())


def values_for(name, **overrides):
    """The values of a values file. Overrides replace whole values; `__` separates path elements."""
    chart_values = load_values(HERE / "values" / f"{name}.yaml")
    for path, value in overrides.items():
        *parents, last = path.split("__")
        table = chart_values
        for parent in parents:
            table = table.setdefault(parent, {})
        table[last] = value
    return chart_values


def render(chart_values, path=CHART):
    """The text of each template by its path in the chart, without empty templates."""
    with helm.Chart.load(path) as chart:
        chart.validate_schema(chart_values)
        texts = chart.render(chart_values, name=RELEASE, namespace=NAMESPACE)
    return {name: text.strip() + "\n" for name, text in sorted(texts.items()) if text.strip()}


def manifests(chart_values, path=CHART):
    """All rendered Kubernetes objects."""
    templates = render(chart_values, path).items()
    texts = [text for name, text in templates if not name.endswith("NOTES.txt")]
    return [manifest for text in texts for manifest in yaml.safe_load_all(text) if manifest]


def find(objects, kind, name=None):
    """The only object of a kind, or of a kind and name."""
    matches = [
        manifest for manifest in objects
        if manifest["kind"] == kind and name in (None, manifest["metadata"]["name"])
    ]
    names = [manifest["metadata"]["name"] for manifest in matches]
    assert len(matches) == 1, f"expected one {kind} {name or ''}, found {names}"
    return matches[0]


def access_toml(objects):
    """The configuration file of the replicas."""
    config_maps = [manifest for manifest in objects if manifest["kind"] == "ConfigMap"]
    [text] = [manifest["data"]["access.toml"] for manifest in config_maps
              if "access.toml" in manifest["data"]]
    return text


def pod_spec(objects):
    """The pod specification of the Deployment."""
    return find(objects, "Deployment")["spec"]["template"]["spec"]


def pods(objects):
    """The metadata and pod specification of each Deployment, Job and Pod."""
    for manifest in objects:
        if manifest["kind"] == "Pod":
            yield manifest["metadata"], manifest["spec"]
        elif manifest["kind"] in ("Deployment", "Job"):
            yield manifest["metadata"], manifest["spec"]["template"]["spec"]


def containers(pod):
    return pod.get("initContainers", []) + pod["containers"]
