"""Real parts: a Prometheus of our own, connections that can be cut, and the service as its operators run it."""

import json
import re
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager

import grpc
import yaml
from chart import ROOT
from harness import DEADLINE_S, Postgres, eventually, program
from monitoring import JOB, SIDECARS
from processes import Process, Secrets, run

TENANT = "acme"
MAX_STALENESS = "2s"
SETTINGS = """
listen = ["127.0.0.1:0"]
metrics_listen = "127.0.0.1:0"
max_staleness = "{max_staleness}"
verify_interval = "1s"
tls_certificate = "server.crt"
tls_key = "server.key"
tls_client_ca = "ca.crt"
[limits]
connections = {connections}
[certificates]
gateway = ["spiffe://vendor.example/gateway"]
node = ["spiffe://vendor.example/sidecar"]
operator = ["spiffe://vendor.example/operator"]
[[issuers]]
issuer = "https://id.example"
audience = "support-access"
keys = "keys.json"
[issuers.roles]
tenant_admin = ["access-admin"]
"""
CONNECTIONS = 40


def shortened(rules):
    """The rules for tests that cannot wait: in `for` and in ranges a minute or an hour counts as a second. So does, in the limit of
    the sweep's lag, a minute; that a history was not verified is told after ten seconds, not a day; and two slow revocations are enough.
    What looks back more finely does so each second. All else is as it was."""
    text = re.sub(r"\[(\d+)[mh]\]", r"[\1s]", yaml.safe_dump(rules, width=10_000))
    text = text.replace("[10m:30s]", "[10s:1s]").replace("[1d:1m]", "[300s:1s]")
    text = re.sub(r"\bfor: (\d+)[mh]$", r"for: \1s", text, flags=re.MULTILINE)
    text, found = re.subn(r"(sweep_lag_seconds\{[^}]*\}\)) > 300", r"\1 > 5", text)
    text, also_found = re.subn(r"(verified_timestamp_seconds\{[^}]*\}\)) > 86400", r"\1 > 10", text)
    text, and_found = re.subn(r"(duration_seconds_sum\{[^}]*\}\[15s\]\)\)) > \((\w+)\) \* 5", r"\1 > (\2) * 2", text)
    assert found == also_found == and_found == 1 and not re.search(r"for: \d+[mh]|\[\d+[mh]\]", text)
    return text


class Prometheus:
    """Debian's, reading every half second, with its data in a directory of its own."""

    def __init__(self, directory, rules, targets):
        self.directory = directory
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = taken.getsockname()[1]
        (directory / "rules.yaml").write_text(rules)
        (directory / "prometheus.yaml").write_text(json.dumps({
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "all", "static_configs": targets}],
        }))
        self.log = open(directory / "prometheus.log", "wb")
        self.process = subprocess.Popen(
            ["prometheus", "--config.file=prometheus.yaml", f"--storage.tsdb.path={directory / 'data'}", "--log.level=warn",
             f"--web.listen-address=127.0.0.1:{self.port}"],
            cwd=directory, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        try:
            eventually(self._is_ready, "Prometheus is ready")
        except AssertionError:
            self.close()
            raise

    def close(self):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def _is_ready(self):
        assert self.process.poll() is None, (self.directory / "prometheus.log").read_text()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=DEADLINE_S) as answer:
                return answer.status == 200
        except urllib.error.URLError:
            return False

    def get(self, path, **parameters):
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error

    def query(self, expression):
        return self.get("query", query=expression)["result"]

    def firing(self, name, **labels):
        """The alerts of a name that are firing, and have these labels."""
        found = [it for it in self.get("alerts")["alerts"] if it["state"] == "firing" and it["labels"]["alertname"] == name]
        return [it for it in found if labels.items() <= it["labels"].items()]

    def until_firing(self, name, meanwhile=lambda: None, **labels):
        """Waits for it, and reads what a person would be told."""
        def probe():
            meanwhile()
            return self.firing(name, **labels)
        [alert] = eventually(probe, f"{name} is firing for {labels}")
        annotations = alert["annotations"]
        assert annotations["runbook_url"] == f"https://runbooks.example/{name}.md"
        for text in annotations.values():
            assert text and not re.search(r"\{\{|<no value>|<error|%!|  |\( ?\)", text), text
        print(f"{name} {labels}: {annotations['summary']} {annotations['description']}")
        return alert

    def until_over(self, name, meanwhile=lambda: None, **labels):
        def probe():
            meanwhile()
            return not self.firing(name, **labels)
        eventually(probe, f"{name} is over for {labels}")


class Link:
    """Passes bytes on between two sockets, until it is cut."""

    def __init__(self, listener, connect):
        self.listener, self.connect = listener, connect
        self.is_cut, self.open, self.guard = False, set(), threading.Lock()
        self._start(self._accept)

    @staticmethod
    def _start(job, *arguments):
        threading.Thread(target=job, args=arguments, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return  # It was closed.
            try:
                far = self.connect()
            except OSError:
                near.close()
                continue
            with self.guard:
                is_cut = self.is_cut
                if not is_cut:
                    self.open |= {near, far}
            if is_cut:
                self._end({near, far})
            else:
                self._start(self._pass_on, near, far)
                self._start(self._pass_on, far, near)

    def _pass_on(self, source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass  # It was cut, or one end has gone.
        self._end({source, sink})

    def _end(self, sockets):
        with self.guard:
            self.open -= sockets
        for it in sockets:
            try:
                it.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # It has ended already.
            it.close()

    @contextmanager
    def cut(self):
        with self.guard:
            self.is_cut = True
            ended = set(self.open)
        self._end(ended)
        try:
            yield
        finally:
            self.is_cut = False

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.guard:
            ended = set(self.open)
        self._end(ended)


@contextmanager
def stopped(*processes):
    """Paused, as by a debugger or a machine that swaps."""
    for it in processes:
        it.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for it in processes:
            it.process.send_signal(signal.SIGCONT)


class Service:
    """Two replicas on one database, the second by a link that can be cut, and three sidecars that follow the first by another."""

    def __init__(self, directory):
        self.directory = directory
        self.secrets = Secrets(directory)
        self.secrets.certify("server", "DNS:localhost,IP:127.0.0.1")
        for name in ("gateway", "sidecar", "operator"):
            self.secrets.certify(name, f"URI:spiffe://vendor.example/{name}")
        (directory / "foreign").mkdir()
        Secrets(directory / "foreign").certify("gateway", "URI:spiffe://vendor.example/gateway")
        (directory / "token").write_text(self.secrets.token(roles=["access-admin"], tenants=[TENANT, "bolt"]))
        (directory / "wrong.token").write_text(self.secrets.token(roles=["access-admin"], tenants=[TENANT], aud="somebody else"))
        self.parts = []
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def _start(self):
        self.postgres = self._add(Postgres())
        self.database = self.postgres.new_database()
        self.database_link = self._database_link()
        (self.directory / "access.toml").write_text(SETTINGS.format(max_staleness=MAX_STALENESS, connections=CONNECTIONS))
        self.first = self._replica(self.database)
        self.second = self._replica(self.database.replace(str(self.postgres.directory), str(self.directory)))
        port = self.first.port("grpc")
        self.sidecar_link = self._add(Link(socket.create_server(("127.0.0.1", 0)),
                                           lambda: socket.create_connection(("127.0.0.1", port))))
        self.sidecars = [self._sidecar(f"sidecar-{number}") for number in range(3)]
        self.sidecar = self.sidecars[0]
        for node in (self.first, self.second, *self.sidecars):
            node.until_ready()

    def _add(self, part):
        self.parts.append(part)
        return part

    def close(self):
        for part in reversed(self.parts):
            part.close() if hasattr(part, "close") else part.__exit__()

    def renew(self, days, name="server", alternative="DNS:localhost,IP:127.0.0.1"):
        """A new certificate, which whoever uses it reads by itself."""
        subprocess.run(["openssl", "req", "-x509", "-key", f"{name}.key", "-CA", "ca.crt", "-CAkey", "ca.key", "-subj", f"/CN={name}",
                        "-days", str(days), "-addext", "basicConstraints=CA:FALSE", "-addext", f"subjectAltName={alternative}",
                        "-out", "renewed.crt"], cwd=self.directory, check=True, capture_output=True)
        (self.directory / "renewed.crt").replace(self.directory / f"{name}.crt")

    def renew_sidecar(self, days):
        self.renew(days, "sidecar", "URI:spiffe://vendor.example/sidecar")

    def _database_link(self):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.directory / ".s.PGSQL.5432"))
        listener.listen()

        def connect():
            made = socket.socket(socket.AF_UNIX)
            try:
                made.connect(str(self.postgres.directory / ".s.PGSQL.5432"))
            except OSError:
                made.close()
                raise
            return made
        return self._add(Link(listener, connect))

    def _replica(self, database):
        more = {"SUPPORT_ACCESS_DATABASE_URL": database}
        return self._add(Process(["serve", "--config", "access.toml"], more, self.directory))

    def _sidecar(self, pod):
        uid = self.directory.stat().st_uid
        (self.directory / f"{pod}.toml").write_text(f"""
upstream = ["https://localhost:{self.sidecar_link.listener.getsockname()[1]}"]
upstream_ca = "ca.crt"
upstream_certificate = "sidecar.crt"
upstream_key = "sidecar.key"
listen = ["unix:{pod}.sock"]
metrics_listen = "127.0.0.1:0"
[users]
gateway = [{uid}]
""")
        return self._add(Process(["sidecar", "--config", f"{pod}.toml"], {}, self.directory))

    def targets(self):
        def target(node, pod, namespace, job):
            return {"targets": [f"127.0.0.1:{node.port('http')}"], "labels": {"namespace": namespace, "job": job, "pod": pod}}
        return [target(self.first, "first", "vendor", JOB), target(self.second, "second", "vendor", JOB),
                *(target(node, f"sidecar-{number}", "shop", SIDECARS) for number, node in enumerate(self.sidecars))]

    def run(self, *arguments, node=None, who="token", timeout="10s"):
        """A command, by an administrator of the tenant unless it is by somebody else."""
        shown = ["--token-file", f"{who}"] if who.endswith("token") else ["--certificate", f"{who}.crt", "--key", f"{who}.key"]
        server = f"https://localhost:{(node or self.first).port('grpc')}"
        return run([*arguments, "--server", server, "--ca", "ca.crt", "--timeout", timeout, *shown], directory=self.directory)

    def grant(self, tenant=TENANT, end="1h", **options):
        return self.run("grant", tenant, "support", "--level", "read-only", "--for", end, "--output", "json", **options)

    def check(self, who="gateway", **options):
        return self.run("check", TENANT, "dana", "--group", "support", "--level", "read-only", who=who, **options)

    def check_at_sidecar(self):
        return run(["check", TENANT, "dana", "--group", "support", "--level", "read-only", "--server", "unix:sidecar-0.sock"],
                   directory=self.directory)

    @contextmanager
    def connections(self, node, count):
        """Open connections of somebody who asks nothing."""
        credentials = grpc.ssl_channel_credentials((self.directory / "ca.crt").read_bytes())
        options = [("grpc.use_local_subchannel_pool", 1)]
        made = [grpc.secure_channel(f"localhost:{node.port('grpc')}", credentials, options) for _ in range(count)]
        try:
            for channel in made:
                grpc.channel_ready_future(channel).result(DEADLINE_S)
            yield
        finally:
            for channel in made:
                channel.close()

    def sql(self, statement):
        done = subprocess.run([program("psql"), "--quiet", "--no-align", "--tuples-only", "--set", "ON_ERROR_STOP=1", self.database,
                               "--command", statement], capture_output=True, text=True, timeout=DEADLINE_S, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @contextmanager
    def sql_in_the_way(self, statement):
        """A transaction that somebody has forgotten in a terminal."""
        terminal = subprocess.Popen([program("psql"), "--quiet", "--no-align", "--tuples-only", self.database],
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            terminal.stdin.write(f"BEGIN;\n{statement}\nSELECT 'there';\n")
            terminal.stdin.flush()
            while "there" not in terminal.stdout.readline():
                assert terminal.poll() is None
            yield
        finally:
            terminal.stdin.close()
            terminal.wait(DEADLINE_S)
            terminal.stdout.close()

    def use(self, times=1):
        """What happens every day."""
        for _ in range(times):
            for node in (self.first, self.second):
                made = self.grant(node=node)
                assert made.returncode == 0, made.stderr
                assert self.check(node=node).returncode == 0
            assert self.check_at_sidecar().returncode in (0, 1)
            assert self.run("revoke", "--all", TENANT).returncode == 0

