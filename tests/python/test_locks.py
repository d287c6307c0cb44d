"""Locks, which deny checks regardless of grants."""

from datetime import timedelta

import grpc
import pytest
from client import (
    DAY,
    Client,
    admin,
    allowed,
    duration,
    grants,
    kind,
    moment,
    now,
    payload,
    reason,
    rejected,
    remedy,
)
from harness import Server, eventually
from supportaccess.v1 import lock_pb2 as locks
from supportaccess.v1 import support_access_pb2 as access


@pytest.fixture
def alone(new_database):
    """A client of a separate server, where locks in all tenants affect no other test."""
    with Server(new_database) as server, Client(server.target, "acme") as made:
        yield made


def locked(client, **fields):
    """The whole response to a new lock."""
    fields = {"reason": "a stolen laptop"} | fields
    answer = client.admin("LockAccess", admin.LockAccessRequest(**fields))
    assert answer.enforcement.state == grants.ENFORCEMENT_STATE_COMPLETE, answer
    assert answer.consistency_token == answer.enforcement.consistency_token
    return answer


def lock(client, **fields):
    return locked(client, **fields).lock


def lock_own(client, **fields):
    """Locks everything in the client's tenant."""
    return lock(client, tenant_id=client.tenant_id, everything=True, **fields)


def lift_response(client, found, **fields):
    """The whole response to a lifted lock."""
    tenant_id = found.tenant_id if found.HasField("tenant_id") else None
    fields = {"tenant_id": tenant_id, "lock_id": found.lock_id, "reason": "found again"} | fields
    return client.admin("UnlockAccess", admin.UnlockAccessRequest(**fields))


def lift(client, found, **fields):
    return lift_response(client, found, **fields).lock


def listed(client, **fields):
    if not fields.get("tenant_id") and "scope" not in fields:
        fields["scope"] = admin.SCOPE_ALL
    return list(client.admin("ListLocks", admin.ListLocksRequest(**fields)).locks)


TARGETS = [
    {"agent_id": "agent-7"},
    {"group_id": "support"},
    {"agent_kind": grants.AGENT_KIND_HUMAN},
    {"everything": True},
]


@pytest.mark.parametrize("tenant", [{}, {"tenant_id": "acme"}], ids=["all tenants", "one tenant"])
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_lock_overrides_earlier_and_later_grants(alone, target, tenant):
    alone.grant()
    answer = locked(alone, **target, **tenant)
    found = answer.lock
    [(field, value)] = target.items()
    assert getattr(found, field) == value and found.WhichOneof("target") == field
    assert found.HasField("tenant_id") == bool(tenant)
    assert (found.reason, found.creator) == ("a stolen laptop", "alice@example.com")
    assert found.state == locks.LOCK_STATE_ACTIVE and not found.HasField("expire_time")
    party, expected = (
        (locks.PARTY_TENANT, "ASK_TENANT_TO_UNLOCK")
        if tenant
        else (locks.PARTY_VENDOR, "ASK_VENDOR_TO_UNLOCK")
    )
    assert found.party == party
    denied = alone.check(token=answer.consistency_token)
    assert (reason(denied), denied.grant_id, denied.lock_id) == ("LOCKED", "", found.lock_id)
    assert remedy(denied) == expected
    assert "stolen" not in denied.message, "gateways must not learn the reason"
    later = alone.granted(until_revoked=True, reason="for the incident", duration=None)
    assert reason(alone.check(token=later.consistency_token)) == "LOCKED"

    lifted = lift_response(alone, found)
    assert (lifted.lock.lock_id, lifted.lock.state) == (found.lock_id, locks.LOCK_STATE_LIFTED)
    assert (lifted.lock.unlocker, lifted.lock.unlock_reason) == ("alice@example.com", "found again")
    assert lifted.lock.etag != found.etag
    assert moment(found.create_time) <= moment(lifted.lock.unlock_time)
    assert allowed(alone.check(token=lifted.consistency_token))
    assert lift(alone, found, reason="again") == lifted.lock, "a lifted lock must not change"


def test_other_checks_are_not_locked(alone):
    for tenant_id in ("acme", "globex"):
        alone.grant(tenant_id=tenant_id)
    for target in TARGETS:
        found = lock(alone, tenant_id="acme", **target)
        assert reason(alone.check()) == "LOCKED"
        assert allowed(alone.check(tenant_id="globex")), "the lock must apply in one tenant only"
        lift(alone, found)
    agent = lock(alone, agent_id="agent-7")
    assert allowed(alone.check(agent_id="agent-8"))
    lift(alone, agent)
    lock(alone, agent_kind=grants.AGENT_KIND_AI)
    assert allowed(alone.check())
    assert reason(alone.check(agent_kind=grants.AGENT_KIND_AI)) == "LOCKED"
    lock(alone, group_id="engineering")
    assert allowed(alone.check()), "the agent is not in the locked group"
    answer = alone.check(group_ids=["support", "engineering"])
    assert reason(answer) == "LOCKED", "a lock on one group overrides the grants to all groups"
    assert "engineering" in answer.message and "vendor" in answer.message


def test_a_lock_on_an_agent_locks_agents_on_behalf_of_it(alone):
    alone.grant()
    lock(alone, agent_id="dana")
    assert allowed(alone.check(on_behalf_of="erin"))
    for kind in (grants.AGENT_KIND_HUMAN, grants.AGENT_KIND_AI):
        assert reason(alone.check(agent_kind=kind, on_behalf_of="dana")) == "LOCKED"


@pytest.mark.parametrize(
    "value", ["sup\u200bport", "\u202esupport\u202c", "support\x00", "sup\u00adport"]
)
def test_a_lock_on_a_group_matches_values_that_look_like_it(alone, value):
    alone.grant()
    lock(alone, group_id="support")
    assert reason(alone.check(group_ids=[value])) == "LOCKED"


def test_a_lock_on_a_group_matches_other_normalization_forms(alone):
    lock(alone, group_id="José")
    assert reason(alone.check(group_ids=["Jose\u0301"])) == "LOCKED"


def test_locks_with_the_same_target_are_independent(client):
    client.grant()
    first, second = (lock_own(client) for _ in range(2))
    assert first.lock_id != second.lock_id
    lift(client, first)
    assert reason(client.check()) == "LOCKED"
    lift(client, second)
    assert allowed(client.check())


def test_a_repeated_lock_is_created_once(client):
    fields = {"tenant_id": client.tenant_id, "everything": True, "request_id": "key"}
    first = locked(client, **fields)
    client.settled_events()
    assert locked(client, **fields) == first
    with rejected(grpc.StatusCode.ALREADY_EXISTS, "request_id", reason="REQUEST_ID_REUSED"):
        lock(client, **fields | {"reason": "another"})
    lifted = lift_response(client, first.lock, request_id="lift")
    assert lift_response(client, first.lock, request_id="lift") == lifted
    assert locked(client, **fields).lock == lifted.lock, (
        "a retry must return the current state of the lock"
    )
    assert len(client.events().events) == 2


def test_the_vendor_has_separate_request_ids(alone):
    fields = {"agent_id": "a", "request_id": "key"}
    assert lock(alone, **fields) == lock(alone, **fields)
    assert alone.grant(request_id="key")


def test_an_outdated_etag_is_rejected(client):
    found = lock_own(client)
    with rejected(grpc.StatusCode.ABORTED, "etag", reason="ETAG_MISMATCH"):
        lift(client, found, etag="s99")
    assert lift(client, found, etag=found.etag).state == locks.LOCK_STATE_LIFTED


def test_a_lock_applies_to_batches(client):
    client.grant()
    lock_own(client)
    assert [reason(result) for result in client.batch([client.access_check()] * 3).results] == [
        "LOCKED"
    ] * 3


def test_an_explanation_names_the_lock(client):
    client.grant()
    lock_own(client, duration=duration(DAY))
    answer = client.explain()
    assert reason(answer.result) == "LOCKED"
    first, *others = answer.checklist
    assert (first.question, first.answer) == (
        access.CHECKLIST_QUESTION_NOT_LOCKED,
        access.CHECKLIST_ANSWER_NO,
    )
    assert first.detail == answer.result.message and "by the tenant, until " in first.detail
    assert [item.answer for item in others] == [access.CHECKLIST_ANSWER_NOT_APPLICABLE] * 4
    assert [list(candidate.reasons) for candidate in answer.candidates] == [
        [access.DECISION_REASON_LOCKED]
    ]
    question = {"required_level": grants.ACCESS_LEVEL_ADMIN}
    assert [list(candidate.reasons) for candidate in client.explain(**question).candidates] == [
        [access.DECISION_REASON_LOCKED, access.DECISION_REASON_LEVEL_EXCEEDED]
    ]


def test_a_lock_ends_by_itself_as_one_event(client):
    client.grant()
    found = lock_own(client, duration=duration(timedelta(milliseconds=700)))
    assert moment(found.expire_time) - moment(found.create_time) == timedelta(milliseconds=700)

    def is_over():
        # The server decides before the test reads the clock.
        is_allowed = allowed(client.check())
        assert now() >= moment(found.expire_time) or not is_allowed
        return is_allowed

    eventually(is_over, "the lock has ended")
    expired = eventually(
        lambda: [event for event in client.events().events if kind(event) == "lock_expired"],
        "the end is in the history",
    )
    assert [(event.actor, event.lock_expired.lock.state) for event in expired] == [
        ("system", locks.LOCK_STATE_EXPIRED)
    ]
    assert lift(client, found).state == locks.LOCK_STATE_EXPIRED


def test_every_lock_is_in_its_history(alone):
    tenant = lock_own(alone, reason="an incident")
    lift(alone, tenant, reason="it is over")
    for target in TARGETS:
        lock(alone, **target)

    lifted, created = alone.events().events
    assert (kind(created), kind(lifted)) == ("locked", "unlocked")
    assert [(event.reason, event.actor, event.tenant_id) for event in (created, lifted)] == [
        ("an incident", "alice@example.com", "acme"),
        ("it is over", "alice@example.com", "acme"),
    ]
    assert created.locked.lock == tenant
    assert lifted.unlocked.lock.state == locks.LOCK_STATE_LIFTED

    vendor = {"tenant_id": "", "scope": admin.SCOPE_VENDOR}
    found = alone.events(**vendor).events
    assert [(kind(event), event.HasField("tenant_id"), event.sequence) for event in found] == [
        ("locked", False, sequence) for sequence in (4, 3, 2, 1)
    ]
    assert [payload(event).lock.WhichOneof("target") for event in found] == [
        "everything",
        "agent_kind",
        "group_id",
        "agent_id",
    ]
    eventually(
        lambda: all(event.HasField("enforcement") for event in alone.events(**vendor).events),
        "the enforcement of every lock is in the history",
    )
    page = alone.events(page_size=3, **vendor)
    rest = alone.events(page_token=page.next_page_token, **vendor).events
    assert [event.sequence for event in rest] == [1]


def test_lists_and_pages(alone):
    made = [lock_own(alone) for _ in range(3)]
    made += [lock(alone, agent_id="a"), lock(alone, tenant_id="globex", group_id="support")]
    newest_first = made[::-1]
    assert listed(alone) == newest_first
    assert listed(alone, tenant_id="acme") == newest_first[2:]
    assert listed(alone, scope=admin.SCOPE_VENDOR) == [made[3]]
    lifted = lift(alone, made[1])
    assert listed(alone, tenant_id="acme") == [made[2], made[0]]
    assert listed(alone, tenant_id="acme", include_ended=True) == [made[2], lifted, made[0]]
    assert listed(alone, tenant_id="unknown") == []
    seen, token = [], ""
    while True:
        page = alone.admin(
            "ListLocks",
            admin.ListLocksRequest(
                scope=admin.SCOPE_ALL, include_ended=True, page_size=2, page_token=token
            ),
        )
        seen += page.locks
        token = page.next_page_token
        if not token:
            break
    assert seen == [newest_first[0], newest_first[1], made[2], lifted, made[0]]


def test_a_tenant_may_have_a_hundred_locks(client):
    for _ in range(100):
        last = lock(client, tenant_id=client.tenant_id, agent_id="agent-7")
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    with rejected(exhausted, "agent_id", reason="TOO_MANY_LOCKS") as caught:
        lock(client, tenant_id=client.tenant_id, agent_id="agent-7")
    assert caught.rejection.info.metadata["max_locks"] == "100"
    lock_own(client)  # A lock on everything is always possible.
    for _ in range(2):
        lift(client, last)
        last = listed(client, tenant_id=client.tenant_id)[1]
    lock(client, tenant_id=client.tenant_id, agent_id="agent-7")


def test_locks_outlive_the_server(new_database):
    with Server(new_database) as server, Client(server.target, "acme") as client:
        client.grant()
        found = lock(client, agent_id="agent-7")
        server.kill()
    with Server(new_database) as server, Client(server.target, "acme") as client:
        eventually(lambda: reason(client.check()) != "STALE", "the server answers")
        assert reason(client.check()) == "LOCKED"
        assert listed(client) == [found]
        lift(client, found)
        assert allowed(client.check())
