"""A thin client over the generated stubs, with default values for the tenant and other fields."""

from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from harness import eventually
from supportaccess.v1 import error_reason_pb2 as reasons
from supportaccess.v1 import grant_pb2 as grants
from supportaccess.v1 import support_access_admin_pb2 as admin
from supportaccess.v1 import support_access_admin_pb2_grpc as admin_grpc
from supportaccess.v1 import support_access_pb2 as access
from supportaccess.v1 import support_access_pb2_grpc as access_grpc

DEADLINE_S = 30
DAY = timedelta(days=1)
ERROR_REASONS = {name.removeprefix("ERROR_REASON_") for name in reasons.ErrorReason.keys()}
VIOLATION_REASONS = {
    name.removeprefix("VIOLATION_REASON_") for name in reasons.ViolationReason.keys()
}


def now():
    return datetime.now(timezone.utc)


def duration(delta):
    made = Duration()
    made.FromTimedelta(delta)
    return made


def timestamp(moment):
    made = Timestamp()
    made.FromDatetime(moment)
    return made


def moment(stamp):
    return stamp.ToDatetime(tzinfo=timezone.utc)


class Client:
    """Acts for one tenant."""

    def __init__(self, target, tenant_id, actor="alice@example.com"):
        self.tenant_id = tenant_id
        self.channel = grpc.insecure_channel(target)
        self.admin_stub = admin_grpc.SupportAccessAdminStub(self.channel)
        self.access_stub = access_grpc.SupportAccessStub(self.channel)
        self.metadata = [("support-access-actor", actor)] if actor else []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def admin(self, method, request):
        """Calls any unary method of SupportAccessAdmin. `request` has the name of the method."""
        return getattr(self.admin_stub, method)(request, timeout=DEADLINE_S, metadata=self.metadata)

    def grant_request(self, **fields):
        """A valid request; `fields` replaces defaults. `None` omits a field."""
        request = {
            "tenant_id": self.tenant_id,
            "group_id": "support",
            "access_level": grants.ACCESS_LEVEL_READ_WRITE,
            "reason": "the printer is on fire",
            "ticket": "T-1",
        } | fields
        if not fields.keys() & {"expire_time", "duration", "until_revoked"}:
            request["duration"] = duration(7 * DAY)
        if "agent_ids" in request:
            request["named_agents"] = grants.NamedAgents(agent_ids=request.pop("agent_ids"))
        return admin.GrantAccessRequest(**{k: v for k, v in request.items() if v is not None})

    def granted(self, **fields):
        """The whole response to a new grant."""
        return self.admin("GrantAccess", self.grant_request(**fields))

    def grant(self, **fields):
        return self.granted(**fields).grant

    def _about(self, grant, fields):
        return {"tenant_id": self.tenant_id, "grant_id": grant.grant_id} | fields

    def extend(self, grant, **fields):
        return self.admin("ExtendAccess", admin.ExtendAccessRequest(**self._about(grant, fields)))

    def revoke(self, grant, **fields):
        return self.admin("RevokeAccess", admin.RevokeAccessRequest(**self._about(grant, fields)))

    def revoke_all(self, **fields):
        return self.admin(
            "RevokeAllAccess", admin.RevokeAllAccessRequest(tenant_id=self.tenant_id, **fields)
        )

    def get(self, grant):
        return self.admin("GetGrant", admin.GetGrantRequest(**self._about(grant, {}))).grant

    def list(self, **fields):
        return self.admin(
            "ListGrants", admin.ListGrantsRequest(**{"tenant_id": self.tenant_id} | fields)
        )

    def events(self, **fields):
        return self.admin(
            "ListEvents", admin.ListEventsRequest(**{"tenant_id": self.tenant_id} | fields)
        )

    def settled_events(self):
        """The whole history, once the enforcement of every change is recorded."""
        not_measured = ("granted", "expired", "unlocked", "lock_expired")

        def settled():
            found = self.events().events
            return (
                all(event.HasField("enforcement") or kind(event) in not_measured for event in found)
                and found
            )

        return eventually(settled, "the enforcement of every change is in the history")

    def policy(self):
        return self.policies().support_policy

    def policies(self):
        """The effective policy and the overrides."""
        return self.admin(
            "GetSupportPolicy", admin.GetSupportPolicyRequest(tenant_id=self.tenant_id)
        )

    def update_policy(self, paths=None, etag="", reason="", request_id="", **overrides):
        """Without paths, the mask is absent."""
        request = admin.UpdateSupportPolicyRequest(
            tenant_id=self.tenant_id,
            policy_overrides=overrides,
            etag=etag,
            reason=reason,
            request_id=request_id,
        )
        if paths is not None:
            request.update_mask.paths.extend(paths)
        return self.admin("UpdateSupportPolicy", request)

    def wait(self, token, **fields):
        request = admin.WaitEnforcedRequest(
            **{"tenant_id": self.tenant_id, "consistency_token": token} | fields
        )
        return self.admin("WaitEnforced", request).enforcement

    def access_check(self, **fields):
        """A valid check, which the grant of `grant_request` allows."""
        return access.AccessCheck(
            **{
                "tenant_id": self.tenant_id,
                "agent_id": "agent-7",
                "group_ids": ["support"],
                "required_level": grants.ACCESS_LEVEL_READ_ONLY,
                "agent_kind": grants.AGENT_KIND_HUMAN,
            }
            | fields
        )

    def check(self, token="", **fields):
        request = access.CheckAccessRequest(
            check=self.access_check(**fields), consistency_token=token
        )
        return self.access_stub.CheckAccess(request, timeout=DEADLINE_S, metadata=self.metadata)

    def batch(self, checks, token=""):
        request = access.BatchCheckAccessRequest(checks=checks, consistency_token=token)
        return self.access_stub.BatchCheckAccess(request, timeout=DEADLINE_S)

    def explain(self, token="", **fields):
        request = access.ExplainAccessRequest(
            check=self.access_check(**fields), consistency_token=token
        )
        return self.access_stub.ExplainAccess(request, timeout=DEADLINE_S)


def kind(event):
    """The name of an event's payload, such as "granted"."""
    return event.WhichOneof("payload")


def payload(event):
    return getattr(event, kind(event))


def allowed(result):
    return result.decision == access.DECISION_ALLOWED


def reason(result):
    """The reason without the prefix. Asserts that a denial has the fields of a denial."""
    name = access.DecisionReason.Name(result.reason).removeprefix("DECISION_REASON_")
    if name == "GRANT_ACTIVE":
        assert allowed(result), result
        assert result.remedy == access.REMEDY_NONE, result
    else:
        assert result.decision == access.DECISION_DENIED, result
        assert not result.HasField("expire_time"), result
        assert not result.access_level, result
        assert result.valid_for.ToTimedelta() == timedelta(0), result
        assert result.remedy > access.REMEDY_NONE, result
    assert bool(result.lock_id) == (name == "LOCKED"), result
    assert result.message, result
    return name


def remedy(result):
    return access.Remedy.Name(result.remedy).removeprefix("REMEDY_")


class Rejection:
    """The error of a failed call."""

    def __init__(self, error):
        self.code = error.code()
        self.message = error.details()
        status = rpc_status.from_call(error)
        assert status is not None, f"no google.rpc.Status in {error!r}"
        self._details = status.details
        self.info = self.detail(error_details_pb2.ErrorInfo)
        self.violations, self.reasons = {}, {}
        for violation in self.detail(error_details_pb2.BadRequest).field_violations:
            self.violations.setdefault(violation.field, []).append(violation.description)
            self.reasons.setdefault(violation.field, []).append(violation.reason)

    def detail(self, kind):
        """The error detail of a kind. Empty if there is none."""
        found = kind()
        for packed in self._details:
            if packed.Is(kind.DESCRIPTOR):
                packed.Unpack(found)
        return found


class Caught:
    """The rejection, once the block has ended."""

    rejection = None


@contextmanager
def rejected(code, *fields, reason=None):
    """Asserts that the block fails with `code`, and that the error names exactly `fields`."""
    caught = Caught()
    with pytest.raises(grpc.RpcError) as raised:
        yield caught
    rejection = caught.rejection = Rejection(raised.value)
    assert rejection.code == code, (rejection.code, rejection.message, rejection.violations)
    assert set(rejection.violations) == set(fields), (rejection.message, rejection.violations)
    assert all(text.strip() for texts in rejection.violations.values() for text in texts)
    info = rejection.info
    assert info.domain == "supportaccess.v1", info
    assert info.reason in ERROR_REASONS and (reason is None or info.reason == reason), info
    has_own_reasons = info.reason in ("INVALID_FIELD", "POLICY_VIOLATION")
    expected = VIOLATION_REASONS if has_own_reasons else {info.reason}
    found = {reason for reasons in rejection.reasons.values() for reason in reasons}
    assert found <= expected, (found, info)


def invalid(*fields):
    return rejected(grpc.StatusCode.INVALID_ARGUMENT, *fields, reason="INVALID_FIELD")


def forbidden(*fields):
    """Asserts that the policy forbids exactly these fields."""
    return rejected(grpc.StatusCode.FAILED_PRECONDITION, *fields, reason="POLICY_VIOLATION")
