"""The binary accepts the files, arguments and environment that the chart renders."""

import re
import socket
import tempfile
import threading
from pathlib import Path

import pytest
from chart import VALUES_FILES, access_toml, find, load_values, manifests, pod_spec, values_for
from harness import DEADLINE_S
from processes import Process, Secrets, run_binary

SERVERS = [path for path in VALUES_FILES if load_values(path).get("enabled", True)]
DATABASE_URL = "SUPPORT_ACCESS_DATABASE_URL"
IN_MEMORY = {DATABASE_URL: "memory:"}


@pytest.fixture(name="directory")
def make_directory():
    """The directory for the files of the pod. The path of a socket must be short."""
    with tempfile.TemporaryDirectory(prefix="chart-") as directory:
        yield Path(directory)


@pytest.fixture(name="secrets")
def make_secrets(directory):
    secrets = Secrets(directory)
    secrets.certify("server", "DNS:localhost,IP:127.0.0.1")
    copy_files(directory, {
        "tls/tls.crt": "server.crt",
        "tls/tls.key": "server.key",
        "client-ca/ca.crt": "ca.crt",
        "checkpoint/checkpoint.key": "checkpoint.key",
        "upstream-ca/ca.crt": "ca.crt",
    })
    return secrets


def copy_files(directory, sources):
    for target, source in sources.items():
        (directory / target).parent.mkdir(exist_ok=True)
        (directory / target).write_bytes((directory / source).read_bytes())


def localized(text, directory):
    """Replaces the paths of the pod by the directory, and its listeners by free loopback ports."""
    for path in ("/etc/support-access/config", "/etc/support-access", "/run/support-access",
                 "/var/lib/support-access"):
        text = text.replace(path, str(directory))
    text = re.sub(r'(listen = \[?")0\.0\.0\.0:\d+"', r'\g<1>127.0.0.1:0"', text)
    text = re.sub(r'(listen = \[?")\[::\]:\d+"', r'\g<1>[::ffff:127.0.0.1]:0"', text)
    return text.replace('"https://id.example/jwks.json"', f'"{directory}/keys.json"')


def literal_variables(container, directory):
    """The environment variables of a container that do not come from a secret."""
    return {variable["name"]: localized(variable["value"], directory)
            for variable in container.get("env", []) if "value" in variable}


def start(objects, directory):
    """Runs the container of the Deployment as a process."""
    (directory / "access.toml").write_text(localized(access_toml(objects), directory))
    container = pod_spec(objects)["containers"][0]
    variables = literal_variables(container, directory)
    if any(variable["name"] == DATABASE_URL for variable in container.get("env", [])):
        # Other tests run the service on PostgreSQL.
        variables |= IN_MEMORY
    arguments = [localized(argument, directory) for argument in container["args"]]
    return Process(arguments, variables, directory)


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_server_answers_its_probes_and_stops_within_the_grace_period(path, directory, secrets):
    objects = manifests(load_values(path))
    pod = pod_spec(objects)
    container = pod["containers"][0]
    with start(objects, directory) as server:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            request = container[probe]["httpGet"]
            assert request["port"] == "metrics"
            if probe == "readinessProbe":
                server.until_ready()
            assert server.get(request["path"])[0] == 200
        code, seconds = server.terminate()
    pause = 0
    if "lifecycle" in container:
        pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = pod["terminationGracePeriodSeconds"] - pause
    assert code == 0 and seconds < min(grace, DEADLINE_S)
    drain_timeout = int(re.search(r'drain_timeout = "(\d+)s"', access_toml(objects))[1])
    assert grace >= drain_timeout + 5, "connections can be closed after drain_timeout"


def test_migration_job_runs_a_command_of_the_binary(directory):
    objects = manifests(values_for("migration-job"))
    container = find(objects, "Job")["spec"]["template"]["spec"]["containers"][0]
    variable = container["env"][0]
    assert variable["name"] == DATABASE_URL
    assert variable["valueFrom"]["secretKeyRef"] == {"name": "pg-owner", "key": "uri"}
    variables = {DATABASE_URL: f"sqlite://{directory}/access.db"}
    for _ in range(2):
        done = run_binary(container["args"], variables)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "overrides", "falls_back_to_plain_text"), [
    ("migration-job", {}, False),
    ("minimal", {}, False),
    ("minimal", {"database__tls": {"mode": "prefer"}}, True),
])
def test_database_tls_mode_is_respected(directory, secrets, name, overrides,
                                        falls_back_to_plain_text):
    copy_files(directory, {"database-ca/ca.crt": "ca.crt"})
    objects = manifests(values_for(name, **overrides))
    variables = literal_variables(pod_spec(objects)["containers"][0], directory)
    received = []

    def reject_tls(listener):
        """A PostgreSQL server without TLS, up to the startup message."""
        connection, _ = listener.accept()
        with connection:
            received.append(connection.recv(8))
            connection.sendall(b"N")
            received.append(connection.recv(1024))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        thread = threading.Thread(target=reject_tls, args=[listener])
        thread.start()
        # This address leads to this machine, but is no loopback address.
        address = f"0.0.0.0:{listener.getsockname()[1]}"
        variables[DATABASE_URL] = f"postgres://role:secret@{address}/access"
        done = run_binary(["database", "migrate"], variables)
        thread.join()
    assert done.returncode == 1
    assert received[0] == bytes.fromhex("0000000804d2162f"), "the client requests TLS"
    assert bool(received[1]) == falls_back_to_plain_text, \
        "with verification, the client sends nothing in plain text"


def test_sidecar_follows_a_replica_and_answers_at_its_socket(directory, secrets):
    secrets.certify("node", "URI:spiffe://vendor.example/sidecar")
    copy_files(directory, {"certificate/tls.crt": "node.crt", "certificate/tls.key": "node.key"})
    chart_values = values_for("sidecar")
    objects = manifests(chart_values)
    text = find(objects, "ConfigMap", "support-access-sidecar")["data"]["sidecar.toml"]
    with start(objects, directory) as server:
        server.until_ready()
        upstream = f"https://localhost:{server.grpc_port()}"
        text = localized(text, directory)
        text = text.replace(chart_values["sidecar"]["upstreams"][0], upstream)
        uid = directory.stat().st_uid
        text = text.replace("gateway = [1000]", f"gateway = [{uid}]")
        (directory / "sidecar.toml").write_text(text)
        arguments = ["sidecar", "--config", str(directory / "sidecar.toml")]
        with Process(arguments, {}, directory) as sidecar:
            sidecar.until_ready()
            done = run_binary(["check", "acme", "dana", "--group", "support", "--level",
                               "read-only", "--server", f"unix:{directory}/check.sock"])
            assert done.returncode == 2 and "NO_GRANT" in done.stdout, done.stderr
            assert sidecar.terminate()[0] == 0


def test_steps_of_helm_test_succeed(directory, secrets):
    objects = manifests(values_for("monitoring"))
    secrets.certify("gateway", "URI:spiffe://vendor.example/gateway")
    copy_files(directory, {"caller/tls.crt": "gateway.crt", "caller/tls.key": "gateway.key",
                           "ca/ca.crt": "ca.crt"})
    token = secrets.token(roles=["access-admin"], tenants=["helm-test"])
    (directory / "caller/token").write_text(token)
    pod = find(objects, "Pod")["spec"]
    with start(objects, directory) as server:
        server.until_ready()
        for step in [*pod["initContainers"], *pod["containers"]]:
            variables = literal_variables(step, directory)
            service = "https://access-support-access.vendor.svc:50051"
            assert variables["SUPPORT_ACCESS_SERVER"] == service
            variables["SUPPORT_ACCESS_SERVER"] = f"https://localhost:{server.grpc_port()}"
            arguments = [localized(argument, directory) for argument in step["args"]]
            done = run_binary(arguments, variables)
            assert done.returncode == 0, f"{step['name']}: {done.stderr}"


@pytest.mark.parametrize(("setting", "message"), [
    ("tls_key", "TLS needs both"),
    ("tls_client_ca", "[certificates] needs tls-client-ca"),
])
def test_binary_rejects_what_the_schema_rejects(directory, secrets, setting, message):
    text = localized(access_toml(manifests(values_for("minimal"))), directory)
    lines = [line for line in text.splitlines() if not line.startswith(setting)]
    (directory / "access.toml").write_text("\n".join(lines))
    arguments = ["serve", "--config", str(directory / "access.toml")]
    done = run_binary(arguments, IN_MEMORY, directory)
    assert done.returncode == 64 and message in done.stderr
