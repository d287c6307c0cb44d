"""The programs that the benchmark runs: pinned to processors, and stopped by their ids."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / directory) for directory in ("python", "chart")]

from harness import eventually, plain_environment  # noqa: E402  needs the path

TARGET = ROOT / os.environ.get("CARGO_TARGET_DIR", "target")
# The directory of the binaries.
RELEASE = ROOT / os.environ.get("BENCH_BINARIES", TARGET / "release")
# Databases and peers, which are kept between runs of the benchmark.
CACHE = TARGET / "bench"
# The processors of the measured server, and of all other programs.
SERVER_CORE, OTHER_CORE = "0", "1"
# Generous, because a replica with a million grants starts slowly on a busy machine.
DEADLINE_S = 600


def run(*command, core=OTHER_CORE, **options):
    """Runs a program to its end, and returns its output."""
    pinned = ["taskset", "--cpu-list", core, *map(str, command)]
    done = subprocess.run(pinned, capture_output=True, text=True, timeout=DEADLINE_S, check=False,
                          env=plain_environment(), **options)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}{done.stderr}"
    return done.stdout


class Program:
    """A running program, whose output goes to a file."""

    def __init__(self, directory, name, *command, core=SERVER_CORE, environment=()):
        self.log = Path(directory, f"{name}.log")
        self.began = time.monotonic()
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                ["taskset", "--cpu-list", core, *map(str, command)], cwd=directory,
                env=plain_environment() | dict(environment), stdin=subprocess.DEVNULL,
                stdout=output, stderr=output)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def pid(self):
        return self.process.pid

    def stop(self):
        """Stops the program with SIGTERM, so that profilers write their results."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def find(self, pattern):
        """Waits for a line of the output, and returns the first group of the pattern."""
        def found():
            text = self.log.read_text(errors="replace")
            assert self.process.poll() is None, text
            return re.search(pattern, text)
        return eventually(found, f"{self.log} contains {pattern}", DEADLINE_S)[1]

    def memory(self):
        """The resident memory in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024

    def processor_seconds(self):
        """The processor time of all threads."""
        times = (task / "schedstat" for task in Path(f"/proc/{self.pid}/task").iterdir())
        return sum(int(file.read_text().split()[0]) for file in times) / 1e9


class Bare(Program):
    """The bare server. Listens on a loopback address, or on a Unix socket."""

    def __init__(self, directory, name="bare", *arguments, listen="127.0.0.1:0", wrapper=()):
        super().__init__(directory, name, *wrapper, RELEASE / "bare", "--listen", listen,
                         *arguments)
        self.target = self.find(r"listening on (\S+)")


class Node(Program):
    """A replica or a sidecar. The first listener is on a loopback address unless stated."""

    def __init__(self, directory, name, *command, configuration="", listen="127.0.0.1:0",
                 core=SERVER_CORE, wrapper=()):
        file = Path(directory, f"{name}.toml")
        file.write_text(f'listen = ["{listen}"]\nweb_listen = "off"\n'
                        f'metrics_listen = "127.0.0.1:0"\n{configuration}')
        super().__init__(directory, name, *wrapper, RELEASE / "support-access", *command,
                         "--config", file, core=core)
        self.listen = listen

    @property
    def target(self):
        return self.listen if self.listen.startswith("unix:") else self._address("grpc")

    def _address(self, kind):
        def address():
            assert self.process.poll() is None, self.log.read_text()
            for line in self.log.read_text().splitlines():
                fields = json.loads(line) if line.startswith("{") else {}
                if fields.get("message") == "listening" and kind in fields:
                    return fields[kind]
            return None
        return eventually(address, f"{self.log} states the {kind} address",
                          DEADLINE_S)

    def until_ready(self):
        """Waits until the node serves, and returns the seconds since the start."""
        url = f"http://{self._address('metrics')}/readyz"

        def is_ready():
            try:
                with urllib.request.urlopen(url, timeout=10) as response:
                    return response.status == 200
            except urllib.error.HTTPError:
                return False
        eventually(is_ready, f"{self.log.stem} is ready", DEADLINE_S)
        return time.monotonic() - self.began


class Servers:
    """Programs that are stopped together, the latest first."""

    def __init__(self):
        self.programs = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for program in reversed(self.programs):
            program.stop()

    def add(self, program):
        self.programs.append(program)
        return program
