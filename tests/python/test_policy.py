"""The support policy: the vendor's catalogue and the overrides of a tenant."""

from datetime import timedelta

import grpc
import pytest
from client import (
    DAY,
    allowed,
    duration,
    forbidden,
    grants,
    invalid,
    kind,
    now,
    rejected,
    timestamp,
)
from supportaccess.v1 import policy_pb2 as policies

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
    assert policy.max_duration.ToTimedelta() == 90 * DAY
    assert policy.until_revoked_allowed
    assert policy.etag
    assert [entry.agent_kind for entry in policy.agent_kinds.entries] == [grants.AGENT_KIND_HUMAN]
    assert client.policies().policy_overrides == policies.PolicyOverrides()


def test_overrides_apply_and_are_stored(client):
    before = client.policy()
    overrides = policies.PolicyOverrides(
        max_duration=duration(DAY),
        until_revoked_allowed=False,
        groups={"groups": [{"group_id": "support", "max_access_level": READ_ONLY}]},
    )
    updated = client.update_policy(
        ["max_duration", "until_revoked_allowed", "groups"],
        etag=before.etag,
        max_duration=overrides.max_duration,
        groups=overrides.groups,
        until_revoked_allowed=False,
        reason_required=True,
    )
    after = updated.support_policy
    assert after == client.policy()
    assert updated.policy_overrides == client.policies().policy_overrides == overrides, (
        "the mask must select the fields"
    )
    assert after.etag != before.etag
    assert after.max_duration.ToTimedelta() == DAY
    assert presets(after) == [HOUR, 8 * HOUR, DAY], "presets must not exceed max_duration"
    assert after.default_duration.ToTimedelta() <= DAY
    assert not after.until_revoked_allowed
    assert [(g.group_id, g.display_name, g.max_access_level) for g in after.groups] == [
        ("support", before.groups[0].display_name, READ_ONLY)
    ]
    assert after.reason_required == before.reason_required, (
        "a field outside the mask must not change"
    )

    level = {"access_level": READ_ONLY}
    client.grant(duration=duration(DAY), **level)
    for fields, field, reason, limits in (
        (
            {"duration": duration(DAY + timedelta(microseconds=1))},
            "duration",
            "DURATION_NOT_ALLOWED",
            {"max_duration": "86400s"},
        ),
        (
            {"expire_time": timestamp(now() + DAY + HOUR)},
            "expire_time",
            "DURATION_NOT_ALLOWED",
            {"max_duration": "86400s"},
        ),
        (
            {"until_revoked": True},
            "until_revoked",
            "UNTIL_REVOKED_NOT_ALLOWED",
            {"until_revoked_allowed": "false"},
        ),
        (
            {"duration": duration(HOUR), "access_level": ADMIN},
            "access_level",
            "LEVEL_NOT_ALLOWED",
            {"max_access_level": "READ_ONLY"},
        ),
        (
            {"duration": duration(HOUR), "group_id": "engineering"},
            "group_id",
            "GROUP_NOT_ALLOWED",
            {"groups": "support"},
        ),
    ):
        with forbidden(field) as caught:
            client.grant(**level | fields)
        assert caught.rejection.reasons == {field: [reason]}
        assert dict(caught.rejection.info.metadata) == limits
    assert len(client.list().grants) == 1


def test_reason_and_ticket_can_be_required(client):
    client.update_policy(reason_required=True, ticket_required=True)
    with forbidden("reason", "ticket") as caught:
        client.grant(reason=" \n", ticket="")
    reasons = {"reason": ["REASON_REQUIRED"], "ticket": ["TICKET_REQUIRED"]}
    assert caught.rejection.reasons == reasons
    assert not client.list().grants
    grant = client.grant(duration=duration(DAY))
    with forbidden("reason"):
        client.extend(grant, duration=duration(2 * DAY))
    client.extend(grant, duration=duration(HOUR))  # An earlier end needs no reason.
    client.extend(grant, duration=duration(2 * DAY), reason="it takes longer")


def test_scheduling_ahead_can_be_forbidden(client):
    client.update_policy(max_schedule_ahead=duration(timedelta(0)))
    with forbidden("start_time"):
        client.grant(start_time=timestamp(now() + HOUR))
    client.grant()


def test_grants_outside_a_stricter_policy_are_listed_and_not_changed(client):
    short = client.grant(duration=duration(HOUR))
    long, unlimited = client.grant(duration=duration(30 * DAY)), client.grant(until_revoked=True)
    ended = client.grant(duration=duration(30 * DAY))
    client.revoke(ended)
    answer = client.update_policy(max_duration=duration(DAY), until_revoked_allowed=False)
    outside = [grant.grant_id for grant in answer.grants_outside_policy]
    assert outside == [unlimited.grant_id, long.grant_id], "the order must be newest first"
    assert client.get(long) == long and client.get(short) == short
    assert allowed(client.check())
    with forbidden("expire_time"):
        client.extend(long, expire_time=timestamp(now() + 31 * DAY))
    client.extend(long, duration=duration(HOUR))  # An earlier end is always allowed.


LOOSER = {
    "max_duration": duration(91 * DAY),
    "preset_durations": {"durations": [duration(2 * HOUR)]},
    "default_duration": duration(91 * DAY),
    "max_schedule_ahead": duration(91 * DAY),
    "groups": {"groups": [{"group_id": "sales", "max_access_level": READ_ONLY}]},
    "agent_kinds": {"entries": [{"agent_kind": grants.AGENT_KIND_AI}]},
}
FIELDS = {
    "preset_durations": "preset_durations.durations[0]",
    "groups": "groups.groups[0].group_id",
    "agent_kinds": "agent_kinds.entries[0].agent_kind",
}


@pytest.mark.parametrize("path", LOOSER)
def test_an_override_is_never_more_permissive_than_the_catalogue(client, path):
    before = client.policy()
    field = f"policy_overrides.{FIELDS.get(path, path)}"
    with forbidden(field) as caught:
        client.update_policy([path], **{path: LOOSER[path]})
    assert caught.rejection.reasons == {field: ["EXCEEDS_CATALOGUE"]}
    assert caught.rejection.info.metadata
    assert client.policy() == before
    assert not client.events().events


def test_an_override_can_be_raised_to_the_catalogue(client):
    client.update_policy(max_duration=duration(HOUR))
    client.update_policy(max_duration=duration(90 * DAY))
    client.grant(duration=duration(90 * DAY))


@pytest.mark.parametrize(
    "paths", [["no_such_field"], ["tenant_id"], ["etag"], ["*", "groups"], ["groups.groups"]]
)
def test_the_mask_must_name_overrides(client, paths):
    with invalid("update_mask"):
        client.update_policy(paths, max_duration=duration(HOUR))
    assert not client.events().events


def test_an_outdated_etag_is_rejected(client):
    etag = client.policy().etag
    client.update_policy(reason_required=True, etag=etag)
    with rejected(grpc.StatusCode.ABORTED, "etag"):
        client.update_policy(reason_required=False, etag=etag)
    assert client.policy().reason_required


def test_a_policy_update_is_one_event(client):
    updated = client.update_policy(reason="four eyes", reason_required=True)
    [event] = client.events().events
    assert kind(event) == "policy_updated"
    assert (event.actor, event.reason) == ("alice@example.com", "four eyes")
    assert event.policy_updated.support_policy == updated.support_policy
    assert event.policy_updated.policy_overrides == policies.PolicyOverrides(reason_required=True)


def test_overrides_apply_in_their_own_tenant_only(client):
    client.update_policy(max_duration=duration(HOUR))
    client.tenant_id += "-2"
    assert client.policy().max_duration.ToTimedelta() == 90 * DAY


def test_an_override_is_cleared_by_the_mask_alone(client):
    catalogue = client.policy()
    client.update_policy(max_duration=duration(HOUR), reason_required=True, groups={"groups": []})
    assert not client.policy().groups
    cleared = client.update_policy(["max_duration", "groups"])
    assert cleared.policy_overrides == policies.PolicyOverrides(reason_required=True)
    assert cleared.support_policy.groups == catalogue.groups
    assert cleared.support_policy.max_duration == catalogue.max_duration


def test_an_asterisk_replaces_all_overrides(client):
    client.update_policy(max_duration=duration(HOUR), reason_required=True)
    replaced = client.update_policy(["*"], ticket_required=True)
    assert replaced.policy_overrides == policies.PolicyOverrides(ticket_required=True)
    assert client.update_policy(["*"]).policy_overrides == policies.PolicyOverrides()


def test_an_absent_mask_names_the_fields_that_are_present(client):
    client.update_policy(max_duration=duration(HOUR))
    updated = client.update_policy(reason_required=False, preset_durations={})
    assert updated.policy_overrides == policies.PolicyOverrides(
        max_duration=duration(HOUR), reason_required=False, preset_durations={}
    )
    assert not updated.support_policy.preset_durations
    with invalid("update_mask"):
        client.update_policy()


def test_an_update_without_a_change_is_no_event(client):
    client.update_policy(reason_required=True)
    client.update_policy(reason_required=True, request_id="unused")
    client.grant(request_id="unused")
    assert [kind(event) for event in client.events().events] == ["granted", "policy_updated"]


def test_a_tenant_can_limit_or_forbid_humans(client):
    kinds = {"entries": [{"agent_kind": grants.AGENT_KIND_HUMAN, "max_access_level": READ_ONLY}]}
    limited = client.update_policy(agent_kinds=kinds).support_policy
    assert [entry.max_access_level for entry in limited.agent_kinds.entries] == [READ_ONLY]
    client.grant(access_level=READ_ONLY)
    with forbidden("agent_kinds") as caught:
        client.grant(access_level=ADMIN)
    assert caught.rejection.reasons == {"agent_kinds": ["AGENT_KIND_NOT_ALLOWED"]}
    assert dict(caught.rejection.info.metadata) == {"max_access_level": "READ_ONLY"}
    assert not client.update_policy(agent_kinds={}).support_policy.agent_kinds.entries
    with forbidden("agent_kinds"):
        client.grant(access_level=READ_ONLY)


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"max_duration": duration(timedelta(0))}, "max_duration"),
        ({"default_duration": duration(-HOUR)}, "default_duration"),
        ({"groups": {"groups": [{"group_id": "support"}]}}, "groups.groups[0].max_access_level"),
        (
            {"groups": {"groups": [{"group_id": "support", "max_access_level": ADMIN}] * 2}},
            "groups.groups[1].group_id",
        ),
        ({"preset_durations": {"durations": [duration(HOUR)] * 33}}, "preset_durations.durations"),
        ({"agent_kinds": {"entries": [{}]}}, "agent_kinds.entries[0].agent_kind"),
    ],
    ids=str,
)
def test_invalid_overrides(client, overrides, field):
    with invalid(f"policy_overrides.{field}"):
        client.update_policy(**overrides)
