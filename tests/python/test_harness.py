"""The log lines from which the harness reads the ports of the server."""

import pytest
from harness import listening_ports


@pytest.mark.parametrize(
    ("line", "ports"),
    [
        ('{"level":"INFO","fields":{"message":"listening","grpc":"127.0.0.1:41"}}', {"grpc": 41}),
        (
            '{"fields":{"message":"listening","address":"127.0.0.1:42","protocol":"http"}}',
            {"http": 42},
        ),
        (
            '{"fields":{"message":"listening","address":"127.0.0.1:43","protocol":"gRPC"}}',
            {"grpc": 43},
        ),
        (
            '{"message":"listening","grpc_address":"127.0.0.1:1","http_address":"127.0.0.1:2"}',
            {"grpc": 1, "http": 2},
        ),
        ('{"fields":{"message":"connected","grpc":"127.0.0.1:44"}}', {}),
        ("Error: nothing to do with JSON", {}),
    ],
)
def test_listening(line, ports):
    assert listening_ports(line) == ports
