"""What the image holds is enough, and what the Dockerfile says is run: in an empty root, as its user, with nothing to write to."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from box import GLIBC, LIBRARIES, Box, end, fill, identity, libraries, needed, output, snapshot
from dockerfile import IMAGE
from harness import BINARY, eventually

QUESTION = ["check", "acme", "dana", "--group", "support", "--level", "read-only"]
GRANT = ["grant", "acme", "support", "--level", "read-only", "--for", "1h", "--actor", "maria"]
REVOKE = ["revoke", "--all", "acme", "--actor", "maria"]
ENTRYPOINT = IMAGE.entrypoint
DATA = IMAGE.one("WORKDIR")

MIB = 1024 * 1024


@pytest.fixture(name="place")
def make_place():
    """Not pytest's own: others than its owner must get there."""
    with tempfile.TemporaryDirectory(prefix="image-") as directory:
        Path(directory).chmod(0o755)
        for name in ("root", "data", "run", "secrets"):
            (Path(directory) / name).mkdir()
        yield Path(directory)


def certificates(place):
    """An authority, and certificates by it, of the server and of its callers."""
    def openssl(*arguments):
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", *arguments],
                       cwd=place, check=True, capture_output=True)
    openssl("-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test CA")
    names = {"server": "DNS:localhost", "portal": "URI:spiffe://v/portal", "gateway": "URI:spiffe://v/gateway",
             "node": "URI:spiffe://v/node", "operator": "URI:spiffe://v/operator"}
    for name, alternative in names.items():
        openssl("-keyout", f"{name}.key", "-out", f"{name}.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-subj", f"/CN={name}",
                "-addext", "basicConstraints=CA:FALSE", "-addext", f"subjectAltName={alternative}")
    for key in place.glob("*.key"):
        key.chmod(0o644)
    return (place / "ca.pem").read_text()


def is_denied(box, *arguments, **more):
    code, said = box.ask(*QUESTION, *arguments, **more)
    assert (code == 1) == ("DENIED" in said), said
    return code == 1


def play(box):
    """Dana gets in while Maria lets her, and not before or after."""
    assert is_denied(box)
    code, said = box.ask(*GRANT)
    assert code == 0, said
    code, said = box.ask(*QUESTION)
    assert code == 0 and "ALLOWED" in said, said
    code, said = box.ask(*REVOKE)
    assert code == 0 and "In force" in said, said
    assert is_denied(box)


def test_all_that_the_binary_needs_is_in_the_image(place):
    binary = fill(place / "root", "")
    debian = re.fullmatch(r"gcr\.io/distroless/cc-debian(\d+):nonroot", IMAGE.base)
    assert debian, "LIBRARIES are of that"
    assert needed(binary) <= LIBRARIES
    for library in libraries(binary).values():
        assert needed(library) <= LIBRARIES, library
    versions = {tuple(map(int, it.split("."))) for it in re.findall(r"GLIBC_(\d+\.\d+)", output("readelf", "--version-info", binary))}
    assert versions and max(versions) <= GLIBC[int(debian[1])]
    sections = output("readelf", "--section-headers", "--wide", binary)
    assert ".text" in sections and ".debug_info" not in sections


def test_the_size_is_told(place, capsys):
    binary = fill(place / "root", "")
    stripped = output("strip", "-o", str(place / "stripped"), str(binary)) or (place / "stripped").stat().st_size
    total = sum(path.stat().st_size for path in (place / "root").rglob("*") if path.is_file())
    with capsys.disabled():
        print(f"\n{BINARY.parent.name} build: {binary.stat().st_size / MIB:.1f} MiB without debug information, as in the image; "
              f"{stripped / MIB:.1f} MiB without names too; {total / MIB:.1f} MiB with the libraries it needs")
    assert stripped < binary.stat().st_size < BINARY.stat().st_size


def test_without_a_database_nothing_need_be_writable(place):
    fill(place / "root", "")
    before = snapshot(place / "root")
    with Box(place / "root") as box:
        assert box.health()[0] == 1, "nobody is there yet"
        server = box.start([*ENTRYPOINT, "serve", "--database-url", "memory:"])
        box.until_healthy(server)
        # The kernel tells users as they are out here, where others stand for those of a user namespace.
        user = IMAGE.user if box.is_root else (os.geteuid(), os.getegid())
        assert identity(server) == (str(place / "root"), [str(user[0])] * 4, [str(user[1])] * 4, 0)
        play(box)
        assert end(server) == 0
        code, said = box.health()
        assert code == 1 and "Connection refused" in said
        code, said = box.ask(*IMAGE.command)
        assert code == 1 and "support-access.db" in said, "a database needs a place, and the root is none"
    assert snapshot(place / "root") == before


def test_what_it_does_by_itself_is_written_to_the_volume_and_nowhere_else(place):
    fill(place / "root", "")
    before = snapshot(place / "root")
    with Box(place / "root", {DATA: place / "data"}) as box:
        server = box.start([*ENTRYPOINT, *IMAGE.command])
        box.until_healthy(server)
        play(box)
        code, said = box.ask(*GRANT)
        assert code == 0, said
        assert end(server) == 0
        server = box.start([*ENTRYPOINT, *IMAGE.command])
        box.until_healthy(server)
        assert box.ask(*QUESTION)[0] == 0, "the volume has it"
        assert end(server) == 0
    assert {path.name for path in (place / "data").iterdir()} <= {f"support-access.db{end}" for end in ("", "-wal", "-shm", ".lock")}
    assert (place / "data/support-access.db").stat().st_size > 0
    assert snapshot(place / "root") == before


CONFIG = """
listen = ["0.0.0.0:50051"]
metrics_listen = "0.0.0.0:9464"
database_url = "memory:"
tls_certificate = "/etc/support-access/server.pem"
tls_key = "/etc/support-access/server.key"
tls_client_ca = "/etc/support-access/ca.pem"
trust_portal_assertion = true
[certificates]
portal = ["spiffe://v/portal"]
gateway = ["spiffe://v/gateway"]
operator = ["spiffe://v/operator"]
node = ["spiffe://v/node"]
"""
# An issuer's keys at a URL want to know whom this machine trusts.
ISSUER = """
[[issuers]]
issuer = "https://id.example"
audience = "support-access"
keys = "https://localhost/jwks.json"
[issuers.roles]
tenant_admin = ["access-admin"]
"""
SIDECAR = """
upstream = ["https://localhost:50051"]
upstream_certificate = "/etc/support-access/node.pem"
upstream_key = "/etc/support-access/node.key"
listen = ["unix:/run/support-access/check.sock"]
metrics_listen = "127.0.0.1:8081"
[users]
gateway = [65532]
"""


def test_a_server_with_tls_and_a_sidecar_on_a_socket(place):
    # The authority is one that the machine trusts: nobody here is told of it in another way.
    fill(place / "root", certificates(place / "secrets"))
    (place / "secrets/access.toml").write_text(CONFIG + ISSUER)
    (place / "secrets/sidecar.toml").write_text(SIDECAR)
    before, given = snapshot(place / "root"), snapshot(place / "secrets", but=[place / "secrets"])
    server_is, sidecar_is = ({"SUPPORT_ACCESS_CONFIG": f"/etc/support-access/{name}.toml"} for name in ("access", "sidecar"))
    at_sidecar = {"SUPPORT_ACCESS_SERVER": "unix:/run/support-access/check.sock"}

    def by(name):
        return {"SUPPORT_ACCESS_SERVER": "https://localhost:50051", "SUPPORT_ACCESS_CERTIFICATE": f"/etc/support-access/{name}.pem",
                "SUPPORT_ACCESS_KEY": f"/etc/support-access/{name}.key"}

    with Box(place / "root", {"/etc/support-access": place / "secrets", "/run/support-access": place / "run"}) as box:
        server = box.start([*ENTRYPOINT, "serve"], **server_is)
        box.until_healthy(server, **server_is)
        sidecar = box.start([*ENTRYPOINT, "sidecar"], **sidecar_is)
        box.until_healthy(sidecar, **sidecar_is)
        assert is_denied(box, **at_sidecar)
        code, said = box.ask(*GRANT, **by("portal"))
        assert code == 0, said
        assert box.ask(*GRANT, **by("gateway"))[0] == 7, "that is for others"
        assert box.ask(*QUESTION, **by("gateway"))[0] == 0
        eventually(lambda: box.ask(*QUESTION, **at_sidecar)[0] == 0, "the sidecar has heard of it")
        code, said = box.ask("node", "list", **by("operator"))
        assert code == 0 and "SIDECAR" in said, said
        code, said = box.ask(*REVOKE, **by("portal"))
        assert code == 0 and "2 confirmed" in said, said
        assert is_denied(box, **at_sidecar)
        assert end(server) == 0
        eventually(lambda: box.health(**sidecar_is)[1].startswith("stale"), "the sidecar knows that it is alone")
        assert end(sidecar) == 0
    assert snapshot(place / "root") == before and snapshot(place / "secrets", but=[place / "secrets"]) == given
    assert list((place / "run").iterdir()) == []
