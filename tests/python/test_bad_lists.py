"""Invalid requests of lists."""

import pytest
from client import DAY, admin, grants, invalid, now, timestamp
from google.protobuf.timestamp_pb2 import Timestamp

YEAR_1, YEAR_9999 = -62_135_596_800, 253_402_300_799
GRANT_ID = "0190b6a5-4fd4-7000-8000-000000000000"


@pytest.mark.parametrize(
    "fields",
    [
        {"page_size": -1},
        {"page_token": "no token of ours"},
        {"states": [grants.GRANT_STATE_UNSPECIFIED]},
        {"states": [grants.GRANT_STATE_ACTIVE, 99]},
        {"group_id": " "},
        {"agent_id": "x" * 129},
        {"overlap_start": Timestamp(seconds=YEAR_9999 + 1)},
        {"overlap_end": Timestamp(seconds=YEAR_1 - 1)},
        {"scope": admin.SCOPE_VENDOR},
        {"scope": 9},
        {"order": 9},
    ],
    ids=str,
)
def test_lists(client, fields):
    [(field, value)] = fields.items()
    expected = f"states[{len(value) - 1}]" if field == "states" else field
    expected = "tenant_id" if value == admin.SCOPE_VENDOR and field == "scope" else expected
    with invalid(expected):
        client.list(**fields)


def test_a_list_has_one_scope(client):
    with invalid("scope"):
        client.list(tenant_id="")
    with invalid("tenant_id"):
        client.list(tenant_id="", scope=admin.SCOPE_TENANT)
    with invalid("tenant_id"):
        client.list(scope=admin.SCOPE_ALL)
    with invalid("scope"):
        client.list(tenant_id="", scope=admin.SCOPE_VENDOR)
    with invalid("grant_id"):
        client.events(tenant_id="", scope=admin.SCOPE_ALL, grant_id=GRANT_ID)


def test_a_window_that_ends_before_it_starts(client):
    with invalid("overlap_end"):
        client.list(overlap_start=timestamp(now()), overlap_end=timestamp(now() - DAY))


def test_lists_of_events(client):
    with invalid("page_size"):
        client.events(page_size=-1)
    with invalid("page_token"):
        client.events(page_token="no token of ours")


def test_a_page_token_of_another_query(client):
    for _ in range(3):
        client.grant()
    token = client.list(page_size=1, group_id="support").next_page_token
    assert client.list(page_size=2, group_id="support", page_token=token).grants, (
        "another page size is the same query"
    )
    with invalid("page_token"):
        client.list(page_size=1, page_token=token)
    with invalid("page_token"):
        client.list(
            page_size=1, group_id="support", states=[grants.GRANT_STATE_ACTIVE], page_token=token
        )
    with invalid("page_token"):
        client.list(
            page_size=1, group_id="support", order=admin.LIST_ORDER_OLDEST_FIRST, page_token=token
        )
    with invalid("page_token"):
        client.list(
            page_size=1, group_id="support", scope=admin.SCOPE_ALL, tenant_id="", page_token=token
        )
    with invalid("page_token"):
        client.events(page_size=1, page_token=token)
    with invalid("page_token"):
        client.list(
            page_size=1, group_id="support", tenant_id=client.tenant_id + "-2", page_token=token
        )
