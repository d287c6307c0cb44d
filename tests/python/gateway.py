"""An Envoy with the example's configuration, an application behind it, and an issuer of tokens."""

import base64
import hashlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from client import Client
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from harness import DEADLINE_S, ROOT, Server, Sidecar, eventually

EXAMPLE = ROOT / "examples/envoy"
ISSUER = "https://id.vendor.example"
PIPE = "pipe: { path: /run/support-access/check.sock }"
# The example's value in seconds, and a shorter one for the tests.
MAX_STREAM_DURATION = ("max_stream_duration: 60s", "max_stream_duration: 2s")
# RFC 6455, section 1.3.
WEBSOCKET_ID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
FRAME_INTERVAL_S = 0.05


def replaced(text, *pairs):
    """The text with replacements, each of which must occur."""
    for before, after in pairs:
        assert before in text, f"{before!r} is not in the example"
        text = text.replace(before, after)
    return text


def encoded(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Issuer:
    """Signs tokens with ES256."""

    name = ISSUER

    def __init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())

    def jwks(self):
        numbers = self.key.public_key().public_numbers()
        x, y = (encoded(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        return json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "x": x, "y": y}]})

    def token(self, **claims):
        standard = {"iss": ISSUER, "aud": "app", "sub": "7", "exp": int(time.time()) + 600}
        parts = [{"alg": "ES256"}, standard | claims]
        signed = ".".join(encoded(json.dumps(part).encode()) for part in parts)
        signature = self.key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
        numbers = utils.decode_dss_signature(signature)
        raw = b"".join(number.to_bytes(32, "big") for number in numbers)
        return f"{signed}.{encoded(raw)}"


class Handler(BaseHTTPRequestHandler):
    """Responds with the headers of the request. A WebSocket gets frames until it is closed."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers.get("upgrade", "").lower() == "websocket":
            return self.stream()
        body = json.dumps([[name.lower(), value] for name, value in self.headers.items()]).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def stream(self):
        key = self.headers["sec-websocket-key"] + WEBSOCKET_ID
        self.send_response(101)
        self.send_header("upgrade", "websocket")
        self.send_header("connection", "upgrade")
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.send_header("sec-websocket-accept", accept)
        self.end_headers()
        self.close_connection = True
        try:
            while True:
                self.wfile.write(b"\x81\x04data")
                time.sleep(FRAME_INTERVAL_S)  # the rate of the stream
        except OSError:
            pass

    def log_message(self, *_):
        pass


@contextmanager
def application():
    """The port of an application."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Response:
    """The response of an HTTP request at the gateway."""

    def __init__(self, response):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.text = response.read().decode()

    @property
    def json(self):
        return json.loads(self.text)

    @property
    def refusal(self):
        """The status and the reason of a denial by support-access."""
        assert self.headers["content-type"] == "application/json", self.text
        assert self.json.keys() == {"reason", "message", "remedy"}, self.text
        assert ("retry-after" in self.headers) == (self.status == 503), self.headers
        return self.status, self.json["reason"]


class Envoy:
    """Envoy on free ports."""

    def __init__(self, directory, *replacements):
        program = shutil.which("envoy")
        assert program, "envoy is not installed; see scripts/requirements.in"
        self.directory = Path(directory)
        text = (EXAMPLE / "envoy.yaml").read_text()
        for port in ("9901", "10000"):
            text = replaced(text, (f"port_value: {port}", "port_value: 0"))
        config = self.directory / "envoy.yaml"
        config.write_text(replaced(text, *replacements))
        self.address_file = self.directory / "admin"
        arguments = ["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "warning"]
        arguments += ["--admin-address-path", self.address_file]
        self.arguments = [program, "--config-path", config, *arguments]

    def __enter__(self):
        self.log = open(self.directory / "envoy.log", "wb")
        self.process = subprocess.Popen(
            self.arguments, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log
        )
        self.port = eventually(self._listening, "Envoy listens")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def _listening(self):
        log = self.directory / "envoy.log"
        assert self.process.poll() is None, f"Envoy has ended:\n{log.read_text()}"
        if not self.address_file.exists() or ":" not in self.address_file.read_text():
            return None
        host, port = self.address_file.read_text().strip().rsplit(":", 1)
        admin = http.client.HTTPConnection(host, int(port), timeout=DEADLINE_S)
        try:
            admin.request("GET", "/ready")
            if admin.getresponse().read().strip() != b"LIVE":
                return None
            admin.request("GET", "/listeners?format=json")
            listeners = json.loads(admin.getresponse().read())["listener_statuses"]
        except OSError:
            return None
        finally:
            admin.close()
        return listeners and listeners[0]["local_address"]["socket_address"]["port_value"]

    def request(self, path, token, method="GET", headers=()):
        """A request on a connection of its own."""
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

    def websocket(self, path, token):
        """An open WebSocket."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE_S)
        key = base64.b64encode(os.urandom(16)).decode()
        head = [f"GET {path} HTTP/1.1", "host: app", "connection: upgrade", "upgrade: websocket"]
        head += [f"authorization: Bearer {token}", "sec-websocket-version: 13"]
        head += [f"sec-websocket-key: {key}", "", ""]
        made.sendall("\r\n".join(head).encode())
        assert made.recv(65_536).startswith(b"HTTP/1.1 101"), "the WebSocket was not accepted"
        return made


class World:
    """A replica, a sidecar beside Envoy, and an application. `identity` issues the tokens of
    agents. `config` and `gateway` are further replacements in the example's files."""

    def __init__(
        self,
        stack,
        directory,
        fails_open,
        identity=None,
        limits="",
        is_authenticated=True,
        config=(),
        gateway=(),
    ):
        self.replica = stack.enter_context(Server("memory:"))
        self.client = stack.enter_context(Client(self.replica.target, tenant_id="acme"))
        self.issuer = identity or Issuer()
        jwks, settings = directory / "jwks.json", directory / "support-access.toml"
        jwks.write_text(self.issuer.jwks())
        self.token = self.issuer.token(email="agent-7", groups=["/support", "/others"])
        text = (EXAMPLE / "support-access.toml").read_text()
        text = replaced(text, ("101", str(os.getuid())), *config)
        settings.write_text(text + limits)
        path = directory / "check.sock"
        arguments = [f"--config={settings}", f"--listen=unix:{path}"]
        self.sidecar = stack.enter_context(Sidecar(f"http://{self.replica.target}", *arguments))
        address = f"pipe: {{ path: {path} }}"
        if not is_authenticated:
            # TCP proves no user id.
            port = self.sidecar.ports["grpc"]
            address = f"socket_address: {{ address: 127.0.0.1, port_value: {port} }}"
        port = stack.enter_context(application())
        replacements = [
            (PIPE, address),
            ("port_value: 8000", f"port_value: {port}"),
            ("/etc/envoy/jwks.json", str(jwks)),
            (f"issuer: {ISSUER}", f"issuer: {self.issuer.name}"),
            ("failure_mode_allow: false", f"failure_mode_allow: {str(fails_open).lower()}"),
            MAX_STREAM_DURATION,
            *gateway,
        ]
        self.envoy = stack.enter_context(Envoy(directory, *replacements))

    def get(self, path="/t/acme/users", **fields):
        return self.envoy.request(path, fields.pop("token", self.token), **fields)

    def eventually(self, status, reason):
        """Waits for a denial. Asserts that no request is allowed meanwhile."""

        def probe():
            response = self.get()
            assert response.status != 200, response.text
            return response.refusal == (status, reason)

        eventually(probe, f"{status} {reason}")

    def allowed(self):
        """Waits until the grant has reached the sidecar."""
        eventually(lambda: self.get().status == 200, "the request is allowed")
