"""Invalid requests: each is rejected, names the exact field, and changes nothing."""

from datetime import timedelta

import grpc
import pytest
from client import (
    DAY,
    DEADLINE_S,
    Client,
    admin,
    duration,
    forbidden,
    grants,
    invalid,
    now,
    timestamp,
)
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

YEAR_1, YEAR_9999 = -62_135_596_800, 253_402_300_799


@pytest.fixture(autouse=True)
def nothing_is_changed(client):
    """Asserts that a test creates no events, or as many as the test expects."""
    client.events_expected = 0
    yield
    events = client.events().events
    assert len(events) == client.events_expected, events


# Invalid ids, and a word of the error message.
BAD_IDS = {
    "too long": ("x" * 129, "128"),
    "control character": ("a\x00b", "control"),
    "line break": ("a\nb", "control"),
    "delete": ("a\x7fb", "control"),
    "space before": (" a", "space"),
    "space after": ("a ", "space"),
    "no-break space after": ("a\u00a0", "space"),
    "zero-width space": ("a\u200bb", "invisible"),
    "Hangul filler": ("\u3164", "invisible"),
    "direction override": ("a\u202eb", "invisible"),
    "noncharacter": ("a\ufdd0", "invisible"),
    "Braille blank": ("\u2800", "visible"),
    "decomposed": ("e\u0301", "NFC"),
}
BAD_TEXTS = {"too long": ("x" * 1001, "1000"), "escape": ("a\x1b[31m", "control")}
EMPTY = {"empty": ("", "")}


def cases(fields, values):
    return [
        pytest.param(field, *value, id=f"{field}-{name}")
        for field in fields
        for name, value in values.items()
    ]


def states(caught, field, expected):
    [description] = caught.rejection.violations[field]
    assert expected in description.replace(",", ""), description


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        *cases(["tenant_id", "group_id"], EMPTY | BAD_IDS),
        *cases(["request_id", "ticket"], BAD_IDS),
        *cases(["reason"], BAD_TEXTS),
    ],
)
def test_grant_texts(client, field, value, expected):
    with invalid(field) as caught:
        client.grant(**{field: value})
    states(caught, field, expected)


@pytest.mark.parametrize(("value", "expected"), (EMPTY | BAD_IDS).values(), ids=EMPTY | BAD_IDS)
def test_agents_of_a_grant(client, value, expected):
    with invalid("named_agents.agent_ids[1]") as caught:
        client.grant(agent_ids=["fine", value])
    states(caught, "named_agents.agent_ids[1]", expected)


def test_too_many_agents(client):
    with invalid("named_agents.agent_ids") as caught:
        client.grant(agent_ids=[f"agent-{n}" for n in range(101)])
    states(caught, "named_agents.agent_ids", "100")


def test_named_agents_are_neither_empty_nor_duplicate(client):
    with invalid("named_agents.agent_ids"):
        client.grant(agent_ids=[])
    with invalid("named_agents.agent_ids[2]"):
        client.grant(agent_ids=["a", "b", "a"])


def test_characters_are_counted_not_bytes(client):
    grant = client.grant(ticket="é" * 128, reason="é" * 1000)
    assert len(grant.ticket) == 128
    client.events_expected = 1


def test_all_invalid_fields_are_reported_at_once(client):
    with invalid("group_id", "access_level", "ticket"):
        client.grant(group_id="", access_level=0, ticket=" ")


@pytest.mark.parametrize("level", [0, 4, -1])
def test_levels(client, level):
    with invalid("access_level"):
        client.grant(access_level=level)
    with invalid("check.required_level"):
        client.check(required_level=level)
    with invalid("check.required_level"):
        client.explain(required_level=level)


BAD_ENDS = {
    "in the past": ("expire_time", timestamp(now() - DAY)),
    "now": ("expire_time", timestamp(now())),
    "before year 1": ("expire_time", Timestamp(seconds=YEAR_1 - 1)),
    "after year 9999": ("expire_time", Timestamp(seconds=YEAR_9999 + 1)),
    "nanos negative": ("expire_time", Timestamp(seconds=int((now() + DAY).timestamp()), nanos=-1)),
    "nanos a whole second": (
        "expire_time",
        Timestamp(seconds=int((now() + DAY).timestamp()), nanos=10**9),
    ),
    "duration zero": ("duration", Duration()),
    "duration below a microsecond": ("duration", Duration(nanos=999)),
    "duration negative": ("duration", Duration(seconds=-1)),
    "duration of mixed sign": ("duration", Duration(seconds=3600, nanos=-1)),
    "duration beyond protobuf": ("duration", Duration(seconds=315_576_000_001)),
    "duration beyond i64": ("duration", Duration(seconds=2**63 - 1)),
}


@pytest.mark.parametrize(("field", "end"), BAD_ENDS.values(), ids=BAD_ENDS)
def test_ends(client, field, end):
    with invalid(field):
        client.grant(**{field: end})


def test_no_end_at_all(client):
    for absent in ({"duration": None}, {"until_revoked": False}):
        with invalid("expire_time") as caught:
            client.grant(**absent)
        assert caught.rejection.reasons == {"expire_time": ["REQUIRED"]}
    grant = client.grant()
    for absent in ({}, {"until_revoked": False}):
        with invalid("expire_time"):
            client.extend(grant, **absent)
    client.events_expected = 1


ENDS = {"expire_time": timestamp(now() + DAY), "duration": duration(DAY), "until_revoked": True}


@pytest.mark.parametrize(
    "fields",
    [
        ("expire_time", "duration"),
        ("expire_time", "until_revoked"),
        ("duration", "until_revoked"),
        tuple(ENDS),
    ],
    ids=str,
)
def test_two_ends_conflict(client, fields):
    ends = {field: ENDS[field] for field in fields}
    grant = client.grant(duration=duration(DAY), until_revoked=False)
    for call in (lambda: client.grant(**ends), lambda: client.extend(grant, **ends)):
        with invalid(*fields) as caught:
            call()
        assert caught.rejection.reasons == {field: ["CONFLICT"] for field in fields}
    client.extend(grant, expire_time=ENDS["expire_time"], until_revoked=False)
    client.events_expected = 2


def test_an_end_before_the_start(client):
    start = now() + 2 * DAY
    with invalid("expire_time"):
        client.grant(start_time=timestamp(start), expire_time=timestamp(start - DAY))
    with invalid("expire_time"):
        client.grant(start_time=timestamp(start), expire_time=timestamp(start))


BAD_STARTS = {
    "in the past": timestamp(now() - timedelta(hours=1)),
    "before year 1": Timestamp(seconds=YEAR_1 - 1),
    "after year 9999": Timestamp(seconds=YEAR_9999 + 1),
    "nanos": Timestamp(seconds=int(now().timestamp()), nanos=-1),
}


@pytest.mark.parametrize("start", BAD_STARTS.values(), ids=BAD_STARTS)
def test_starts(client, start):
    with invalid("start_time"):
        client.grant(start_time=start)


FORBIDDEN = {
    "group": (
        {"group_id": "sales"},
        "group_id",
        "GROUP_NOT_ALLOWED",
        {"groups": "support, engineering"},
    ),
    "expire_time": (
        {"expire_time": timestamp(now() + 91 * DAY)},
        "expire_time",
        "DURATION_NOT_ALLOWED",
        {"max_duration": "7776000s"},
    ),
    "duration": (
        {"duration": duration(90 * DAY + timedelta(microseconds=1))},
        "duration",
        "DURATION_NOT_ALLOWED",
        {"max_duration": "7776000s"},
    ),
    "start": (
        {"start_time": timestamp(now() + 91 * DAY)},
        "start_time",
        "START_NOT_ALLOWED",
        {"max_schedule_ahead": "7776000s"},
    ),
}


@pytest.mark.parametrize(("fields", "field", "reason", "limits"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_a_policy_violation_states_field_reason_and_limit(client, fields, field, reason, limits):
    with forbidden(field) as caught:
        client.grant(**fields)
    assert caught.rejection.reasons == {field: [reason]}
    assert dict(caught.rejection.info.metadata) == limits


def test_a_later_end_beyond_the_policy(client):
    grant = client.grant()
    for field, end in (
        ("expire_time", timestamp(now() + 91 * DAY)),
        ("duration", duration(91 * DAY)),
    ):
        with forbidden(field) as caught:
            client.extend(grant, **{field: end})
        assert dict(caught.rejection.info.metadata) == {"max_duration": "7776000s"}
    client.events_expected = 1


@pytest.mark.parametrize(
    ("field", "end"),
    [
        ("expire_time", timestamp(now() - DAY)),
        ("expire_time", Timestamp(seconds=YEAR_9999 + 1)),
        ("duration", Duration()),
        ("duration", Duration(seconds=-1)),
    ],
)
def test_ends_to_extend_to(client, field, end):
    grant = client.grant()
    with invalid(field):
        client.extend(grant, **{field: end})
    assert client.get(grant) == grant
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
        tenant_id="a", policy_overrides={"reason_required": True}
    ),
    "WaitEnforced": admin.WaitEnforcedRequest(tenant_id="a", consistency_token="b"),
    "LockAccess": admin.LockAccessRequest(tenant_id="a", everything=True, reason="c"),
    "UnlockAccess": admin.UnlockAccessRequest(tenant_id="a", lock_id="b", reason="c"),
    "GetCheckpoint": admin.GetCheckpointRequest(tenant_id="a"),
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
    # Without a tenant, a list must have a scope.
    is_list = method.startswith("List") and not value
    with invalid("scope" if is_list else "tenant_id") as caught:
        client.admin(method, request)
    if not is_list:
        states(caught, "tenant_id", expected)


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
        lambda: client.update_policy(reason=value, reason_required=True),
    ):
        with invalid("reason") as caught:
            call()
        states(caught, "reason", expected)
    client.events_expected = 1


@pytest.mark.parametrize("field", ["tenant_id", "agent_id"])
@pytest.mark.parametrize(("value", "expected"), (EMPTY | BAD_IDS).values(), ids=EMPTY | BAD_IDS)
def test_ids_of_a_check(client, field, value, expected):
    for call in (client.check, client.explain):
        if (call, field, value) == (client.explain, "agent_id", ""):
            continue  # An explanation may be about an unnamed agent.
        with invalid(f"check.{field}") as caught:
            call(**{field: value})
        states(caught, f"check.{field}", expected)


@pytest.mark.parametrize(("value", "expected"), BAD_IDS.values(), ids=BAD_IDS)
def test_the_human_of_a_check(client, value, expected):
    with invalid("check.on_behalf_of") as caught:
        client.check(on_behalf_of=value)
    states(caught, "check.on_behalf_of", expected)


def test_a_check_must_be_set(client):
    for method in ("CheckAccess", "ExplainAccess"):
        call = client.channel.unary_unary(f"/supportaccess.v1.SupportAccess/{method}")
        with invalid("check"):
            call(b"", timeout=DEADLINE_S)
    with invalid("checks"):
        client.batch([])


def test_a_batch_names_the_invalid_check(client):
    checks = [client.access_check() for _ in range(5)]
    checks[3].tenant_id = ""
    checks[4].required_level = grants.ACCESS_LEVEL_UNSPECIFIED
    with invalid("checks[3].tenant_id", "checks[4].required_level"):
        client.batch(checks)


def test_a_batch_over_a_thousand(client):
    with invalid("checks") as caught:
        client.batch([client.access_check()] * 1001)
    states(caught, "checks", "1000")


def test_an_actor_too_long(server, client):
    with Client(server.target, client.tenant_id, actor="x" * 129) as other:
        with invalid("support-access-actor") as caught:
            other.grant()
        states(caught, "support-access-actor", "128")


def test_a_message_over_the_size_limit(client):
    with invalid("message"):
        client.grant(reason="x" * (8 << 20))
    assert client.policy(), "the server must still respond"


def test_bytes_that_are_not_a_message(client):
    call = client.channel.unary_unary("/supportaccess.v1.SupportAccess/CheckAccess")
    with pytest.raises(grpc.RpcError) as raised:
        call(b"\xff\xff\xff", timeout=DEADLINE_S)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT, raised.value
    assert client.policy(), "the server must still respond"


def test_a_method_that_does_not_exist(client):
    call = client.channel.unary_unary("/supportaccess.v1.SupportAccess/NoSuchMethod")
    with pytest.raises(grpc.RpcError) as raised:
        call(b"", timeout=DEADLINE_S)
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
