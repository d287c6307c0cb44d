"""Grants: creation, extension, revocation and agent kinds."""

import uuid
from datetime import timedelta

import grpc
import pytest
from client import (
    DAY,
    Client,
    allowed,
    duration,
    forbidden,
    grants,
    invalid,
    moment,
    now,
    reason,
    rejected,
    timestamp,
)

ACTIVE, SCHEDULED, EXPIRED, REVOKED = (
    grants.GRANT_STATE_ACTIVE,
    grants.GRANT_STATE_SCHEDULED,
    grants.GRANT_STATE_EXPIRED,
    grants.GRANT_STATE_REVOKED,
)
COMPLETE = grants.ENFORCEMENT_STATE_COMPLETE


def ids(listed):
    return [grant.grant_id for grant in listed]


def test_a_grant_is_stored_as_requested(client):
    request = client.grant_request(
        agent_ids=["zoe", "adam"],
        reason="first line\n\tsecond — ünïcode",
        ticket="T-42",
        expire_time={"seconds": int((now() + DAY).timestamp()), "nanos": 123_456_789},
    )
    grant = client.admin("GrantAccess", request).grant
    assert uuid.UUID(grant.grant_id).version == 7
    assert grant.tenant_id == client.tenant_id
    assert grant.group_id == "support"
    assert list(grant.named_agents.agent_ids) == ["adam", "zoe"], "named agents must be sorted"
    assert grant.access_level == request.access_level
    assert (grant.reason, grant.ticket) == (request.reason, request.ticket)
    assert grant.expire_time.seconds == request.expire_time.seconds
    assert grant.expire_time.nanos == 123_456_000, "times must have microsecond precision"
    assert abs(moment(grant.create_time) - now()) < timedelta(minutes=1)
    assert grant.create_time == grant.start_time, "the grant must start now"
    assert grant.creator == "alice@example.com"
    assert not grant.HasField("revoke_time") and not grant.revoker and not grant.revoke_reason
    assert grant.etag and grant.end_cause == grants.END_CAUSE_UNSPECIFIED
    [entry] = grant.agent_kinds.entries
    level = grant.access_level
    expected = grants.AgentKindEntry(agent_kind=grants.AGENT_KIND_HUMAN, max_access_level=level)
    assert entry == expected
    assert client.get(grant) == grant


def test_a_caller_without_a_name_is_anonymous(server, client):
    with Client(server.target, client.tenant_id, actor=None) as nameless:
        assert nameless.grant().creator == "anonymous"


def test_a_start_slightly_in_the_past_is_now(client):
    before = now()
    grant = client.grant(start_time=timestamp(before - timedelta(minutes=4)))
    assert moment(grant.start_time) >= before - timedelta(seconds=1)
    assert grant.state == ACTIVE


def test_an_end_can_be_moved_later_and_earlier_without_a_gap(client):
    grant = client.grant(duration=duration(DAY))
    later = client.extend(grant, expire_time=timestamp(now() + 3 * DAY), reason="it takes longer")
    assert later.enforcement.state == COMPLETE
    assert later.enforcement.nodes_acknowledged >= 1
    assert later.grant.grant_id == grant.grant_id
    assert later.grant.start_time == grant.start_time
    assert later.grant.etag != grant.etag
    assert later.previous_expire_time == grant.expire_time
    assert moment(later.grant.expire_time) > moment(grant.expire_time)
    assert client.check().expire_time == later.grant.expire_time

    asked_at = now()
    earlier = client.extend(grant, duration=duration(timedelta(hours=1)))
    ends_in = moment(earlier.grant.expire_time) - asked_at
    assert timedelta(minutes=59) < ends_in < timedelta(minutes=61), "a duration must count from now"
    assert client.check().expire_time == earlier.grant.expire_time

    unlimited = client.extend(grant, until_revoked=True)
    assert unlimited.previous_expire_time == earlier.grant.expire_time
    assert not unlimited.grant.HasField("expire_time")
    assert allowed(client.check())
    limited = client.extend(grant, duration=duration(DAY))
    assert not limited.HasField("previous_expire_time")


def test_a_scheduled_grant_can_be_extended_and_revoked(client):
    start = timestamp(now() + 2 * DAY)
    grant = client.grant(start_time=start)
    extended = client.extend(grant, duration=duration(3 * DAY)).grant
    assert extended.state == SCHEDULED
    assert moment(extended.expire_time) - moment(start) == 3 * DAY, (
        "a duration must count from a future start"
    )
    revoked = client.revoke(grant)
    assert revoked.grant.state == REVOKED
    assert not allowed(client.check())


def test_an_ended_grant_cannot_be_extended(client):
    grant = client.grant()
    client.revoke(grant)
    with rejected(grpc.StatusCode.FAILED_PRECONDITION, "grant_id", reason="GRANT_ENDED"):
        client.extend(grant, duration=duration(DAY))
    assert client.get(grant).state == REVOKED


def test_a_second_revocation_changes_nothing(client):
    grant = client.grant()
    first = client.revoke(grant, reason="solved")
    assert first.grant.revoker == "alice@example.com"
    assert first.grant.revoke_reason == "solved"
    assert first.grant.end_cause == grants.END_CAUSE_REVOKED
    client.settled_events()
    second = client.revoke(grant, reason="again")
    assert second.grant == first.grant
    assert second.enforcement == first.enforcement
    assert len(client.events().events) == 2


def test_revoke_all_ends_every_live_grant(client):
    ended = client.grant()
    client.revoke(ended, reason="before")
    alive = [
        client.grant(),
        client.grant(start_time=timestamp(now() + DAY)),
        client.grant(until_revoked=True),
    ]
    with_all = client.revoke_all(reason="incident")
    assert with_all.revoked_count == 3
    assert ids(with_all.grants) == ids(reversed(alive)), "the order must be newest first"
    assert with_all.enforcement.state == COMPLETE
    assert {grant.state for grant in client.list().grants} == {REVOKED}
    assert client.get(ended).revoke_reason == "before"
    assert reason(client.check()) == "REVOKED"

    again = client.revoke_all()
    assert again.revoked_count == 0 and not again.grants
    assert again.enforcement.state == COMPLETE


def test_an_outdated_etag_is_rejected(client):
    grant = client.grant()
    client.extend(grant, duration=duration(DAY), etag=grant.etag)
    with rejected(grpc.StatusCode.ABORTED, "etag", reason="ETAG_MISMATCH"):
        client.revoke(grant, etag=grant.etag)
    with rejected(grpc.StatusCode.ABORTED, "etag", reason="ETAG_MISMATCH"):
        client.extend(grant, duration=duration(DAY), etag=grant.etag)
    current = client.get(grant)
    assert current.state == ACTIVE
    assert client.revoke(grant, etag=current.etag).grant.state == REVOKED


# === agent kinds ===


def kinds(*entries):
    return grants.AgentKinds(entries=[grants.AgentKindEntry(**entry) for entry in entries])


HUMAN, AI = grants.AGENT_KIND_HUMAN, grants.AGENT_KIND_AI


def test_a_grant_may_name_humans(client):
    grant = client.grant(agent_kinds=kinds({"agent_kind": HUMAN}))
    effective = {"agent_kind": HUMAN, "max_access_level": grant.access_level}
    assert grant.agent_kinds == kinds(effective)
    assert allowed(client.check())
    higher = {"agent_kind": HUMAN, "max_access_level": grants.ACCESS_LEVEL_ADMIN}
    grant = client.grant(agent_kinds=kinds(higher), access_level=grants.ACCESS_LEVEL_READ_ONLY)
    lower = {"agent_kind": HUMAN, "max_access_level": grants.ACCESS_LEVEL_READ_ONLY}
    assert grant.agent_kinds == kinds(lower), "the level of the grant applies"


@pytest.mark.parametrize("kind", [AI, grants.AGENT_KIND_SERVICE])
def test_the_default_policy_allows_no_other_kind(client, kind):
    with forbidden("agent_kinds.entries[1]") as caught:
        client.grant(agent_kinds=kinds({"agent_kind": HUMAN}, {"agent_kind": kind}))
    assert caught.rejection.reasons == {"agent_kinds.entries[1]": ["AGENT_KIND_NOT_ALLOWED"]}
    assert caught.rejection.info.metadata["agent_kinds"] == "HUMAN"
    assert not client.list().grants


@pytest.mark.parametrize(
    ("entries", "field"),
    [
        ([], "agent_kinds.entries"),
        ([{"agent_kind": 0}], "agent_kinds.entries[0].agent_kind"),
        ([{"agent_kind": 9}], "agent_kinds.entries[0].agent_kind"),
        ([{"agent_kind": HUMAN}, {"agent_kind": HUMAN}], "agent_kinds.entries[1].agent_kind"),
        ([{"agent_kind": HUMAN, "max_access_level": 9}], "agent_kinds.entries[0].max_access_level"),
        (
            [{"agent_kind": HUMAN, "on_behalf_of_required": True}],
            "agent_kinds.entries[0].on_behalf_of_required",
        ),
        ([{"agent_kind": HUMAN}] * 4, "agent_kinds.entries"),
    ],
    ids=str,
)
def test_invalid_agent_kinds(client, entries, field):
    with invalid(field):
        client.grant(agent_kinds=kinds(*entries))


def test_a_grant_of_another_tenant_is_not_found(server, client):
    grant = client.grant()
    unknown = grants.Grant(grant_id=str(uuid.uuid4()))
    with Client(server.target, client.tenant_id + "-2") as other:
        for call in (
            other.get,
            other.revoke,
            lambda grant: other.extend(grant, duration=duration(DAY)),
        ):
            rejections = []
            for target in (grant, unknown):
                with rejected(grpc.StatusCode.NOT_FOUND, "grant_id") as caught:
                    call(target)
                found = caught.rejection
                rejections.append((found.message, found.info, found.violations, target.grant_id))
            foreign, missing = [repr(found[:3]).replace(found[3], "ID") for found in rejections]
            assert foreign == missing, (
                "the error must not reveal whether another tenant has the grant"
            )
    assert client.get(grant) == grant
