"""Writes docs/benchmarks: the figures, the report and its plots."""

import json
import tomllib
from pathlib import Path

import plot
from figures import Figure
from load import median
from programs import ROOT
from rows import ROWS

DIRECTORY = ROOT / "docs/benchmarks"
FIGURES = DIRECTORY / "figures.json"
EXPLANATIONS = Path(__file__).parent / "explanations.toml"
TITLES = {name: row.title for name, row in ROWS.items()} | {"soak": "A long mixed load"}
# Rows in a plot: those about the CPU of checks.
PLOTTED = ["tcp", "unix", "tls", "token", "batch", "groups", "crowd", "locks", "runtimes"]


def read():
    """The figures of earlier runs, by row."""
    return json.loads(FIGURES.read_text()) if FIGURES.exists() else {}


def keep(results):
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    ordered = {name: results[name] for name in TITLES if name in results}
    FIGURES.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


def number(value):
    """Three significant digits."""
    if abs(value) >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values):
    """The median, with the range."""
    if not values:
        return ""
    if len(values) == 1 or min(values) == max(values):
        return number(median(values))
    return f"{number(median(values))} [{number(min(values))}–{number(max(values))}]"


def ratio(figure):
    if not figure.theirs:
        return ""
    ratios = figure.ratios()
    text = f"{figure.ratio():.2f}"
    return text if len(ratios) == 1 else f"{text} [{min(ratios):.2f}–{max(ratios):.2f}]"


def target(figure):
    for sign, limit in (("≤", figure.at_most), ("≥", figure.at_least)):
        if limit is not None:
            return f"{sign} {limit:,}" + (" ×" if figure.theirs else "")
    return "reported"


def verdict(figure):
    return {True: "met", False: "**missed**", None: ""}[figure.is_met()]


def line(figure):
    """A figure on the terminal."""
    beside = f" | {figure.beside} {spread(figure.theirs)}" if figure.theirs else ""
    return (f"{figure.label}: {spread(figure.ours)} {figure.unit}{beside} | {ratio(figure)} | "
            f"{target(figure)} {verdict(figure).strip('*')}")


def figures(result):
    return [Figure(**figure) for figure in result["figures"]]


def write(results):
    """Writes the report and its plots from the kept figures."""
    keep(results)
    explanations = tomllib.loads(EXPLANATIONS.read_text())
    shown = {name: results[name] for name in TITLES if name in results}
    plot.ratios(DIRECTORY / "checks.svg", "CPU per check, as a multiple of the comparison",
                [figure for name in PLOTTED if name in shown for figure in figures(shown[name])
                 if "CPU" in figure.unit])
    parts = [head(shown), table(shown)]
    for name, result in shown.items():
        parts.append(section(name, result, explanations.get(name, "")))
    missing = [name for name in ROWS if name not in results]
    if missing:
        parts.append("## Not measured\n\n" + "\n".join(
            f"- {TITLES[name]} (`{name}`)" for name in missing))
    (DIRECTORY / "REPORT.md").write_text("\n\n".join(parts) + "\n")


def head(shown):
    newest = max(shown.values(), key=lambda result: result["date"])
    commits = sorted({result["commit"] for result in shown.values()})
    loads = [result["load"] for result in shown.values()]
    return f"""# Benchmark

`scripts/bench` writes this report. `scripts/bench --rows tcp,unix` measures single rows again, and
`scripts/bench --list` names them.

| | |
|---|---|
| date | {newest['date']} UTC |
| machine | {newest['machine']} |
| versions | {newest['versions']} |
| commit | {', '.join(commits)} |
| load average before each row | {min(loads)} to {max(loads)} |

- **Bare** is a tonic service with the same messages, build profile and allocator. It always answers
  yes, on a current-thread runtime, its fastest.
- The measured server runs on one core, and the generator on another. CPU is that of the whole
  process of the server, from the scheduler.
- Runs alternate between the servers. A value is the median, with the range in brackets. A ratio is
  that of the medians, with the range of the ratios of single runs.
- Checks vary in tenant, agent, group and outcome: 80 % are allowed. Unless stated, a sidecar has
  1,000,000 live grants. *8 × 16* means eight connections with sixteen concurrent calls each.
- The server has its default limits, metrics and log. Over TCP, callers of the loopback interface
  need no credentials. The rows for Unix sockets, mutual TLS and tokens authenticate them.
- With a load average above one before a row, other programs were running: compare values within
  the row only."""


def table(shown):
    lines = ["## Results", "", "![Ratios of the rows about the CPU of a check](checks.svg)", "",
             "| | value | compared with | ratio | target | |", "|---|--:|--:|--:|--:|---|"]
    for name, result in shown.items():
        lines.append(f"| **[{TITLES[name]}](#{anchor(name)})** | | | | | |")
        for figure in figures(result):
            beside = f"{figure.beside}: {spread(figure.theirs)}" if figure.theirs else ""
            lines.append(f"| {figure.label} | {spread(figure.ours)} {figure.unit} | {beside} | "
                         f"{ratio(figure)} | {target(figure)} | {verdict(figure)} |")
    return "\n".join(lines)


def anchor(name):
    return "".join(c for c in TITLES[name].lower().replace(" ", "-") if c.isalnum() or c == "-")


def section(name, result, explanation):
    """The raw values of a row, and the explanation of its result."""
    lines = [f"## {TITLES[name]}", ""]
    if explanation:
        lines += [explanation.strip(), ""]
    lines += [f"Measured at {result['date']} UTC with {result['commit']}, load {result['load']}.",
              "", "| | each run |", "|---|---|"]
    for figure in figures(result):
        lines.append(f"| {figure.label} ({figure.unit}) | {raw(figure.ours)} |")
        if figure.theirs:
            lines.append(f"| – {figure.beside} | {raw(figure.theirs)} |")
    return "\n".join(lines)


def raw(values):
    return " · ".join(number(value) for value in values)
