"""Two replicas and three sidecars on one PostgreSQL database, and the faults that fire alerts."""

import signal
import socket
import subprocess
from contextlib import contextmanager

import grpc
from harness import DEADLINE_S, EVENT_KEY, Postgres, program
from link import Link
from monitoring import JOB, SIDECAR_JOB
from processes import Process, Secrets, run_binary

TENANT = "acme"
MAX_STALENESS = "2s"
CONNECTIONS = 40
# Exit codes of the command line.
DENIED, NOT_PERMITTED, UNAVAILABLE = 2, 7, 8
CONFIGURATION = f"""
listen = ["127.0.0.1:0"]
web_listen = "off"
metrics_listen = "127.0.0.1:0"
max_staleness = "{MAX_STALENESS}"
verify_interval = "1s"
tls_certificate = "server.crt"
tls_key = "server.key"
tls_client_ca = "ca.crt"
event_key_file = "{EVENT_KEY}"
[limits]
connections = {CONNECTIONS}
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
GET_CALLER = "/supportaccess.v1.ServerInfo/GetCaller"
CHECK = ["check", TENANT, "dana", "--group", "support", "--level", "read-only"]
PSQL = ["--quiet", "--no-align", "--tuples-only"]


@contextmanager
def paused(*processes):
    """Stops processes with SIGSTOP, like a debugger or a swapping machine."""
    for process in processes:
        process.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.process.send_signal(signal.SIGCONT)


class Service:
    """Two replicas and three sidecars. The second replica reaches the database through
    `database_link`. The sidecars follow the first replica through `sidecar_link`."""

    def __init__(self, directory):
        self.directory = directory
        self.secrets = Secrets(directory)
        self.secrets.certify("server", "DNS:localhost,IP:127.0.0.1")
        for name in ("gateway", "sidecar", "operator"):
            self.secrets.certify(name, f"URI:spiffe://vendor.example/{name}")
        (directory / "foreign").mkdir()
        foreign = Secrets(directory / "foreign")
        foreign.certify("gateway", "URI:spiffe://vendor.example/gateway")
        token = self.secrets.token(roles=["access-admin"], tenants=[TENANT, "bolt"])
        (directory / "token").write_text(token)
        wrong = self.secrets.token(roles=["access-admin"], tenants=[TENANT], aud="another service")
        (directory / "wrong.token").write_text(wrong)
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
        (self.directory / "access.toml").write_text(CONFIGURATION)
        self.first = self._replica(self.database)
        linked = self.database.replace(str(self.postgres.directory), str(self.directory))
        self.second = self._replica(linked)
        port = self.first.grpc_port()
        listener = socket.create_server(("127.0.0.1", 0))
        self.sidecar_link = self._add(
            Link(listener, lambda: socket.create_connection(("127.0.0.1", port))))
        self.sidecars = [self._sidecar(f"sidecar-{number}") for number in range(3)]
        self.sidecar = self.sidecars[0]
        for node in (self.first, self.second, *self.sidecars):
            node.until_ready()

    def _add(self, part):
        self.parts.append(part)
        return part

    def close(self):
        for part in reversed(self.parts):
            part.close()

    def _database_link(self):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.directory / ".s.PGSQL.5432"))
        listener.listen()

        def connect():
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self.postgres.directory / ".s.PGSQL.5432"))
            except OSError:
                connection.close()
                raise
            return connection

        return self._add(Link(listener, connect))

    def _replica(self, database):
        variables = {"SUPPORT_ACCESS_DATABASE_URL": database}
        return self._add(Process(["serve", "--config", "access.toml"], variables, self.directory))

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
        """The scrape configuration of all nodes."""
        def target(node, pod, namespace, job):
            labels = {"namespace": namespace, "job": job, "pod": pod}
            return {"targets": [f"127.0.0.1:{node.metrics_port()}"], "labels": labels}

        sidecars = [target(node, f"sidecar-{number}", "shop", SIDECAR_JOB)
                    for number, node in enumerate(self.sidecars)]
        return [target(self.first, "first", "vendor", JOB),
                target(self.second, "second", "vendor", JOB), *sidecars]

    def renew_server(self, days):
        self._renew("server", days, "DNS:localhost,IP:127.0.0.1")

    def renew_sidecar(self, days):
        self._renew("sidecar", days, "URI:spiffe://vendor.example/sidecar")

    def _renew(self, name, days, alternative_name):
        """Replaces a certificate. The nodes that use the certificate reload it."""
        subprocess.run(
            ["openssl", "req", "-x509", "-key", f"{name}.key", "-CA", "ca.crt", "-CAkey", "ca.key",
             "-subj", f"/CN={name}", "-days", str(days), "-addext", "basicConstraints=CA:FALSE",
             "-addext", f"subjectAltName={alternative_name}", "-out", "renewed.crt"],
            cwd=self.directory, check=True, capture_output=True)
        (self.directory / "renewed.crt").replace(self.directory / f"{name}.crt")

    def run(self, *arguments, node=None, caller="token", timeout="10s"):
        """Runs a command. The default caller is an administrator of the tenant."""
        credentials = ["--token-file", caller]
        if not caller.endswith("token"):
            credentials = ["--certificate", f"{caller}.crt", "--key", f"{caller}.key"]
        server = f"https://localhost:{(node or self.first).grpc_port()}"
        options = ["--server", server, "--ca", "ca.crt", "--timeout", timeout]
        return run_binary([*arguments, *options, *credentials], directory=self.directory)

    def grant(self, tenant=TENANT, duration="1h", **options):
        return self.run("grant", tenant, "support", "--level", "read-only", "--for", duration,
                        "--output", "json", **options)

    def check(self, caller="gateway", **options):
        return self.run(*CHECK, caller=caller, **options)

    def check_at_sidecar(self):
        return run_binary([*CHECK, "--server", "unix:sidecar-0.sock"], directory=self.directory)

    def use(self):
        """Grants, checks and revokes at all kinds of nodes."""
        for node in (self.first, self.second):
            granted = self.grant(node=node)
            assert granted.returncode == 0, granted.stderr
            assert self.check(node=node).returncode == 0
        assert self.check_at_sidecar().returncode in (0, DENIED)
        assert self.run("revoke", "--all", TENANT).returncode == 0

    @contextmanager
    def connections(self, node, count):
        """Opens connections of a gateway. Each makes one call: the server closes most connections
        without an authenticated call."""
        read = lambda name: (self.directory / name).read_bytes()
        credentials = grpc.ssl_channel_credentials(
            read("ca.crt"), read("gateway.key"), read("gateway.crt"))
        options = [("grpc.use_local_subchannel_pool", 1)]
        address = f"localhost:{node.grpc_port()}"
        channels = [grpc.secure_channel(address, credentials, options) for _ in range(count)]
        try:
            for channel in channels:
                channel.unary_unary(GET_CALLER)(b"", timeout=DEADLINE_S)
            yield
        finally:
            for channel in channels:
                channel.close()

    def sql(self, statement):
        command = [program("psql"), *PSQL, "--set", "ON_ERROR_STOP=1", self.database,
                   "--command", statement]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S,
                              check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def load_again(self):
        """Starts a new epoch of the log, so that each replica loads all rows and events."""
        variables = {"SUPPORT_ACCESS_DATABASE_URL": self.database}
        done = run_binary(["database", "restored", "--event-key-file", EVENT_KEY], variables)
        assert done.returncode == 0, done.stderr

    @contextmanager
    def clock_set_back(self, interval):
        """Sets back the clock of the database, by a function that hides the one of PostgreSQL.
        Connections find the function once they are opened again."""
        reconnect = ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                     "WHERE datname = current_database() AND pid <> pg_backend_pid();")
        self.sql(
            "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE "
            f"AS $$ SELECT pg_catalog.clock_timestamp() - interval '{interval}' $$;")
        self.sql("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, "
                 "pg_catalog', current_database()); END $$;")
        self.sql(reconnect)
        try:
            yield
        finally:
            self.sql("DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET search_path', "
                     "current_database()); END $$;")
            self.sql("DROP FUNCTION public.clock_timestamp();")
            self.sql(reconnect)

    @contextmanager
    def open_transaction(self, statement):
        """Keeps a transaction open, like an abandoned terminal."""
        terminal = subprocess.Popen([program("psql"), *PSQL, self.database], text=True,
                                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            terminal.stdin.write(f"BEGIN;\n{statement}\nSELECT 'started';\n")
            terminal.stdin.flush()
            while "started" not in terminal.stdout.readline():
                assert terminal.poll() is None
            yield
        finally:
            terminal.stdin.close()
            terminal.wait(DEADLINE_S)
            terminal.stdout.close()
