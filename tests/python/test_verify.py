"""Manipulated exports. Both verifiers find the same fault in the same line.

One verifier is the service's, and the other was written from docs/history.md.
"""

import json
import random
import re
import subprocess
from hashlib import sha256

import pytest
from client import DAY, DEADLINE_S, Client, duration, kind
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from harness import BINARY, Server, plain_environment
from history_verifier import ZERO, canonical, lines_of, read_key, verify

TENANT = "Zoë & söhne"
# The start of the message of `history verify` for each fault in docs/history.md.
SENTENCES = {
    "too_long": "it is longer than",
    "not_json": "it is not JSON",
    "not_canonical": "it is not canonical JSON",
    "unknown": "it is neither a record nor a checkpoint",
    "after_checkpoint": "it follows the checkpoint",
    "not_signed": "the checkpoint is not signed",
    "other_key": "the checkpoint is signed by the key",
    "wrong_signature": "the signature of the checkpoint is wrong",
    "other_log": "it belongs to another log",
    "other_tenant": "it belongs to another history",
    "cut_short": "the history was cut short",
    "checkpoint_mismatch": "it does not match the checkpoint",
    "changed": "it was changed",
    "not_next": "it is event",
    "not_following": "it does not follow the line before",
    "empty": "the file is empty",
    "no_checkpoint": "there is no checkpoint",
}


def command(*arguments, **options):
    return subprocess.run(
        [BINARY, *arguments],
        env=plain_environment() | {"USER": "alice"},
        capture_output=True,
        timeout=DEADLINE_S,
        **options,
    )


def history(server, *arguments):
    done = command("history", *arguments, "--server", f"http://{server.target}")
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout


def write_key(path):
    """A key in the format of OpenSSL, and the file of its public key."""
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = path.with_suffix(".pub")
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return public


def live(server, tenant_id):
    """Ten events of the changes of a caller, with texts that need escapes."""
    with Client(server.target, tenant_id, actor="maria@acme") as client:
        reasons = ("tabs\tand\nlines", 'quotes " and \\ and /', "支援 👩‍🚒 \u2028 ﬀ")
        for reason in reasons:
            grant = client.grant(duration=duration(DAY), reason=reason)
            client.extend(grant, duration=duration(2 * DAY), reason=reason)
            client.revoke(grant, reason=reason)
        client.grant(until_revoked=True, agent_ids=["d'arcy", "支援"])


class Exported:
    """A history, exported from a server that signs."""

    def __init__(self, directory, database_url):
        self.public = write_key(directory / "signing.key")
        self.stranger = write_key(directory / "stranger.key")
        with Server(database_url, "--checkpoint-key", directory / "signing.key") as server:
            live(server, TENANT)
            self.early = history(server, "checkpoint", TENANT).rstrip(b"\n")
            live(server, TENANT)
            live(server, "bolt")
            self.lines = lines_of(history(server, "export", TENANT))
            self.other = lines_of(history(server, "export", "bolt"))
            self.late = history(server, "checkpoint", TENANT).rstrip(b"\n")
            self.vendor = lines_of(history(server, "export", "--vendor"))
            with Client(server.target, TENANT) as client:
                self.listed = list(client.settled_events())
            assert server.terminate() == 0
            assert b"PRIVATE" not in server.log().encode()
        self.records, self.checkpoint = self.lines[:-1], self.lines[-1]


@pytest.fixture(scope="session")
def exported(backend, request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("history")
    if backend == "sqlite":
        return Exported(directory, f"sqlite://{directory}/history.db")
    return Exported(directory, request.getfixturevalue("postgres").new_database())


def both(tmp_path, lines, public=None, kept=None):
    """The fault that both verifiers find. The test fails if the verifiers differ."""
    file = tmp_path / "input.jsonl"
    file.write_bytes(b"".join(line + b"\n" for line in lines))
    arguments = ["history", "verify", file]
    if public:
        arguments += ["--public-key", public]
    if kept:
        (tmp_path / "kept").write_bytes(kept + b"\n")
        arguments += ["--checkpoint", tmp_path / "kept"]
    result = command(*arguments)
    found = verify(lines, read_key(public.read_bytes()) if public else None, kept)
    if found is None:
        assert result.returncode == 0, result
        return None
    line, kind = found
    place = f"line {line}" if line else "--checkpoint"
    assert result.returncode == 2, (found, result)
    assert result.stderr.decode().startswith(f"error: {place}: {SENTENCES[kind]}"), (found, result)
    assert result.stdout == b""
    return found


def changed(line, **members):
    """A line with other members, but the old hash."""
    value = json.loads(line)
    for name, member in members.items():
        if member is None:
            value.pop(name, None)
        else:
            value[name] = member
    return canonical(value).encode()


def rehashed(line, **members):
    """As `changed`, with the matching hash."""
    bare = changed(line, hash=None, **members)
    return changed(bare, hash=sha256(bare).hexdigest())


def rewritten(lines, at, **members):
    """Changes a record, and computes new hashes for that record and all later ones."""
    given, previous = list(lines[:at]), json.loads(lines[at - 1])["hash"] if at else ZERO
    for line in lines[at:]:
        given.append(rehashed(line, previous_hash=previous, **members))
        previous, members = json.loads(given[-1])["hash"], {}
    return given


def test_an_export_verifies(exported, tmp_path):
    assert len(exported.records) == 20
    for lines in (exported.lines, exported.records, exported.other, exported.vendor):
        assert both(tmp_path, lines) is None
    assert both(tmp_path, exported.lines, public=exported.public) is None
    assert both(tmp_path, exported.vendor, public=exported.public) is None
    for kept in (exported.early, exported.late, exported.checkpoint):
        assert both(tmp_path, exported.lines, kept=kept) is None
        assert both(tmp_path, exported.records, public=exported.public, kept=kept) is None


def test_records_agree_with_the_list(exported):
    for line, event in zip(exported.records, reversed(exported.listed), strict=True):
        record = json.loads(line)
        assert (record["sequence"], bytes.fromhex(record["hash"])) == (event.sequence, event.hash)
        assert (record["sequence"], record["actor"], record["reason"]) == (
            event.sequence,
            event.actor,
            event.reason,
        )
        assert record["time"] == event.create_time.ToDatetime().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        assert record["tenant_id"] == record["event"]["grant"]["tenant_id"] == TENANT
        assert record["event"]["type"] == kind(event)
        assert re.fullmatch("[0-9a-f-]{36}", record["log"])


def test_tampering_is_found_in_its_first_line(exported, tmp_path):
    lines, checkpoint = exported.lines, exported.checkpoint
    count = len(exported.records)
    foreign = exported.other[4]
    cases = {
        "the reason was changed": (
            lines[:4] + [changed(lines[4], reason="x")] + lines[5:],
            (5, "changed"),
        ),
        "the actor was changed": (
            lines[:1] + [changed(lines[1], actor="x")] + lines[2:],
            (2, "changed"),
        ),
        "a member was added": (
            lines[:4] + [changed(lines[4], via="portal")] + lines[5:],
            (5, "changed"),
        ),
        "a member was removed": (
            lines[:4] + [changed(lines[4], actor=None)] + lines[5:],
            (5, "unknown"),
        ),
        "a line was removed": (lines[:4] + lines[5:], (5, "not_next")),
        "the first line was removed": (lines[1:], (1, "not_next")),
        "the last record was removed": (lines[:-2] + lines[-1:], (count, "cut_short")),
        "the end was cut off": (lines[:7] + lines[-1:], (8, "cut_short")),
        "a line was duplicated": (lines[:5] + lines[4:], (6, "not_next")),
        "two lines were swapped": (lines[:4] + [lines[5], lines[4]] + lines[6:], (5, "not_next")),
        "a line was moved to the end": (
            lines[:4] + lines[5:-1] + [lines[4]] + lines[-1:],
            (5, "not_next"),
        ),
        "a line of another tenant": (lines[:4] + [foreign] + lines[5:], (5, "other_tenant")),
        "another tenant's name": (
            lines[:4] + [changed(lines[4], tenant_id="bolt")] + lines[5:],
            (5, "changed"),
        ),
        "another log's name": (
            lines[:4] + [rehashed(lines[4], log="x")] + lines[5:],
            (5, "other_log"),
        ),
        "another tenant's checkpoint": (
            lines[:-1] + exported.other[-1:],
            (count + 1, "other_tenant"),
        ),
        "a line that was made up": (
            lines[:4] + [rehashed(lines[4], reason="made up")] + lines[4:],
            (6, "not_next"),
        ),
        "a line that was replaced, with its hash": (
            lines[:4] + [rehashed(lines[4], reason="made up")] + lines[5:],
            (6, "not_following"),
        ),
        "the last record replaced, with its hash": (
            lines[:-2] + [rehashed(lines[-2], reason="made up"), checkpoint],
            (count + 1, "checkpoint_mismatch"),
        ),
        "a line after the checkpoint": (lines + lines[:1], (count + 2, "after_checkpoint")),
        "two checkpoints": (lines + lines[-1:], (count + 2, "after_checkpoint")),
        "white space": (
            lines[:4] + [lines[4].replace(b",", b", ", 1)] + lines[5:],
            (5, "not_canonical"),
        ),
        "a carriage return": (lines[:4] + [lines[4] + b"\r"] + lines[5:], (5, "not_canonical")),
        "a duplicate name": (
            lines[:4] + [lines[4].replace(b"{", b'{"actor":"another actor",', 1)] + lines[5:],
            (5, "not_canonical"),
        ),
        "an unnecessary escape": (
            lines[:4] + [lines[4].replace(b"maria", b"\\u006daria", 1)] + lines[5:],
            (5, "not_canonical"),
        ),
        "a fraction": (
            lines[:4] + [lines[4].replace(b'"sequence":5', b'"sequence":5.0')] + lines[5:],
            (5, "not_canonical"),
        ),
        "negative zero": (
            lines[:4] + [lines[4].replace(b'"sequence":5', b'"sequence":-0')] + lines[5:],
            (5, "not_canonical"),
        ),
        "a number out of range": (
            lines[:4]
            + [lines[4].replace(b'"sequence":5', b'"sequence":9007199254740993')]
            + lines[5:],
            (5, "not_canonical"),
        ),
        "not a number": (
            lines[:4] + [lines[4].replace(b'"sequence":5', b'"sequence":NaN')] + lines[5:],
            (5, "not_json"),
        ),
        "a boolean for a number": (
            lines[:4] + [lines[4].replace(b'"sequence":5', b'"sequence":true')] + lines[5:],
            (5, "unknown"),
        ),
        "an empty line": (lines[:4] + [b""] + lines[4:], (5, "not_json")),
        "a truncated line": (lines[:4] + [lines[4][:99]], (5, "not_json")),
        "a truncated character": (lines[:4] + ["é".encode()[:1]] + lines[5:], (5, "not_json")),
        "half a surrogate pair": (lines[:4] + [b'["\\ud800"]'] + lines[5:], (5, "not_json")),
        "a byte order mark": ([b"\xef\xbb\xbf" + lines[0]] + lines[1:], (1, "not_json")),
        "nested as deeply as can be": ([b"[" * 127 + b"]" * 127], (1, "unknown")),
        "nested too deeply": ([b"[" * 128 + b"]" * 128], (1, "not_json")),
        "a line too long": (lines[:4] + [b"x" * 5_000_000], (5, "too_long")),
        "something else": ([b"{}"], (1, "unknown")),
        "nothing": ([], (1, "empty")),
        "a later format": ([lines[0].replace(b"record.v1", b"record.v2")], (1, "unknown")),
    }
    for name, (given, expected) in cases.items():
        assert given != lines, name
        assert both(tmp_path, given) == expected, name


def test_only_checkpoints_reveal_a_rewritten_end(exported, tmp_path):
    """With the format and the whole file, an attacker can write a consistent history."""
    count = len(exported.records)
    given = rewritten(exported.records, 12, reason="rewritten")
    last = json.loads(given[-1])
    assert both(tmp_path, given) is None, "without a checkpoint, the lines verify"
    assert both(tmp_path, given + [exported.checkpoint]) == (count + 1, "checkpoint_mismatch")
    assert both(tmp_path, given, kept=exported.late) == (count, "checkpoint_mismatch")
    assert both(tmp_path, given, kept=exported.early) is None, "the checkpoint precedes the change"
    unsigned = changed(exported.checkpoint, hash=last["hash"], key_id=None, signature=None)
    assert both(tmp_path, given + [unsigned]) is None, (
        "an unsigned checkpoint in the same file reveals no change"
    )
    assert both(tmp_path, given + [unsigned], public=exported.public) == (count + 1, "not_signed")
    forged = changed(exported.checkpoint, hash=last["hash"])
    assert both(tmp_path, given + [forged]) is None, "without a key, signatures are not verified"
    wrong = (count + 1, "wrong_signature")
    assert both(tmp_path, given + [forged], public=exported.public) == wrong
    assert both(tmp_path, given, public=exported.public) == (count + 1, "no_checkpoint")


def test_only_checkpoints_reveal_a_missing_end(exported, tmp_path):
    given = exported.records[:13]
    assert both(tmp_path, given) is None, "without a checkpoint, the lines verify"
    assert both(tmp_path, given, public=exported.public) == (14, "no_checkpoint")
    assert both(tmp_path, given, kept=exported.late) == (14, "cut_short")
    assert both(tmp_path, given, public=exported.public, kept=exported.early) is None, (
        "the export contains all events of the checkpoint"
    )
    assert both(tmp_path, given[:9], kept=exported.early) == (10, "cut_short")
    end = json.loads(given[-1])
    shorter = changed(exported.checkpoint, sequence=end["sequence"], hash=end["hash"])
    assert both(tmp_path, given + [shorter]) is None
    assert both(tmp_path, given + [shorter], public=exported.public) == (14, "wrong_signature")
    assert both(tmp_path, given + [shorter], kept=exported.late) == (14, "cut_short")
    assert both(tmp_path, [], kept=exported.late) == (1, "empty")


def test_checkpoints_must_be_signed_by_the_given_key(exported, tmp_path):
    count = len(exported.records)
    assert both(tmp_path, exported.lines, public=exported.stranger) == (count + 1, "other_key")
    later = changed(exported.late, time="2999-01-01T00:00:00.000000Z")
    assert both(tmp_path, exported.records, public=exported.public, kept=later) == (
        0,
        "wrong_signature",
    )
    unsigned = changed(exported.late, key_id=None, signature=None)
    assert both(tmp_path, exported.records, public=exported.public, kept=unsigned) == (
        0,
        "not_signed",
    )
    assert both(tmp_path, exported.lines, public=exported.stranger, kept=exported.late) == (
        0,
        "other_key",
    )
    for members in (
        {"signature": None},
        {"key_id": None},
        {"signature": "00"},
        {"sequence": 0},
        {"extra": 1},
    ):
        given = exported.records + [changed(exported.checkpoint, **members)]
        assert both(tmp_path, given) == (count + 1, "unknown"), members


def test_both_verifiers_find_changed_bytes(exported, tmp_path):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for _ in range(100):
        data = bytearray(b"\n".join(exported.lines))
        at = dice.randrange(len(data))
        data[at] ^= dice.randrange(1, 256)
        line = bytes(data[:at]).count(b"\n") + 1
        found = both(tmp_path, bytes(data).split(b"\n"), public=exported.public)
        assert found and found[0] == line, (seed, at, found)


def test_an_early_checkpoint_is_a_position_in_the_later_history(exported):
    early = json.loads(exported.early)
    assert (early["sequence"], early["hash"]) == (10, json.loads(exported.lines[9])["hash"])
    assert json.loads(exported.late)["sequence"] == 20
