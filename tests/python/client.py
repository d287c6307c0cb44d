"""A thin client on the generated stubs: it fills in the tenant and what most calls have in common."""

from contextlib import contextmanager
from datetime import datetime, timedelta, timezone

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from harness import eventually
from supportaccess.v1 import event_pb2 as event
from supportaccess.v1 import grant_pb2 as grants
from supportaccess.v1 import support_access_admin_pb2 as admin
from supportaccess.v1 import support_access_admin_pb2_grpc as admin_grpc
from supportaccess.v1 import support_access_pb2 as access
from supportaccess.v1 import support_access_pb2_grpc as access_grpc

DEADLINE_S = 30
DAY = timedelta(days=1)


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
    """Speaks for one tenant."""

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
        """Calls any method of SupportAccessAdmin; its request is named after it."""
        return getattr(self.admin_stub, method)(request, timeout=DEADLINE_S, metadata=self.metadata)

    def grant_request(self, **fields):
        """A good request; `fields` replace its parts. `None` leaves one out."""
        request = {
            "tenant_id": self.tenant_id, "group_id": "support", "access_level": grants.ACCESS_LEVEL_READ_WRITE,
            "reason": "the printer is on fire", "ticket": "T-1",
        } | fields
        if not fields.keys() & {"expire_time", "duration", "until_revoked"}:
            request["duration"] = duration(7 * DAY)
        return admin.GrantAccessRequest(**{k: v for k, v in request.items() if v is not None})

    def grant(self, **fields):
        return self.admin("GrantAccess", self.grant_request(**fields)).grant

    def _about(self, grant, fields):
        return {"tenant_id": self.tenant_id, "grant_id": grant.grant_id} | fields

    def extend(self, grant, **fields):
        return self.admin("ExtendAccess", admin.ExtendAccessRequest(**self._about(grant, fields)))

    def revoke(self, grant, **fields):
        return self.admin("RevokeAccess", admin.RevokeAccessRequest(**self._about(grant, fields)))

    def revoke_all(self, **fields):
        return self.admin("RevokeAllAccess", admin.RevokeAllAccessRequest(tenant_id=self.tenant_id, **fields))

    def get(self, grant):
        return self.admin("GetGrant", admin.GetGrantRequest(**self._about(grant, {}))).grant

    def list(self, **fields):
        return self.admin("ListGrants", admin.ListGrantsRequest(**{"tenant_id": self.tenant_id} | fields))

    def events(self, **fields):
        return self.admin("ListEvents", admin.ListEventsRequest(**{"tenant_id": self.tenant_id} | fields))

    def settled_events(self):
        """The whole history, once there is in it when each change was in force."""
        never_said = (
            event.EVENT_TYPE_GRANTED, event.EVENT_TYPE_EXPIRED, event.EVENT_TYPE_UNLOCKED, event.EVENT_TYPE_LOCK_EXPIRED)

        def settled():
            found = self.events().events
            return all(it.HasField("enforcement") or it.type in never_said for it in found) and found

        return eventually(settled, "what was proven is in the history")

    def policy(self):
        request = admin.GetSupportPolicyRequest(tenant_id=self.tenant_id)
        return self.admin("GetSupportPolicy", request).support_policy

    def update_policy(self, paths, etag="", reason="", **policy):
        request = admin.UpdateSupportPolicyRequest(
            tenant_id=self.tenant_id, support_policy=policy, update_mask={"paths": paths}, etag=etag, reason=reason,
        )
        return self.admin("UpdateSupportPolicy", request)

    def check_request(self, **fields):
        """A good question, which the grant of `grant_request` would allow."""
        return access.CheckAccessRequest(**{
            "tenant_id": self.tenant_id, "agent_id": "agent-7", "group_ids": ["support"],
            "required_level": grants.ACCESS_LEVEL_READ_ONLY,
        } | fields)

    def check(self, **fields):
        return self.access_stub.CheckAccess(self.check_request(**fields), timeout=DEADLINE_S)

    def batch(self, checks):
        return self.access_stub.BatchCheckAccess(
            access.BatchCheckAccessRequest(checks=checks), timeout=DEADLINE_S)

    def explain(self, **fields):
        question = self.check_request(**fields)
        request = access.ExplainAccessRequest.FromString(question.SerializeToString())
        return self.access_stub.ExplainAccess(request, timeout=DEADLINE_S)


def bare(message):
    """A grant or a lock without the revision, which only the responses to changes have."""
    copy = type(message)()
    copy.CopyFrom(message)
    copy.ClearField("revision")
    return copy


def allowed(answer):
    return answer.decision == access.DECISION_ALLOWED


def reason(answer):
    """Why, without the prefix; a denial must also look like one."""
    name = access.DecisionReason.Name(answer.reason).removeprefix("DECISION_REASON_")
    if name == "GRANT_ACTIVE":
        assert allowed(answer), answer
    else:
        assert answer.decision == access.DECISION_DENIED, answer
        assert not answer.HasField("expire_time"), answer
        assert not answer.access_level, answer
        assert answer.valid_for.ToTimedelta() == timedelta(0), answer
    assert answer.message, answer
    return name


class Refusal:
    """What a failed call told."""

    def __init__(self, error):
        self.code = error.code()
        self.message = error.details()
        status = rpc_status.from_call(error)
        assert status is not None, f"no google.rpc.Status in {error!r}"
        self._details = status.details
        self.info = self.detail(error_details_pb2.ErrorInfo)
        self.violations = {}
        for violation in self.detail(error_details_pb2.BadRequest).field_violations:
            self.violations.setdefault(violation.field, []).append(violation.description)

    def detail(self, kind):
        """The detail of a kind; empty if there is none."""
        found = kind()
        for packed in self._details:
            if packed.Is(kind.DESCRIPTOR):
                packed.Unpack(found)
        return found


class Caught:
    """Holds the refusal once the block is left."""

    refusal = None


@contextmanager
def refused(code, *fields):
    """The block must fail with `code`, and name exactly `fields` as those at fault."""
    caught = Caught()
    with pytest.raises(grpc.RpcError) as raised:
        yield caught
    refusal = caught.refusal = Refusal(raised.value)
    assert refusal.code == code, (refusal.code, refusal.message, refusal.violations)
    assert set(refusal.violations) == set(fields), (refusal.message, refusal.violations)
    assert all(text.strip() for texts in refusal.violations.values() for text in texts)
    assert refusal.info.domain == "supportaccess.v1", refusal.info
    assert refusal.info.reason, refusal.info


def invalid(*fields):
    return refused(grpc.StatusCode.INVALID_ARGUMENT, *fields)
