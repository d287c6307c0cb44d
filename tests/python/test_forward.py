"""Forward-auth with a real nginx and a real Caddy, and the configurations in examples/."""

import http.client
import os
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest
from client import Client
from gateway import ISSUER, Issuer, Response, application, replaced
from harness import DEADLINE_S, ROOT, Server, Sidecar, eventually
from supportaccess.v1 import grant_pb2 as grants

SOCKET = "/run/support-access/web.sock"
FORGED = [("x-support-grant-id", "forged"), ("X-Support-Level", "ADMIN")]
CADDY = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "support-access")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Proxy:
    """A proxy with the configuration of an example."""

    def __init__(self, directory, example, command, *replacements):
        self.port = free_port()
        source = ROOT / "examples" / example
        config = directory / source.name
        config.write_text(replaced(source.read_text(), ("10000", str(self.port)), *replacements))
        self.arguments = [*map(str, command), str(config)]
        self.directory = directory

    def __enter__(self):
        self.log = open(self.directory / "proxy.log", "wb")
        home = str(self.directory)
        environment = os.environ | {"HOME": home, "XDG_DATA_HOME": home}
        self.process = subprocess.Popen(
            self.arguments, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            env=environment,
        )
        eventually(self._listens, "the proxy listens")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(DEADLINE_S)
        self.log.close()

    def _listens(self):
        log = self.directory / "proxy.log"
        assert self.process.poll() is None, f"the proxy has ended:\n{log.read_text()}"
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def request(self, path, token, method="GET", headers=()):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE_S)
        try:
            connection.putrequest(method, path)
            for name, value in [("authorization", f"Bearer {token}"), *headers]:
                connection.putheader(name, value)
            if method == "POST":
                connection.putheader("content-length", "0")
            connection.endheaders()
            return Response(connection.getresponse())
        finally:
            connection.close()


def nginx(directory, *replacements):
    program = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
    assert program, "nginx is not installed; see scripts/lib.sh"
    (directory / "logs").mkdir()
    settings = f"daemon off; master_process off; pid {directory}/nginx.pid; error_log stderr;"
    paths = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{path}_temp_path {directory}/{path};\n    " for path in paths)
    command = [program, "-p", directory, "-g", settings, "-c"]
    return Proxy(directory, "nginx/nginx.conf", command,
                 ("access_log off;", f"access_log off;\n    {temporary}"), *replacements)


def caddy(directory, *replacements):
    program = next(CADDY.glob("caddy-*/caddy"), None)
    assert program, "Caddy is not installed; see scripts/lib.sh"
    command = [program, "run", "--adapter", "caddyfile", "--config"]
    return Proxy(directory, "caddy/Caddyfile", command, *replacements)


class World:
    """A replica, a sidecar beside a proxy, and an application."""

    def __init__(self, stack, directory, proxy):
        self.replica = stack.enter_context(Server("memory:"))
        self.client = stack.enter_context(Client(self.replica.target, tenant_id="acme"))
        self.issuer = Issuer()
        self.token = self.issuer.token(email="agent-7", groups=["/support", "/others"])
        keys, path = directory / "keys.json", directory / "web.sock"
        keys.write_text(self.issuer.jwks())
        settings = directory / "support-access.toml"
        text = (ROOT / "examples" / proxy.__name__ / "support-access.toml").read_text()
        settings.write_text(replaced(
            text, ("33", str(os.getuid())), (SOCKET, str(path)),
            (f'issuer = "{ISSUER}"', f'issuer = "{ISSUER}", keys = "{keys}"')))
        self.sidecar = stack.enter_context(
            Sidecar(f"http://{self.replica.target}", f"--config={settings}",
                    "--web-listen", f"unix:{path}"))
        port = stack.enter_context(application())
        self.proxy = stack.enter_context(
            proxy(directory, (SOCKET, str(path)), ("127.0.0.1:8000", f"127.0.0.1:{port}")))

    def get(self, path="/t/acme/users", **fields):
        return self.proxy.request(path, fields.pop("token", self.token), **fields)

    def allowed(self):
        eventually(lambda: self.get().status == 200, "the request is allowed")


@pytest.fixture(params=[nginx, caddy], ids=["nginx", "caddy"])
def world(request, tmp_path):
    with ExitStack() as stack:
        yield World(stack, tmp_path, request.param)


def support_headers(response):
    return {name: value for name, value in response.json if name.startswith("x-support-")}


def test_a_grant_allows_until_the_revocation(world):
    eventually(lambda: world.get().status == 403, "the sidecar decides")
    grant = world.client.grant(access_level=grants.ACCESS_LEVEL_READ_ONLY)
    world.allowed()
    headers = support_headers(world.get(headers=FORGED))
    assert headers["x-support-grant-id"] == grant.grant_id, "our headers replace the client's"
    assert headers["x-support-level"] == "READ_ONLY"
    assert headers["x-support-until"].endswith("Z")
    assert world.get(method="POST").status == 403, "the level of the method"
    assert world.get("/t/globex/users").status == 403
    assert world.get(token="forged").status == 403
    assert world.get(token=Issuer().token(email="agent-7", groups=["/support"])).status == 403
    world.client.revoke(grant)
    assert world.get().status == 403, "the revocation is enforced once it returns"


def test_headers_of_the_client_do_not_change_the_question(world):
    world.client.grant(access_level=grants.ACCESS_LEVEL_READ_ONLY)
    world.allowed()
    for headers in [
        [("x-forwarded-uri", "/t/acme/users"), ("x-forwarded-method", "GET")],
        [("x-original-uri", "/t/acme/users"), ("x-original-method", "GET")],
    ]:
        assert world.get("/t/globex/users", headers=headers).status == 403
        assert world.get(method="POST", headers=headers).status == 403


def test_no_request_is_allowed_without_a_decision(world):
    world.client.grant()
    world.allowed()
    world.sidecar.pause()
    assert world.get().status >= 500, "the proxy waits for a bounded time"
    world.sidecar.resume()
    world.allowed()
    world.replica.kill()
    eventually(lambda: world.get().status >= 500, "the sidecar has no lease")
    world.sidecar.kill()
    assert world.get().status >= 500
