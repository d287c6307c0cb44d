"""A verifier of exported histories, written from docs/history.md alone.

python tests/python/history_verifier.py FILE [PUBLIC_KEY_FILE]
"""

import hashlib
import json
import re
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

RECORD = "support-access.history.record.v1"
CHECKPOINT = "support-access.history.checkpoint.v1"
LENGTH_MAX = 4_194_304
DEPTH_MAX = 127
WHOLE_MAX = 2**53 - 1
ZERO = "0" * 64


class FaultKind(Exception):
    """A fault by its name in docs/history.md, without the line."""

    def __init__(self, kind):
        super().__init__(kind)
        self.kind = kind


class Fault(Exception):
    """A fault, and the first line that has it."""

    def __init__(self, line, kind):
        super().__init__(f"line {line}: {kind}")
        self.line = line
        self.kind = kind


def canonical(value):
    """A value in canonical JSON (RFC 8785). Only whole numbers are supported."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int) and abs(value) <= WHOLE_MAX:
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return "{" + ",".join(f"{canonical(name)}:{canonical(value[name])}" for name in names) + "}"
    raise FaultKind("not_canonical")


def depth(value):
    if isinstance(value, list):
        return 1 + max(map(depth, value), default=0)
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 0


def no_constant(text):
    raise ValueError(f"{text} is not JSON")


def parse(line):
    """The object on a canonical line."""
    if len(line) > LENGTH_MAX:
        raise FaultKind("too_long")
    try:
        text = line.decode()
        value = json.loads(text, parse_constant=no_constant)
        if depth(value) > DEPTH_MAX:
            raise ValueError("too deep")
        json.dumps(value, ensure_ascii=False).encode()  # fails for half of a surrogate pair
    except (ValueError, RecursionError):
        raise FaultKind("not_json") from None
    if canonical(value) != text:
        raise FaultKind("not_canonical")
    return value


def is_text(value):
    return isinstance(value, str)


def is_hex(digits):
    return lambda value: (
        isinstance(value, str) and re.fullmatch(f"[0-9a-f]{{{digits}}}", value) is not None
    )


def is_number(least):
    return lambda value: type(value) is int and value >= least


COMMON = {
    "format": is_text,
    "hash": is_hex(64),
    "log": is_text,
    "tenant_id": is_text,
    "time": is_text,
}
OF_RECORD = COMMON | {
    "actor": is_text,
    "event": lambda value: isinstance(value, dict),
    "previous_hash": is_hex(64),
    "reason": is_text,
    "sequence": is_number(1),
}
MAYBE_OF_RECORD = {"actor_asserted": lambda value: value is True, "via": is_text}
OF_CHECKPOINT = COMMON | {"sequence": is_number(0)}
OF_SIGNED = OF_CHECKPOINT | {"key_id": is_hex(16), "signature": is_hex(128)}


def has(value, needed, maybe=()):
    known = needed | dict(maybe)
    return needed.keys() <= value.keys() <= known.keys() and all(
        known[name](value[name]) for name in value
    )


def read(line):
    """A record or a checkpoint."""
    value = parse(line)
    kind = value.get("format") if isinstance(value, dict) else None
    if kind == RECORD and has(value, OF_RECORD, MAYBE_OF_RECORD):
        return value
    if kind == CHECKPOINT and (has(value, OF_CHECKPOINT) or has(value, OF_SIGNED)):
        if value["sequence"] > 0 or value["hash"] == ZERO:
            return value
    raise FaultKind("unknown")


def without(value, name):
    return canonical({key: value[key] for key in value if key != name}).encode()


def key_id(key):
    return hashlib.sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]


def check_signature(checkpoint, key):
    if key is None:
        return
    if "signature" not in checkpoint:
        raise FaultKind("not_signed")
    if checkpoint["key_id"] != key_id(key):
        raise FaultKind("other_key")
    try:
        key.verify(bytes.fromhex(checkpoint["signature"]), without(checkpoint, "signature"))
    except InvalidSignature:
        raise FaultKind("wrong_signature") from None


class Verifier:
    """Verifies line by line. Keeps the last hash, the log and the tenant."""

    def __init__(self, key=None, kept=None):
        self.key = key
        self.kept = kept
        self.subject = None
        self.sequence, self.hash = 0, ZERO
        self.lines = 0
        self.has_checkpoint = False
        if kept:
            check_signature(kept, key)
            self.subject = kept["log"], kept["tenant_id"]

    def line(self, line):
        self.lines += 1
        try:
            value = read(line)
            if self.has_checkpoint:
                raise FaultKind("after_checkpoint")
            if value["format"] == RECORD:
                self._record(value)
            else:
                self._checkpoint(value)
        except FaultKind as fault:
            raise Fault(self.lines, fault.kind) from None

    def finish(self):
        after_records = self.lines - self.has_checkpoint + 1
        if not self.lines:
            raise Fault(1, "empty")
        if self.kept and self.sequence < self.kept["sequence"]:
            raise Fault(after_records, "cut_short")
        if self.key and not self.kept and not self.has_checkpoint:
            raise Fault(after_records, "no_checkpoint")

    def _subject(self, value):
        log, tenant_id = self.subject = self.subject or (value["log"], value["tenant_id"])
        if value["log"] != log:
            raise FaultKind("other_log")
        if value["tenant_id"] != tenant_id:
            raise FaultKind("other_tenant")

    def _record(self, record):
        if hashlib.sha256(without(record, "hash")).hexdigest() != record["hash"]:
            raise FaultKind("changed")
        self._subject(record)
        if record["sequence"] != self.sequence + 1:
            raise FaultKind("not_next")
        if record["previous_hash"] != self.hash:
            raise FaultKind("not_following")
        if (
            self.kept
            and self.kept["sequence"] == record["sequence"]
            and self.kept["hash"] != record["hash"]
        ):
            raise FaultKind("checkpoint_mismatch")
        self.sequence, self.hash = record["sequence"], record["hash"]

    def _checkpoint(self, checkpoint):
        check_signature(checkpoint, self.key)
        self._subject(checkpoint)
        if checkpoint["sequence"] > self.sequence:
            raise FaultKind("cut_short")
        if (checkpoint["sequence"], checkpoint["hash"]) != (self.sequence, self.hash):
            raise FaultKind("checkpoint_mismatch")
        self.has_checkpoint = True


def read_key(pem):
    key = load_pem_public_key(pem)
    assert isinstance(key, Ed25519PublicKey), "not an Ed25519 key"
    return key


def verify(lines, key=None, kept=None):
    """The first fault of a history, as (line, kind), or None.

    `lines` and `kept` are bytes without line feeds.
    """
    try:
        verifier = Verifier(key, read(kept) if kept else None)
    except FaultKind as fault:
        return 0, fault.kind
    try:
        for line in lines:
            verifier.line(line)
        verifier.finish()
    except Fault as fault:
        return fault.line, fault.kind
    return None


def lines_of(data):
    """The lines of a file. The last line feed is optional."""
    lines = data.split(b"\n")
    return lines if lines[-1] else lines[:-1]


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as file:
        content = lines_of(file.read())
    public_key = read_key(open(sys.argv[2], "rb").read()) if len(sys.argv) > 2 else None
    found = verify(content, public_key)
    sys.exit(f"line {found[0]}: {found[1]}" if found else 0)
