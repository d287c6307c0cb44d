"""Checks by a real Envoy, with the configuration of examples/envoy.

`failure_mode_allow` must change nothing as long as support-access responds.
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from gateway import Issuer, World
from harness import eventually
from supportaccess.v1 import grant_pb2 as grants

FORGED = [("x-support-grant-id", "forged"), ("X-Support-Level", "ADMIN")]
both_modes = pytest.mark.parametrize("fails_open", [False, True], ids=["closed", "open"])


@pytest.fixture
def world(tmp_path):
    """Makes the world of a test."""
    with ExitStack() as stack:
        yield lambda fails_open=False, **options: World(stack, tmp_path, fails_open, **options)


def support_headers(response):
    return [tuple(pair) for pair in response.json if pair[0].startswith("x-support-")]


@both_modes
def test_a_grant_allows_until_the_revocation(world, fails_open):
    world = world(fails_open)
    world.eventually(403, "NO_GRANT")
    grant = world.client.grant(access_level=grants.ACCESS_LEVEL_READ_ONLY)
    world.allowed()
    assert world.get(method="POST").refusal == (403, "LEVEL_EXCEEDED")
    assert world.get("/t/acme/search", method="POST").status == 200
    assert world.get("/t/globex/users").refusal == (403, "NO_GRANT")
    world.client.revoke(grant)
    response = world.get()
    assert response.refusal == (403, "REVOKED"), "the revocation is enforced once it returns"
    assert response.json["remedy"] == "REQUEST_GRANT"
    assert "was revoked" in response.json["message"]


def test_our_headers_replace_those_of_the_client(world):
    world = world()
    grant = world.client.grant()
    world.allowed()
    headers = dict(support_headers(world.get(headers=FORGED * 2)))
    assert headers["x-support-grant-id"] == grant.grant_id
    assert headers["x-support-level"] == "READ_WRITE"
    assert headers["x-support-until"].endswith("Z")
    assert len(support_headers(world.get(headers=FORGED * 2))) == 3, "each header occurs once"


@both_modes
def test_claims_come_from_the_token_that_envoy_has_verified(world, fails_open):
    world = world(fails_open)
    world.client.grant()
    world.allowed()
    issue = world.issuer.token
    assert world.get(token="forged").status == 401
    assert world.get(token=Issuer().token(email="agent-7", groups=["/support"])).status == 401
    for token, reason in [
        (issue(email="agent-7", groups=["/others"]), "GROUP_MISMATCH"),
        (issue(email="agent-7", groups=[]), "GROUP_MISMATCH"),
        (issue(email="agent-7"), "INPUT_MISSING"),
        (issue(groups=["/support"]), "INPUT_MISSING"),
        (issue(email=["a", "b"], groups=["/support"]), "INPUT_AMBIGUOUS"),
        (issue(email="agent-7", _claim_names={"groups": "src1"}), "CLAIM_OVERFLOW"),
    ]:
        assert world.get(token=token).refusal == (403, reason)
    override = [("x-http-method-override", "DELETE")]
    assert world.get(headers=override).refusal == (403, "INPUT_AMBIGUOUS")
    assert world.get("/other").refusal == (403, "INPUT_MISSING")
    # Envoy normalizes the path before the check, and forwards the same path.
    assert world.get("/t/globex/../acme/users").status == 200
    assert world.get("/t/acme/../globex/users").refusal == (403, "NO_GRANT")
    assert world.get("/t/acme%2f..%2fglobex").status == 400


TYPE = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute"
MATCH = "              - match: { prefix: / }\n"
PER_ROUTE = f"""{MATCH}\
                typed_per_filter_config:
                  envoy.filters.http.ext_authz:
                    "@type": {TYPE}
                    check_settings: {{ context_extensions: {{ tenant: acme }} }}
"""
ROUTES = """\
[[integrations.envoy.routes]]
path = "/headers"
tenant = { header = "x-tenant" }

[[integrations.envoy.routes]]
path = "/extensions"
tenant = { extension = "tenant" }

[integrations.envoy.mapping]
"""


@pytest.mark.parametrize("is_raw", [False, True], ids=["joined", "raw"])
def test_headers_and_context_extensions_are_sources(world, is_raw):
    raw = f"transport_api_version: V3\n              encode_raw_headers: {str(is_raw).lower()}"
    gateway = [
        ("transport_api_version: V3", raw),
        ("patterns:\n", "patterns:\n                - { exact: x-tenant }\n"),
        (f"{MATCH}                route:", f"{PER_ROUTE}                route:"),
    ]
    world = world(config=[("[integrations.envoy.mapping]\n", ROUTES)], gateway=gateway)
    world.client.grant()
    world.allowed()
    assert world.get("/extensions").status == 200
    named = ("x-tenant", "acme")
    assert world.get("/headers", headers=[named]).status == 200
    assert world.get("/headers").refusal == (403, "INPUT_MISSING")
    for headers in ([named, named], [("x-tenant", "acme,globex")], [named, ("X-Tenant", "globex")]):
        assert world.get("/headers", headers=headers).refusal == (403, "INPUT_AMBIGUOUS")


@both_modes
def test_a_gateway_without_credentials_is_denied(world, fails_open):
    world = world(fails_open, is_authenticated=False)
    world.client.grant()
    for _ in range(3):
        assert world.get().refusal == (503, "CREDENTIALS_MISSING")


@both_modes
def test_a_gateway_beyond_its_limits_is_denied(world, fails_open):
    world = world(fails_open, limits="\n[limits]\nchecks_per_second = 1\n")
    world.client.grant()
    with ThreadPoolExecutor(8) as threads:
        responses = list(threads.map(lambda _: world.get(), range(40)))
    refused = [response for response in responses if response.status != 200]
    assert len(refused) > 30
    limited = [response for response in refused if response.json["reason"] == "TOO_MANY_REQUESTS"]
    assert limited and {response.refusal[0] for response in limited} == {503}


@both_modes
def test_a_stale_sidecar_denies(world, fails_open):
    world = world(fails_open)
    world.client.grant()
    world.allowed()
    world.replica.kill()

    def is_stale():
        response = world.get()
        return response.status != 200 and response.refusal == (503, "STALE")

    eventually(is_stale, "the lease has ended")
    assert all(world.get().refusal == (503, "STALE") for _ in range(5))


def only_envoy_decides(world, fails_open):
    """Support-access does not respond, so that the answer is Envoy's. A request that fails open has
    none of our headers, and none that the client has forged."""
    response = world.get(headers=FORGED)
    if fails_open:
        assert response.status == 200 and not support_headers(response), response.text
    else:
        assert response.status == 503 and not response.text.startswith("{"), response.text


@both_modes
def test_only_envoy_decides_if_its_user_may_not_connect(world, fails_open):
    uid = os.getuid()
    world = world(fails_open, config=[(f"gateway = [{uid}]", f"gateway = [{uid + 1}]")])
    world.client.grant()
    only_envoy_decides(world, fails_open)


@both_modes
def test_only_envoy_decides_without_a_process(world, fails_open):
    world = world(fails_open)
    world.client.grant()
    world.allowed()
    world.sidecar.kill()
    only_envoy_decides(world, fails_open)


@both_modes
def test_only_envoy_decides_while_the_process_does_not_respond(world, fails_open):
    world = world(fails_open)
    world.client.grant()
    world.allowed()
    world.sidecar.pause()
    began = time.monotonic()
    only_envoy_decides(world, fails_open)
    assert time.monotonic() - began > 0.4, "Envoy waits for the timeout of the example"
    world.sidecar.resume()
    eventually(lambda: support_headers_of(world.get()), "the sidecar answers again")


def support_headers_of(response):
    return response.status == 200 and support_headers(response)


@both_modes
def test_a_process_that_stops_answers_the_calls_that_it_has_accepted(world, fails_open):
    world = world(fails_open)
    world.eventually(403, "NO_GRANT")
    with ThreadPoolExecutor(4) as threads:
        running = True

        def ask(_):
            found = []
            while running:
                found.append(world.get(headers=FORGED))
            return found

        asking = [threads.submit(ask, index) for index in range(4)]
        assert world.sidecar.terminate() == 0
        running = False
        responses = [response for task in asking for response in task.result()]
    assert responses
    for response in responses:
        if response.status == 200:
            assert fails_open and not support_headers(response)
        else:
            assert response.status in (403, 503), response.text
    only_envoy_decides(world, fails_open)


def test_a_websocket_outlives_a_revocation_by_the_stream_duration(world):
    world = world()
    grant = world.client.grant()
    world.allowed()
    with world.envoy.websocket("/t/acme/socket", world.token) as stream:
        opened = time.monotonic()
        assert b"data" in stream.recv(4_096)
        world.client.revoke(grant)
        assert world.get("/t/acme/socket").refusal == (403, "REVOKED")
        assert stream.recv(4_096), "Envoy asks once for each stream"
        last = opened
        while received(stream):
            last = time.monotonic()
    # max_stream_duration is 2 s. Envoy needs up to a second to close the connection.
    assert 1 < last - opened < 3.5, last - opened


def received(stream):
    try:
        return stream.recv(4_096)
    except ConnectionResetError:
        return b""
