"""The rendered chart matches the golden files."""

import pytest
from chart import VALUES_FILES
from golden import BASE, DIRECTORY, FULL, difference, golden_path, golden_text, rendered_templates

BASE_FILE = next(path for path in VALUES_FILES if path.stem == BASE)


@pytest.mark.parametrize("path", VALUES_FILES, ids=lambda path: path.stem)
def test_rendered_chart_matches_its_golden_file(path):
    assert golden_text(path) == golden_path(path).read_text(), \
        "review the change, then run `python tests/chart/golden.py` to accept it"


def test_every_golden_file_belongs_to_a_values_file():
    assert set(DIRECTORY.iterdir()) == {golden_path(path) for path in VALUES_FILES}
    assert FULL < {path.stem for path in VALUES_FILES}
    assert len(VALUES_FILES) >= 12


def test_golden_diffs_show_added_changed_and_removed_templates():
    templates = rendered_templates(BASE_FILE)
    assert difference(templates, templates) == ""
    for name, text in templates.items():
        others = {other: content for other, content in templates.items() if other != name}
        assert difference(templates, others) == f"--- {name}\n+++ /dev/null\n"
        assert difference(others, templates).startswith(f"--- /dev/null\n+++ {name}\n@@ -0,0 ")
        first, *rest = text.splitlines(keepends=True)
        changed = templates | {name: "".join(["changed: true\n", *rest])}
        assert f"-{first}+changed: true\n" in difference(templates, changed)
