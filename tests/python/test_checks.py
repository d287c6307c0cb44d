"""Checks: every reason, times, batches, groups, agent kinds and consistency tokens."""

from datetime import timedelta

import grpc
import pytest
from client import (
    DAY,
    Client,
    allowed,
    duration,
    grants,
    invalid,
    moment,
    now,
    reason,
    rejected,
    remedy,
    timestamp,
)
from harness import Server, eventually

READ_ONLY, READ_WRITE, ADMIN = (
    grants.ACCESS_LEVEL_READ_ONLY,
    grants.ACCESS_LEVEL_READ_WRITE,
    grants.ACCESS_LEVEL_ADMIN,
)


def test_an_allowed_check_states_grant_level_end_and_validity(client):
    grant = client.grant(access_level=READ_WRITE)
    answer = client.check(required_level=READ_ONLY)
    assert reason(answer) == "GRANT_ACTIVE"
    assert answer.grant_id == grant.grant_id
    assert answer.access_level == READ_WRITE
    assert answer.expire_time == grant.expire_time
    assert timedelta(0) < answer.valid_for.ToTimedelta() < 7 * DAY
    assert (answer.ignored_group_count, answer.lock_id) == (0, "")


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


def test_a_grant_to_named_agents_admits_no_other_agent(client):
    client.grant(agent_ids=["agent-7", "agent-8"])
    assert allowed(client.check(agent_id="agent-7"))
    assert reason(client.check(agent_id="agent-9")) == "AGENT_NOT_NAMED"


def test_the_agent_must_be_in_the_group(client):
    client.grant(group_id="support")
    assert reason(client.check(group_ids=["engineering"])) == "GROUP_MISMATCH"
    assert not allowed(client.check(group_ids=[])), "a check without groups must be denied"
    assert allowed(client.check(group_ids=["engineering", "support"]))


def test_a_scheduled_grant_denies_until_its_start(client):
    grant = client.grant(start_time=timestamp(now() + DAY))
    assert grant.state == grants.GRANT_STATE_SCHEDULED
    answer = client.check()
    assert reason(answer) == "NOT_STARTED"
    assert answer.grant_id == grant.grant_id
    assert remedy(answer) == "WAIT_FOR_START"


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
        assert not (allowed(answer) and asked_at >= end), "allowed at the end or later"
        if allowed(answer):
            assert answer.valid_for.ToTimedelta() <= end - asked_at, "valid beyond the end"
        return reason(answer) == "EXPIRED"

    eventually(over, "the grant has expired")
    assert now() >= end - timedelta(seconds=1)
    assert client.get(grant).state == grants.GRANT_STATE_EXPIRED


def test_a_denial_states_the_reason_that_is_closest_to_an_allow(client):
    client.revoke(client.grant(group_id="support"))
    client.grant(group_id="engineering")
    assert reason(client.check(group_ids=["support"])) == "REVOKED", (
        "closer to an allow than a grant to another group"
    )
    client.grant(group_id="support", access_level=READ_ONLY)
    assert reason(client.check(required_level=ADMIN)) == "LEVEL_EXCEEDED", (
        "closer to an allow than a revoked grant"
    )


def test_overlapping_grants_are_independent(client):
    short = client.grant(duration=duration(DAY))
    long = client.grant(duration=duration(2 * DAY))
    assert client.check().grant_id == long.grant_id, "the grant that ends last must decide"
    revoked = client.revoke(long)
    assert [grant.grant_id for grant in revoked.remaining_grants] == [short.grant_id]
    answer = client.check()
    assert allowed(answer) and answer.grant_id == short.grant_id
    assert not client.revoke(short).remaining_grants
    assert not allowed(client.check())


def test_a_grant_applies_in_its_own_tenant_only(client):
    client.grant()
    assert reason(client.check(tenant_id=client.tenant_id + "-2")) == "NO_GRANT"


def test_a_batch_is_answered_in_order(client):
    granted = client.granted()
    checks = [
        client.access_check(group_ids=["support" if n % 3 else "engineering"]) for n in range(1000)
    ]
    answer = client.batch(checks, token=granted.consistency_token)
    assert [allowed(result) for result in answer.results] == [bool(n % 3) for n in range(1000)]


def test_a_batch_agrees_with_single_checks(client):
    client.grant()
    [batched] = client.batch([client.access_check()]).results
    single = client.check()
    for answer in (batched, single):
        answer.ClearField("valid_for")
    assert batched == single


# === consistency tokens ===


def test_a_check_with_a_token_sees_the_change(client):
    for _ in range(20):
        granted = client.granted()
        assert allowed(client.check(token=granted.consistency_token))
        revoked = client.revoke(granted.grant)
        assert reason(client.check(token=revoked.enforcement.consistency_token)) == "REVOKED"


def test_every_change_returns_an_opaque_token(client):
    granted = client.granted()
    extended = client.extend(granted.grant, duration=duration(DAY))
    revoked = client.revoke(granted.grant)
    tokens = [
        granted.consistency_token,
        extended.consistency_token,
        revoked.enforcement.consistency_token,
    ]
    assert extended.enforcement.consistency_token == extended.consistency_token
    assert len(set(tokens)) == 3
    assert all(len(token) == 22 and token.isascii() for token in tokens), tokens


@pytest.mark.parametrize(
    "token", ["x", "AAAAAAAAAAAAAAAAAAAAAA", "0123456789abcdefghijkg", "ü" * 22, "x" * 10_000]
)
def test_a_forged_token_is_rejected(client, token):
    client.grant()
    calls = (
        client.check,
        client.explain,
        lambda token: client.batch([client.access_check()], token),
    )
    for call in calls:
        with rejected(
            grpc.StatusCode.FAILED_PRECONDITION,
            "consistency_token",
            reason="CONSISTENCY_TOKEN_INVALID",
        ):
            call(token=token)


def test_a_token_of_another_log_is_rejected(client, new_database):
    with Server(new_database) as other, Client(other.target, "acme") as stranger:
        foreign = stranger.granted().consistency_token
    with rejected(
        grpc.StatusCode.FAILED_PRECONDITION, "consistency_token", reason="CONSISTENCY_TOKEN_INVALID"
    ):
        client.check(token=foreign)


# === groups ===


def test_a_value_that_is_not_a_group_id_grants_nothing_and_is_counted(client):
    client.grant()
    odd = ["CN=Support," + "x" * 200, "", " support", "sup\u200bport", "e\u0301"]
    answer = client.check(group_ids=["support", *odd])
    assert allowed(answer) and answer.ignored_group_count == 5
    denied = client.check(group_ids=odd)
    assert reason(denied) == "GROUP_MISMATCH" and denied.ignored_group_count == 5
    explained = client.explain(group_ids=["support", *odd])
    assert list(explained.ignored_group_ids) == odd
    assert explained.result.ignored_group_count == 5


def test_a_check_has_up_to_five_hundred_groups(client):
    client.grant()
    groups = [f"group-{n}" for n in range(499)]
    assert allowed(client.check(group_ids=[*groups, "support"]))
    with invalid("check.group_ids"):
        client.check(group_ids=[*groups, "support", "one more"])


def test_a_long_value_is_ignored_and_cut_in_the_explanation(client):
    client.grant()
    long = "é" * 513
    answer = client.check(group_ids=[long, "support"])
    assert allowed(answer) and answer.ignored_group_count == 1
    explained = client.explain(group_ids=[long, "support"])
    assert list(explained.ignored_group_ids) == ["é" * 512]


# === agent kinds ===


@pytest.mark.parametrize("kind", [grants.AGENT_KIND_AI, grants.AGENT_KIND_SERVICE])
def test_a_grant_for_humans_admits_no_other_kind(client, kind):
    nothing = client.check(agent_kind=kind)
    assert (reason(nothing), nothing.grant_id) == ("NO_GRANT", "")
    grant = client.grant()
    for fields in ({}, {"on_behalf_of": "dana"}):
        answer = client.check(agent_kind=kind, **fields)
        assert (reason(answer), answer.grant_id) == ("AGENT_KIND_NOT_ALLOWED", grant.grant_id)
        assert remedy(answer) == "REQUEST_AGENT_KIND"
    assert allowed(client.check(agent_kind=grants.AGENT_KIND_HUMAN, on_behalf_of="dana"))


def test_kind_and_level_have_no_default(client):
    client.grant()
    for field in ("agent_kind", "required_level"):
        for value in (0, 99):
            for call in (client.check, client.explain):
                with invalid(f"check.{field}"):
                    call(**{field: value})
