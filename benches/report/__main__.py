"""Measures the rows of the benchmark, and writes docs/benchmarks. Started by scripts/bench."""

import argparse
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import programs  # noqa: E402  needs the path
import report  # noqa: E402
from checks import Bench, Replicas  # noqa: E402
from programs import Servers  # noqa: E402
from rows import ROWS, soak  # noqa: E402


def main():
    # Servers are stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="alternating runs of each row")
    parser.add_argument("--rows", default=",".join(ROWS), help="names, separated by commas")
    parser.add_argument("--list", action="store_true", help="list the rows")
    parser.add_argument("--soak", type=int, metavar="MINUTES", help="mixed load for so long")
    parser.add_argument("--report", action="store_true", help="write the report again, unmeasured")
    options = parser.parse_args()
    if options.list:
        for name, row in ROWS.items():
            print(f"{name:12} {row.title}")
        return
    names = [] if options.report else options.rows.split(",")
    if unknown := set(names) - set(ROWS):
        sys.exit(f"error: unknown rows: {', '.join(sorted(unknown))}; --list shows the rows")
    results = report.read()
    rows = {name: ROWS[name].measure for name in names}
    if options.soak:
        rows = {"soak": soak(options.soak)}
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, Servers() as servers:
        replicas = Replicas(directory, servers)
        for name, row in rows.items():
            measure(results, name, row, options.runs, replicas)
    report.write(results)


def measure(results, name, row, runs, replicas):
    """Measures a row, and keeps the figures even if a later row fails."""
    print(f"== {name}", flush=True)
    load, began = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, Servers() as servers:
        figures = row(Bench(directory, runs, servers, replicas))
    for figure in figures:
        print("  ", report.line(figure), flush=True)
    print(f"== {name}: {time.monotonic() - began:.0f} s", flush=True)
    results[name] = {"date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()), "runs": runs,
                     "load": round(load, 1), **versions(),
                     "figures": [figure.to_json() for figure in figures]}
    report.keep(results)


def versions():
    """The versions that the figures depend on."""
    git = ["git", "-C", programs.ROOT, "describe", "--always", "--dirty", "--exclude", "*"]
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[1]
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True)
    lock = (programs.ROOT / "Cargo.lock").read_text()
    tonic = re.search(r'name = "tonic"\nversion = "(.*)"', lock)[1]
    commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    return {"commit": commit,
            "machine": f"{os.cpu_count()} × {processor}, Linux {platform.release()}",
            "versions": f"{rustc.stdout.split(' (')[0]}, tonic {tonic}"}


main()
