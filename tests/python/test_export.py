"""Exports and checkpoints of a history over the API."""

import json

from client import DEADLINE_S, admin, invalid
from history_verifier import verify


def export(client, **fields):
    """The records in all messages of the stream."""
    request = admin.ExportHistoryRequest(**{"tenant_id": client.tenant_id} | fields)
    stream = client.admin_stub.ExportHistory(request, timeout=DEADLINE_S, metadata=client.metadata)
    return [record.encode() for response in stream for record in response.records]


def test_an_export_can_continue_after_any_record(server, client):
    for _ in range(3):
        client.revoke(client.grant())
    records = export(client)
    assert len(records) == 6
    assert verify(records) is None
    for after in range(8):
        assert export(client, after_sequence=after) == records[after:]
    checkpoint = client.admin(
        "GetCheckpoint", admin.GetCheckpointRequest(tenant_id=client.tenant_id)
    ).checkpoint
    assert verify(records + [checkpoint.encode()]) is None
    assert "signature" not in json.loads(checkpoint), "this server has no key"
    with invalid("tenant_id", "after_sequence"):
        export(client, tenant_id=" ", after_sequence=-1)
    with invalid("tenant_id"):
        client.admin("GetCheckpoint", admin.GetCheckpointRequest(tenant_id="\n"))


def test_a_long_history_is_exported_in_several_messages(server, client):
    for number in range(220):
        client.grant(group_id=("support", "engineering")[number % 2])
    request = admin.ExportHistoryRequest(tenant_id=client.tenant_id)
    messages = list(client.admin_stub.ExportHistory(request, timeout=DEADLINE_S))
    assert len(messages) > 1
    records = [record.encode() for message in messages for record in message.records]
    assert len(records) == 220 and verify(records) is None
