"""Start and shutdown of the server, health, reflection, server information and metrics."""

import re
import socket
import subprocess
import urllib.error
import urllib.request

import grpc
import pytest
from client import Client, allowed, reason, rejected
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from harness import (
    BINARY,
    DEADLINE_S,
    Server,
    database_arguments,
    eventually,
    plain_environment,
)
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from supportaccess.v1 import check_nodes_pb2 as nodes
from supportaccess.v1 import server_info_pb2 as info
from supportaccess.v1 import server_info_pb2_grpc as info_grpc


def fetch(url):
    """Status, content type and body, also of an error."""
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["content-type"], error.read().decode()


@pytest.mark.parametrize(
    "service", ["", "supportaccess.v1.SupportAccess", "supportaccess.v1.SupportAccessAdmin"]
)
def test_health(client, service):
    stub = health_pb2_grpc.HealthStub(client.channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE_S)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_an_unknown_service(client):
    stub = health_pb2_grpc.HealthStub(client.channel)
    with pytest.raises(grpc.RpcError) as raised:
        stub.Check(health_pb2.HealthCheckRequest(service="unknown"), timeout=DEADLINE_S)
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection(client):
    """Uses version 1 of reflection, with the messages of v1alpha from another package."""
    ask = client.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    listing, file, *details = ask(
        iter(
            [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(
                    file_containing_symbol="supportaccess.v1.SupportAccess"
                ),
                *(
                    reflection_pb2.ServerReflectionRequest(
                        file_containing_symbol=f"google.rpc.{name}"
                    )
                    for name in ("Status", "ErrorInfo", "BadRequest", "RetryInfo")
                ),
            ]
        ),
        timeout=DEADLINE_S,
    )
    services = {service.name for service in listing.list_services_response.service}
    assert services >= {
        "supportaccess.v1.SupportAccess",
        "supportaccess.v1.SupportAccessAdmin",
        "supportaccess.v1.CheckNodes",
        "supportaccess.v1.ServerInfo",
        "supportaccess.replication.v1.Replication",
        "grpc.health.v1.Health",
    }
    described = [
        FileDescriptorProto.FromString(encoded)
        for encoded in file.file_descriptor_response.file_descriptor_proto
    ]
    assert "supportaccess/v1/support_access.proto" in [file.name for file in described]
    assert all(detail.HasField("file_descriptor_response") for detail in details), (
        "clients need the messages of error details"
    )


def test_server_info(client):
    stub = info_grpc.ServerInfoStub(client.channel)
    server = stub.GetServerInfo(info.GetServerInfoRequest(), timeout=DEADLINE_S)
    assert re.fullmatch(r"\d+\.\d+\.\d+", server.version) and re.fullmatch(
        "([0-9a-f]{12})?", server.commit
    )
    assert server.kind == nodes.NODE_KIND_REPLICA
    caller = stub.GetCaller(info.GetCallerRequest(), timeout=DEADLINE_S, metadata=client.metadata)
    assert (caller.name, caller.authentication_method) == (
        "alice@example.com",
        info.AUTHENTICATION_METHOD_NONE,
    )
    assert list(caller.roles) == list(range(1, 8)) and caller.all_tenants
    assert not caller.tenant_ids and not caller.via and not caller.HasField("expire_time")


def samples(server):
    """Every sample of the metrics, as (name, labels): value."""
    status, kind, body = fetch(server.http("/metrics"))
    assert status == 200
    assert kind.startswith("application/openmetrics-text"), kind
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


def growth(before, after, *values):
    """The increase of all counters with these label values."""
    return sum(
        value - before.get((name, labels), 0)
        for (name, labels), value in after.items()
        if name.endswith("_total") and {label for _, label in labels} >= set(values)
    )


def test_metrics_count_checks_by_decision_and_reason(server, client):
    client.grant()
    before = samples(server)
    allowed(client.check())
    client.check(group_ids=[])
    client.check(group_ids=[])
    after = samples(server)
    assert growth(before, after, "GRANT_ACTIVE") == 1
    assert growth(before, after, "GROUP_MISMATCH") == 2


def test_metrics_show_the_state(server, client):
    names = {name for name, _ in samples(server)}
    for word in ("revision", "live_grants", "snapshot", "sweep"):
        assert any(word in name for name in names), (word, names)
    assert any(name.endswith("_bucket") for name in names), "there must be histograms"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_http_health(server, path):
    status, _, _ = fetch(server.http(path))
    assert status == 200


def test_other_http_paths_are_not_found(server):
    status, _, _ = fetch(server.http("/no-such-page"))
    assert status == 404


@pytest.mark.parametrize("ending", ["terminate", "kill"])
def test_acknowledged_changes_survive_a_restart(new_database, ending):
    with Server(new_database) as first, Client(first.target, "acme") as client:
        kept, ended = client.grant(group_id="engineering"), client.grant()
        revoked = client.revoke(ended).grant
        policy = client.update_policy(reason_required=True).support_policy
        history = client.settled_events()
        exit_code = getattr(first, ending)()
        assert ending == "kill" or exit_code == 0, first.log()

    with Server(new_database) as second, Client(second.target, "acme") as client:
        assert client.get(kept) == kept and client.get(ended) == revoked
        assert client.policy() == policy
        assert client.events().events == history
        assert allowed(client.check(group_ids=["engineering"]))
        assert reason(client.check()) == "REVOKED"
        following = client.grant(reason="after the restart")
        newest = client.events().events[0]
        assert newest.granted.grant == following
        assert newest.sequence == history[0].sequence + 1, "no event may be missing or duplicated"
        assert second.terminate() == 0


def test_the_server_shuts_down_while_streams_are_open(new_database):
    with Server(new_database) as server, Client(server.target, "acme") as client:
        stub = health_pb2_grpc.HealthStub(client.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert server.terminate() == 0, server.log()
        watch.cancel()


def startup_error(directory, *arguments):
    """The error of a server that does not start. The server must not panic."""
    ended = subprocess.run(
        [BINARY, "serve", *arguments],
        cwd=directory,
        env=plain_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert ended.returncode in (1, 64), ended
    assert ended.stderr.strip() and "panicked" not in ended.stderr, ended.stderr
    return ended.stderr


FREE = ("--listen", "127.0.0.1:0", "--web-listen", "off", "--metrics-listen", "127.0.0.1:0")


@pytest.mark.parametrize("taken", ["--listen", "--metrics-listen"])
def test_a_port_in_use(tmp_path, taken):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        free = "--metrics-listen" if taken == "--listen" else "--listen"
        free = (free, "127.0.0.1:0", "--web-listen", "off")
        error = startup_error(tmp_path, taken, f"127.0.0.1:{port}", *free)
        assert port in error


def test_a_corrupt_database(tmp_path):
    (tmp_path / "corrupt.db").write_bytes(b"this is no database" * 1000)
    assert "corrupt.db" in startup_error(
        tmp_path, *FREE, "--database-url", "sqlite://corrupt.db"
    )


def test_a_database_in_a_missing_directory(tmp_path):
    assert "nowhere" in startup_error(
        tmp_path, *FREE, "--database-url", "sqlite://nowhere/at-all.db"
    )


def test_a_database_of_an_unknown_kind(tmp_path):
    assert "mysql" in startup_error(tmp_path, *FREE, "--database-url", "mysql://localhost/x")


def test_an_unknown_configuration_key(tmp_path):
    (tmp_path / "config.toml").write_text("no_such_key = 1\n")
    assert "no_such_key" in startup_error(tmp_path, *FREE, "--config", "config.toml")


def test_an_address_that_is_not_loopback(tmp_path):
    error = startup_error(tmp_path, "--listen", "0.0.0.0:0", "--metrics-listen", "127.0.0.1:0")
    assert "without authentication" in error


def test_the_server_becomes_ready(new_database):
    with Server(new_database) as server:
        eventually(lambda: fetch(server.http("/readyz"))[0] == 200, "ready")
        assert server.terminate() == 0


def test_tokens_from_before_a_declared_restore_are_rejected(new_database):
    with Server(new_database) as first, Client(first.target, "acme") as client:
        token = client.granted().consistency_token
        assert allowed(client.check(token=token))
        assert first.terminate() == 0, first.log()
    arguments = [BINARY, "database", "restored", *database_arguments(new_database)]
    done = subprocess.run(
        arguments, env=plain_environment(), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    assert re.fullmatch(
        r"The restore is declared\. The database has a new epoch: [0-9a-f-]{36}\.\n", done.stdout
    )

    with Server(new_database) as second, Client(second.target, "acme") as client:
        for call in (client.check, client.wait):
            with rejected(
                grpc.StatusCode.FAILED_PRECONDITION,
                "consistency_token",
                reason="CONSISTENCY_TOKEN_INVALID",
            ):
                call(token=token)
        assert allowed(client.check(token=client.granted().consistency_token))
