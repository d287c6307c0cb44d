"""Encodes a request with the generated code and decodes it again. Prints the called method and the
encoded request. Then sends the check three times to each target in the arguments, and prints the
decisions."""

import sys

import grpc
from supportaccess.v1 import grant_pb2, support_access_pb2, support_access_pb2_grpc

request = support_access_pb2.CheckAccessRequest(
    check=support_access_pb2.AccessCheck(
        tenant_id="acme",
        agent_id="dana",
        group_ids=["billing", "größe"],
        required_level=grant_pb2.ACCESS_LEVEL_READ_WRITE,
        agent_kind=grant_pb2.AGENT_KIND_SERVICE,
        on_behalf_of="erin",
    ),
    consistency_token="token",
)
encoded = request.SerializeToString()
decoded = support_access_pb2.CheckAccessRequest.FromString(encoded)
assert decoded == request, f"decoded {decoded} instead of {request}"

service = support_access_pb2.DESCRIPTOR.services_by_name["SupportAccess"]
print(f"{service.full_name}/{service.methods_by_name['CheckAccess'].name}")
print(encoded.hex())

check = support_access_pb2.CheckAccessRequest(check=request.check)
for target in sys.argv[1:]:
    with grpc.insecure_channel(target) as channel:
        access = support_access_pb2_grpc.SupportAccessStub(channel)
        for _ in range(3):
            response = access.CheckAccess(check, timeout=60)
            print(support_access_pb2.Decision.Name(response.decision))
