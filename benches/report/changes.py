"""Rows about changes, starts and memory."""

import json
import re
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

from checks import call
from figures import Figure
from harness import EVENT_KEY, Postgres, program
from load import GRANTS, GROUPS, alternate, fill, filled, generate, median, values
from programs import OTHER_CORE, RELEASE, ROOT, Node, run

NOVEMBER = Path(__file__).parent / "november"
SECONDS = 5
# The limit of callers that make changes must not be the limit of the measurement.
UNLIMITED = "[limits]\nrequests_per_second = 1000000\n"
REVOKED = 10_000
REVOCATIONS = {0: 300, 10: 300, 100: 100}


class Cluster(Postgres):
    """A PostgreSQL that writes durably, as in production."""

    def __init__(self):
        super().__init__(settings=("shared_buffers=1GB", "max_connections=200"))

    def stop(self):
        super().stop()
        shutil.rmtree(self.directory)

    def november(self):
        """A database with the schema of 22 November."""
        url = self.new_database()
        run(program("psql"), "--quiet", "--set", "ON_ERROR_STOP=1", "--file",
            NOVEMBER / "schema.sql", url)
        return url



def pgbench(url, script, clients, *, seconds=None, transactions=None, **variables):
    """Runs the statements of 22 November. Returns transactions per second, and milliseconds."""
    length = ["--time", seconds] if seconds else ["--transactions", transactions]
    defined = [part for key, value in variables.items() for part in ("-D", f"{key}={value}")]
    output = run(program("pgbench"), "--no-vacuum", "--protocol", "prepared", "--client", clients,
                 *length, *defined, "--file", NOVEMBER / script, url)
    return {"tps": float(re.search(r"tps = ([\d.]+)", output)[1]),
            "ms": float(re.search(r"latency average = ([\d.]+)", output)[1])}


def replica(bench, name, url, configuration="", core="0"):
    key = f'event_key_file = "{EVENT_KEY}"\n' if url.startswith("postgres") else ""
    return bench.add(Node(bench.directory, name, "serve", "--database-url", url,
                          configuration=key + configuration, core=core))


def rate(bench):
    """Grants per second on PostgreSQL, with durable commits."""
    cluster = bench.add(Cluster())
    node = replica(bench, "changes", cluster.new_database(), UNLIMITED + GROUPS)
    node.until_ready()
    november = cluster.november()
    figures = []
    for callers, limit in ((1, 0.9), (16, 2), (64, 3)):
        results = alternate(
            bench.runs,
            ours=lambda n=callers: generate(
                node.target, method="grant", connections=n, streams=1, calls=1_000_000,
                seconds=SECONDS, warm_up=n, prefix=f"run-{time.time_ns()}-"),
            pgbench=lambda n=callers: pgbench(november, "grant.sql", n, seconds=SECONDS))
        figures.append(Figure(
            f"{callers} callers" if callers > 1 else "1 caller", "grants/s",
            values(results["ours"], "calls_per_second"), "pgbench",
            values(results["pgbench"], "tps"), at_least=limit))
    return figures


def enforcement(bench):
    """Revocations until COMPLETE at three replicas, beside the bare transaction."""
    built = subprocess.run(
        ["cargo", "bench", "--locked", "--bench", "enforcement", "--no-run"], cwd=ROOT,
        capture_output=True, text=True, check=True)
    executable = ROOT / re.search(r"\((\S*enforcement-\w+)\)", built.stderr)[1]
    cluster = bench.add(Cluster())
    figures = []
    for sidecars, limit in ((0, 2), (10, 2.5), (100, 2.5)):
        count = REVOCATIONS[sidecars]

        def ours(sidecars=sidecars, count=count):
            output = run(executable, 3, sidecars, count, core="0,1", cwd=ROOT)
            found = re.search(r"until the caller has the response\s+([\d.]+)", output)
            cpu = re.search(r"processor time of all sidecars, .*: ([\d.]+) ms", output)
            return {"ms": float(found[1]), "cpu": float(cpu[1]) / max(sidecars, 1)}

        def bare(count=count):
            url = cluster.november()
            pgbench(url, "grant.sql", 1, transactions=count)
            return pgbench(url, "revoke.sql", 1, transactions=count, granted=count)

        results = alternate(bench.runs, ours=ours, bare=bare)
        figures.append(Figure(
            f"3 replicas, {sidecars} sidecars: p50 until COMPLETE", "ms",
            values(results["ours"], "ms"), "the transaction of 22 November",
            values(results["bare"], "ms"), at_most=limit))
        if sidecars:
            figures.append(Figure(
                f"{sidecars} sidecars: CPU of each, with its checks, per revocation", "ms",
                values(results["ours"], "cpu")))
    return figures


def revoke_all(bench):
    """RevokeAll of 10,000 grants, beside checks and other changes."""
    data = {"grants": REVOKED, "grants_per_tenant": REVOKED, "groups": 100}
    figures = []
    cluster = bench.add(Cluster())

    def sqlite(number):
        directory = bench.directory / f"revoke-{number}"
        directory.mkdir()
        return filled(directory, **data)

    def postgres(_):
        url = cluster.new_database()
        fill(url, **data)
        return url

    for name, database in (("SQLite", sqlite), ("PostgreSQL", postgres)):
        results = [revoke_once(bench, f"{name.lower()}-{number}", database(number))
                   for number in range(bench.runs)]
        figures += [
            Figure(f"{name}: duration", "s", values(results, "seconds"), at_most=1),
            Figure(f"{name}: STALE checks", "checks", values(results, "stale"), at_most=0),
            Figure(f"{name}: longest other change", "ms", values(results, "longest"), at_most=100)]
    return figures


def revoke_once(bench, name, url):
    node = replica(bench, f"revoke-{name}", url, GROUPS)
    node.until_ready()
    common = ["--target", node.target, "--connections", "1", "--warm-up", "1", "--seconds", "6",
              "--calls", "1000000"]

    def beside(*options):
        command = ["taskset", "--cpu-list", OTHER_CORE, RELEASE / "generate", *common, *options]
        return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)

    checks = beside("--rate", "2000", "--streams", "64")
    grants = beside("--rate", "50", "--streams", "64", "--method", "grant", "--prefix", "other-")
    time.sleep(1)  # the load before the revocation is part of the measurement
    began = time.monotonic()
    run(RELEASE / "support-access", "revoke", "tenant-000000", "--all", "--timeout", "60s",
        "--server", f"http://{node.target}")
    seconds = time.monotonic() - began
    checked, granted = (json.loads(process.communicate(timeout=60)[0])
                        for process in (checks, grants))
    node.stop()
    return {"seconds": seconds, "stale": checked["stale"], "longest": granted["max_us"] / 1e3}


def storm(bench):
    """The p99 of checks during 300 changes per second, beside the p99 without changes."""
    node = replica(bench, "storm", "memory:", GROUPS, core=OTHER_CORE)
    node.until_ready()
    sidecar = bench.add(Node(bench.directory, "storm-sidecar", "sidecar",
                             configuration=f'upstream = ["http://{node.target}"]\n'))
    sidecar.until_ready()
    checks = call(sidecar, rate=5_000, calls=5_000 * SECONDS, streams=32)

    def stormy():
        changes = subprocess.Popen(
            ["taskset", "--cpu-list", OTHER_CORE, str(RELEASE / "generate"), "--target",
             node.target, "--method", "grant", "--rate", "300", "--connections", "4",
             "--seconds", str(SECONDS), "--calls", "100000", "--warm-up", "0", "--prefix",
             f"storm-{time.time_ns()}-"], stdout=subprocess.PIPE)
        try:
            return checks()
        finally:
            changes.communicate(timeout=60)

    results = alternate(bench.runs, ours=stormy, quiet=checks)
    return [Figure("p99 during 300 changes per second", "µs", values(results["ours"], "p99_us"),
                   "without changes", values(results["quiet"], "p99_us"), at_most=1.1)]


def start(bench):
    """From the start of a process until it is ready, beside reading the rows."""
    def started(name, make):
        def measure():
            node = make(name)
            seconds = node.until_ready()
            node.stop()
            return {"s": seconds}
        return measure

    url = filled(bench.directory, grants=GRANTS)
    file = url.removeprefix("sqlite://")
    feeding = bench.replicas.with_data(grants=GRANTS)

    def select():
        began = time.monotonic()
        database = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
        for _ in database.execute("SELECT * FROM grants"):
            pass
        database.close()
        return {"s": time.monotonic() - began}

    def figure(label, results, limit, beside="SELECT"):
        return Figure(f"{label}, {GRANTS:,} grants", "s", values(results["ours"], "s"), beside,
                      values(results["beside"], "s")), Figure(
            f"{label}: seconds", "s", values(results["ours"], "s"), at_most=limit)

    figures = []
    results = alternate(bench.runs, ours=started("start", lambda name: replica(bench, name, url)),
                        beside=select)
    figures += figure("replica on SQLite", results, 2.0)
    cluster = bench.add(Cluster())
    database = cluster.new_database()
    fill(database, grants=GRANTS)

    def copy():
        began = time.monotonic()
        run(program("psql"), "--quiet", "--command",
            "COPY (SELECT * FROM grants) TO '/dev/null' BINARY", database)
        return {"s": time.monotonic() - began}

    results = alternate(
        bench.runs, ours=started("start-pg", lambda name: replica(bench, name, database)),
        beside=copy)
    figures += figure("replica on PostgreSQL", results, 1.5, "COPY of the SELECT in the server")
    results = alternate(
        bench.runs, ours=started("start-sidecar", lambda name: bench.add(Node(
            bench.directory, name, "sidecar",
            configuration=f'upstream = ["http://{feeding.target}"]\n'))), beside=select)
    figures += figure("sidecar", results, 0.6)
    long = filled(bench.directory, grants=GRANTS, ended=GRANTS // 4)
    results = alternate(
        bench.runs, ours=started("start-long", lambda name: replica(bench, name, long)),
        beside=started("start-short", lambda name: replica(bench, name, url)))
    figures.append(Figure(f"SQLite, {GRANTS // 4:,} ended grants as well", "s",
                          values(results["ours"], "s"), "without", values(results["beside"], "s"),
                          at_most=1.1))
    return figures


def memory(bench):
    """The memory of a grant in a sidecar."""
    empty, full = bench.sidecar("empty", grants=1), bench.sidecar("full")
    per_grant = (full.memory() - empty.memory()) / GRANTS
    return [Figure(f"a grant of {GRANTS:,} in a sidecar", "bytes", [per_grant], at_most=130)]


def soak(bench, minutes):
    """Mixed load. Compares the last quarter of the minutes with the second quarter."""
    data = {"grants": 100_000}
    node = replica(bench, "soak", filled(bench.directory, **data), GROUPS, core=OTHER_CORE)
    node.until_ready()
    sidecar = bench.add(Node(bench.directory, "soak-sidecar", "sidecar",
                             configuration=f'upstream = ["http://{node.target}"]\n'))
    sidecar.until_ready()
    changes = subprocess.Popen(
        ["taskset", "--cpu-list", OTHER_CORE, str(RELEASE / "generate"), "--target", node.target,
         "--method", "grant", "--rate", "30", "--connections", "1", "--calls", "100000000",
         "--seconds", str(minutes * 60), "--warm-up", "0", "--prefix", "soak-"],
        stdout=subprocess.DEVNULL)
    p99, resident = [], []
    for _ in range(minutes):
        result = generate(sidecar.target, rate=3_000, calls=180_000, streams=32, **data)
        assert result["stale"] == 0, result
        p99.append(result["p99_us"])
        resident.append(sidecar.memory() / 2**20)
    changes.wait(60)
    quarter = max(minutes // 4, 1)
    early, late = slice(quarter, 2 * quarter), slice(-quarter, None)
    return [Figure(f"p99 of checks in {minutes} minutes, by minute", "µs", [median(p99[late])],
                   "second quarter", [median(p99[early])], at_most=1.1),
            Figure("memory of the sidecar", "MiB", [median(resident[late])], "second quarter",
                   [median(resident[early])], at_most=1.1)]
