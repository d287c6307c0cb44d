"""The history: every change is one event, with actor and reason, and expiry is one too."""

from datetime import timedelta

from client import DAY, Client, duration, grants, moment, now
from harness import eventually
from supportaccess.v1 import event_pb2 as events


def test_every_change_is_one_event_with_what_it_left(server, client):
    grant = client.grant(duration=duration(DAY), reason="why granted")
    with Client(server.target, client.tenant_id, actor="bob@example.com") as bob:
        extended = bob.extend(grant, duration=duration(2 * DAY), reason="why extended").grant
        revoked = bob.revoke(grant, reason="why revoked").grant

    newest_first = client.events().events
    third, second, first = newest_first
    assert [(event.type, event.actor, event.reason) for event in newest_first] == [
        (events.EVENT_TYPE_REVOKED, "bob@example.com", "why revoked"),
        (events.EVENT_TYPE_EXTENDED, "bob@example.com", "why extended"),
        (events.EVENT_TYPE_GRANTED, "alice@example.com", "why granted"),
    ]
    third, second, first = client.settled_events()
    assert not first.HasField("enforcement"), "nobody waits for a new grant"
    for event in (second, third):
        assert event.enforcement.state == grants.ENFORCEMENT_STATE_COMPLETE
        assert event.enforcement.revision == event.revision
        assert (event.enforcement.nodes_acknowledged, event.enforcement.nodes_lapsed) == (1, 0)
    assert [first.grant, second.grant, third.grant] == [grant, extended, revoked]
    assert second.previous_expire_time == grant.expire_time
    for event, left in ((first, grant), (second, extended), (third, revoked)):
        assert event.revision == left.revision
        assert (event.tenant_id, event.grant_id) == (client.tenant_id, grant.grant_id)
        assert not event.HasField("support_policy")
    assert moment(first.create_time) <= moment(second.create_time) <= moment(third.create_time)
    assert third.create_time == revoked.revoke_time


def test_a_move_from_until_revoked_has_no_previous_end(client):
    client.extend(client.grant(until_revoked=True), duration=duration(DAY))
    extended, _ = client.events().events
    assert extended.type == events.EVENT_TYPE_EXTENDED
    assert not extended.HasField("previous_expire_time")


def test_an_expiry_becomes_one_event(client):
    grant = client.grant(duration=duration(timedelta(milliseconds=200)))
    eventually(lambda: len(client.events().events) > 1, "the expiry is in the history")
    expired, _ = client.events().events
    assert expired.type == events.EVENT_TYPE_EXPIRED
    assert expired.actor == "system"
    assert expired.grant_id == grant.grant_id
    assert expired.grant.state == grants.GRANT_STATE_EXPIRED
    assert moment(grant.expire_time) <= moment(expired.create_time) <= now()
    # What was answered as expired stays so, and a late revoke changes nothing.
    assert client.revoke(grant).grant.state == grants.GRANT_STATE_EXPIRED
    assert len(client.events().events) == 2


def test_the_history_of_one_grant(client):
    first, second = client.grant(), client.grant()
    client.revoke(first)
    told = client.events(grant_id=first.grant_id).events
    assert [event.type for event in told] == [events.EVENT_TYPE_REVOKED, events.EVENT_TYPE_GRANTED]
    assert [event.type for event in client.events(grant_id=second.grant_id).events] == [events.EVENT_TYPE_GRANTED]


def test_pages_of_history_fit_together(client):
    for _ in range(3):
        client.revoke(client.grant())
    whole = list(client.settled_events())
    seen, token = [], ""
    while True:
        page = client.events(page_size=4, page_token=token)
        seen += page.events
        token = page.next_page_token
        if not token:
            break
    assert seen == whole and len(whole) == 6


def test_revoke_all_is_one_event_for_each_grant(client):
    alive = [client.grant() for _ in range(3)]
    client.revoke_all(reason="incident")
    told = client.events().events[:3]
    assert {event.type for event in told} == {events.EVENT_TYPE_REVOKED}
    assert {event.grant_id for event in told} == {grant.grant_id for grant in alive}
    assert {event.reason for event in told} == {"incident"}
    assert len({event.create_time.ToNanoseconds() for event in told}) == 1, "one transaction"
    revisions = sorted(event.revision for event in told)
    assert revisions == list(range(revisions[0], revisions[0] + 3)), "without gaps"
