"""Run in namespaces of its own: makes the root read-only, mounts what is writable into it, and brings loopback up. Then it holds
all that until its standard input ends."""

import fcntl
import socket
import struct
import subprocess
import sys

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


def main(root, *mounts):
    # unshare has made this namespace's mounts private: nothing is seen outside.
    mount("--bind", root, root)
    mount("-o", "remount,bind,ro", root)
    for it in mounts:
        source, target = it.split(":")
        mount("--bind", source, root + target)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        request = struct.pack("16sh", b"lo", 0) + bytes(14)
        name, flags = struct.unpack_from("16sh", fcntl.ioctl(asking, SIOCGIFFLAGS, request))
        fcntl.ioctl(asking, SIOCSIFFLAGS, struct.pack("16sh", name, flags | IFF_UP) + bytes(14))
    print("ready", flush=True)
    sys.stdin.read()


main(*sys.argv[1:])
