"""Invalid requests about locks."""

import itertools
import uuid

import grpc
import pytest
from client import DAY, admin, duration, invalid, now, rejected, timestamp
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from supportaccess.v1 import lock_pb2 as locks
from test_locks import TARGETS, lift, listed, lock, lock_own

YEAR_9999 = 253_402_300_799
BAD_IDS = {
    "": "empty",
    "x" * 129: "128",
    "a\x00b": "control",
    " a": "space",
    "a\u00a0": "space",
    "a\u200b": "invisible",
}
BAD_REASONS = {"": "blank", " \n\t": "blank", "x" * 1001: "1000", "a\x1b[31m": "control"}


def states(caught, field, expected):
    assert expected in " ".join(caught.rejection.violations[field]).replace(",", "")


@pytest.fixture
def nothing_is_changed(client):
    yield
    assert not client.events().events
    assert not listed(client, include_ended=True, tenant_id=client.tenant_id)


rejections = pytest.mark.usefixtures("nothing_is_changed")


@rejections
@pytest.mark.parametrize("field", ["tenant_id", "agent_id", "group_id"])
@pytest.mark.parametrize(("value", "expected"), BAD_IDS.items(), ids=BAD_IDS.values())
def test_invalid_targets(client, field, value, expected):
    if field != "tenant_id" and not value:
        return  # An empty target is an absent one.
    target = {} if field != "tenant_id" else {"everything": True}
    with invalid(field) as caught:
        lock(client, **{field: value}, **target)
    states(caught, field, expected)


@rejections
def test_a_lock_has_exactly_one_target(client):
    own = {"tenant_id": client.tenant_id}
    for absent in ({}, {"everything": False}, {"agent_id": "", "agent_kind": 0}):
        with invalid("agent_id") as caught:
            lock(client, **own, **absent)
        assert caught.rejection.reasons == {"agent_id": ["REQUIRED"]}
    with invalid("agent_kind"):
        lock(client, agent_kind=9, **own)
    for pair in itertools.combinations(TARGETS, 2):
        fields = pair[0] | pair[1]
        with invalid(*fields) as caught:
            lock(client, **own, **fields)
        assert caught.rejection.reasons == {field: ["CONFLICT"] for field in fields}
    with invalid("agent_id", "reason"):
        lock(client, reason="")


@rejections
def test_a_lock_has_at_most_one_end(client):
    with invalid("expire_time", "duration"):
        lock_own(client, expire_time=timestamp(now() + DAY), duration=duration(DAY))


@rejections
@pytest.mark.parametrize(("value", "expected"), BAD_REASONS.items(), ids=range(4))
def test_a_reason_is_required(client, value, expected):
    with invalid("reason") as caught:
        lock_own(client, reason=value)
    states(caught, "reason", expected)
    with invalid("reason") as caught:
        lift(
            client, locks.Lock(tenant_id=client.tenant_id, lock_id=str(uuid.uuid4())), reason=value
        )
    states(caught, "reason", expected)


@rejections
@pytest.mark.parametrize(
    ("field", "end"),
    [
        ("expire_time", timestamp(now() - DAY)),
        ("expire_time", Timestamp(seconds=YEAR_9999 + 1)),
        ("expire_time", Timestamp(seconds=2_000_000_000, nanos=-1)),
        ("duration", Duration()),
        ("duration", Duration(nanos=999)),
        ("duration", Duration(seconds=-1)),
        ("duration", Duration(seconds=YEAR_9999)),
        ("duration", Duration(seconds=315_576_000_001)),
    ],
    ids=str,
)
def test_ends(client, field, end):
    with invalid(field):
        lock_own(client, **{field: end})


@rejections
def test_an_unknown_lock_is_not_found(client):
    unknown = str(uuid.uuid4())
    for tenant_id in (None, client.tenant_id):
        for lock_id in (unknown, "not a UUID"):
            with rejected(grpc.StatusCode.NOT_FOUND, "lock_id", reason="LOCK_NOT_FOUND"):
                lift(client, locks.Lock(), tenant_id=tenant_id, lock_id=lock_id)
    for value, expected in BAD_IDS.items():
        with invalid("lock_id") as caught:
            lift(client, locks.Lock(), lock_id=value)
        states(caught, "lock_id", expected)
        with invalid("tenant_id") as caught:
            lift(client, locks.Lock(), tenant_id=value, lock_id=unknown)
        states(caught, "tenant_id", expected)


def test_a_lock_of_another_tenant_is_not_found(client):
    found = lock_own(client)
    for tenant_id in (None, client.tenant_id + "-2"):
        with rejected(grpc.StatusCode.NOT_FOUND, "lock_id"):
            lift(client, found, tenant_id=tenant_id)
    assert listed(client, tenant_id=client.tenant_id) == [found]


@rejections
def test_lists_of_locks(client):
    for field, value in (("page_size", -1), ("page_token", "not a token"), ("tenant_id", " ")):
        with invalid(field):
            listed(client, **{field: value})


def test_a_page_token_of_another_query(client):
    for _ in range(2):
        lock_own(client)
    request = {"tenant_id": client.tenant_id, "page_size": 1}
    token = client.admin("ListLocks", admin.ListLocksRequest(**request)).next_page_token
    assert listed(client, **request, page_token=token)
    for other in ({"tenant_id": "", "scope": admin.SCOPE_ALL}, {"include_ended": True}):
        with invalid("page_token"):
            listed(client, **request | other, page_token=token)
