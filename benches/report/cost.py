"""The cost of a check that does not depend on the load of the machine, counted by callgrind:
instructions, allocations and system calls."""

import re
import subprocess
from dataclasses import astuple, dataclass

from harness import plain_environment
from load import GROUPS, generate
from programs import OTHER_CORE, Bare, Node

# Checks before the count, and counted checks.
WARM_UP, COUNTED = 1_000, 4_000
DATA = {"grants": 1_000}
ALLOCATORS = re.compile(r"(malloc|calloc|realloc|posix_memalign|aligned_alloc)\b")
# Valgrind hides the vDSO, so that reading a clock becomes a system call.
CLOCK = re.compile(r"clock_gettime\b")


@dataclass
class Cost:
    """Averages for one check."""
    instructions: float
    allocations: float
    system_calls: float
    clock_reads: float

    def __sub__(self, other):
        return Cost(*(mine - theirs for mine, theirs in zip(
            astuple(self), astuple(other), strict=True)))


def compare(directory, servers):
    """Counts checks at a sidecar and at the bare server. A sidecar has no database, and with a long
    `max_staleness` hardly any work besides checks."""
    replica = servers.add(Node(directory, "replica", "serve", "--database-url", "memory:",
                               "--max-staleness", "5m", configuration=GROUPS, core=OTHER_CORE))
    replica.until_ready()
    generate(replica.target, method="grant", calls=DATA["grants"], warm_up=0, **DATA)
    upstream = f'upstream = ["http://{replica.target}"]\n'
    ours = servers.add(Node(directory, "ours", "sidecar", configuration=upstream,
                            wrapper=callgrind(directory, "ours")))
    ours.until_ready()
    bare = servers.add(Bare(directory, "bare", wrapper=callgrind(directory, "bare")))
    return {name: count(server, directory, name)
            for name, server in (("ours", ours), ("bare", bare))}


def callgrind(directory, name):
    """The command that counts a program. Its dumps are NAME.out.1, NAME.out.2 and so on."""
    return ["valgrind", "--tool=callgrind", "--collect-systime=yes",
            f"--callgrind-out-file={directory}/{name}.out"]


def count(server, directory, name):
    """Counts checks at a server that runs under callgrind."""
    generate(server.target, calls=WARM_UP, warm_up=0, **DATA)
    dump(server, directory, name)
    result = generate(server.target, calls=COUNTED, warm_up=0, **DATA)
    # Denied checks are cheaper.
    assert result["allowed"] >= 0.8 * COUNTED, result
    return parse(dump(server, directory, name).read_text(), COUNTED)


def dump(server, directory, name):
    """Writes the counts since the last dump, and returns the file."""
    known = set(directory.glob(f"{name}.out.*"))
    subprocess.run(["callgrind_control", "--dump", str(server.pid)], check=True,
                   capture_output=True, env=plain_environment())
    written, = set(directory.glob(f"{name}.out.*")) - known
    return written


def parse(text, calls):
    """The totals of a dump, and the numbers of calls of functions."""
    events = re.search(r"^events: (.*)$", text, re.MULTILINE)[1].split()
    totals = re.search(r"^(?:summary|totals): (.*)$", text, re.MULTILINE)[1].split()
    totals = dict(zip(events, map(int, totals), strict=False))
    names, called, counts = {}, None, {}
    for line in text.splitlines():
        if found := re.match(r"c?fn=\((\d+)\)(?: (.*))?$", line):
            if found[2]:
                names[found[1]] = found[2]
            if line.startswith("cfn"):
                called = names[found[1]]
        elif line.startswith("calls="):
            counts[called] = counts.get(called, 0) + int(re.match(r"calls=(\d+)", line)[1])

    def number(pattern):
        return sum(n for name, n in counts.items() if pattern.match(name))

    clock_reads = number(CLOCK)
    return Cost(totals["Ir"] / calls, number(ALLOCATORS) / calls,
                (totals["sysCount"] - clock_reads) / calls, clock_reads / calls)
