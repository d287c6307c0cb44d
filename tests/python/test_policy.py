"""The support policy: what the Add form offers, and how a tenant tightens it."""

from datetime import timedelta

import grpc
import pytest
from client import DAY, allowed, bare, duration, grants, invalid, now, refused, timestamp
from supportaccess.v1 import event_pb2 as events

HOUR = timedelta(hours=1)
ADMIN, READ_ONLY = grants.ACCESS_LEVEL_ADMIN, grants.ACCESS_LEVEL_READ_ONLY


def presets(policy):
    return [preset.ToTimedelta() for preset in policy.preset_durations]


def test_the_built_in_catalogue(client):
    policy = client.policy()
    assert policy.tenant_id == client.tenant_id
    assert [group.group_id for group in policy.groups] == ["support", "engineering"]
    assert all(group.display_name and group.description for group in policy.groups)
    assert presets(policy) == [HOUR, 8 * HOUR, DAY, 7 * DAY, 30 * DAY]
    assert policy.default_duration.ToTimedelta() == 7 * DAY
    assert policy.longest_duration.ToTimedelta() == 90 * DAY
    assert policy.until_revoked_allowed
    assert policy.etag


def test_a_tightened_policy_holds_and_is_kept(client):
    before = client.policy()
    after = client.update_policy(
        ["longest_duration", "until_revoked_allowed", "groups"],
        etag=before.etag,
        longest_duration=duration(DAY),
        groups=[{"group_id": "support", "highest_level": READ_ONLY, "display_name": "ignored"}],
    ).support_policy
    assert after == client.policy()
    assert after.etag != before.etag
    assert after.longest_duration.ToTimedelta() == DAY
    assert presets(after) == [HOUR, 8 * HOUR, DAY], "no preset beyond the longest"
    assert after.default_duration.ToTimedelta() <= DAY
    assert not after.until_revoked_allowed
    assert [(g.group_id, g.display_name, g.highest_level) for g in after.groups] == [
        ("support", before.groups[0].display_name, READ_ONLY),
    ]
    assert after.reason_required == before.reason_required, "what the mask leaves out stays"

    level = {"access_level": READ_ONLY}
    client.grant(duration=duration(DAY), **level)
    with invalid("duration"):
        client.grant(duration=duration(DAY + timedelta(microseconds=1)), **level)
    with invalid("expire_time"):
        client.grant(expire_time=timestamp(now() + DAY + HOUR), **level)
    with invalid("until_revoked"):
        client.grant(until_revoked=True, **level)
    with invalid("access_level"):
        client.grant(duration=duration(HOUR), access_level=ADMIN)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "group_id") as caught:
        client.grant(group_id="engineering", duration=duration(HOUR), **level)
    assert "support" in str(caught.refusal.violations)
    assert len(client.list().grants) == 1


def test_reason_and_ticket_can_be_required(client):
    client.update_policy(["reason_required", "ticket_required"], reason_required=True, ticket_required=True)
    with invalid("reason", "ticket"):
        client.grant(reason=" \n", ticket="")
    assert not client.list().grants
    grant = client.grant(duration=duration(DAY))
    with invalid("reason"):
        client.extend(grant, duration=duration(2 * DAY))
    client.extend(grant, duration=duration(HOUR)), "an earlier end needs none"
    client.extend(grant, duration=duration(2 * DAY), reason="it takes longer")


def test_scheduling_ahead_can_be_forbidden(client):
    client.update_policy(["longest_schedule_ahead"], longest_schedule_ahead=duration(timedelta(0)))
    with invalid("start_time"):
        client.grant(start_time=timestamp(now() + HOUR))
    client.grant()


def test_grants_outside_a_tighter_policy_are_named_and_not_changed(client):
    short = client.grant(duration=duration(HOUR))
    long, unlimited = client.grant(duration=duration(30 * DAY)), client.grant(until_revoked=True)
    ended = client.grant(duration=duration(30 * DAY))
    client.revoke(ended)
    answer = client.update_policy(
        ["longest_duration", "until_revoked_allowed"], longest_duration=duration(DAY), until_revoked_allowed=False)
    outside = [grant.grant_id for grant in answer.grants_outside_policy]
    assert outside == [unlimited.grant_id, long.grant_id], "newest first"
    assert client.get(long) == bare(long) and client.get(short) == bare(short)
    assert allowed(client.check())
    with invalid("expire_time"):
        client.extend(long, expire_time=timestamp(now() + 31 * DAY))
    client.extend(long, duration=duration(HOUR)), "an earlier end is always accepted"


LOOSER = {
    "longest_duration": duration(91 * DAY),
    "preset_durations": [duration(2 * HOUR)],
    "default_duration": duration(91 * DAY),
    "longest_schedule_ahead": duration(91 * DAY),
    "groups": [{"group_id": "sales", "highest_level": READ_ONLY}],
}


@pytest.mark.parametrize("path", LOOSER)
def test_it_can_never_be_looser_than_the_vendors(client, path):
    before = client.policy()
    with invalid(f"support_policy.{path}"):
        client.update_policy([path], **{path: LOOSER[path]})
    assert client.policy() == before
    assert not client.events().events


def test_a_tenant_may_loosen_its_own_tightening_again(client):
    client.update_policy(["longest_duration"], longest_duration=duration(HOUR))
    client.update_policy(["longest_duration"], longest_duration=duration(90 * DAY))
    client.grant(duration=duration(90 * DAY))


@pytest.mark.parametrize("paths", [[], ["no_such_field"], ["tenant_id"], ["etag"]])
def test_the_mask_must_name_what_can_be_set(client, paths):
    with invalid("update_mask"):
        client.update_policy(paths, longest_duration=duration(HOUR))
    assert not client.events().events


def test_a_stale_etag_is_refused(client):
    etag = client.policy().etag
    client.update_policy(["reason_required"], reason_required=True, etag=etag)
    with refused(grpc.StatusCode.ABORTED, "etag"):
        client.update_policy(["reason_required"], reason_required=False, etag=etag)
    assert client.policy().reason_required


def test_a_change_of_policy_is_history(client):
    policy = client.update_policy(["reason_required"], reason="four eyes", reason_required=True).support_policy
    [event] = client.events().events
    assert event.type == events.EVENT_TYPE_POLICY_UPDATED
    assert not event.grant_id and not event.HasField("grant")
    assert (event.actor, event.reason) == ("alice@example.com", "four eyes")
    assert event.support_policy.reason_required
    assert event.support_policy.longest_duration == policy.longest_duration


def test_policies_are_each_tenants_own(client):
    client.update_policy(["longest_duration"], longest_duration=duration(HOUR))
    client.tenant_id += "-2"
    assert client.policy().longest_duration.ToTimedelta() == 90 * DAY
