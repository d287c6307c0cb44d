"""The chart's README.md says what values.yaml says, and the schema knows each value."""

import json
import subprocess
import sys

import yaml
from chart import CHART, ROOT, objects


def leaves(document, schema, path=()):
    for key, value in document.items():
        known = schema["properties"][key].get("properties") if isinstance(schema["properties"][key], dict) else None
        if isinstance(value, dict) and known and path + (key,) not in WHOLE:
            yield from leaves(value, schema["properties"][key], (*path, key))
        else:
            yield ".".join((*path, key))


# Described as a whole.
WHOLE = {("resources",), ("migrations", "job", "resources"), ("sidecar", "resources"), ("config", "limits"),
         ("config", "policy"), ("auth", "certificates"), ("affinity",)}


def test_the_readme_is_up_to_date():
    subprocess.run([sys.executable, ROOT / "scripts/chart-readme", "--check"], check=True)


def test_every_value_is_described_and_known():
    document = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    described = [line.split("`")[1] for line in (CHART / "README.md").read_text().splitlines() if line.startswith("| `")]
    assert described == list(leaves(document, schema))
    known = schema["properties"].keys() - {"global"}
    assert known == document.keys()


def test_the_example_of_the_readme_is_enough():
    text = (CHART / "README.md").read_text()
    example = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert any(made["kind"] == "Deployment" for made in objects(example))


def test_a_drift_would_be_found(tmp_path):
    for part in ("scripts/chart-readme", "helm/support-access/README.md", "helm/support-access/values.yaml"):
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part).write_text((ROOT / part).read_text())
    changed = tmp_path / "helm/support-access/values.yaml"
    changed.write_text(changed.read_text().replace("replicaCount: 3", "replicaCount: 4"))
    asked = [sys.executable, tmp_path / "scripts/chart-readme", "--check"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "run scripts/chart-readme" in done.stderr
