"""Runs the binary with the files and arguments that the chart renders. Only paths, ports and the
addresses of other services differ."""

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
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from harness import BINARY, DEADLINE_S, eventually, plain_environment


def run_binary(arguments, variables=(), directory=None):
    """Runs a command to its end."""
    return subprocess.run(
        [BINARY, *arguments], env=plain_environment() | dict(variables), cwd=directory,
        capture_output=True, text=True, timeout=DEADLINE_S, check=False)


class Process:
    """A running `serve` or `sidecar`, and its log, which contains the ports."""

    def __init__(self, arguments, variables, directory):
        assert BINARY.exists(), f"{BINARY} does not exist; run `cargo build`"
        self.lines = []
        self.process = subprocess.Popen(
            [BINARY, *arguments], env=plain_environment() | dict(variables), cwd=directory,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stderr.close()

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line)

    def grpc_port(self):
        return self._port("grpc")

    def metrics_port(self):
        return self._port("metrics")

    def _port(self, name):
        """The port of the listener of this name in the log."""
        def port():
            assert self.process.poll() is None, "".join(self.lines)
            for line in self.lines:
                match = re.search(r"\blistening\W+(\w+)\W+\S*?[\d\]]:(\d+)", line)
                if match and match[1] == name:
                    return int(match[2])
            return None
        return eventually(port, "the listener is open")

    def get(self, path):
        """The status and body of a response at the metrics port."""
        url = f"http://127.0.0.1:{self.metrics_port()}{path}"
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE_S) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def until_ready(self):
        eventually(lambda: self.get("/readyz")[0] == 200,
                   "/readyz returns 200: " + "".join(self.lines[-5:]))

    def terminate(self):
        """Sends SIGTERM. Returns the exit code, and the seconds until the exit."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S), time.monotonic() - start


class Secrets:
    """The content of a cluster's secrets, as files: certificates and keys of a test authority, and
    the keys of a test issuer."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self._openssl("req", "-x509", *self._new_key("ca"), "-subj", "/CN=Test CA")
        self._openssl("genpkey", "-algorithm", "ed25519", "-out", "checkpoint.key")
        self.keys = {
            "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
            "ES256": ec.generate_private_key(ec.SECP256R1()),
        }
        numbers = {name: key.public_key().public_numbers() for name, key in self.keys.items()}
        modulus = numbers["RS256"].n.to_bytes(256, "big")
        x, y = (getattr(numbers["ES256"], axis).to_bytes(32, "big") for axis in "xy")
        jwks = [{"kty": "RSA", "e": "AQAB", "n": base64url(modulus)},
                {"kty": "EC", "crv": "P-256", "x": base64url(x), "y": base64url(y)}]
        for name, jwk in zip(self.keys, jwks, strict=True):
            jwk |= {"use": "sig", "alg": name, "kid": name}
        (self.directory / "keys.json").write_text(json.dumps({"keys": jwks}))

    def _new_key(self, name):
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc",
                "-keyout", f"{name}.key", "-out", f"{name}.crt"]

    def _openssl(self, *arguments):
        command = ["openssl", *arguments]
        subprocess.run(command, cwd=self.directory, check=True, capture_output=True)

    def certify(self, name, alternative_name):
        """Issues NAME.crt and NAME.key."""
        self._openssl("req", "-x509", *self._new_key(name), "-CA", "ca.crt", "-CAkey", "ca.key",
                      "-subj", f"/CN={name}", "-addext", "basicConstraints=CA:FALSE",
                      "-addext", f"subjectAltName={alternative_name}")

    def token(self, algorithm="RS256", **claims):
        defaults = {"iss": "https://id.example", "aud": "support-access", "sub": "helm@test",
                    "exp": int(time.time()) + 600}
        parts = [{"alg": algorithm, "kid": algorithm}, defaults | claims]
        signed = ".".join(base64url(json.dumps(part).encode()) for part in parts)
        key = self.keys[algorithm]
        if algorithm == "RS256":
            signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        else:
            numbers = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
            signature = b"".join(number.to_bytes(32, "big") for number in numbers)
        return f"{signed}.{base64url(signature)}"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
