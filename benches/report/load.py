"""Calls of the load generator, and the data that they need."""

import hashlib
import json
import shutil
import statistics
from pathlib import Path

from harness import EVENT_KEY
from programs import CACHE, RELEASE, ROOT, run

GRANTS = 1_000_000
# The vendor's catalogue has the groups of the generator.
GROUPS = "".join(f'[[policy.groups]]\ngroup_id = "group-{number}"\n'
                 'display_name = "Support"\nmax_access_level = "ADMIN"\n' for number in range(5))


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


def cached(**options):
    """The URL of a SQLite database with grants, which is kept for later runs. Servers that use the
    database make no changes."""
    directory = CACHE / "-".join([schema(), *(f"{key}-{n}" for key, n in sorted(options.items()))])
    if not (directory / "complete").exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        fill(f"sqlite://{directory}/access.db", **options)
        (directory / "complete").touch()
    return f"sqlite://{directory}/access.db"


def filled(directory, **options):
    """The URL of a copy of the database, for changes."""
    source = Path(cached(**options).removeprefix("sqlite://")).parent
    return f"sqlite://{shutil.copytree(source, directory / source.name)}/access.db"


def per_run(ours, theirs):
    """The ratio of each pair of alternating runs."""
    return [mine / other for mine, other in zip(ours, theirs, strict=True)]


median = statistics.median
