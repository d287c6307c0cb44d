"""PostgreSQL gone while the server runs: changes are refused plainly, nothing is half-written, and it recovers by itself."""

import uuid

import grpc
import pytest
from client import Client, allowed, reason, refused
from google.rpc import error_details_pb2
from harness import Postgres, Server, eventually


@pytest.fixture
def cluster():
    """A cluster that only this test uses, since it takes it away."""
    own = Postgres()
    yield own
    own.close()


def test_postgres_goes_away_and_comes_back(cluster):
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
            with refused(grpc.StatusCode.UNAVAILABLE) as caught:
                change()
            retry = caught.refusal.detail(error_details_pb2.RetryInfo)
            assert retry.retry_delay.ToNanoseconds() > 0, "it says when to try again"
        stale = eventually(
            lambda: (lambda it: it if reason(it) == "STALE" else None)(client.check()),
            "without proof that it is current, the server denies",
        )
        assert not allowed(stale) and stale.valid_for.ToNanoseconds() == 0

        cluster.start()

        def granted():
            try:
                return client.admin("GrantAccess", request).grant
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error
                return None

        made = eventually(granted, "a change works again")
        eventually(lambda: allowed(client.check()), "checks are allowed again")
        assert {grant.grant_id for grant in client.list().grants} == {made.grant_id, kept.grant_id}
        revisions = [event.revision for event in client.events().events]
        assert revisions == [2, 1], "nothing half-written, nothing twice"
        client.revoke(made)
        client.revoke(kept)
        assert not allowed(client.check())
        assert server.terminate() == 0, server.log()
