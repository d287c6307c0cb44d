"""The chart's README matches values.yaml, and the schema knows each value."""

import json
import subprocess
import sys

import yaml
from chart import CHART, ROOT, manifests


def leaves(document, path=()):
    """The path of each value that is not a table with content."""
    for key, value in document.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield ".".join((*path, key))


def is_in_schema(path, schema):
    for key in path.split("."):
        schema = schema["properties"].get(key)
        if schema is None:
            return False
    return True


def test_readme_is_up_to_date():
    subprocess.run([sys.executable, ROOT / "scripts/chart-readme", "--check"], check=True)


def test_every_value_has_a_description_and_a_schema():
    document = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    lines = (CHART / "README.md").read_text().splitlines()
    described = [line.split("`")[1] for line in lines if line.startswith("| `")]
    assert len(described) == len(set(described)) > 100
    for path in leaves(document):
        rows = [row for row in described if path == row or path.startswith(f"{row}.")]
        assert len(rows) == 1, f"{path} is described by {rows}"
    assert [path for path in described if not is_in_schema(path, schema)] == []
    assert schema["properties"].keys() - {"global"} == document.keys()


def test_minimal_values_of_the_readme_are_sufficient():
    text = (CHART / "README.md").read_text()
    example = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert any(manifest["kind"] == "Deployment" for manifest in manifests(example))


def test_outdated_readme_is_reported(tmp_path):
    files = ("scripts/chart-readme", "helm/support-access/README.md",
             "helm/support-access/values.yaml")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text())
    values_yaml = tmp_path / "helm/support-access/values.yaml"
    changed = values_yaml.read_text().replace("replicaCount: 3", "replicaCount: 4")
    values_yaml.write_text(changed)
    command = [sys.executable, tmp_path / "scripts/chart-readme", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "run scripts/chart-readme" in done.stderr
