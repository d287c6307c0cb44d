"""The two product guides as acceptance tests, with a portal, an administrator and a gateway."""

from datetime import timedelta

import pytest
from client import DAY, allowed, duration, grants, kind, moment, now, reason, remedy, timestamp
from supportaccess.v1 import support_access_pb2 as access


def test_grant_for_seven_days_and_disable(client):
    """The first guide: grant access, for 7 days, confirm; disable it by hand, confirm."""
    assert reason(client.check()) == "NO_GRANT"
    assert client.policy().default_duration.ToTimedelta() == 7 * DAY

    granted = client.granted(duration=client.policy().default_duration)
    grant = granted.grant
    assert grant.state == grants.GRANT_STATE_ACTIVE
    assert moment(grant.expire_time) - moment(grant.start_time) == 7 * DAY
    answer = client.check(token=granted.consistency_token)
    assert reason(answer) == "GRANT_ACTIVE"
    assert answer.grant_id == grant.grant_id

    disabled = client.revoke(grant, reason="solved")
    assert disabled.grant.state == grants.GRANT_STATE_REVOKED
    assert disabled.enforcement.state == grants.ENFORCEMENT_STATE_COMPLETE
    assert reason(client.check()) == "REVOKED", (
        "a check after COMPLETE must be decided with the change"
    )


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
    assert listed == client.get(grant) == grant
    assert listed.state == grants.GRANT_STATE_ACTIVE
    assert abs(moment(listed.start_time) - now()) < timedelta(minutes=1)
    if "until_revoked" in end:
        assert not listed.HasField("expire_time")
    elif "expire_time" in end:
        assert listed.expire_time == end["expire_time"]
    else:
        assert (
            moment(listed.expire_time) - moment(listed.start_time) == end["duration"].ToTimedelta()
        )
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
    assert [kind(event) for event in client.events().events] == ["granted", "revoked", "granted"]


GRANTED, PERIOD, ACTIVE, OPTION = (
    access.CHECKLIST_QUESTION_ACCESS_GRANTED,
    access.CHECKLIST_QUESTION_PERIOD_NOT_EXPIRED,
    access.CHECKLIST_QUESTION_ENTRY_ACTIVE,
    access.CHECKLIST_QUESTION_CORRECT_OPTION,
)


def obstacles(explanation):
    """The questions of the checklist that are answered with NO."""
    assert [item.question for item in explanation.checklist] == [GRANTED, PERIOD, ACTIVE, OPTION]
    return [
        item.question for item in explanation.checklist if item.answer == access.CHECKLIST_ANSWER_NO
    ]


def candidate_ids(explanation):
    return [candidate.grant.grant_id for candidate in explanation.candidates]


def test_troubleshooting_support_cannot_access_your_organisation(client):
    nothing = client.explain()
    assert obstacles(nothing) == [GRANTED]
    assert reason(nothing.result) == "NO_GRANT"
    assert remedy(nothing.result) == "REQUEST_GRANT"
    assert not nothing.candidates

    grant = client.grant()
    fine = client.explain()
    assert obstacles(fine) == []
    assert {item.answer for item in fine.checklist} == {access.CHECKLIST_ANSWER_YES}
    assert reason(fine.result) == "GRANT_ACTIVE"
    assert candidate_ids(fine) == [grant.grant_id]
    [candidate] = fine.candidates
    assert list(candidate.reasons) == [access.DECISION_REASON_GRANT_ACTIVE]
    expected = grants.Grant()
    expected.CopyFrom(grant)
    for field in ("reason", "ticket", "create_time", "creator", "etag"):
        expected.ClearField(field)
    assert candidate.grant == expected

    wrong_group = client.explain(group_ids=["engineering"])
    assert obstacles(wrong_group) == [OPTION]
    assert list(wrong_group.candidates[0].reasons) == [access.DECISION_REASON_GROUP_MISMATCH]

    too_high = client.explain(required_level=grants.ACCESS_LEVEL_ADMIN, group_ids=["engineering"])
    assert list(too_high.candidates[0].reasons) == [
        access.DECISION_REASON_GROUP_MISMATCH,
        access.DECISION_REASON_LEVEL_EXCEEDED,
    ], "every obstacle must be listed"

    ended = client.revoke(grant).grant
    revoked = client.explain()
    assert revoked.candidates[0].grant.revoke_time == ended.revoke_time
    assert obstacles(revoked) == [ACTIVE]
    assert reason(revoked.result) == "REVOKED"
    assert all(
        item.detail for item in revoked.checklist if item.answer == access.CHECKLIST_ANSWER_NO
    )
    assert not revoked.candidates_truncated


def test_an_explanation_agrees_with_the_check_and_lists_old_grants(client):
    for _ in range(3):
        client.revoke(client.grant())
    explained, checked = client.explain(), client.check()
    assert explained.result == checked
    assert len(explained.candidates) == 3, "older grants must come from the history"
    listed = [grant.grant_id for grant in client.list().grants]
    assert candidate_ids(explained) == listed, "the order must be newest first"


def test_an_explanation_without_an_agent_is_about_an_unnamed_one(client):
    client.grant(agent_ids=["agent-7"])
    assert reason(client.explain(agent_id="agent-7").result) == "GRANT_ACTIVE"
    assert reason(client.explain(agent_id="").result) == "AGENT_NOT_NAMED"
    client.grant()
    assert reason(client.explain(agent_id="").result) == "GRANT_ACTIVE", (
        "a grant to the whole group must admit the agent"
    )
