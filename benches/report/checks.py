"""Rows about checks: CPU per call and latency, beside the bare server."""

from pathlib import Path

from figures import Figure
from load import GRANTS, alternate, cached, generate, median, values
from peers import install
from processes import Secrets
from programs import OTHER_CORE, Bare, Node, Program

CALLS, SEQUENTIAL_CALLS, BATCHES = 200_000, 20_000, 4_000
GATEWAY = "spiffe://vendor.example/gateway"
ISSUER = """
[[issuers]]
issuer = "https://id.example"
audience = "support-access"
keys = "keys.json"
role_claim = "roles"
[issuers.roles]
gateway = ["gateway"]
"""
MUTUAL_TLS = f"""
tls_certificate = "server.crt"
tls_key = "server.key"
tls_client_ca = "ca.crt"
[certificates]
gateway = ["{GATEWAY}"]
"""


class Replicas:
    """Replicas that feed the sidecars of all rows. They run beside the generator."""

    def __init__(self, directory, servers):
        self.directory, self.servers, self.started = directory, servers, {}

    def with_data(self, **data):
        key = tuple(sorted(data.items()))
        if key not in self.started:
            node = self.servers.add(Node(
                self.directory, f"replica-{len(self.started)}", "serve", "--database-url",
                cached(**data), core=OTHER_CORE))
            node.until_ready()
            self.started[key] = node
        return self.started[key]


class Bench:
    """The environment of a row: a directory, and servers that are stopped after the row."""

    def __init__(self, directory, runs, servers, replicas):
        self.directory, self.runs = Path(directory), runs
        self.servers, self.replicas = servers, replicas
        self.secrets = Secrets(directory)
        self.secrets.certify("server", "DNS:localhost,IP:127.0.0.1")
        self.secrets.certify("gateway", f"URI:{GATEWAY}")

    def sidecar(self, name, configuration="", listen="127.0.0.1:0", core="0", **data):
        """A sidecar that answers checks about this data."""
        data = {"grants": GRANTS} | data
        upstream = f'upstream = ["http://{self.replicas.with_data(**data).target}"]\n'
        node = self.add(Node(self.directory, name, "sidecar", listen=listen, core=core,
                             configuration=upstream + configuration))
        node.until_ready()
        return node

    def bare(self, name, *arguments, **options):
        return self.add(Bare(self.directory, name, *arguments, **options))

    def add(self, program):
        return self.servers.add(program)


def call(server, **options):
    """A measurement of a server under load."""
    defaults = {"calls": CALLS}
    return lambda: generate(server.target, pid=server.pid, **(defaults | options))


def cpu(label, results, limit, ours="ours", theirs="bare"):
    return Figure(label, "µs of CPU", values(results[ours], "cpu_us"), theirs,
                  values(results[theirs], "cpu_us"), at_most=limit)


def pair(bench, ours, bare, **options):
    return alternate(bench.runs, ours=call(ours, **options), bare=call(bare, **options))


def tcp(bench):
    ours, bare = bench.sidecar("tcp"), bench.bare("bare-tcp")
    results = pair(bench, ours, bare)
    sequential = pair(bench, ours, bare, connections=1, streams=1, calls=SEQUENTIAL_CALLS)
    return [cpu("TCP, 8 × 16", results, 1.2), cpu("TCP, 1 × 1", sequential, 1.15),
            rate("TCP, 8 × 16", results)]


def rate(label, results):
    return Figure(label, "checks/s of one core",
                  values(results["ours"], "calls_per_second"), "bare",
                  values(results["bare"], "calls_per_second"))


def unix(bench):
    uid = bench.directory.stat().st_uid
    # In short names, because the path of a socket has at most 107 bytes.
    sockets = [f"unix:{bench.directory}/{name}" for name in ("o.sock", "b.sock")]
    ours = bench.sidecar("unix", f"[users]\ngateway = [{uid}]\n", listen=sockets[0])
    bare = bench.bare("bare-unix", listen=sockets[1])
    results = pair(bench, ours, bare)
    sequential = pair(bench, ours, bare, connections=1, streams=1, calls=SEQUENTIAL_CALLS)
    return [cpu("Unix socket, 8 × 16", results, 1.2),
            cpu("Unix socket, 1 × 1", sequential, 1.15)]


def tls(bench):
    ours = bench.sidecar("tls", MUTUAL_TLS)
    bare = bench.bare("bare-tls", "--tls-certificate", "server.crt", "--tls-key", "server.key",
                      "--client-ca", "ca.crt")
    files = {"ca": "ca.crt", "certificate": "gateway.crt", "key": "gateway.key"}
    files = {name: bench.directory / file for name, file in files.items()}
    results = pair(bench, ours, bare, **files)
    sequential = pair(bench, ours, bare, connections=1, streams=1, calls=SEQUENTIAL_CALLS, **files)
    return [cpu("mutual TLS, 8 × 16", results, 1.2), cpu("mutual TLS, 1 × 1", sequential, 1.15)]


def token(bench):
    ours, bare = bench.sidecar("token", ISSUER), bench.bare("bare-token")
    figures = []
    for algorithm in ("RS256", "ES256"):
        token = bench.secrets.token(algorithm, roles=["gateway"], exp=4_102_444_800)
        results = pair(bench, ours, bare, token=token)
        figures.append(cpu(f"TCP, 8 × 16, {algorithm}", results, 1.25))
    return figures


def batch(bench):
    # The generator sends as fast as it can, which is beyond the default for one caller.
    limits = "[limits]\nchecks_per_second = 10000000\n"
    ours, bare = bench.sidecar("batch", limits), bench.bare("bare-batch")
    return [cpu("batches of 100, 8 × 4", pair(
        bench, ours, bare, method="batch", streams=4, calls=BATCHES), 1.5)]


def groups(bench):
    """One group and a hundred groups in the question."""
    ours, bare = bench.sidecar("groups"), bench.bare("bare-groups")
    return [cpu(f"{count} groups of the check" if count > 1 else "1 group of the check",
                pair(bench, ours, bare, asked_groups=count, calls=CALLS // 2), 1.5)
            for count in (1, 100)]


def crowd(bench):
    """A tenant with 10,000 live grants in 100 groups, beside one with 10."""
    def contender(name, **data):
        return call(bench.sidecar(name, **data), **data)

    results = alternate(
        bench.runs,
        ours=contender("many", grants=10_000, grants_per_tenant=10_000, groups=100),
        ten=contender("few", grants=10_000, grants_per_tenant=10, groups=100))
    return [cpu("10,000 live grants in the tenant", results, 1.1, theirs="ten")]


def locks(bench):
    """A thousand locks on other agents, beside one."""
    def contender(name, locks):
        data = {"grants": 10_000}
        return call(bench.sidecar(name, locks=locks, **data), **data)

    results = alternate(bench.runs, ours=contender("many-locks", 1_000),
                        one=contender("few-locks", 1))
    return [cpu("1,000 locks on others", results, 1.05, theirs="one")]


def runtimes(bench):
    """A node with two runtimes, beside one with one. The generator shares the second core."""
    one, two = bench.sidecar("one"), bench.sidecar("two", core=f"0,{OTHER_CORE}")
    results = alternate(bench.runs, ours=call(two), one=call(one))
    return [cpu("two runtimes", results, 1.1, theirs="one")]


def latency(bench):
    """Open loop at 50 % and 70 % of each server's peak."""
    ours, bare = bench.sidecar("latency"), bench.bare("bare-latency")
    peaks = {name: median(values(results, "calls_per_second"))
             for name, results in pair(bench, ours, bare).items()}
    figures = []
    for share in (0.5, 0.7):
        def at(server, peak, share=share):
            return call(server, rate=peak * share, calls=int(peak * share * 3), streams=32)
        results = alternate(bench.runs, ours=at(ours, peaks["ours"]), bare=at(bare, peaks["bare"]))
        for percentile, limit in (("p50", 1.2), ("p90", 1.2), ("p99", None)):
            figures.append(Figure(
                f"{percentile} at {share:.0%} of its peak", "µs",
                values(results["ours"], f"{percentile}_us"), "bare",
                values(results["bare"], f"{percentile}_us"), at_most=limit))
    return figures


def cerbos(bench):
    """Cerbos with an equivalent policy. The caller passes the grants of the tenant."""
    directory = bench.directory / "cerbos"
    directory.mkdir()
    source = Path(__file__).parent / "cerbos"
    address = "127.0.0.1:35933"
    peer = bench.add(Program(
        directory, "cerbos", install() / "@cerbos/cerbos-linux-x64/cerbos-linux-x64", "server",
        "--config", source / "config.yaml", "--set", f"server.grpcListenAddr={address}",
        "--set", "server.httpListenAddr=127.0.0.1:0",
        "--set", f"storage.disk.directory={source / 'policies'}",
        environment={"GOMAXPROCS": "1", "CERBOS_NO_TELEMETRY": "1"}))
    peer.find("(?i)(starting grpc server)")
    peer.target = address
    ours = bench.sidecar("beside-cerbos")
    few = {"calls": CALLS // 10}
    results = alternate(bench.runs, ours=call(ours), Cerbos=call(peer, method="cerbos", **few))
    one = {"connections": 1, "streams": 1, "calls": SEQUENTIAL_CALLS // 4}
    sequential = alternate(bench.runs, ours=call(ours, **one),
                           Cerbos=call(peer, method="cerbos", **one))
    return [cpu("TCP, 8 × 16", results, 0.04, theirs="Cerbos"),
            cpu("TCP, 1 × 1", sequential, None, theirs="Cerbos")]
