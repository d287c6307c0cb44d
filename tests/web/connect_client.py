"""A check, and an error, with the Connect client of Python. Arguments: URL and codec."""

import sys

from connectrpc.client import ConnectClientSync
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType

sys.path.insert(0, ".")
from supportaccess.v1 import grant_pb2, support_access_admin_pb2, support_access_pb2  # noqa: E402


def method(module, service, name):
    return MethodInfo(
        name=name,
        service_name=f"supportaccess.v1.{service}",
        input=getattr(module, f"{name}Request"),
        output=getattr(module, f"{name}Response"),
        idempotency_level=IdempotencyLevel.UNKNOWN,
        stream_type=StreamType.UNARY,
    )


url, codec = sys.argv[1:]
codecs = {"proto": google_protobuf_binary_codec, "json": google_protobuf_json_codec}
with ConnectClientSync(url, codec=codecs[codec]()) as client:
    check = support_access_pb2.AccessCheck(
        tenant_id="acme",
        agent_id="ada",
        group_ids=["support"],
        required_level=grant_pb2.ACCESS_LEVEL_READ_ONLY,
        agent_kind=grant_pb2.AGENT_KIND_HUMAN,
    )
    response = client.execute_unary(
        request=support_access_pb2.CheckAccessRequest(check=check),
        method=method(support_access_pb2, "SupportAccess", "CheckAccess"),
    )
    print(support_access_pb2.Decision.Name(response.decision))
    missing = support_access_admin_pb2.GetGrantRequest(
        tenant_id="acme", grant_id="01890000-0000-7000-8000-000000000000"
    )
    try:
        client.execute_unary(
            request=missing,
            method=method(support_access_admin_pb2, "SupportAccessAdmin", "GetGrant"),
        )
    except ConnectError as error:
        print(error.code.value)
        reason = b"GRANT_NOT_FOUND"
        found = [detail for detail in error.details if reason in detail.message_bytes]
        print(reason.decode() if found else error.details)
