"""Prepares the namespaces that `unshare` has created for this process: a read-only root, writable
mounts, and the loopback interface. Keeps the namespaces until standard input ends."""

import fcntl
import socket
import struct
import subprocess
import sys

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def mount(*arguments):
    subprocess.run(["mount", *arguments], check=True)


def enable_loopback():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh", b"lo", 0) + bytes(14)
        response = fcntl.ioctl(control, SIOCGIFFLAGS, request)
        name, flags = struct.unpack_from("16sh", response)
        request = struct.pack("16sh", name, flags | IFF_UP) + bytes(14)
        fcntl.ioctl(control, SIOCSIFFLAGS, request)


def main(root, *mounts):
    # `unshare` has made the mounts private, so the outside does not see the changes.
    mount("--bind", root, root)
    mount("-o", "remount,bind,ro", root)
    for pair in mounts:
        source, target = pair.split(":")
        mount("--bind", source, root + target)
    enable_loopback()
    print("ready", flush=True)
    sys.stdin.read()


main(*sys.argv[1:])
