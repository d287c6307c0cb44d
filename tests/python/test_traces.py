"""Traces continue the traces of callers, and are exported by OTLP.

The collector implements the service definition of OpenTelemetry.
"""

import json
import secrets
import time
from concurrent import futures

import grpc
import pytest
from client import Client, access
from harness import DEADLINE_S, Server, eventually
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Stores the received spans."""

    def __init__(self):
        self.sent = []
        self.server = grpc.server(futures.ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.endpoint = f"http://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.stop(None).wait()

    def Export(self, request, _):  # noqa: N802  gRPC's name
        self.sent.extend(request.resource_spans)
        return trace_service_pb2.ExportTraceServiceResponse()

    def spans(self):
        return [span for one in self.sent for scope in one.scope_spans for span in scope.spans]

    def of_trace(self, trace_id):
        return [span for span in self.spans() if span.trace_id.hex() == trace_id]


def attributes(of):
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in of.attributes}


def new_parent(flags="01"):
    """A trace id, a span id, and the header with both (W3C Trace Context, 3.2)."""
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    return trace_id, span_id, f"00-{trace_id}-{span_id}-{flags}"


def check(client, *metadata, **fields):
    return client.access_stub.CheckAccess(
        access.CheckAccessRequest(check=client.access_check(**fields)),
        timeout=DEADLINE_S,
        metadata=metadata,
    )


@pytest.fixture
def collector():
    with Collector() as started:
        yield started


def traced(collector, ratio, *flags):
    return Server(
        "memory:", "--otlp-endpoint", collector.endpoint, "--trace-ratio", ratio, *flags)


def test_a_call_continues_the_trace_of_its_caller(collector):
    trace_id, span_id, header = new_parent()
    # Calls without an error are logged at this level.
    server = traced(collector, "0", "--log", "support_access=debug")
    with server, Client(server.target, "acme") as client:
        check(
            client,
            ("traceparent", header),
            ("tracestate", "vendor=abc"),
            ("x-request-id", "call-7"),
        )
        check(client, ("traceparent", new_parent(flags="00")[2]))
        check(client)
        assert server.terminate() == 0, server.log()
        lines = [json.loads(line) for line in server.lines]
    (span,) = collector.spans()  # the other two calls are not sampled
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (trace_id, span_id)
    assert (span.trace_state, span.kind) == ("vendor=abc", Span.SPAN_KIND_SERVER)
    assert span.name == "supportaccess.v1.SupportAccess/CheckAccess"
    found = attributes(span)
    assert found.pop("busy_ns", 0) >= 0 and found.pop("idle_ns", 0) >= 0
    assert found == {
        "rpc.system.name": "grpc",
        "rpc.method": "supportaccess.v1.SupportAccess/CheckAccess",
        "rpc.response.status_code": "OK",
        "call_id": "call-7",
        "trace_id": trace_id,
    }
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert 0 < span.start_time_unix_nano < span.end_time_unix_nano
    resource = attributes(collector.sent[0].resource)
    assert resource["service.name"] == "support-access"
    assert resource["service.version"]
    assert [line["call_id"] for line in lines if line.get("trace_id")] == ["call-7"]


def test_a_revocation_shows_its_steps(collector):
    trace_id, _, header = new_parent()
    with traced(collector, "0") as server, Client(server.target, "acme") as client:
        grant = client.grant()
        client.metadata.append(("traceparent", header))
        client.revoke(grant)
        assert server.terminate() == 0, server.log()
        audit = [json.loads(line) for line in server.lines if '"revoked"' in line]
    spans = {span.name: span for span in collector.of_trace(trace_id)}
    assert spans.keys() == {"supportaccess.v1.SupportAccessAdmin/RevokeAccess", "commit", "enforce"}
    call = spans["supportaccess.v1.SupportAccessAdmin/RevokeAccess"]
    assert {spans["commit"].parent_span_id, spans["enforce"].parent_span_id} == {call.span_id}
    assert attributes(spans["enforce"])["revision"] == 2
    assert spans["commit"].end_time_unix_nano <= spans["enforce"].start_time_unix_nano
    assert [line["span"]["trace_id"] for line in audit] == [trace_id]


def test_calls_without_a_trace_are_sampled_by_the_ratio(collector):
    with traced(collector, "1") as server, Client(server.target, "acme") as client:
        check(client, ("traceparent", "00-zz-1-01"))
        with pytest.raises(grpc.RpcError):
            check(client, tenant_id="")
        # Spans are also sent while the server runs.
        eventually(lambda: len(collector.spans()) == 2, "two spans")
        assert server.terminate() == 0, server.log()
    codes = {attributes(span)["rpc.response.status_code"] for span in collector.spans()}
    assert codes == {"OK", "INVALID_ARGUMENT"}
    assert not any(span.parent_span_id for span in collector.spans())
    assert not any(span.status.code for span in collector.spans()), (
        "neither code is a server error"
    )
    assert len({span.trace_id for span in collector.spans()}) == 2


def test_the_traces_of_callers_are_bounded(collector):
    """Every caller can request a trace, with a state. The server bounds both."""
    with traced(collector, "0") as server, Client(server.target, "acme") as client:
        state = ",".join(f"key{number}=some-value-of-{number}" for number in range(30))
        assert len(state) > 512
        trace_id, _, header = new_parent()
        check(client, ("traceparent", header), ("tracestate", state))
        begun = time.monotonic()
        calls = [
            client.access_stub.CheckAccess.future(
                access.CheckAccessRequest(check=client.access_check()),
                timeout=DEADLINE_S,
                metadata=[("traceparent", new_parent()[2])],
            )
            for _ in range(1_000)
        ]
        for call in calls:
            call.result()
        elapsed = time.monotonic() - begun
        assert server.terminate() == 0, server.log()
    (span,) = collector.of_trace(trace_id)
    assert span.trace_state == ""
    assert 200 <= len(collector.spans()) <= 201 + 200 * elapsed


def test_an_unavailable_collector_delays_no_call(collector):
    collector.server.stop(None).wait()
    with traced(collector, "1") as server, Client(server.target, "acme") as client:
        check(client)
        server.process.terminate()
        assert server.process.wait(DEADLINE_S) == 0, server.log()
        records = [json.loads(line) for line in server.lines]
    assert [line for line in records if line["level"] in ("WARN", "ERROR")], (
        "the server must log that traces were lost"
    )
