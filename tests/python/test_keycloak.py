"""Tokens of a real Keycloak: at Envoy, verified by support-access, and of callers."""

import json
import os
import shutil
import signal
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import grpc
import pytest
from client import Client, rejected
from gateway import World
from harness import DEADLINE_S, Server, eventually

REALM = Path(__file__).parent / "keycloak.json"
# Keycloak compiles its configuration at the first start.
START_S = 100


class Keycloak:
    """Keycloak with the realm of keycloak.json."""

    def __init__(self, directory):
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        installed = sorted((cache / "support-access").glob("keycloak-*"))
        assert installed, "Keycloak is not installed; scripts/setup installs it"
        # Keycloak writes to its own directory.
        self.home = directory / "keycloak"
        shutil.copytree(installed[-1], self.home, symlinks=True)
        (self.home / "data/import").mkdir(parents=True)
        shutil.copy(REALM, self.home / "data/import/staff-realm.json")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.name = f"http://127.0.0.1:{self.port}/realms/staff"

    def __enter__(self):
        self.log = open(self.home / "log", "wb")
        listen = ["--http-host", "127.0.0.1", "--http-port", str(self.port)]
        self.process = subprocess.Popen(
            [self.home / "bin/kc.sh", "start-dev", *listen, "--import-realm"],
            env=os.environ | {"JAVA_OPTS_KC_HEAP": "-Xmx512m"},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        eventually(self._is_ready, "Keycloak is ready", START_S)
        return self

    def __exit__(self, *_):
        # The script may have a child.
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def _is_ready(self):
        assert self.process.poll() is None, (self.home / "log").read_text()
        try:
            return self._get("/.well-known/openid-configuration")
        except (URLError, ConnectionError):
            return None

    def _get(self, path):
        with urlopen(self.name + path, timeout=DEADLINE_S) as response:
            return response.read().decode()

    def jwks(self):
        return self._get("/protocol/openid-connect/certs")

    def token(self, user="ann", client="app", **_):
        form = {"grant_type": "password", "client_id": client, "username": user}
        form = urlencode(form | {"password": "password", "scope": "openid organization"})
        url = f"{self.name}/protocol/openid-connect/token"
        with urlopen(url, form.encode(), timeout=DEADLINE_S) as response:
            return json.loads(response.read())["access_token"]


@pytest.fixture(scope="module")
def keycloak(tmp_path_factory):
    with Keycloak(tmp_path_factory.mktemp("keycloak")) as made:
        yield made


def only_the_support_group_enters(world, keycloak):
    world.eventually(403, "NO_GRANT")
    grant = world.client.grant(agent_ids=["ann@vendor.example"])
    world.allowed()
    # The group /others has no mapping.
    assert world.get(token=keycloak.token("olaf")).refusal == (403, "GROUP_MISMATCH")
    world.client.revoke(grant)
    assert world.get().refusal == (403, "REVOKED")


def test_envoy_passes_the_claims_of_a_token_on(keycloak, tmp_path):
    with ExitStack() as stack:
        world = World(stack, tmp_path, fails_open=True, identity=keycloak)
        only_the_support_group_enters(world, keycloak)


def test_support_access_verifies_the_token_itself(keycloak, tmp_path):
    token = f'claims.token = {{ issuer = "{keycloak.name}", audience = "app" }}'
    with ExitStack() as stack:
        world = World(
            stack,
            tmp_path,
            fails_open=True,
            identity=keycloak,
            config=[('claims = { metadata = { key = "staff" } }', token)],
            gateway=[
                ("payload_in_metadata: staff", "forward: true"),
                ("patterns:\n", "patterns:\n                - { exact: authorization }\n"),
            ],
        )
        only_the_support_group_enters(world, keycloak)


@pytest.mark.parametrize("claim", ["organizations", "organizations_with_ids"])
def test_an_administrator_grants_in_the_own_organization_only(keycloak, tmp_path, claim):
    config = tmp_path / "config.toml"
    config.write_text(
        f"""
        [[issuers]]
        issuer = "{keycloak.name}"
        audience = "support-access"
        name_claim = "email"
        role_claim = "/realm_access/roles"
        tenant_claim = "{claim}"
        [issuers.roles]
        tenant_admin = ["access-admin"]
        """
    )
    token = keycloak.token("maria", client="portal")
    with Server("memory:", f"--config={config}") as server:
        with Client(server.target, tenant_id="acme", actor=None) as client:
            client.metadata = [("authorization", f"Bearer {token}")]
            assert client.grant().creator == "maria@acme.example"
            client.tenant_id = "globex"
            with rejected(grpc.StatusCode.PERMISSION_DENIED, reason="NOT_OWN_TENANT"):
                client.grant()
