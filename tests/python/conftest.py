"""Fixtures. The stubs are generated from proto/ when the tests start, without the server's code."""

import json
import sys
import tempfile
import uuid
from pathlib import Path

import grpc_tools
import pytest
from grpc_tools import protoc
from harness import ROOT, Postgres, Server

_stubs = tempfile.TemporaryDirectory(prefix="support-access-stubs-")
_failed = protoc.main(
    [
        "protoc",
        f"-I{ROOT / 'proto'}",
        f"-I{Path(grpc_tools.__file__).parent / '_proto'}",
        f"--python_out={_stubs.name}",
        f"--grpc_python_out={_stubs.name}",
        *map(str, sorted((ROOT / "proto/supportaccess/v1").glob("*.proto"))),
    ]
)
assert not _failed, "protoc rejects the .proto files"
sys.path.insert(0, _stubs.name)
pytest.register_assert_rewrite("client")

from client import Client  # noqa: E402  the module needs the stubs


@pytest.fixture(scope="session")
def postgres():
    cluster = Postgres()
    yield cluster
    cluster.close()


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def backend(request):
    return request.param


@pytest.fixture
def new_database(backend, request, tmp_path):
    """The URL of an empty database that no other test uses."""
    if backend == "sqlite":
        return f"sqlite://{tmp_path}/support-access.db"
    return request.getfixturevalue("postgres").new_database()


@pytest.fixture(scope="session")
def server(backend, request, tmp_path_factory):
    """One server for all tests that do not stop the server. Asserts a clean shutdown at the end."""
    if backend == "sqlite":
        url = f"sqlite://{tmp_path_factory.mktemp('sqlite')}/support-access.db"
    else:
        url = request.getfixturevalue("postgres").new_database()
    with Server(url) as running:
        yield running
        assert running.process.poll() is None, (
            "the server must not have ended by itself:\n" + running.log()
        )
        assert running.terminate() == 0, running.log()
    assert not [line for line in running.lines if "panicked" in line], running.log()
    for line in running.lines:
        json.loads(line, object_pairs_hook=unique)


def unique(pairs):
    """An object of a log line. Consumers of logs reject or lose duplicate keys."""
    made = dict(pairs)
    assert len(made) == len(pairs), f"a log line has a duplicate key: {pairs}"
    return made


@pytest.fixture
def client(server):
    """A client for a new tenant."""
    with Client(server.target, tenant_id=f"tenant-{uuid.uuid4()}") as made:
        yield made
