"""Lists: filters, pages, orders and scopes."""

from datetime import timedelta

import pytest
from client import DAY, Client, admin, duration, grants, kind, now, timestamp

ACTIVE, SCHEDULED, EXPIRED, REVOKED = (
    grants.GRANT_STATE_ACTIVE,
    grants.GRANT_STATE_SCHEDULED,
    grants.GRANT_STATE_EXPIRED,
    grants.GRANT_STATE_REVOKED,
)


def ids(listed):
    return [grant.grant_id for grant in listed]


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
    assert ids(client.list(agent_id="agent-7").grants) == ids([named]), (
        "only grants that name the agent must match"
    )
    assert ids(client.list(group_id="engineering", states=[ACTIVE]).grants) == [], (
        "filters must be combined with and"
    )


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
    assert not listed(timedelta(0), DAY), (
        "a grant that was revoked before the start was never active"
    )


@pytest.mark.parametrize("page_size", [1, 2, 7])
def test_pages_show_each_grant_once_while_grants_are_added(client, page_size):
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


def test_a_page_has_fifty_items_by_default_and_a_thousand_at_most(client):
    for _ in range(51):
        client.grant()
    assert len(client.list().grants) == 50
    assert len(client.list(page_size=2_000_000_000).grants) == 51
    assert len(client.events().events) == 50
    assert len(client.events(page_size=51).events) == 51


@pytest.mark.parametrize("page_size", [1, 2, 7])
def test_a_list_resumes_after_its_last_page(client, page_size):
    oldest_first = {"order": admin.LIST_ORDER_OLDEST_FIRST, "page_size": page_size}

    def rest(method, items, token):
        seen = []
        while True:
            page = getattr(client, method)(page_token=token, **oldest_first)
            seen += getattr(page, items)
            assert bool(page.next_page_token) <= bool(page.resume_token)
            if not page.next_page_token:
                return seen, page.resume_token
            token = page.next_page_token

    made = [client.grant() for _ in range(3)]
    seen, token = rest("list", "grants", "")
    assert seen == made
    assert rest("list", "grants", token) == ([], token), "nothing new"
    made = [client.grant() for _ in range(2)]
    assert rest("list", "grants", token)[0] == made

    events, token = rest("events", "events", "")
    assert [kind(event) for event in events] == ["granted"] * 5
    client.revoke(made[0])
    assert [kind(event) for event in rest("events", "events", token)[0]] == ["revoked"]
    assert not client.list().resume_token, "a list from newest to oldest cannot find later grants"


def test_an_empty_list_can_be_resumed(client):
    page = client.list(order=admin.LIST_ORDER_OLDEST_FIRST)
    assert not page.grants and not page.next_page_token and page.resume_token
    grant = client.grant()
    assert client.list(
        order=admin.LIST_ORDER_OLDEST_FIRST, page_token=page.resume_token
    ).grants == [grant]


def test_lists_over_all_tenants(server, client):
    with Client(server.target, client.tenant_id + "-2") as second:
        made = [client.grant(), second.grant(), client.grant()]
    everywhere = {"scope": admin.SCOPE_ALL, "tenant_id": ""}
    assert client.list(page_size=3, **everywhere).grants == made[::-1]
    events = client.events(page_size=3, **everywhere).events
    assert [event.granted.grant for event in events] == made[::-1]
    first = client.list(page_size=1, **everywhere)
    assert (
        client.list(page_size=2, page_token=first.next_page_token, **everywhere).grants
        == made[1::-1]
    )


def test_tenants_are_listed_by_id(server, client):
    client.grant()
    with Client(server.target, client.tenant_id + "-2") as second:
        second.grant()
    seen, token = [], ""
    while True:
        page = client.admin("ListTenants", admin.ListTenantsRequest(page_size=3, page_token=token))
        seen += [tenant.tenant_id for tenant in page.tenants]
        token = page.next_page_token
        if not token:
            break
    assert {client.tenant_id, client.tenant_id + "-2"} <= set(seen)
    assert seen == sorted(set(seen), key=str.encode)
