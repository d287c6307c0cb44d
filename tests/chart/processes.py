"""The real binary, on the files and arguments that the chart renders. Only paths, ports and addresses of others are changed."""

import base64
import json
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from harness import BINARY, DEADLINE_S, eventually, plain_environment


def environment(more=()):
    return plain_environment() | dict(more)


def run(arguments, more=(), directory=None):
    """The finished command."""
    return subprocess.run([BINARY, *arguments], env=environment(more), cwd=directory, capture_output=True, text=True,
                          timeout=DEADLINE_S, check=False)


class Process:
    """`serve` or `sidecar`, with its lines of log, which say where it listens."""

    def __init__(self, arguments, more, directory):
        assert BINARY.exists(), f"{BINARY} is not there: run `cargo build` first"
        self.lines = []
        self.process = subprocess.Popen([BINARY, *arguments], env=environment(more), cwd=directory, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)

    def port(self, kind):
        """Where it listens for `grpc` or `http`."""
        kind = {"http": "metrics"}.get(kind, kind)

        def found():
            assert self.process.poll() is None, "".join(self.lines)
            listening = [line for line in self.lines if re.search(r"\blistening\b", line)]
            matches = [re.search(rf"{kind}\W+[^\n]*?[\d\]]:(\d+)\b", line.lower()) for line in listening]
            return next((int(match[1]) for match in matches if match), None)
        return eventually(found, f"{kind} is listened on")

    def get(self, path):
        """Status and text of the HTTP port's answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port('http')}{path}", timeout=DEADLINE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def until_ready(self):
        eventually(lambda: self.get("/readyz")[0] == 200, "it is ready: " + "".join(self.lines[-5:]))

    def terminate(self):
        """Exit code, and after how many seconds."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S), time.monotonic() - began


class Secrets:
    """What the secrets of a cluster would hold, as files in a directory: made by openssl, and an issuer of our own."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self._openssl("req", "-x509", *self._new("ca"), "-subj", "/CN=Test CA")
        self._openssl("genpkey", "-algorithm", "ed25519", "-out", "checkpoint.key")
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        numbers = self.key.public_key().public_numbers()
        modulus = numbers.n.to_bytes(256, "big")
        jwk = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "1", "e": "AQAB", "n": base64url(modulus)}
        (self.directory / "keys.json").write_text(json.dumps({"keys": [jwk]}))

    def _new(self, name):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", f"{name}.key", "-out", f"{name}.crt"]

    def _openssl(self, *arguments):
        subprocess.run(["openssl", *arguments], cwd=self.directory, check=True, capture_output=True)

    def certify(self, name, alternative):
        self._openssl("req", "-x509", *self._new(name), "-CA", "ca.crt", "-CAkey", "ca.key", "-subj", f"/CN={name}",
                      "-addext", "basicConstraints=CA:FALSE", "-addext", f"subjectAltName={alternative}")
        return self.directory / f"{name}.crt", self.directory / f"{name}.key"

    def token(self, **claims):
        claims = {"iss": "https://id.example", "aud": "support-access", "sub": "helm@test", "exp": int(time.time()) + 600} | claims
        parts = [{"alg": "RS256", "kid": "1"}, claims]
        signed = ".".join(base64url(json.dumps(part).encode()) for part in parts)
        signature = self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{base64url(signature)}"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
