"""Retries with a request id, and waiting for enforcement."""

import uuid
from datetime import timedelta

import grpc
from client import DAY, Client, allowed, duration, grants, invalid, moment, now, rejected

COMPLETE = grants.ENFORCEMENT_STATE_COMPLETE


def ids(listed):
    return [grant.grant_id for grant in listed]


def test_a_repeated_request_returns_the_grant_as_it_is_now(client):
    request = client.grant_request(request_id=str(uuid.uuid4()))
    first = client.admin("GrantAccess", request)
    assert client.admin("GrantAccess", request) == first
    revoked = client.revoke(first.grant).grant
    again = client.admin("GrantAccess", request)
    assert (again.grant, again.consistency_token) == (revoked, first.consistency_token)
    assert len(client.list().grants) == 1
    assert not allowed(client.check())

    request.ticket = "T-2"
    with rejected(grpc.StatusCode.ALREADY_EXISTS, "request_id", reason="REQUEST_ID_REUSED"):
        client.admin("GrantAccess", request)
    assert len(client.list().grants) == 1


def test_every_change_can_be_repeated(client):
    grant = client.grant(duration=duration(DAY))
    calls = [
        lambda key, reason: client.extend(
            grant, duration=duration(2 * DAY), request_id=key, reason=reason
        ),
        lambda key, reason: client.update_policy(
            request_id=key, reason=reason, max_duration=duration(80 * DAY)
        ),
        lambda key, reason: client.revoke(grant, request_id=key, reason=reason),
    ]
    for number, call in enumerate(calls, 2):
        first = call(f"key-{number}", "first")
        client.settled_events()
        assert call(f"key-{number}", "first") == first, (
            "the enforcement of the first call must be returned"
        )
        with rejected(grpc.StatusCode.ALREADY_EXISTS, "request_id", reason="REQUEST_ID_REUSED"):
            call(f"key-{number}", "other content")
        assert len(client.events().events) == number

    client.grant()
    first = client.revoke_all(request_id="all")
    client.grant()
    again = client.revoke_all(request_id="all")
    assert (again.revoked_count, ids(again.grants)) == (1, ids(first.grants)), (
        "a later grant must not be revoked"
    )
    assert again.enforcement == first.enforcement
    assert allowed(client.check())


def test_a_request_id_has_one_use_in_a_tenant(client):
    request = client.grant_request(request_id="same")
    grant = client.admin("GrantAccess", request).grant
    with rejected(grpc.StatusCode.ALREADY_EXISTS, "request_id"):
        client.revoke(grant, request_id="same")
    request.tenant_id += "-2"
    assert client.admin("GrantAccess", request).grant.grant_id != grant.grant_id


def test_a_call_that_changes_nothing_stores_no_request_id(client):
    grant = client.grant()
    client.revoke(grant)
    client.revoke(grant, request_id="key", reason="again")
    assert client.revoke_all(request_id="key").revoked_count == 0
    assert client.grant(request_id="key")
    assert len(client.events().events) == 3


def test_a_change_can_be_waited_for_in_its_own_history(server, client):
    granted = client.granted()
    revoked = client.revoke(granted.grant).enforcement
    assert (revoked.state, revoked.nodes_pending) == (COMPLETE, 0)
    assert revoked.nodes_acknowledged >= 1
    assert abs(moment(revoked.complete_by) - now()) < timedelta(minutes=1)
    client.settled_events()
    waited = client.wait(revoked.consistency_token)
    assert waited == revoked, "the recorded figures must be returned"
    assert client.wait(granted.consistency_token).state == COMPLETE
    with Client(server.target, client.tenant_id + "-2") as other:
        other.grant()
        for tenant_id in (other.tenant_id, None):
            with rejected(grpc.StatusCode.NOT_FOUND, "consistency_token", reason="EVENT_NOT_FOUND"):
                other.wait(revoked.consistency_token, tenant_id=tenant_id)
    with rejected(
        grpc.StatusCode.FAILED_PRECONDITION, "consistency_token", reason="CONSISTENCY_TOKEN_INVALID"
    ):
        client.wait("AAAAAAAAAAAAAAAAAAAAAA")
    with invalid("consistency_token"):
        client.wait("")


def test_the_token_of_a_call_that_changed_nothing_can_be_waited_for(client):
    for enforcement in (client.revoke_all().enforcement, client.revoke_all().enforcement):
        assert enforcement.state == COMPLETE
        assert client.wait(enforcement.consistency_token).state == COMPLETE
        client.grant()
