"""Golden files: the rendered chart for each values file.

A values file in FULL has a golden file with all templates. The golden file of any other values file
contains the difference from `minimal`, as a unified diff for each template. A change to a template
therefore changes few golden files. `python tests/chart/golden.py` writes all golden files.
"""

import difflib
import hashlib
import re
import textwrap

from chart import CHART, HERE, VALUES_FILES, load_values, render

DIRECTORY = HERE / "golden"
BASE = "minimal"
FULL = {BASE, "migration-job", "sqlite", "monitoring"}
CHECKSUM = re.compile(r"(checksum/config: )([0-9a-f]{64})")
CHECKSUM_MARKER = r"\1(SHA-256 of access.toml)"
DASHBOARD_MARKER = "    (dashboard.json)\n"


def golden_path(values_file):
    extension = "yaml" if values_file.stem in FULL else "diff"
    return DIRECTORY / f"{values_file.stem}.{extension}"


def golden_text(values_file):
    """The content that the golden file of a values file must have."""
    templates = rendered_templates(values_file)
    if values_file.stem in FULL:
        return "".join(f"# {name}\n{text}" for name, text in templates.items())
    base = rendered_templates(values_file.with_name(f"{BASE}.yaml"))
    return difference(base, templates)


def rendered_templates(values_file):
    """The rendered templates, without the two parts that other assertions and tests compare."""
    templates = render(load_values(values_file))
    for name, text in templates.items():
        if name.endswith("templates/deployment.yaml"):
            assert CHECKSUM.search(text)[2] == access_toml_checksum(templates)
            templates[name] = CHECKSUM.sub(CHECKSUM_MARKER, text)
        elif name.endswith("templates/dashboard.yaml"):
            # test_dashboard_is_the_file compares the content.
            content = textwrap.indent((CHART / "dashboard.json").read_text(), "    ")
            assert text.count(content) == 1
            templates[name] = text.replace(content, DASHBOARD_MARKER)
    return templates


def access_toml_checksum(templates):
    """The checksum that makes a change of the configuration replace the pods."""
    [text] = [text for name, text in templates.items() if name.endswith("templates/configmap.yaml")]
    content = textwrap.dedent(text.split("  access.toml: |\n")[1]).removesuffix("\n")
    return hashlib.sha256(content.encode()).hexdigest()


def difference(base, templates):
    """A unified diff for each template. A template that only `base` has is named, not repeated."""
    parts = []
    for name in sorted(base.keys() | templates.keys()):
        if name not in templates:
            parts.append(f"--- {name}\n+++ /dev/null\n")
            continue
        old = base.get(name, "").splitlines(keepends=True)
        new = templates[name].splitlines(keepends=True)
        source = name if name in base else "/dev/null"
        parts += difflib.unified_diff(old, new, source, name, n=2)
    return "".join(parts)


def main():
    for path in DIRECTORY.iterdir():
        path.unlink()
    for values_file in VALUES_FILES:
        golden_path(values_file).write_text(golden_text(values_file))


if __name__ == "__main__":
    main()
