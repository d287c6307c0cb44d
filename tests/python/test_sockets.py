"""Calls at a Unix socket. The channels have no options, so the authority is the socket's path."""

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import grpc
import pytest
from client import Client
from grpc_health.v1 import health_pb2, health_pb2_grpc
from harness import DEADLINE_S, Server

# Characters that have a meaning in URIs, or are escaped there.
NAME = "50% [a:b]@ü.sock"


@pytest.fixture(scope="module")
def sockets(tmp_path_factory):
    """The directory of a server's sockets `run/check.sock` and `NAME`."""
    # The path of a socket has at most 107 bytes.
    directory = tmp_path_factory.mktemp("sockets")
    (directory / "run").mkdir()
    listen = [f"--listen=unix:{directory}/{name}" for name in ["run/check.sock", NAME]]
    with Server("memory:", *listen):
        yield directory


@pytest.fixture
def client(sockets):
    with Client(f"unix:{sockets}/run/check.sock", tenant_id="acme") as made:
        yield made


def is_serving(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)
    return answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    "target",
    [
        "unix:{directory}/run/check.sock",
        "unix://{directory}/run/check.sock",
        "unix:run/check.sock",
        "unix:{directory}/run/../run/check.sock",
        f"unix:{{directory}}/{quote(NAME)}",
        f"unix:{quote(NAME)}",
    ],
)
def test_every_spelling_of_an_address_works(sockets, monkeypatch, target):
    monkeypatch.chdir(sockets)
    with grpc.insecure_channel(target.format(directory=sockets)) as channel:
        assert all(is_serving(channel) for _ in range(3))


def test_large_messages_and_concurrent_calls_share_a_channel(client):
    # About 20 KB, which is more than a frame.
    checks = [client.access_check()] * 400

    def results(_):
        return len(client.batch(checks).results)

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(results, range(24))) == [400] * 24


def test_a_call_with_too_much_metadata_does_not_affect_later_calls(client):
    stub = health_pb2_grpc.HealthStub(client.channel)
    request = health_pb2.HealthCheckRequest()
    # More than fits into one frame.
    for size in [15_000, 40_000]:
        metadata = [("support-access-unused", "x" * size)]
        try:
            stub.Check(request, metadata=metadata, timeout=DEADLINE_S)
        except grpc.RpcError:
            assert size > 16_000
        else:
            assert size < 16_000
        assert is_serving(client.channel)
