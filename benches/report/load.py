"""Calls of the load generator, and the data that they need."""

import hashlib
import json
import shutil
import statistics

from harness import EVENT_KEY
from programs import CACHE, RELEASE, ROOT, run

GRANTS = 1_000_000


def generate(target, *, pid=None, **options):
    """Runs the load generator, and returns its results. Calls that fail end the benchmark."""
    command = [RELEASE / "generate", "--target", target]
    if pid:
        command += ["--pid", pid]
    for name, value in options.items():
        if value is not None:
            command += [f"--{name.replace('_', '-')}", value]
    result = json.loads(run(*command))
    assert result["failed"] == 0, f"{result['failed']} of {result['calls']} calls failed: {command}"
    return result


def alternate(runs, **contenders):
    """Measures the contenders in turn. Returns the results of each, in the order of the runs."""
    results = {name: [] for name in contenders}
    for _ in range(runs):
        for name, measure in contenders.items():
            results[name].append(measure())
    return results


def values(results, key):
    return [result[key] for result in results]


def fill(database_url, **options):
    """Fills an empty database with grants."""
    command = [RELEASE / "fill", "--database-url", database_url]
    if database_url.startswith("postgres"):
        command += ["--event-key-file", EVENT_KEY]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", value]
    run(*command)


def schema():
    """A name for the schema of this version."""
    files = sorted((ROOT / "migrations").rglob("*.sql"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def filled(directory, **options):
    """The URL of a SQLite database with grants, copied from a cache."""
    name = "-".join([schema(), *(f"{key}-{value}" for key, value in sorted(options.items()))])
    cached = CACHE / name
    if not (cached / "complete").exists():
        shutil.rmtree(cached, ignore_errors=True)
        cached.mkdir(parents=True)
        fill(f"sqlite://{cached}/access.db", **options)
        (cached / "complete").touch()
    copied = shutil.copytree(cached, directory / name)
    return f"sqlite://{copied}/access.db"


def per_run(ours, theirs):
    """The ratio of each pair of alternating runs."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


median = statistics.median
