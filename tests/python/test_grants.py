"""Grants over their life: what is kept, moved, ended and listed."""

import uuid
from datetime import timedelta

import grpc
import pytest
from client import DAY, Client, allowed, bare, duration, grants, moment, now, reason, refused, timestamp

ACTIVE, SCHEDULED, EXPIRED, REVOKED = (
    grants.GRANT_STATE_ACTIVE, grants.GRANT_STATE_SCHEDULED, grants.GRANT_STATE_EXPIRED, grants.GRANT_STATE_REVOKED,
)
COMPLETE = grants.ENFORCEMENT_STATE_COMPLETE


def ids(listed):
    return [grant.grant_id for grant in listed]


def test_a_grant_is_kept_as_it_was_asked_for(client):
    asked = client.grant_request(
        agent_ids=["zoe", "adam"], reason="first line\n\tsecond — ünïcode", ticket="T-42",
        expire_time={"seconds": int((now() + DAY).timestamp()), "nanos": 123_456_789},
    )
    grant = client.admin("GrantAccess", asked).grant
    assert uuid.UUID(grant.grant_id).version == 7
    assert grant.tenant_id == client.tenant_id
    assert grant.group_id == "support"
    assert list(grant.agent_ids) == ["adam", "zoe"], "sorted"
    assert grant.access_level == asked.access_level
    assert (grant.reason, grant.ticket) == (asked.reason, asked.ticket)
    assert grant.expire_time.seconds == asked.expire_time.seconds
    assert grant.expire_time.nanos == 123_456_000, "microseconds; finer digits are dropped"
    assert abs(moment(grant.create_time) - now()) < timedelta(minutes=1)
    assert grant.create_time == grant.start_time, "it starts now"
    assert grant.creator == "alice@example.com"
    assert not grant.HasField("revoke_time") and not grant.revoker and not grant.revoke_reason
    assert grant.etag and grant.revision > 0
    assert client.get(grant) == bare(grant)


def test_a_caller_that_says_no_name_is_anonymous(server, client):
    with Client(server.target, client.tenant_id, actor=None) as nameless:
        assert nameless.grant().creator == "anonymous"


def test_a_start_a_little_in_the_past_is_now(client):
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
    assert later.grant.etag != grant.etag and later.grant.revision > grant.revision
    assert moment(later.grant.expire_time) > moment(grant.expire_time)
    assert client.check().expire_time == later.grant.expire_time

    asked_at = now()
    earlier = client.extend(grant, duration=duration(timedelta(hours=1)))
    ends_in = moment(earlier.grant.expire_time) - asked_at
    assert timedelta(minutes=59) < ends_in < timedelta(minutes=61), "a duration counts from now"
    assert client.check().expire_time == earlier.grant.expire_time

    unlimited = client.extend(grant, until_revoked=True)
    assert not unlimited.grant.HasField("expire_time")
    assert allowed(client.check())


def test_a_scheduled_grant_can_be_extended_and_revoked(client):
    start = timestamp(now() + 2 * DAY)
    grant = client.grant(start_time=start)
    extended = client.extend(grant, duration=duration(3 * DAY)).grant
    assert extended.state == SCHEDULED
    assert moment(extended.expire_time) - moment(start) == 3 * DAY, "a duration counts from the start to come"
    revoked = client.revoke(grant)
    assert revoked.grant.state == REVOKED
    assert not allowed(client.check())


def test_an_ended_grant_cannot_be_extended(client):
    grant = client.grant()
    client.revoke(grant)
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "grant_id"):
        client.extend(grant, duration=duration(DAY))
    assert client.get(grant).state == REVOKED


def test_revoking_twice_answers_the_same_and_changes_nothing(client):
    grant = client.grant()
    first = client.revoke(grant, reason="solved")
    assert first.grant.revoker == "alice@example.com"
    assert first.grant.revoke_reason == "solved"
    assert first.enforcement.revision == first.grant.revision
    second = client.revoke(grant, reason="again")
    assert second.grant == first.grant
    assert second.enforcement.state == COMPLETE
    assert len(client.events().events) == 2


def test_revoke_all_ends_everything_that_lives_and_nothing_else(client):
    ended = client.grant()
    client.revoke(ended, reason="before")
    alive = [client.grant(), client.grant(start_time=timestamp(now() + DAY)), client.grant(until_revoked=True)]
    with_all = client.revoke_all(reason="incident")
    assert with_all.revoked_count == 3
    assert ids(with_all.grants) == ids(reversed(alive)), "newest first"
    assert with_all.enforcement.state == COMPLETE
    assert {grant.state for grant in client.list().grants} == {REVOKED}
    assert client.get(ended).revoke_reason == "before"
    assert reason(client.check()) == "REVOKED"

    again = client.revoke_all()
    assert again.revoked_count == 0 and not again.grants
    assert again.enforcement.state == COMPLETE


def test_a_repeated_request_returns_the_first_answer(client):
    request = client.grant_request(request_id=str(uuid.uuid4()))
    first = client.admin("GrantAccess", request).grant
    assert client.admin("GrantAccess", request).grant == first
    client.revoke(first)
    again = client.admin("GrantAccess", request).grant
    assert (again.grant_id, again.state) == (first.grant_id, REVOKED), "the grant as it is now"
    assert len(client.list().grants) == 1
    assert not allowed(client.check())

    request.ticket = "T-2"
    with refused(grpc.StatusCode.ALREADY_EXISTS, "request_id"):
        client.admin("GrantAccess", request)
    assert len(client.list().grants) == 1


def test_a_request_id_is_the_tenants_own(server, client):
    request = client.grant_request(request_id="same")
    first = client.admin("GrantAccess", request).grant
    request.tenant_id += "-2"
    assert client.admin("GrantAccess", request).grant.grant_id != first.grant_id


def test_the_slower_of_two_administrators_is_told(client):
    grant = client.grant()
    client.extend(grant, duration=duration(DAY), etag=grant.etag)
    with refused(grpc.StatusCode.ABORTED, "etag"):
        client.revoke(grant, etag=grant.etag)
    with refused(grpc.StatusCode.ABORTED, "etag"):
        client.extend(grant, duration=duration(DAY), etag=grant.etag)
    current = client.get(grant)
    assert current.state == ACTIVE
    assert client.revoke(grant, etag=current.etag).grant.state == REVOKED


def test_filters(client):
    old = client.grant(duration=duration(timedelta(hours=1)), group_id="engineering")
    client.revoke(old)
    named = client.grant(agent_ids=["agent-7"])
    future = client.grant(start_time=timestamp(now() + 2 * DAY), duration=duration(DAY))

    assert ids(client.list().grants) == ids([future, named, old])
    assert ids(client.list(states=[ACTIVE]).grants) == ids([named])
    assert ids(client.list(states=[SCHEDULED, REVOKED]).grants) == ids([future, old])
    assert ids(client.list(states=[EXPIRED]).grants) == []
    assert ids(client.list(group_id="engineering").grants) == ids([old])
    assert ids(client.list(agent_id="agent-7").grants) == ids([named]), "only grants that name the agent"
    assert ids(client.list(group_id="engineering", states=[ACTIVE]).grants) == [], "combined with and"


def test_the_overlapping_window_is_half_open(client):
    start = now() + DAY
    grant = client.grant(start_time=timestamp(start), expire_time=timestamp(start + DAY))

    def listed(begin, end):
        window = {}
        if begin is not None:
            window["overlap_start"] = timestamp(start + begin)
        if end is not None:
            window["overlap_end"] = timestamp(start + end)
        return ids(client.list(**window).grants) == [grant.grant_id]

    instant = timedelta(microseconds=1)
    assert listed(None, None)
    assert listed(-DAY, instant)
    assert not listed(-DAY, timedelta(0))
    assert listed(DAY - instant, 2 * DAY)
    assert not listed(DAY, 2 * DAY)
    assert listed(None, 3 * DAY) and listed(timedelta(0), None)

    client.revoke(grant)
    assert not listed(timedelta(0), DAY), "revoked before it began, it was never in force"


@pytest.mark.parametrize("page_size", [1, 2, 7])
def test_pages_show_each_grant_once_while_others_are_added(client, page_size):
    made = [client.grant() for _ in range(5)]
    seen, token = [], ""
    while True:
        page = client.list(page_size=page_size, page_token=token)
        assert len(page.grants) <= page_size
        seen += ids(page.grants)
        token = page.next_page_token
        if not token:
            break
        client.grant()
    assert seen == ids(reversed(made))


def test_a_page_has_fifty_unless_told_and_a_thousand_at_most(client):
    for _ in range(51):
        client.grant()
    assert len(client.list().grants) == 50
    assert len(client.list(page_size=2_000_000_000).grants) == 51
    assert len(client.events().events) == 50
    assert len(client.events(page_size=51).events) == 51


def test_one_tenants_grant_is_not_found_by_another(server, client):
    grant = client.grant()
    unknown = grants.Grant(grant_id=str(uuid.uuid4()))
    with Client(server.target, client.tenant_id + "-2") as stranger:
        for call in (
            stranger.get, stranger.revoke, lambda grant: stranger.extend(grant, duration=duration(DAY)),
        ):
            refusals = []
            for target in (grant, unknown):
                with refused(grpc.StatusCode.NOT_FOUND, "grant_id") as caught:
                    call(target)
                told = caught.refusal
                refusals.append((told.message, told.info, told.violations, target.grant_id))
            others, nobodys = [repr(told[:3]).replace(told[3], "ID") for told in refusals]
            assert others == nobodys, "the same whether it never existed or is another tenant's"
    assert client.get(grant) == bare(grant)
