"""Processes for the tests: a server, and a private PostgreSQL cluster."""

import getpass
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ROOT / os.environ.get("SUPPORT_ACCESS_BIN", "target/debug/support-access")
EVENT_KEY = ROOT / "tests/common/event.key"
# Generous, because the machine may be busy. A test waits this long only if something is broken.
DEADLINE_S = 60


def eventually(probe, what, deadline_s=DEADLINE_S):
    """Polls `probe` until the result is truthy, and returns the result."""
    deadline = time.monotonic() + deadline_s
    while True:
        found = probe()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)  # poll interval


def plain_environment():
    """The environment without settings of support-access, so that each test states all settings."""
    return {k: v for k, v in os.environ.items() if not k.startswith("SUPPORT_ACCESS_")}


class Node:
    """A check node on free ports of the loopback interface."""

    def __init__(self, *command):
        assert BINARY.exists(), f"{BINARY} does not exist; run `cargo build`"
        listen = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
        if "--web-listen" not in command:
            listen += ["--web-listen", "off"]
        self.arguments = [BINARY, *command, *listen]
        self.lines = []
        self.ports = {}
        self._ready = threading.Event()

    def __enter__(self):
        self.directory = tempfile.TemporaryDirectory(prefix="support-access-")
        self.process = subprocess.Popen(
            self.arguments,
            cwd=self.directory.name,
            env=plain_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(DEADLINE_S) or self.ports.keys() < {"grpc", "http"}:
            self.process.kill()
            raise AssertionError("the server does not listen:\n" + self.log())
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()
        self.directory.cleanup()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)
            self.ports.update(listening_ports(line))
            if self.ports.keys() >= {"grpc", "http"}:
                self._ready.set()
        self._ready.set()

    @property
    def target(self):
        return f"127.0.0.1:{self.ports['grpc']}"

    def http(self, path):
        return f"http://127.0.0.1:{self.ports['http']}{path}"

    def log(self):
        return "".join(self.lines[-50:])

    def kill(self):
        """Kills the process with SIGKILL, like a power cut."""
        self.process.kill()
        self.process.wait()

    def pause(self):
        """Stops the process with SIGSTOP, and waits until all its threads have stopped."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def terminate(self):
        """Stops the process with SIGTERM, and returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


def listening_ports(line):
    """The ports in a log line `listening`, as {"grpc": …}, {"web": …} or {"http": …}."""
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    fields = record | record.get("fields", {})
    if fields.get("message") != "listening":
        return {}
    ports = {}
    for key, value in fields.items():
        found = re.search(r"127\.0\.0\.1:(\d+)", str(value))
        if found and key == "web":
            ports["web"] = int(found[1])
        elif found:
            kind = (
                f"{key} {fields}".lower()
                if not re.search("grpc|http", key.lower())
                else key.lower()
            )
            ports["grpc" if "grpc" in kind else "http"] = int(found[1])
    return ports


def database_arguments(database_url):
    """The flags of a command that opens the database."""
    arguments = ["--database-url", database_url]
    if database_url.startswith("postgres"):
        arguments += ["--event-key-file", EVENT_KEY]
    return arguments


class Server(Node):
    """`support-access serve`."""

    def __init__(self, database_url, *more_arguments):
        arguments = database_arguments(database_url)
        super().__init__("serve", *arguments, *more_arguments)


class Sidecar(Node):
    """`support-access sidecar`."""

    def __init__(self, upstream, *more_arguments):
        super().__init__("sidecar", "--upstream", upstream, *more_arguments)


class Postgres:
    """A private PostgreSQL cluster that listens on a Unix socket only, and never runs as root."""

    def __init__(self, settings=("fsync=off",)):
        self.directory = Path(tempfile.mkdtemp(prefix="support-access-pg-"))
        self.settings = [part for setting in settings for part in ("-c", setting)]
        self.identity = {}
        if os.geteuid() == 0:
            shutil.chown(self.directory, "postgres", "postgres")
            self.identity = {"user": "postgres", "group": "postgres", "extra_groups": []}
        self._databases = 0
        self._run(
            "initdb",
            "--pgdata",
            self.directory / "data",
            "--username",
            "postgres",
            "--auth",
            "trust",
            "--encoding",
            "UTF8",
            "--locale",
            "C",
            "--no-sync",
        )
        self.start()

    def start(self):
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    program("postgres"),
                    "-D",
                    self.directory / "data",
                    "-k",
                    self.directory,
                    "-c",
                    "listen_addresses=",
                    *self.settings,
                ],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self.identity,
            )
        ready = [program("pg_isready"), "--quiet", "--host", self.directory]
        try:
            eventually(lambda: subprocess.run(ready).returncode == 0, "PostgreSQL is ready")
        except AssertionError as error:
            raise AssertionError((self.directory / "log").read_text()) from error

    def stop(self):
        self.process.send_signal(signal.SIGQUIT)  # immediate shutdown: closes open connections
        self.process.wait(DEADLINE_S)

    def close(self):
        self.stop()
        shutil.rmtree(self.directory)

    def new_database(self):
        """Creates an empty database, and returns the URL."""
        self._databases += 1
        name = f"support_access_{self._databases}"
        self._run("createdb", "--host", self.directory, "--username", "postgres", name)
        return f"postgres://postgres@localhost/{name}?host={self.directory}"

    def _run(self, name, *arguments):
        subprocess.run(
            [program(name), *arguments],
            cwd=self.directory,
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"HOME": str(self.directory), "USER": getpass.getuser()},
            **self.identity,
        )


def program(name):
    """The path of a PostgreSQL program. On Debian, server programs are not in the PATH."""
    installed = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    newest = sorted(installed, key=lambda path: int(path.parts[-3]))
    found = newest[-1] if newest else shutil.which(name)
    assert found, f"PostgreSQL's {name} is not installed"
    return found
