"""Locks: what is locked stays out, whatever is granted."""

import uuid
from datetime import timedelta

import grpc
import pytest
from client import DAY, Client, allowed, bare, duration, grants, invalid, moment, now, reason, refused, timestamp
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from harness import Server, eventually
from supportaccess.v1 import event_pb2 as events
from supportaccess.v1 import lock_pb2 as locks
from supportaccess.v1 import support_access_admin_pb2 as admin
from supportaccess.v1 import support_access_pb2 as access

YEAR_9999 = 253_402_300_799
BAD_IDS = {"": "empty", "x" * 129: "128", "a\x00b": "control", " a": "space", "a\u00a0": "space"}
BAD_REASONS = {"": "empty", " \n\t": "empty", "x" * 1001: "1000", "a\x1b[31m": "control"}


@pytest.fixture
def alone(new_database):
    """A client of a server of its own: whatever is locked there is in nobody's way."""
    with Server(new_database) as server, Client(server.target, "acme") as made:
        yield made


def lock(client, **fields):
    fields = {"reason": "a stolen laptop"} | fields
    answer = client.admin("LockAccess", admin.LockAccessRequest(**fields))
    assert answer.enforcement.state == grants.ENFORCEMENT_STATE_COMPLETE, answer
    return answer.lock


def unlock(client, held, **fields):
    fields = {"tenant_id": held.tenant_id, "lock_id": held.lock_id, "reason": "found again"} | fields
    return client.admin("UnlockAccess", admin.UnlockAccessRequest(**fields)).lock


def listed(client, **fields):
    return list(client.admin("ListLocks", admin.ListLocksRequest(**fields)).locks)


def says(caught, field, expected):
    assert expected in " ".join(caught.refusal.violations[field]).replace(",", "")


@pytest.mark.parametrize("target", [
    {"tenant_id": "acme"}, {"agent_id": "agent-7"}, {"group_id": "support"}, {"everything": True},
], ids=str)
def test_a_lock_beats_what_is_granted_before_and_after(alone, target):
    alone.grant()
    held = lock(alone, **target)
    [(field, value)] = target.items()
    assert getattr(held, field) == value and held.WhichOneof("target") == field
    assert (held.reason, held.creator) == ("a stolen laptop", "alice@example.com")
    assert held.state == locks.LOCK_STATE_HELD and not held.HasField("expire_time")
    answer = alone.check()
    assert reason(answer) == "LOCKED" and not answer.grant_id
    assert "stolen" not in answer.message, "why it was locked is not for gateways"
    later = alone.grant(until_revoked=True, reason="let me in", duration=None)
    assert reason(alone.check(at_least_revision=later.revision)) == "LOCKED"

    lifted = unlock(alone, held)
    assert (lifted.lock_id, lifted.state) == (held.lock_id, locks.LOCK_STATE_LIFTED)
    assert (lifted.unlocker, lifted.unlock_reason) == ("alice@example.com", "found again")
    assert moment(held.create_time) <= moment(lifted.unlock_time)
    assert allowed(alone.check()), "the server that was told knows of it"
    assert unlock(alone, held, reason="again") == lifted, "and nothing changes any more"


def test_others_are_not_kept_out(alone):
    for tenant_id in ("acme", "globex"):
        alone.grant(tenant_id=tenant_id)
    tenant = lock(alone, tenant_id="acme")
    assert allowed(alone.check(tenant_id="globex"))
    unlock(alone, tenant)
    agent = lock(alone, agent_id="agent-7")
    assert allowed(alone.check(agent_id="agent-8"))
    unlock(alone, agent)
    lock(alone, group_id="engineering")
    assert allowed(alone.check()), "the agent is not in it"
    answer = alone.check(group_ids=["support", "engineering"])
    assert reason(answer) == "LOCKED", "one locked group keeps the agent out by every other"
    assert "engineering" in answer.message and "vendor" in answer.message


def test_locks_on_the_same_are_independent(client):
    client.grant()
    first, second = (lock(client, tenant_id=client.tenant_id) for _ in range(2))
    assert first.lock_id != second.lock_id
    unlock(client, first)
    assert reason(client.check()) == "LOCKED"
    unlock(client, second)
    assert allowed(client.check())


def test_a_batch_is_locked_too(client):
    client.grant()
    lock(client, tenant_id=client.tenant_id)
    assert [reason(result) for result in client.batch([client.check_request()] * 3).results] == ["LOCKED"] * 3


def test_an_explanation_names_the_lock(client):
    client.grant()
    lock(client, tenant_id=client.tenant_id, duration=duration(DAY))
    answer = client.explain()
    assert reason(answer.result) == "LOCKED"
    first, *others = answer.checklist
    assert (first.question, first.answer) == (access.CHECKLIST_QUESTION_NOT_LOCKED, access.CHECKLIST_ANSWER_NO)
    assert first.detail == answer.result.message and "by the tenant, until " in first.detail
    assert [item.answer for item in others] == [access.CHECKLIST_ANSWER_NOT_APPLICABLE] * 4
    assert [list(it.reasons) for it in answer.candidates] == [[access.DECISION_REASON_LOCKED]]
    question = {"required_level": grants.ACCESS_LEVEL_ADMIN}
    assert [list(it.reasons) for it in client.explain(**question).candidates] == [
        [access.DECISION_REASON_LOCKED, access.DECISION_REASON_LEVEL_EXCEEDED]]


def test_a_lock_ends_by_itself_and_the_history_says_so(client):
    client.grant()
    held = lock(client, tenant_id=client.tenant_id, duration=duration(timedelta(milliseconds=700)))
    assert moment(held.expire_time) - moment(held.create_time) == timedelta(milliseconds=700)

    def is_over():
        # It is decided before the clock is read.
        is_allowed = allowed(client.check())
        assert now() >= moment(held.expire_time) or not is_allowed
        return is_allowed

    eventually(is_over, "the lock is over")
    expired = eventually(
        lambda: [it for it in client.events().events if it.type == events.EVENT_TYPE_LOCK_EXPIRED], "it is written down")
    assert [(it.actor, it.lock.state) for it in expired] == [("system", locks.LOCK_STATE_EXPIRED)]
    assert unlock(client, held).state == locks.LOCK_STATE_EXPIRED


def test_every_lock_is_a_line_of_its_history(alone):
    tenant = lock(alone, tenant_id="acme", reason="an incident")
    unlock(alone, tenant, reason="it is over")
    for target in ({"agent_id": "agent-7"}, {"group_id": "support"}, {"everything": True}):
        lock(alone, **target)

    lifted, locked = alone.events().events
    assert (locked.type, lifted.type) == (events.EVENT_TYPE_LOCKED, events.EVENT_TYPE_UNLOCKED)
    assert [(it.reason, it.actor, it.tenant_id) for it in (locked, lifted)] == [
        ("an incident", "alice@example.com", "acme"), ("it is over", "alice@example.com", "acme")]
    assert locked.lock == tenant and locked.revision == tenant.revision
    assert lifted.lock.state == locks.LOCK_STATE_LIFTED and lifted.lock.revision == lifted.revision
    assert not locked.grant_id and not locked.HasField("grant") and not locked.HasField("support_policy")

    vendors = alone.events(tenant_id="").events
    assert [(it.type, it.tenant_id, it.lock.WhichOneof("target")) for it in vendors] == [
        (events.EVENT_TYPE_LOCKED, "", "everything"), (events.EVENT_TYPE_LOCKED, "", "group_id"),
        (events.EVENT_TYPE_LOCKED, "", "agent_id"),
    ]
    eventually(lambda: all(it.HasField("enforcement") for it in alone.events(tenant_id="").events), "it was proven")
    page = alone.events(tenant_id="", page_size=2)
    assert list(alone.events(tenant_id="", page_token=page.next_page_token).events) == [alone.events(tenant_id="").events[2]]


def test_whose_lock_it_is(alone):
    assert lock(alone, tenant_id="acme").side == locks.LOCK_SIDE_TENANT, "who may do everything acts for the tenant"
    for target in ({"agent_id": "a"}, {"group_id": "g"}, {"everything": True}):
        held = lock(alone, **target)
        assert held.side == locks.LOCK_SIDE_VENDOR
        assert unlock(alone, held).state == locks.LOCK_STATE_LIFTED


def test_lists_and_pages(alone):
    made = [lock(alone, tenant_id="acme") for _ in range(3)] + [lock(alone, agent_id="a"), lock(alone, tenant_id="globex")]
    made = [bare(it) for it in made]
    newest_first = made[::-1]
    assert listed(alone) == newest_first
    assert listed(alone, tenant_id="acme") == newest_first[2:]
    lifted = bare(unlock(alone, made[1]))
    assert listed(alone, tenant_id="acme") == [made[2], made[0]]
    assert listed(alone, tenant_id="acme", include_ended=True) == [made[2], lifted, made[0]]
    assert listed(alone, tenant_id="nobody") == []
    seen, token = [], ""
    while True:
        page = alone.admin("ListLocks", admin.ListLocksRequest(include_ended=True, page_size=2, page_token=token))
        seen += page.locks
        token = page.next_page_token
        if not token:
            break
    assert seen == [newest_first[0], newest_first[1], made[2], lifted, made[0]]


def test_a_tenant_may_have_two_hundred_locks_on_everything(client):
    for _ in range(200):
        last = lock(client, tenant_id=client.tenant_id)
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "everything") as caught:
        lock(client, tenant_id=client.tenant_id)
    assert caught.refusal.info.reason == "TOO_MANY_LOCKS" and "200" in caught.refusal.message
    unlock(client, last)
    lock(client, tenant_id=client.tenant_id)


def test_locks_outlive_the_server(new_database):
    with Server(new_database) as server, Client(server.target, "acme") as client:
        client.grant()
        held = lock(client, agent_id="agent-7")
        server.kill()
    with Server(new_database) as server, Client(server.target, "acme") as client:
        eventually(lambda: reason(client.check()) != "STALE", "the server answers")
        assert reason(client.check()) == "LOCKED"
        assert listed(client) == [bare(held)]
        unlock(client, held)
        assert allowed(client.check())


# === what is refused ===


@pytest.fixture
def nothing_is_changed(client):
    yield
    assert not client.events().events
    assert not listed(client, include_ended=True, tenant_id=client.tenant_id)


refusals = pytest.mark.usefixtures("nothing_is_changed")


@refusals
@pytest.mark.parametrize("field", ["tenant_id", "agent_id", "group_id"])
@pytest.mark.parametrize(("value", "expected"), BAD_IDS.items(), ids=BAD_IDS.values())
def test_targets_that_are_no_ids(client, field, value, expected):
    with invalid(field) as caught:
        lock(client, **{field: value})
    says(caught, field, expected)


@refusals
def test_a_target_must_be_given(client):
    with invalid("target"):
        lock(client)
    with invalid("everything"):
        lock(client, everything=False)
    with invalid("target", "reason"):
        lock(client, reason="")


@refusals
@pytest.mark.parametrize(("value", "expected"), BAD_REASONS.items(), ids=range(4))
def test_a_reason_must_be_given(client, value, expected):
    with invalid("reason") as caught:
        lock(client, tenant_id=client.tenant_id, reason=value)
    says(caught, "reason", expected)
    with invalid("reason") as caught:
        unlock(client, locks.Lock(tenant_id=client.tenant_id, lock_id=str(uuid.uuid4())), reason=value)
    says(caught, "reason", expected)


@refusals
@pytest.mark.parametrize(("field", "end"), [
    ("expire_time", timestamp(now() - DAY)),
    ("expire_time", Timestamp(seconds=YEAR_9999 + 1)),
    ("expire_time", Timestamp(seconds=2_000_000_000, nanos=-1)),
    ("duration", Duration()),
    ("duration", Duration(nanos=999)),
    ("duration", Duration(seconds=-1)),
    ("duration", Duration(seconds=YEAR_9999)),
    ("duration", Duration(seconds=315_576_000_001)),
], ids=str)
def test_ends(client, field, end):
    with invalid(field):
        lock(client, tenant_id=client.tenant_id, **{field: end})


@refusals
def test_unlocking_what_is_not_there(client):
    unknown = str(uuid.uuid4())
    for tenant_id in ("", client.tenant_id):
        for lock_id in (unknown, "no id of ours"):
            with refused(grpc.StatusCode.NOT_FOUND, "lock_id") as caught:
                unlock(client, locks.Lock(), tenant_id=tenant_id, lock_id=lock_id)
            assert caught.refusal.info.reason == "LOCK_NOT_FOUND"
    for value, expected in BAD_IDS.items():
        with invalid("lock_id") as caught:
            unlock(client, locks.Lock(), lock_id=value)
        says(caught, "lock_id", expected)
        if value:
            with invalid("tenant_id") as caught:
                unlock(client, locks.Lock(), tenant_id=value, lock_id=unknown)
            says(caught, "tenant_id", expected)


def test_a_lock_of_another_tenant_is_not_found(client):
    held = lock(client, tenant_id=client.tenant_id)
    for tenant_id in ("", client.tenant_id + "-2"):
        with refused(grpc.StatusCode.NOT_FOUND, "lock_id"):
            unlock(client, held, tenant_id=tenant_id)
    assert listed(client, tenant_id=client.tenant_id) == [bare(held)]


@refusals
def test_lists_of_locks(client):
    for field, value in (("page_size", -1), ("page_token", "no token of ours"), ("tenant_id", " ")):
        with invalid(field):
            listed(client, **{field: value})


def test_a_page_token_of_another_query(client):
    for _ in range(2):
        lock(client, tenant_id=client.tenant_id)
    request = {"tenant_id": client.tenant_id, "page_size": 1}
    token = client.admin("ListLocks", admin.ListLocksRequest(**request)).next_page_token
    assert listed(client, **request, page_token=token)
    for other in ({"tenant_id": ""}, {"include_ended": True}):
        with invalid("page_token"):
            listed(client, **request | other, page_token=token)


@refusals
def test_a_grant_is_of_a_tenant(client):
    with invalid("tenant_id"):
        client.events(tenant_id="", grant_id=str(uuid.uuid4()))
