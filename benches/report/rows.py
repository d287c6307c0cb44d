"""The rows of the report, in its order."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Callable

import changes
import checks
import cost
from figures import Figure
from load import alternate
from peers import HERE, install
from programs import SERVER_CORE, run


@dataclass
class Row:
    title: str
    measure: Callable


def counted(bench):
    """Instructions, allocations and system calls per check, counted by callgrind."""
    costs = cost.compare(bench.directory, bench.servers)
    ours, bare = costs["ours"], costs["bare"]
    above = ours - bare
    figures = []
    # The numbers of reads and writes depend on how many calls arrive together.
    for label, name, limit in (("instructions", "instructions", 7_500),
                               ("allocations", "allocations", 8),
                               ("system calls", "system_calls", 0.25)):
        figures.append(Figure(f"{label} per check", label, [getattr(ours, name)], "bare",
                              [getattr(bare, name)]))
        figures.append(Figure(f"{label} above bare", label, [getattr(above, name)],
                              at_most=limit))
    return figures


def spicedb(bench):
    """Embedded SpiceDB, which runs in the process of the caller: a part of the CPU is Node's."""
    packages = install()
    (packages.parent / "spicedb.mjs").write_text((HERE / "spicedb.mjs").read_text())
    ours = bench.sidecar("beside-spicedb")

    def embedded():
        return json.loads(run("node", "spicedb.mjs", 10_000, core=SERVER_CORE,
                              cwd=packages.parent))

    results = alternate(bench.runs, ours=checks.call(ours), SpiceDB=embedded)
    return [checks.cpu("TCP, 8 × 16, beside calls in the process", results, None,
                       theirs="SpiceDB")]


ROWS = {
    "tcp": Row("CPU per CheckAccess over TCP", checks.tcp),
    "unix": Row("CPU per CheckAccess over a Unix socket", checks.unix),
    "tls": Row("CPU per CheckAccess with mutual TLS", checks.tls),
    "cost": Row("Instructions, allocations and system calls per check", counted),
    "latency": Row("Latency, open loop", checks.latency),
    "token": Row("CPU per CheckAccess with a bearer token", checks.token),
    "batch": Row("CPU per BatchCheckAccess of 100", checks.batch),
    "crowd": Row("Live grants of the tenant", checks.crowd),
    "locks": Row("Locks on others", checks.locks),
    "groups": Row("Groups of the check", checks.groups),
    "runtimes": Row("Two runtimes", checks.runtimes),
    "cerbos": Row("Cerbos over gRPC, with an equivalent policy", checks.cerbos),
    "spicedb": Row("SpiceDB, embedded", spicedb),
    "start": Row("Start with a million grants", changes.start),
    "enforcement": Row("Revoke until COMPLETE", changes.enforcement),
    "rate": Row("Changes per second", changes.rate),
    "revokeall": Row("RevokeAll of 10,000 grants", changes.revoke_all),
    "storm": Row("Checks during changes", changes.storm),
    "memory": Row("Memory of a grant", changes.memory),
}


def soak(minutes):
    """The row of a long mixed load."""
    return partial(changes.soak, minutes=minutes)
