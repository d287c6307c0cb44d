"""The two product guides, played as their readers would: a portal, an administrator, and an agent's gateway."""

from datetime import timedelta

import pytest
from client import DAY, allowed, bare, duration, grants, moment, now, reason, timestamp
from supportaccess.v1 import event_pb2 as events
from supportaccess.v1 import support_access_pb2 as access


def test_grant_for_seven_days_and_disable(client):
    """The first guide: grant access, for 7 days, confirm; disable it by hand, confirm."""
    assert reason(client.check()) == "NO_GRANT"
    assert client.policy().default_duration.ToTimedelta() == 7 * DAY

    grant = client.grant(duration=client.policy().default_duration)
    assert grant.state == grants.GRANT_STATE_ACTIVE
    assert moment(grant.expire_time) - moment(grant.start_time) == 7 * DAY
    answer = client.check(at_least_revision=grant.revision)
    assert reason(answer) == "GRANT_ACTIVE"
    assert answer.grant_id == grant.grant_id

    disabled = client.revoke(grant, reason="solved")
    assert disabled.grant.state == grants.GRANT_STATE_REVOKED
    assert disabled.enforcement.state == grants.ENFORCEMENT_STATE_COMPLETE
    assert reason(client.check()) == "REVOKED", "a check after COMPLETE is decided with the change in force"


ENDS = {
    "until manually revoked": {"until_revoked": True},
    "preset period": {"duration": duration(timedelta(hours=8))},
    "custom duration": {"duration": duration(timedelta(hours=3, minutes=20))},
    "custom end": {"expire_time": timestamp(now() + 2 * DAY)},
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_choose_a_group_and_a_duration_review_and_revoke(client, end):
    """The second guide: add an entry, review status, start and end, and toggle it off."""
    groups = [group.group_id for group in client.policy().groups]
    assert "support" in groups
    grant = client.grant(group_id="support", **end)

    [listed] = client.list().grants
    assert listed == client.get(grant) == bare(grant)
    assert listed.state == grants.GRANT_STATE_ACTIVE
    assert abs(moment(listed.start_time) - now()) < timedelta(minutes=1)
    if "until_revoked" in end:
        assert not listed.HasField("expire_time")
    elif "expire_time" in end:
        assert listed.expire_time == end["expire_time"]
    else:
        assert moment(listed.expire_time) - moment(listed.start_time) == end["duration"].ToTimedelta()
    assert allowed(client.check())

    client.revoke(listed, reason="granted by mistake")
    [ended] = client.list().grants
    assert ended.state == grants.GRANT_STATE_REVOKED
    assert ended.revoke_reason == "granted by mistake"
    assert not allowed(client.check())


def test_the_history_shows_active_and_past_entries(client):
    past = client.grant()
    client.revoke(past)
    active = client.grant(until_revoked=True)
    assert [grant.grant_id for grant in client.list().grants] == [active.grant_id, past.grant_id]
    assert [event.type for event in client.events().events] == [
        events.EVENT_TYPE_GRANTED, events.EVENT_TYPE_REVOKED, events.EVENT_TYPE_GRANTED,
    ]


GRANTED, PERIOD, ACTIVE, OPTION = (
    access.CHECKLIST_QUESTION_ACCESS_GRANTED, access.CHECKLIST_QUESTION_PERIOD_NOT_EXPIRED,
    access.CHECKLIST_QUESTION_ENTRY_ACTIVE, access.CHECKLIST_QUESTION_CORRECT_OPTION,
)


def obstacles(explanation):
    """The lines of the checklist that are answered with NO."""
    assert [item.question for item in explanation.checklist] == [GRANTED, PERIOD, ACTIVE, OPTION]
    return [item.question for item in explanation.checklist if item.answer == access.CHECKLIST_ANSWER_NO]


def candidate_ids(explanation):
    return [candidate.grant_id for candidate in explanation.candidates]


def test_troubleshooting_support_cannot_access_your_organisation(client):
    nothing = client.explain()
    assert obstacles(nothing) == [GRANTED]
    assert reason(nothing.result) == "NO_GRANT"
    assert not nothing.candidates

    grant = client.grant()
    fine = client.explain()
    assert obstacles(fine) == []
    assert {item.answer for item in fine.checklist} == {access.CHECKLIST_ANSWER_YES}
    assert reason(fine.result) == "GRANT_ACTIVE"
    assert candidate_ids(fine) == [grant.grant_id]
    [candidate] = fine.candidates
    assert list(candidate.reasons) == [access.DECISION_REASON_GRANT_ACTIVE]
    for field in ("group_id", "agent_ids", "access_level", "state", "start_time", "expire_time"):
        assert getattr(candidate, field) == getattr(grant, field), field
    assert not candidate.HasField("revoke_time")

    wrong_group = client.explain(group_ids=["engineering"])
    assert obstacles(wrong_group) == [OPTION]
    assert list(wrong_group.candidates[0].reasons) == [access.DECISION_REASON_GROUP_MISMATCH]

    too_high = client.explain(required_level=grants.ACCESS_LEVEL_ADMIN, group_ids=["engineering"])
    assert list(too_high.candidates[0].reasons) == [
        access.DECISION_REASON_GROUP_MISMATCH, access.DECISION_REASON_LEVEL_EXCEEDED,
    ], "everything that stands in the way"

    ended = client.revoke(grant).grant
    revoked = client.explain()
    assert revoked.candidates[0].revoke_time == ended.revoke_time
    assert obstacles(revoked) == [ACTIVE]
    assert reason(revoked.result) == "REVOKED"
    assert all(item.detail for item in revoked.checklist if item.answer == access.CHECKLIST_ANSWER_NO)
    assert not revoked.candidates_truncated


def test_an_explanation_agrees_with_the_check_and_lists_old_grants_too(client):
    for _ in range(3):
        client.revoke(client.grant())
    explained, checked = client.explain(), client.check()
    assert explained.result == checked
    assert len(explained.candidates) == 3, "older ones come from the history"
    listed = [grant.grant_id for grant in client.list().grants]
    assert candidate_ids(explained) == listed, "newest first"
