"""Everything a caller can get wrong: each is refused, names the exact field, and changes nothing."""

from datetime import timedelta

import grpc
import pytest
from client import DAY, Client, bare, duration, grants, invalid, now, refused, timestamp
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from supportaccess.v1 import support_access_admin_pb2 as admin

YEAR_1, YEAR_9999 = -62_135_596_800, 253_402_300_799


@pytest.fixture(autouse=True)
def nothing_is_changed(client):
    """Most tests here do nothing that may leave a trace; those that do say how many events they wrote."""
    client.events_expected = 0
    yield
    events = client.events().events
    assert len(events) == client.events_expected, events


# What no id may be, and what the refusal must say.
BAD_IDS = {
    "too long": ("x" * 129, "128"),
    "control character": ("a\x00b", "control"),
    "line break": ("a\nb", "control"),
    "delete": ("a\x7fb", "control"),
    "space before": (" a", "space"),
    "space after": ("a ", "space"),
    "no-break space after": ("a\u00a0", "space"),
}
BAD_TEXTS = {"too long": ("x" * 1001, "1000"), "escape": ("a\x1b[31m", "control")}
EMPTY = {"empty": ("", "")}


def cases(fields, values):
    return [pytest.param(field, *value, id=f"{field}-{name}") for field in fields for name, value in values.items()]


def says(caught, field, expected):
    [description] = caught.refusal.violations[field]
    assert expected in description.replace(",", ""), description


@pytest.mark.parametrize(("field", "value", "expected"), [
    *cases(["tenant_id", "group_id"], EMPTY | BAD_IDS),
    *cases(["request_id", "ticket"], BAD_IDS),
    *cases(["reason"], BAD_TEXTS),
])
def test_grant_texts(client, field, value, expected):
    with invalid(field) as caught:
        client.grant(**{field: value})
    says(caught, field, expected)


@pytest.mark.parametrize(("value", "expected"), (EMPTY | BAD_IDS).values(), ids=EMPTY | BAD_IDS)
def test_agents_of_a_grant(client, value, expected):
    with invalid("agent_ids[1]") as caught:
        client.grant(agent_ids=["fine", value])
    says(caught, "agent_ids[1]", expected)


def test_too_many_agents(client):
    with invalid("agent_ids") as caught:
        client.grant(agent_ids=[f"agent-{n}" for n in range(101)])
    says(caught, "agent_ids", "100")


def test_characters_are_counted_not_bytes(client):
    grant = client.grant(ticket="é" * 128, reason="é" * 1000)
    assert len(grant.ticket) == 128
    client.events_expected = 1


def test_everything_at_fault_is_told_at_once(client):
    with invalid("group_id", "access_level", "ticket"):
        client.grant(group_id="", access_level=0, ticket=" ")


@pytest.mark.parametrize("level", [0, 4, -1])
def test_levels(client, level):
    with invalid("access_level"):
        client.grant(access_level=level)
    with invalid("required_level"):
        client.check(required_level=level)
    with invalid("required_level"):
        client.explain(required_level=level)


BAD_ENDS = {
    "in the past": ("expire_time", timestamp(now() - DAY)),
    "now": ("expire_time", timestamp(now())),
    "beyond the policy": ("expire_time", timestamp(now() + 91 * DAY)),
    "before year 1": ("expire_time", Timestamp(seconds=YEAR_1 - 1)),
    "after year 9999": ("expire_time", Timestamp(seconds=YEAR_9999 + 1)),
    "nanos negative": ("expire_time", Timestamp(seconds=int((now() + DAY).timestamp()), nanos=-1)),
    "nanos a whole second": ("expire_time", Timestamp(seconds=int((now() + DAY).timestamp()), nanos=10**9)),
    "duration zero": ("duration", Duration()),
    "duration below a microsecond": ("duration", Duration(nanos=999)),
    "duration negative": ("duration", Duration(seconds=-1)),
    "duration of mixed sign": ("duration", Duration(seconds=3600, nanos=-1)),
    "duration beyond the policy": ("duration", duration(90 * DAY + timedelta(microseconds=1))),
    "duration beyond protobuf": ("duration", Duration(seconds=315_576_000_001)),
    "duration beyond i64": ("duration", Duration(seconds=2**63 - 1)),
    "until_revoked false": ("until_revoked", False),
}


@pytest.mark.parametrize(("field", "end"), BAD_ENDS.values(), ids=BAD_ENDS)
def test_ends(client, field, end):
    with invalid(field):
        client.grant(**{field: end})


def test_no_end_at_all(client):
    with invalid("end"):
        client.grant(duration=None)
    grant = client.grant()
    with invalid("end"):
        client.extend(grant)
    client.events_expected = 1


def test_an_end_before_the_start(client):
    start = now() + 2 * DAY
    with invalid("expire_time"):
        client.grant(start_time=timestamp(start), expire_time=timestamp(start - DAY))
    with invalid("expire_time"):
        client.grant(start_time=timestamp(start), expire_time=timestamp(start))


BAD_STARTS = {
    "in the past": timestamp(now() - timedelta(hours=1)),
    "too far ahead": timestamp(now() + 91 * DAY),
    "before year 1": Timestamp(seconds=YEAR_1 - 1),
    "after year 9999": Timestamp(seconds=YEAR_9999 + 1),
    "nanos": Timestamp(seconds=int(now().timestamp()), nanos=-1),
}


@pytest.mark.parametrize("start", BAD_STARTS.values(), ids=BAD_STARTS)
def test_starts(client, start):
    with invalid("start_time"):
        client.grant(start_time=start)


def test_a_group_that_is_not_offered_names_those_that_are(client):
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "group_id") as caught:
        client.grant(group_id="sales")
    says(caught, "group_id", "support")
    says(caught, "group_id", "engineering")


@pytest.mark.parametrize(("field", "end"), [
    ("expire_time", timestamp(now() - DAY)),
    ("expire_time", Timestamp(seconds=YEAR_9999 + 1)),
    ("expire_time", timestamp(now() + 91 * DAY)),
    ("duration", Duration()),
    ("duration", Duration(seconds=-1)),
    ("duration", duration(91 * DAY)),
    ("until_revoked", False),
])
def test_ends_to_extend_to(client, field, end):
    grant = client.grant()
    with invalid(field):
        client.extend(grant, **{field: end})
    assert client.get(grant) == bare(grant)
    client.events_expected = 1


CALLS = {
    "ExtendAccess": admin.ExtendAccessRequest(tenant_id="a", grant_id="b", until_revoked=True),
    "RevokeAccess": admin.RevokeAccessRequest(tenant_id="a", grant_id="b"),
    "RevokeAllAccess": admin.RevokeAllAccessRequest(tenant_id="a"),
    "GetGrant": admin.GetGrantRequest(tenant_id="a", grant_id="b"),
    "ListGrants": admin.ListGrantsRequest(tenant_id="a"),
    "ListEvents": admin.ListEventsRequest(tenant_id="a"),
    "GetSupportPolicy": admin.GetSupportPolicyRequest(tenant_id="a"),
    "UpdateSupportPolicy": admin.UpdateSupportPolicyRequest(
        tenant_id="a", update_mask={"paths": ["reason_required"]}, support_policy={"reason_required": True}),
}
GRANT_ID = "0190b6a5-4fd4-7000-8000-000000000000"


@pytest.mark.parametrize(("value", "expected"), (EMPTY | BAD_IDS).values(), ids=EMPTY | BAD_IDS)
@pytest.mark.parametrize("method", CALLS)
def test_the_tenant_of_every_call(client, method, value, expected):
    request = type(CALLS[method])()
    request.CopyFrom(CALLS[method])
    request.tenant_id = value
    if hasattr(request, "grant_id"):
        request.grant_id = GRANT_ID
    with invalid("tenant_id") as caught:
        client.admin(method, request)
    says(caught, "tenant_id", expected)


@pytest.mark.parametrize("method", ["ExtendAccess", "RevokeAccess", "GetGrant"])
def test_a_grant_must_be_named(client, method):
    request = type(CALLS[method])()
    request.CopyFrom(CALLS[method])
    request.tenant_id, request.grant_id = client.tenant_id, ""
    with invalid("grant_id"):
        client.admin(method, request)


@pytest.mark.parametrize(("value", "expected"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_reasons_of_other_calls(client, value, expected):
    grant = client.grant()
    for call in (
        lambda: client.extend(grant, duration=duration(DAY), reason=value),
        lambda: client.revoke(grant, reason=value),
        lambda: client.revoke_all(reason=value),
        lambda: client.update_policy(["reason_required"], reason=value, reason_required=True),
    ):
        with invalid("reason") as caught:
            call()
        says(caught, "reason", expected)
    client.events_expected = 1


@pytest.mark.parametrize("field", ["tenant_id", "agent_id"])
@pytest.mark.parametrize(("value", "expected"), (EMPTY | BAD_IDS).values(), ids=EMPTY | BAD_IDS)
def test_questions(client, field, value, expected):
    for ask in (client.check, client.explain):
        with invalid(field) as caught:
            ask(**{field: value})
        says(caught, field, expected)


def test_groups_of_a_question(client):
    with invalid("group_ids[1]"):
        client.check(group_ids=["support", " "])
    with invalid("group_ids") as caught:
        client.check(group_ids=[f"group-{n}" for n in range(101)])
    says(caught, "group_ids", "100")


def test_a_negative_revision(client):
    with invalid("at_least_revision"):
        client.check(at_least_revision=-1)


def test_a_batch_names_the_question_at_fault(client):
    checks = [client.check_request() for _ in range(5)]
    checks[3].tenant_id = ""
    checks[4].required_level = grants.ACCESS_LEVEL_UNSPECIFIED
    with invalid("checks[3].tenant_id", "checks[4].required_level"):
        client.batch(checks)


def test_a_batch_over_a_thousand(client):
    with invalid("checks") as caught:
        client.batch([client.check_request()] * 1001)
    says(caught, "checks", "1000")


@pytest.mark.parametrize("fields", [
    {"page_size": -1},
    {"page_token": "no token of ours"},
    {"states": [grants.GRANT_STATE_UNSPECIFIED]},
    {"states": [grants.GRANT_STATE_ACTIVE, 99]},
    {"group_id": " "},
    {"agent_id": "x" * 129},
    {"overlap_start": Timestamp(seconds=YEAR_9999 + 1)},
    {"overlap_end": Timestamp(seconds=YEAR_1 - 1)},
], ids=str)
def test_lists(client, fields):
    [(field, value)] = fields.items()
    expected = f"states[{len(value) - 1}]" if field == "states" else field
    with invalid(expected):
        client.list(**fields)


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
    assert client.list(page_size=2, group_id="support", page_token=token).grants, "another size is the same query"
    with invalid("page_token"):
        client.list(page_size=1, page_token=token)
    with invalid("page_token"):
        client.list(page_size=1, group_id="support", states=[grants.GRANT_STATE_ACTIVE], page_token=token)
    with invalid("page_token"):
        client.events(page_size=1, page_token=token)
    with invalid("page_token"):
        client.list(page_size=1, group_id="support", tenant_id=client.tenant_id + "-2", page_token=token)
    client.events_expected = 3


def test_an_actor_too_long(server, client):
    with Client(server.target, client.tenant_id, actor="x" * 129) as strange:
        with invalid("support-access-actor") as caught:
            strange.grant()
        says(caught, "support-access-actor", "128")


def test_a_message_over_the_size_limit(client):
    with invalid("message"):
        client.grant(reason="x" * (8 << 20))
    assert client.policy(), "the server is well"


def test_bytes_that_are_no_message(client):
    call = client.channel.unary_unary("/supportaccess.v1.SupportAccess/CheckAccess")
    with pytest.raises(grpc.RpcError) as raised:
        call(b"\xff\xff\xff", timeout=10)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT, raised.value
    assert client.policy(), "the server is well"


def test_a_method_that_does_not_exist(client):
    call = client.channel.unary_unary("/supportaccess.v1.SupportAccess/NoSuchMethod")
    with pytest.raises(grpc.RpcError) as raised:
        call(b"", timeout=10)
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
