"""The answer shapes of the original "Headless Communication" guide, which are older and shorter than today's.

Source: https://labs.agentforce.com/docs/agent-api
"""

from __future__ import annotations

import secrets
from datetime import datetime, timezone
from typing import Any

from airflow_provider_agentforce.emulator.messages import Message
from airflow_provider_agentforce.emulator.models import SessionRecord


def new_session_id() -> str:
    """Return a session id as the guide prints it: no UUID, but like a record id."""
    return f"0Xx5e{secrets.token_hex(5).upper()}"


def start_body(session: SessionRecord) -> dict[str, Any]:
    """Return the answer to a session start."""
    created = datetime.fromtimestamp(session.started_at, tz=timezone.utc)
    return {
        "sessionId": session.session_id,
        "createdDate": created.strftime("%Y-%m-%dT%H:%M:%S.") + f"{created.microsecond // 1000:03d}Z",
        "status": "ACTIVE",
    }


def send_body(messages: list[Message], *, sequence_id: Any) -> dict[str, Any]:
    """Return the answer to a message. The guide knows one type only; the others keep their shape."""
    return {"messages": [_seed_message(message, sequence_id) for message in messages]}


def _seed_message(message: Message, sequence_id: Any) -> Message:
    text = message.get("message")
    if message.get("type") != "Inform" or text is None:
        return message
    return {"sequenceId": sequence_id, "type": "Text", "text": text, "role": "Agent"}
