"""The history: every change, including expiry, is one event with actor and reason."""

from datetime import timedelta

from client import DAY, Client, admin, duration, grants, kind, moment, now, payload
from harness import eventually


def test_every_change_is_one_event_with_the_changed_grant(server, client):
    grant = client.grant(duration=duration(DAY), reason="why granted")
    with Client(server.target, client.tenant_id, actor="bob@example.com") as bob:
        extended = bob.extend(grant, duration=duration(2 * DAY), reason="why extended").grant
        revoked = bob.revoke(grant, reason="why revoked").grant

    newest_first = client.events().events
    assert [(kind(event), event.actor, event.reason) for event in newest_first] == [
        ("revoked", "bob@example.com", "why revoked"),
        ("extended", "bob@example.com", "why extended"),
        ("granted", "alice@example.com", "why granted"),
    ]
    third, second, first = client.settled_events()
    assert not first.HasField("enforcement"), "the enforcement of a new grant is not measured"
    for event in (second, third):
        assert event.enforcement.state == grants.ENFORCEMENT_STATE_COMPLETE
        assert len(event.enforcement.consistency_token) == 22
        assert event.enforcement.nodes_pending == 0
        assert (event.enforcement.nodes_acknowledged, event.enforcement.nodes_lapsed) == (1, 0)
    assert [payload(event).grant for event in (first, second, third)] == [grant, extended, revoked]
    assert second.extended.previous_expire_time == grant.expire_time
    assert [event.sequence for event in (first, second, third)] == [1, 2, 3]
    assert {event.tenant_id for event in (first, second, third)} == {client.tenant_id}
    assert {len(event.hash) for event in (first, second, third)} == {32}
    assert moment(first.create_time) <= moment(second.create_time) <= moment(third.create_time)
    assert third.create_time == revoked.revoke_time


def test_an_extension_of_until_revoked_has_no_previous_end(client):
    client.extend(client.grant(until_revoked=True), duration=duration(DAY))
    extended, _ = client.events().events
    assert not extended.extended.HasField("previous_expire_time")
    assert kind(extended) == "extended"


def test_an_expiry_becomes_one_event(client):
    grant = client.grant(duration=duration(timedelta(milliseconds=200)))
    eventually(lambda: len(client.events().events) > 1, "the expiry is in the history")
    expired, _ = client.events().events
    assert (kind(expired), expired.actor) == ("expired", "system")
    ended = expired.expired.grant
    assert (ended.grant_id, ended.state) == (grant.grant_id, grants.GRANT_STATE_EXPIRED)
    assert ended.end_cause == grants.END_CAUSE_TIME
    assert moment(grant.expire_time) <= moment(expired.create_time) <= now()
    # An expired grant stays expired: a late revoke changes nothing.
    assert client.revoke(grant).grant.state == grants.GRANT_STATE_EXPIRED
    assert len(client.events().events) == 2


def test_the_history_of_one_grant(client):
    first, second = client.grant(), client.grant()
    client.revoke(first)
    assert [kind(event) for event in client.events(grant_id=first.grant_id).events] == [
        "revoked",
        "granted",
    ]
    assert [kind(event) for event in client.events(grant_id=second.grant_id).events] == ["granted"]


def test_pages_of_a_history_have_no_gaps(client):
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
    found = client.events().events[:3]
    assert {kind(event) for event in found} == {"revoked"}
    assert {event.revoked.grant.grant_id for event in found} == {grant.grant_id for grant in alive}
    assert {event.reason for event in found} == {"incident"}
    assert len({event.create_time.ToNanoseconds() for event in found}) == 1, (
        "the events are of one transaction"
    )
    assert [event.sequence for event in found] == [6, 5, 4]


def test_the_oldest_events_first(client):
    for _ in range(3):
        client.grant()
    found = client.events(order=admin.LIST_ORDER_OLDEST_FIRST).events
    assert [event.sequence for event in found] == [1, 2, 3]
