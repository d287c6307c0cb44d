"""Decisions: every reason, times, batches and revisions."""

import time
from datetime import timedelta

import pytest
from client import DAY, allowed, duration, grants, moment, now, reason, timestamp
from harness import eventually

READ_ONLY, READ_WRITE, ADMIN = (
    grants.ACCESS_LEVEL_READ_ONLY, grants.ACCESS_LEVEL_READ_WRITE, grants.ACCESS_LEVEL_ADMIN,
)


def test_an_allowed_check_says_all_that_a_gateway_needs(client):
    grant = client.grant(access_level=READ_WRITE)
    answer = client.check(required_level=READ_ONLY)
    assert reason(answer) == "GRANT_ACTIVE"
    assert answer.grant_id == grant.grant_id
    assert answer.access_level == READ_WRITE
    assert answer.expire_time == grant.expire_time
    assert timedelta(0) < answer.valid_for.ToTimedelta() < 7 * DAY
    assert answer.revision >= grant.revision


def test_until_revoked_has_no_expire_time(client):
    client.grant(until_revoked=True)
    answer = client.check()
    assert allowed(answer) and not answer.HasField("expire_time")


@pytest.mark.parametrize("required", [READ_ONLY, READ_WRITE, ADMIN])
@pytest.mark.parametrize("granted", [READ_ONLY, READ_WRITE, ADMIN])
def test_a_level_includes_the_ones_below_it(client, granted, required):
    client.grant(access_level=granted)
    expected = "GRANT_ACTIVE" if required <= granted else "LEVEL_EXCEEDED"
    assert reason(client.check(required_level=required)) == expected


def test_a_grant_to_named_agents_lets_in_nobody_else(client):
    client.grant(agent_ids=["agent-7", "agent-8"])
    assert allowed(client.check(agent_id="agent-7"))
    assert reason(client.check(agent_id="agent-9")) == "AGENT_NOT_NAMED"


def test_the_agent_must_be_in_the_group(client):
    client.grant(group_id="support")
    assert reason(client.check(group_ids=["engineering"])) == "GROUP_MISMATCH"
    assert not allowed(client.check(group_ids=[])), "no groups means nobody"
    assert allowed(client.check(group_ids=["engineering", "support"]))


def test_a_scheduled_grant_lets_nobody_in_yet(client):
    grant = client.grant(start_time=timestamp(now() + DAY))
    assert grant.state == grants.GRANT_STATE_SCHEDULED
    answer = client.check()
    assert reason(answer) == "NOT_STARTED"
    assert answer.grant_id == grant.grant_id


def test_a_scheduled_grant_starts_by_itself(client):
    starts = now() + timedelta(seconds=1)
    grant = client.grant(start_time=timestamp(starts))
    assert reason(client.check()) == "NOT_STARTED"
    eventually(lambda: allowed(client.check()), "the grant has started")
    assert now() >= starts
    assert client.get(grant).state == grants.GRANT_STATE_ACTIVE


def test_access_ends_by_itself_and_never_late(client):
    grant = client.grant(duration=duration(timedelta(seconds=1)))
    end = moment(grant.expire_time)

    def over():
        asked_at = now()
        answer = client.check()
        assert not (allowed(answer) and asked_at >= end), "allowed at or after the end"
        if allowed(answer):
            assert answer.valid_for.ToTimedelta() <= end - asked_at, "valid beyond the end"
        return reason(answer) == "EXPIRED"

    eventually(over, "the grant has expired")
    assert now() >= end - timedelta(seconds=1)
    assert client.get(grant).state == grants.GRANT_STATE_EXPIRED


def test_a_denial_names_the_nearest_reason(client):
    client.revoke(client.grant(group_id="support"))
    client.grant(group_id="engineering")
    assert reason(client.check(group_ids=["support"])) == "REVOKED", "nearer than a grant to another group"
    client.grant(group_id="support", access_level=READ_ONLY)
    assert reason(client.check(required_level=ADMIN)) == "LEVEL_EXCEEDED", "nearer than a revoked one"


def test_overlapping_grants_are_independent(client):
    short = client.grant(duration=duration(DAY))
    long = client.grant(duration=duration(2 * DAY))
    assert client.check().grant_id == long.grant_id, "the one that lets in longest answers"
    revoked = client.revoke(long)
    assert [grant.grant_id for grant in revoked.remaining_grants] == [short.grant_id]
    answer = client.check()
    assert allowed(answer) and answer.grant_id == short.grant_id
    assert not client.revoke(short).remaining_grants
    assert not allowed(client.check())


def test_tenants_are_apart(client):
    client.grant()
    assert reason(client.check(tenant_id=client.tenant_id + "-2")) == "NO_GRANT"


def test_a_batch_is_answered_in_order_at_one_revision(client):
    grant = client.grant()
    checks = [client.check_request(group_ids=["support" if n % 3 else "engineering"]) for n in range(1000)]
    checks[500].at_least_revision = grant.revision
    answer = client.batch(checks)
    assert [allowed(result) for result in answer.results] == [bool(n % 3) for n in range(1000)]
    assert {result.revision for result in answer.results} == {answer.revision}
    assert answer.revision >= grant.revision


def test_a_batch_agrees_with_single_checks(client):
    client.grant()
    [batched] = client.batch([client.check_request()]).results
    single = client.check()
    for answer in (batched, single):
        answer.ClearField("valid_for")
        answer.ClearField("revision")
    assert batched == single


def test_at_least_revision_sees_every_change(client):
    for _ in range(20):
        grant = client.grant()
        answer = client.check(at_least_revision=grant.revision)
        assert allowed(answer) and answer.revision >= grant.revision
        revision = client.revoke(grant).enforcement.revision
        answer = client.check(at_least_revision=revision)
        assert reason(answer) == "REVOKED" and answer.revision >= revision


def test_a_revision_that_does_not_come_is_stale_and_the_wait_is_bounded(client):
    client.grant()
    future = client.check().revision + 1_000_000_000
    began = time.monotonic()
    assert reason(client.check(at_least_revision=future)) == "STALE"
    batch = client.batch([client.check_request(), client.check_request(at_least_revision=future)])
    assert [reason(result) for result in batch.results] == ["STALE", "STALE"], "the highest holds for all"
    assert time.monotonic() - began < 10, "a second each, and some for a busy machine"


def test_no_revision_is_no_demand(client):
    client.grant()
    assert allowed(client.check(at_least_revision=0))
