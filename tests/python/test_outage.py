"""An outage of PostgreSQL. Changes fail as a whole, and the server recovers."""

import uuid

import grpc
import pytest
from client import Client, allowed, reason, rejected
from google.rpc import error_details_pb2
from harness import Postgres, Server, eventually


@pytest.fixture
def cluster():
    """A cluster for this test only, because the test stops it."""
    own = Postgres()
    yield own
    own.close()


def test_the_server_recovers_from_an_outage_of_postgres(cluster):
    with Server(cluster.new_database()) as server, Client(server.target, "acme") as client:
        kept = client.grant()
        assert allowed(client.check())
        request = client.grant_request(request_id=str(uuid.uuid4()))

        cluster.stop()
        for change in (
            lambda: client.admin("GrantAccess", request),
            lambda: client.revoke(kept),
            lambda: client.list(),
        ):
            with rejected(grpc.StatusCode.UNAVAILABLE, reason="DATABASE_UNAVAILABLE") as caught:
                change()
            retry = caught.rejection.detail(error_details_pb2.RetryInfo)
            assert retry.retry_delay.ToNanoseconds() > 0, "the error must state a retry delay"
        stale = eventually(
            lambda: (lambda answer: answer if reason(answer) == "STALE" else None)(client.check()),
            "without a lease, the server must deny",
        )
        assert not allowed(stale) and stale.valid_for.ToNanoseconds() == 0

        cluster.start()

        def granted():
            try:
                return client.admin("GrantAccess", request).grant
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error
                return None

        made = eventually(granted, "a change must succeed again")
        eventually(lambda: allowed(client.check()), "checks must be allowed again")
        assert {grant.grant_id for grant in client.list().grants} == {made.grant_id, kept.grant_id}
        sequences = [event.sequence for event in client.events().events]
        assert sequences == [2, 1], "no change may be partly written or written twice"
        client.revoke(made)
        client.revoke(kept)
        assert not allowed(client.check())
        assert server.terminate() == 0, server.log()
