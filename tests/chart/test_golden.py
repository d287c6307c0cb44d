"""The chart renders what the golden files contain."""

import pytest
from chart import VALUES
from golden import BASE, DIRECTORY, FULL, difference, golden_path, golden_text, rendered

VALUES_BY_NAME = {path.stem: path for path in VALUES}


@pytest.mark.parametrize("path", VALUES, ids=lambda path: path.stem)
def test_rendered_chart_matches_its_golden_file(path):
    assert golden_text(path) == golden_path(path).read_text(), \
        "review the change, then run `python tests/chart/golden.py` to accept it"


def test_every_golden_file_belongs_to_a_values_file():
    assert set(DIRECTORY.iterdir()) == {golden_path(path) for path in VALUES}
    assert FULL < VALUES_BY_NAME.keys()
    assert len(VALUES) >= 12


def test_golden_diffs_detect_added_changed_and_missing_templates():
    templates = rendered(VALUES_BY_NAME[BASE])
    assert difference(templates, templates) == ""
    for name, text in templates.items():
        missing = {other: content for other, content in templates.items() if other != name}
        assert difference(templates, missing) == f"--- {name}\n+++ /dev/null\n"
        assert difference(missing, templates).startswith(f"--- /dev/null\n+++ {name}\n@@ -0,0 ")
        first, *rest = text.splitlines(keepends=True)
        changed = templates | {name: "".join(["changed: true\n", *rest])}
        assert f"-{first}+changed: true\n" in difference(templates, changed)
