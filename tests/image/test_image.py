"""The content of the image is sufficient: its commands run in an otherwise empty read-only root."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
from container import (
    GLIBC_VERSIONS, IMAGE_LIBRARIES, Container, fill, identity, library_paths, needed_libraries,
    output, snapshot, terminate)
from dockerfile import IMAGE
from harness import BINARY, eventually

CHECK = ["check", "acme", "dana", "--group", "support", "--level", "read-only"]
GRANT = ["grant", "acme", "support", "--level", "read-only", "--for", "1h", "--actor", "maria"]
REVOKE = ["revoke", "--all", "acme", "--actor", "maria"]
SERVE = [*IMAGE.entrypoint, "serve"]
DATA = IMAGE.one("WORKDIR")
MIB = 1024 * 1024


@pytest.fixture(name="directory")
def make_directory():
    """A directory that all users can enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="image-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        for child in ("root", "data", "run", "secrets"):
            (directory / child).mkdir()
        yield directory


def make_certificates(directory):
    """Issues certificates for the server and its callers. Returns the authority."""
    def openssl(*arguments):
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
        command = ["openssl", "req", "-x509", *key, *arguments]
        subprocess.run(command, cwd=directory, check=True, capture_output=True)

    openssl("-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test CA")
    alternative_names = {
        "server": "DNS:localhost",
        "portal": "URI:spiffe://v/portal",
        "gateway": "URI:spiffe://v/gateway",
        "node": "URI:spiffe://v/node",
        "operator": "URI:spiffe://v/operator",
    }
    for name, alternative_name in alternative_names.items():
        openssl("-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}",
                "-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=CA:FALSE",
                "-addext", f"subjectAltName={alternative_name}")
    for key in directory.glob("*.key"):
        key.chmod(0o644)
    return (directory / "ca.pem").read_text()


def run_ok(container, arguments, **variables):
    code, printed = container.run(*arguments, **variables)
    assert code == 0, printed
    return printed


def is_denied(container, **variables):
    code, printed = container.run(*CHECK, **variables)
    assert (code == 2) == ("DENIED" in printed), printed
    return code == 2


def grant_check_and_revoke(container):
    assert is_denied(container)
    run_ok(container, GRANT)
    assert "ALLOWED" in run_ok(container, CHECK)
    assert "Enforced" in run_ok(container, REVOKE)
    assert is_denied(container)


def test_binary_needs_only_libraries_of_the_image(directory):
    binary = fill(directory / "root")
    debian = re.fullmatch(r"gcr\.io/distroless/cc-debian(\d+):nonroot", IMAGE.base)
    assert debian, "IMAGE_LIBRARIES describes this base image"
    assert needed_libraries(binary) <= IMAGE_LIBRARIES
    for library in library_paths(binary).values():
        assert needed_libraries(library) <= IMAGE_LIBRARIES, library
    symbols = output("readelf", "--version-info", binary)
    versions = [tuple(map(int, version.split(".")))
                for version in re.findall(r"GLIBC_(\d+\.\d+)", symbols)]
    assert versions and max(versions) <= GLIBC_VERSIONS[int(debian[1])]
    sections = output("readelf", "--section-headers", "--wide", binary)
    assert ".text" in sections and ".debug_info" not in sections


def test_binary_is_stripped(directory, capsys):
    binary = fill(directory / "root")
    output("strip", "-o", str(directory / "stripped"), str(binary))
    without_names = (directory / "stripped").stat().st_size
    size = binary.stat().st_size
    files = [path for path in (directory / "root").rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    with capsys.disabled():
        print(f"\n{BINARY.parent.name} build: {size / MIB:.1f} MiB without debug information, as "
              f"in the image; {without_names / MIB:.1f} MiB without function names; "
              f"{total / MIB:.1f} MiB with libraries")
    assert without_names < size < BINARY.stat().st_size


def test_in_memory_database_needs_no_writable_directory(directory):
    root = directory / "root"
    fill(root)
    before = snapshot(root)
    with Container(root) as container:
        assert container.health()[0] == 1, "no server is running"
        server = container.start([*SERVE, "--database-url", "memory:"])
        container.until_healthy(server)
        # Without root, the kernel reports the outer ids of the user namespace.
        user, group = IMAGE.user if container.is_root else (os.geteuid(), os.getegid())
        assert identity(server) == (str(root), [str(user)] * 4, [str(group)] * 4, 0)
        grant_check_and_revoke(container)
        assert terminate(server) == 0
        code, printed = container.health()
        assert code == 1 and "Connection refused" in printed
        code, printed = container.run(*IMAGE.command)
        assert code == 1 and "support-access.db" in printed, "SQLite needs a writable directory"
    assert snapshot(root) == before


def test_default_command_writes_only_to_the_volume(directory):
    root = directory / "root"
    fill(root)
    before = snapshot(root)
    default = [*IMAGE.entrypoint, *IMAGE.command]
    with Container(root, {DATA: directory / "data"}) as container:
        server = container.start(default)
        container.until_healthy(server)
        grant_check_and_revoke(container)
        run_ok(container, GRANT)
        assert terminate(server) == 0
        server = container.start(default)
        container.until_healthy(server)
        run_ok(container, CHECK)
        assert terminate(server) == 0
    files = {path.name for path in (directory / "data").iterdir()}
    suffixes = ("", "-wal", "-shm", ".lock", ".event-key")
    assert files <= {f"support-access.db{suffix}" for suffix in suffixes}
    assert (directory / "data/support-access.db").stat().st_size > 0
    assert snapshot(root) == before


REPLICA_CONFIG = """
listen = ["0.0.0.0:50051"]
web_listen = "127.0.0.1:8080"
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
# Fetching keys from a URL needs the authorities of the image.
ISSUER_CONFIG = """
[[issuers]]
issuer = "https://id.example"
audience = "support-access"
keys = "https://localhost/jwks.json"
[issuers.roles]
tenant_admin = ["access-admin"]
"""
SIDECAR_CONFIG = """
upstream = ["https://localhost:50051"]
upstream_certificate = "/etc/support-access/node.pem"
upstream_key = "/etc/support-access/node.key"
listen = ["unix:/run/support-access/check.sock"]
metrics_listen = "127.0.0.1:9180"
[users]
gateway = [65532]
"""
AT_SIDECAR = {"SUPPORT_ACCESS_SERVER": "unix:/run/support-access/check.sock"}


def with_config(name):
    return {"SUPPORT_ACCESS_CONFIG": f"/etc/support-access/{name}.toml"}


def as_caller(name):
    return {
        "SUPPORT_ACCESS_SERVER": "https://localhost:50051",
        "SUPPORT_ACCESS_CERTIFICATE": f"/etc/support-access/{name}.pem",
        "SUPPORT_ACCESS_KEY": f"/etc/support-access/{name}.key",
    }


def test_replica_with_tls_and_sidecar_at_a_socket(directory):
    root, secrets = directory / "root", directory / "secrets"
    # The authority is in the image, so the processes need no setting to trust it.
    fill(root, ca_certificates=make_certificates(secrets))
    (secrets / "replica.toml").write_text(REPLICA_CONFIG + ISSUER_CONFIG)
    (secrets / "sidecar.toml").write_text(SIDECAR_CONFIG)
    mounts = {"/etc/support-access": secrets, "/run/support-access": directory / "run"}
    container = Container(root, mounts)
    before = snapshot(root), snapshot(secrets)

    with container:
        server = container.start(SERVE, **with_config("replica"))
        container.until_healthy(server, **with_config("replica"))
        sidecar = container.start([*IMAGE.entrypoint, "sidecar"], **with_config("sidecar"))
        container.until_healthy(sidecar, **with_config("sidecar"))
        assert is_denied(container, **AT_SIDECAR)
        run_ok(container, GRANT, **as_caller("portal"))
        code, _ = container.run(*GRANT, **as_caller("gateway"))
        assert code == 7, "a gateway cannot grant"
        run_ok(container, CHECK, **as_caller("gateway"))
        eventually(lambda: container.run(*CHECK, **AT_SIDECAR)[0] == 0,
                   "the sidecar has applied the grant")
        assert "SIDECAR" in run_ok(container, ["node", "list"], **as_caller("operator"))
        assert "2 acknowledged" in run_ok(container, REVOKE, **as_caller("portal"))
        assert is_denied(container, **AT_SIDECAR)
        assert terminate(server) == 0
        eventually(lambda: container.health(**with_config("sidecar"))[1].startswith("stale"),
                   "the lease of the sidecar has expired")
        assert terminate(sidecar) == 0
    assert (snapshot(root), snapshot(secrets)) == before
    assert list((directory / "run").iterdir()) == []
