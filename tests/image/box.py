"""A root directory with only what the image would hold, and processes in it: without a container engine, but entered as one would.

Mounts and the network are a namespace's own, so that ports are free, and nothing is left behind. As root that is all; anybody else
needs a user namespace, and is told if the machine has none to give."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from dockerfile import IMAGE
from harness import BINARY, DEADLINE_S, eventually

# What gcr.io/distroless/cc-debian13 has, as far as a Rust program may ask for it: of Debian's libc6, libgcc-s1 and libstdc++6.
LIBRARIES = {
    "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1", "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1",
    "libresolv.so.2", "libutil.so.1", "libgcc_s.so.1", "libstdc++.so.6",
}
# Debian's glibc, which takes programs that were linked with an older one.
GLIBC = {12: (2, 36), 13: (2, 41)}
# Files of the same image, as far as anything here may read them.
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/sbin/nologin\n"
                  "nonroot:x:65532:65532:nonroot:/nonexistent:/sbin/nologin\n",
    "etc/group": "root:x:0:\nnobody:x:65534:\ntty:x:5:\nstaff:x:50:\nnonroot:x:65532:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
# What a container engine puts into every container.
OF_ENGINES = {"etc/hosts": "127.0.0.1 localhost\n::1 localhost\n", "etc/resolv.conf": "", "etc/hostname": "box\n"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
AUTHORITIES = "etc/ssl/certs/ca-certificates.crt"


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def needed(path):
    """The names of the libraries that a file says it needs."""
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", output("readelf", "--dynamic", path)))


def interpreter(path):
    """What the kernel starts first: the path of the loader."""
    return re.search(r"interpreter: (.+)\]", output("readelf", "--program-headers", path))[1]


def libraries(path):
    """Where each library is that a file, or one of those, needs: by its name."""
    found = dict(re.findall(r"^\s*(\S+) => (/\S+)", output("ldd", path), re.M))
    return found | {Path(interpreter(path)).name: interpreter(path)}


def fill(root, authorities):
    """Makes the root directory. The binary is the one under test, without its debug information."""
    target = next(it.target for it in IMAGE.copies if it.source.endswith("/bin/support-access"))
    place = root / target.lstrip("/")
    place.parent.mkdir(parents=True)
    subprocess.run(["strip", "--strip-debug", "-o", place, BINARY], check=True)
    for library in libraries(place).values():
        (root / library.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library.lstrip("/"))
    for name, text in (FILES | OF_ENGINES | {AUTHORITIES: authorities}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    # Mounts of the chart and of README.md.
    for directory in [IMAGE.one("WORKDIR"), "/etc/support-access", "/run/support-access", "/tmp"]:
        (root / directory.lstrip("/")).mkdir(parents=True)
    return place


def snapshot(directory, but=()):
    """Every path with what would change if it were written to."""
    def state(path):
        it = path.lstat()
        return it.st_mode, it.st_uid, it.st_size, it.st_mtime_ns
    return {path: state(path) for path in [directory, *directory.rglob("*")] if not any(path.is_relative_to(it) for it in but)}


class Box:
    """The namespaces, held by a process that ends with this."""

    def __init__(self, root, writable=None):
        """`writable`: which directories of the root are others, by their paths."""
        self.root, self.is_root = root, os.geteuid() == 0
        self.processes = []
        mounts = [f"{source}:{target}" for target, source in (writable or {}).items()]
        if self.is_root:
            for source in (writable or {}).values():
                os.chown(source, *IMAGE.user)
        new = ["--mount", "--net"] if self.is_root else ["--user", "--map-root-user", "--mount", "--net"]
        self.holder = subprocess.Popen(["unshare", *new, sys.executable, Path(__file__).with_name("holder.py"), root, *mounts],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def __enter__(self):
        said = self.holder.stdout.readline()
        if said != "ready\n":
            said += self.holder.communicate()[0]
            raise AssertionError(f"this machine gives no namespaces (as root it would, or with user namespaces allowed): {said}")
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self.holder.communicate()

    def _entering(self, command, *more):
        """Into the namespaces, the root and the working directory, as the image's user, without a capability."""
        user, group = IMAGE.user
        into, become = ["--mount", "--net"], [f"--setgid={group}", f"--setuid={user}"]
        if not self.is_root:
            into = ["--user", "--preserve-credentials", *into]
            become = ["--user", f"--map-user={user}", f"--map-group={group}"]
        place = [f"--root={self.root}", f"--wd={IMAGE.one('WORKDIR')}"]
        return [shutil.which("nsenter"), f"--target={self.holder.pid}", *into, "--", shutil.which("unshare"), *become, *more, *place, "--",
                *command]

    def start(self, command, **more):
        """A process, whose environment is that of a container. It has the number 1, for which the kernel does nothing by itself
        when a signal comes."""
        entering = self._entering(command, "--pid", "--fork", "--kill-child")
        process = subprocess.Popen(entering, env={"PATH": PATH} | more, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def ask(self, *arguments, **more):
        """Exit code and what is printed of a command of the image."""
        return self.run([*IMAGE.entrypoint, *arguments], **more)

    def run(self, command, **more):
        done = subprocess.run(self._entering(command), env={"PATH": PATH} | more, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_S, check=False)
        return done.returncode, done.stdout

    def health(self, **more):
        return self.run(IMAGE.healthcheck[1], **more)

    def until_healthy(self, process, **more):
        def is_healthy():
            assert process.poll() is None, process.stderr.read()
            return self.health(**more) == (0, "serving\n")
        eventually(is_healthy, "it is healthy")


def first(process):
    """The process that has the number 1 in there, by its number out here."""
    number, = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(number)


def identity(process):
    """Where its root is, its user and group, and what it may do that others may not, as the kernel tells."""
    number = first(process)
    told = dict(line.split(":\t", 1) for line in Path(f"/proc/{number}/status").read_text().splitlines())
    assert told["NSpid"].split()[-1] == "1"
    return os.readlink(f"/proc/{number}/root"), told["Uid"].split(), told["Gid"].split(), int(told["CapEff"], 16)


def end(process):
    """SIGTERM, and what comes of it."""
    os.kill(first(process), signal.SIGTERM)
    return process.wait(DEADLINE_S)
