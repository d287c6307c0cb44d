"""The real binary takes what the chart renders: files, arguments and environment."""

import re
import socket
import tempfile
import threading
from pathlib import Path

import pytest
from chart import VALUES, configuration, objects, one, read, values
from harness import DEADLINE_S
from processes import Process, Secrets, run

SERVERS = [path for path in VALUES if read(path).get("enabled", True)]


@pytest.fixture(name="place")
def make_place():
    """Where the pod's files are. The name is short, since there are sockets in it."""
    with tempfile.TemporaryDirectory(prefix="chart-") as directory:
        yield Path(directory)


@pytest.fixture(name="secrets")
def make_secrets(place):
    secrets = Secrets(place)
    secrets.certify("server", "DNS:localhost,IP:127.0.0.1")
    for name, files in {"tls": {"tls.crt": "server.crt", "tls.key": "server.key"}, "client-ca": {"ca.crt": "ca.crt"},
                        "checkpoint": {"checkpoint.key": "checkpoint.key"}, "upstream-ca": {"ca.crt": "ca.crt"}}.items():
        (place / name).mkdir()
        for path, source in files.items():
            (place / name / path).write_bytes((place / source).read_bytes())
    return secrets


def moved(text, place):
    """Where the pod's files are, in here; and ports that are free. On loopback, where the pod listens for all."""
    text = text.replace("/etc/support-access/config", str(place)).replace("/etc/support-access", str(place))
    text = text.replace("/run/support-access", str(place)).replace("/var/lib/support-access", str(place))
    text = re.sub(r'(listen = \[?")0\.0\.0\.0:\d+"', r'\g<1>127.0.0.1:0"', text)
    text = re.sub(r'(listen = \[?")\[::\]:\d+"', r'\g<1>[::ffff:127.0.0.1]:0"', text)
    return text.replace('"https://id.example/jwks.json"', f'"{place}/keys.json"')


def start(found, place):
    """The container of the Deployment, as a process."""
    (place / "access.toml").write_text(moved(configuration(found), place))
    container = one(found, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    more = {it["name"]: moved(it["value"], place) for it in container.get("env", []) if "value" in it}
    if any(it["name"] == "SUPPORT_ACCESS_DATABASE_URL" for it in container.get("env", [])):
        # Here is no PostgreSQL: that the binary takes one is for the other tests.
        more["SUPPORT_ACCESS_DATABASE_URL"] = "memory:"
    return Process([moved(argument, place) for argument in container["args"]], more, place)


@pytest.mark.parametrize("path", SERVERS, ids=lambda path: path.stem)
def test_it_starts_answers_its_probes_and_ends_in_time(path, place, secrets):
    found = objects(read(path))
    pod = one(found, "Deployment")["spec"]["template"]["spec"]
    container = pod["containers"][0]
    with start(found, place) as server:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["port"] == "metrics"
            if probe == "readinessProbe":
                server.until_ready()
            assert server.get(asked["path"])[0] == 200
        code, seconds = server.terminate()
    grace = pod["terminationGracePeriodSeconds"] - container.get("lifecycle", {"preStop": {"sleep": {"seconds": 0}}})["preStop"]["sleep"]["seconds"]
    assert code == 0 and seconds < min(grace, DEADLINE_S)
    drain = int(re.search(r'drain_timeout = "(\d+)s"', configuration(found))[1])
    assert grace >= drain + 5, "what is cut has time to be cut"


def test_migrations_are_a_command_of_the_binary(place):
    found = objects(values("migration-job"))
    container = one(found, "Job")["spec"]["template"]["spec"]["containers"][0]
    assert container["env"][0]["name"] == "SUPPORT_ACCESS_DATABASE_URL"
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "pg-owner", "key": "uri"}
    for _ in range(2):
        done = run(container["args"], {"SUPPORT_ACCESS_DATABASE_URL": f"sqlite://{place}/access.db"})
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("name", "is_told_more"), [("migration-job", False), ("minimal", True)])
def test_how_the_database_is_verified_is_heeded(place, secrets, name, is_told_more):
    found = objects(values(name))
    container = one(found, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    more = {it["name"]: moved(it["value"], place) for it in container["env"] if "value" in it}
    received = []

    def refuse_tls(listener):
        """A PostgreSQL that has no TLS, as far as anybody gets with it."""
        connection, _ = listener.accept()
        with connection:
            received.append(connection.recv(8))
            connection.sendall(b"N")
            received.append(connection.recv(1024))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE_S)
        thread = threading.Thread(target=refuse_tls, args=[listener])
        thread.start()
        more["SUPPORT_ACCESS_DATABASE_URL"] = f"postgres://somebody:secret@127.0.0.1:{listener.getsockname()[1]}/access"
        done = run(["database", "migrate"], more)
        thread.join()
    assert done.returncode == 1
    assert received[0] == bytes.fromhex("0000000804d2162f"), "it asks for TLS"
    assert bool(received[1]) == is_told_more, "who must verify the server tells it nothing without TLS"


def test_a_sidecar_follows_and_answers_at_its_socket(place, secrets):
    secrets.certify("node", "URI:spiffe://vendor.example/sidecar")
    (place / "certificate").mkdir()
    for name in ("crt", "key"):
        (place / "certificate" / f"tls.{name}").write_bytes((place / f"node.{name}").read_bytes())
    given = values("sidecar")
    found = objects(given)
    text = one(found, "ConfigMap", "support-access-sidecar")["data"]["sidecar.toml"]
    with start(found, place) as server:
        server.until_ready()
        text = moved(text, place).replace(given["sidecar"]["upstreams"][0], f"https://localhost:{server.port('grpc')}")
        # Who asks is this very user.
        text = text.replace("gateway = [1000]", f"gateway = [{place.stat().st_uid}]")
        (place / "sidecar.toml").write_text(text)
        with Process(["sidecar", "--config", str(place / "sidecar.toml")], {}, place) as sidecar:
            sidecar.until_ready()
            question = ["check", "acme", "dana", "--group", "support", "--level", "read-only"]
            done = run([*question, "--server", f"unix:{place}/check.sock"])
            assert done.returncode == 1 and "NO_GRANT" in done.stdout, done.stderr
            assert sidecar.terminate()[0] == 0


def test_what_helm_test_does_can_be_done(place, secrets):
    given = values("monitoring")
    found = objects(given)
    secrets.certify("gateway", "URI:spiffe://vendor.example/gateway")
    for path, name in {"caller/tls.crt": "gateway.crt", "caller/tls.key": "gateway.key", "ca/ca.crt": "ca.crt"}.items():
        (place / path).parent.mkdir(exist_ok=True)
        (place / path).write_bytes((place / name).read_bytes())
    (place / "caller/token").write_text(secrets.token(roles=["access-admin"], tenants=["helm-test"]))
    pod = one(found, "Pod")["spec"]
    with start(found, place) as server:
        server.until_ready()
        upstream = f"https://localhost:{server.port('grpc')}"
        for step in [*pod["initContainers"], *pod["containers"]]:
            more = {it["name"]: moved(it["value"], place) for it in step["env"]}
            assert more["SUPPORT_ACCESS_SERVER"] == "https://access-support-access.vendor.svc:50051"
            arguments = [moved(argument, place) for argument in step["args"]]
            if "--expect" in arguments and "--expect" not in run(["check", "--help"]).stdout:
                arguments = [it for it in arguments if it not in ("--expect", "denied")]
                assert run(arguments, more | {"SUPPORT_ACCESS_SERVER": upstream}).returncode == 1
                pytest.skip("this binary has no `check --expect denied`: all but that was seen to work")
            done = run(arguments, more | {"SUPPORT_ACCESS_SERVER": upstream})
            assert done.returncode == 0, f"{step['name']}: {done.stderr}"


def test_what_the_schema_refuses_the_binary_would_refuse_too(place, secrets):
    text = moved(configuration(objects(values("minimal"))), place)
    for gone, complaint in (("tls_key", "TLS needs both"), ("tls_client_ca", "[certificates] needs tls-client-ca")):
        kept = [line for line in text.splitlines() if not line.startswith(gone)]
        (place / "access.toml").write_text("\n".join(kept))
        done = run(["serve", "--config", str(place / "access.toml")], {"SUPPORT_ACCESS_DATABASE_URL": "memory:"}, place)
        assert done.returncode == 64 and complaint in done.stderr
