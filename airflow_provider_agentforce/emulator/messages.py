"""Build the messages of an answer with every field the API reference requires.

Source: the message types of the Agent API reference
(https://developer.salesforce.com/docs/ai/agentforce/references/agent-api?meta=Summary).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from airflow_provider_agentforce.emulator.ids import new_trace_id, new_uuid

Message = dict[str, Any]

_APOLOGY = "Unfortunately a system error occurred. Please try again."
_ERROR_TEXT = "An unexpected error occurred while processing your request."
_ACTION = "copilotActionInput/EmulatorAction_179EM0000000001"


def _rated(text: str) -> Message:
    """Return the fields of every answer that can be rated; plan and feedback have one id, as captured."""
    plan = new_uuid()
    return {
        "metrics": {},
        "feedbackId": plan,
        "planId": plan,
        "isContentSafe": True,
        "message": text,
    }


def _escalate(_text: str) -> Message:
    return {
        "feedbackId": new_uuid(),
        "targets": [{"type": "Salesforce:Core:Flow:Id", "value": "300EM0000000001AAA"}],
    }


def _error(text: str) -> Message:
    return {
        **_rated(text or _ERROR_TEXT),
        "error": "INTERNAL_SERVER_ERROR",
        "httpStatus": 500,
        "timestamp": int(time.time() * 1000),
        "expected": False,
        "traceId": new_trace_id(),
        "botMode": "production",
    }


_FIELDS: dict[str, Callable[[str], Message]] = {
    "Inform": lambda text: {**_rated(text), "result": [], "citedReferences": []},
    "Inquire": lambda text: {
        **_rated(text),
        "collect": [{"targetType": _ACTION, "targetProperty": "value", "data": None}],
    },
    "Confirm": lambda text: {
        **_rated(text),
        "confirm": [{"type": _ACTION, "property": "", "value": {}}],
    },
    "Failure": lambda text: {**_rated(text), "code": "ACTION_FAILED", "errors": [_APOLOGY]},
    "Escalate": _escalate,
    "SessionEnded": lambda _text: {"metrics": {}, "reason": "Action", "feedbackId": ""},
    "Error": _error,
}
ANSWER_TYPES = tuple(_FIELDS)
_TEXTLESS = ("Escalate", "SessionEnded")


def answer_message(kind: str, text: str = "", **fields: Any) -> Message:
    """Return one message of type ``kind``; ``fields`` add to or replace its documented defaults."""
    return {"type": kind, "id": new_uuid(), **_FIELDS[kind](text), **fields}


def answer_messages(kind: str, text: str = "", **fields: Any) -> list[Message]:
    """Return the messages of an answer. A type without text of its own follows an Inform that carries it."""
    spoken = [answer_message("Inform", text)] if text and kind in _TEXTLESS else []
    return [*spoken, answer_message(kind, text, **fields)]


def greeting_messages(text: str) -> list[Message]:
    """Return the messages of a session start: one Inform that cannot be rated, or none without a text."""
    if not text:
        return []
    greeting = answer_message("Inform", text, feedbackId="", planId="")
    del greeting["metrics"]
    return [greeting]


def end_messages() -> list[Message]:
    """Return the messages that confirm the end of a session. The reason is never the one the client gave."""
    return [{"type": "SessionEnded", "id": new_uuid(), "reason": "ClientRequest", "feedbackId": ""}]


def links(api_base: str, *, agent_id: str, session_id: str) -> dict[str, Any]:
    """Return ``_links`` as captured in 2026. ``api_base`` ends with ``/einstein/ai-agent/v1``."""
    session = f"{api_base}/sessions/{session_id}"
    return {
        "self": None,
        "messages": {"href": f"{session}/messages"},
        "messagesStream": {"href": f"{session}/messages/stream"},
        "session": {"href": f"{api_base}/agents/{agent_id}/sessions"},
        "end": {"href": session},
    }


def spoken_text(messages: list[Message]) -> str:
    """Return the texts of ``messages`` in order, as a person would read them."""
    return "\n".join(str(text) for message in messages if (text := message.get("message")))


def variable_values(variables: list[Mapping[str, Any]] | None) -> dict[str, Any]:
    """Return ``[{name, type, value}]`` as a mapping of names to values."""
    return {variable["name"]: variable["value"] for variable in variables or []}
