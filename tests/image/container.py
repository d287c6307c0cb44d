"""Runs processes in a root directory with the content of the image, without a container engine.

Mount and network namespaces isolate files and ports, and disappear with their processes. Root needs
no other namespaces. Other users also need a user namespace. Without one, the tests fail with an
explanation."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from dockerfile import IMAGE
from harness import BINARY, DEADLINE_S, eventually

# The libraries of gcr.io/distroless/cc-debian13 that a Rust program can need: those of Debian's
# packages libc6, libgcc-s1 and libstdc++6.
IMAGE_LIBRARIES = {
    "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libdl.so.2",
    "libpthread.so.0", "librt.so.1", "libresolv.so.2", "libutil.so.1", "libgcc_s.so.1",
    "libstdc++.so.6",
}
# The glibc version of each Debian release. Programs that were linked with an older version run.
GLIBC_VERSIONS = {12: (2, 36), 13: (2, 41)}
# The files of the base image that the tests can read.
BASE_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\n"
                  "nobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"
                  "nonroot:x:65532:65532:nonroot:/nonexistent:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnobody:x:65534:\ntty:x:5:\nstaff:x:50:\nnonroot:x:65532:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
# The files that a container engine adds.
ENGINE_FILES = {
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/resolv.conf": "",
    "etc/hostname": "test\n",
}
CA_CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def needed_libraries(path):
    """The names of the libraries that a file declares."""
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", output("readelf", "--dynamic", path)))


def interpreter(path):
    """The path of the dynamic loader."""
    return re.search(r"interpreter: (.+)\]", output("readelf", "--program-headers", path))[1]


def library_paths(path):
    """The paths of all libraries of a file by name, including those of its libraries."""
    found = dict(re.findall(r"^\s*(\S+) => (/\S+)", output("ldd", path), re.M))
    return found | {Path(interpreter(path)).name: interpreter(path)}


def fill(root, ca_certificates=""):
    """Creates the root directory. Returns the path of the binary, without debug information."""
    target = next(copy.target for copy in IMAGE.copies
                  if copy.source.endswith("/bin/support-access"))
    binary = root / target.lstrip("/")
    binary.parent.mkdir(parents=True)
    subprocess.run(["strip", "--strip-debug", "-o", binary, BINARY], check=True)
    for library in library_paths(binary).values():
        copied = root / library.lstrip("/")
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, copied)
    for name, text in (BASE_FILES | ENGINE_FILES | {CA_CERTIFICATES: ca_certificates}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    # The mount points of the chart and of README.md.
    for path in [IMAGE.one("WORKDIR"), "/etc/support-access", "/run/support-access", "/tmp"]:
        (root / path.lstrip("/")).mkdir(parents=True)
    return binary


def snapshot(directory):
    """The metadata that a write would change, for each path."""
    def metadata(path):
        stat = path.lstat()
        return stat.st_mode, stat.st_uid, stat.st_size, stat.st_mtime_ns

    return {path: metadata(path) for path in [directory, *directory.rglob("*")]}


class Container:
    """The namespaces, kept by a process that ends with this object."""

    def __init__(self, root, mounts=None):
        """`mounts` are writable directories, by their path in the root."""
        self.root, self.is_root = root, os.geteuid() == 0
        self.processes = []
        mounts = mounts or {}
        if self.is_root:
            for source in mounts.values():
                os.chown(source, *IMAGE.user)
        namespaces = ["--mount", "--net"]
        if not self.is_root:
            namespaces = ["--user", "--map-root-user", *namespaces]
        script = Path(__file__).with_name("namespaces.py")
        pairs = [f"{source}:{target}" for target, source in mounts.items()]
        self.keeper = subprocess.Popen(
            ["unshare", *namespaces, sys.executable, script, root, *pairs], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def __enter__(self):
        line = self.keeper.stdout.readline()
        if line != "ready\n":
            raise AssertionError("cannot create namespaces; run as root or allow user namespaces: "
                                 + line + self.keeper.communicate()[0])
        return self

    def __exit__(self, *_):
        """Kills the processes that run after a failed assertion, and then waits for all."""
        for process in self.processes:
            if process.poll() is None:
                kill(process)
        for process in self.processes:
            process.communicate()
        self.keeper.communicate()

    def _enter(self, command, *options):
        """A command line that enters the namespaces, the root and the working directory. The
        command runs as the image's user, without capabilities."""
        user, group = IMAGE.user
        namespaces = ["--mount", "--net"]
        identity = [f"--setgid={group}", f"--setuid={user}"]
        if not self.is_root:
            namespaces = ["--user", "--preserve-credentials", *namespaces]
            identity = ["--user", f"--map-user={user}", f"--map-group={group}"]
        return [
            shutil.which("nsenter"), f"--target={self.keeper.pid}", *namespaces, "--",
            shutil.which("unshare"), *identity, *options, f"--root={self.root}",
            f"--wd={IMAGE.one('WORKDIR')}", "--", *command,
        ]

    def start(self, command, **variables):
        """Starts a process as PID 1, for which the kernel has no default signal actions."""
        process = subprocess.Popen(
            self._enter(command, "--pid", "--fork", "--kill-child"), env={"PATH": PATH} | variables,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def run(self, *arguments, **variables):
        """The exit code and output of a command of the image."""
        return self._run([*IMAGE.entrypoint, *arguments], variables)

    def health(self, **variables):
        return self._run(IMAGE.healthcheck[1], variables)

    def _run(self, command, variables):
        done = subprocess.run(
            self._enter(command), env={"PATH": PATH} | variables, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_S,
            check=False)
        return done.returncode, done.stdout

    def until_healthy(self, process, **variables):
        def is_healthy():
            assert process.poll() is None, process.stderr.read()
            return self.health(**variables) == (0, "serving\n")

        eventually(is_healthy, "the health check succeeds")


def children(process):
    """The PIDs of the child processes, outside of the container."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


def host_pid(process):
    """The PID outside of the container of the process with PID 1."""
    pid, = children(process)
    return pid


def kill(process):
    """Kills PID 1 and `unshare`, its parent.

    PID 1 ends with its namespace. Killing `unshare` alone is not enough: the kernel clears the
    setting of `--kill-child` when PID 1 changes the user."""
    for pid in children(process):
        os.kill(pid, signal.SIGKILL)
    process.kill()


def identity(process):
    """The root directory, users, groups and effective capabilities, from the kernel."""
    pid = host_pid(process)
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines)
    assert status["NSpid"].split()[-1] == "1"
    root = os.readlink(f"/proc/{pid}/root")
    return root, status["Uid"].split(), status["Gid"].split(), int(status["CapEff"], 16)


def terminate(process):
    """Sends SIGTERM. Returns the exit code."""
    os.kill(host_pid(process), signal.SIGTERM)
    return process.wait(DEADLINE_S)
