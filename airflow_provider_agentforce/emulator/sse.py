"""Render an answer as the server-sent events of ``/messages/stream``.

Source: https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-examples.md and captured streams:
lines in the order ``event``, ``id``, ``data``; offsets that count text chunks and are 0 elsewhere.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

from airflow_provider_agentforce.emulator.errors import ERRORS, agent_error_body
from airflow_provider_agentforce.emulator.messages import ANSWER_TYPES, Message, ScriptReply, spoken_text
from airflow_provider_agentforce.emulator.models import new_trace_id, new_uuid

# The reference has no event name for ValidationFailureChunk and for unknown types: those travel as UNKNOWN.
_NAMED = (*ANSWER_TYPES, "ProgressIndicator", "TextChunk", "EndOfTurn")
# A failure is reported at the end of a turn and never spoken in advance.
_CHUNKED = ("Inform", "Inquire", "Confirm")
_HEARTBEAT = b"event: ping\ndata:\n\n"
_DONE = b"data: [DONE]\n\n"


class _Events:
    """The event ids and chunk offsets of one turn."""

    def __init__(self) -> None:
        self._origin = f"{int(time.time() * 1000)}-REQ"
        self._trace = new_trace_id()
        self._offset = 0

    def frame(self, event: str, data: dict[str, Any]) -> bytes:
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        return f"event: {event}\nid: {self._origin}\ndata: {text}\n\n".encode()

    def event(self, message: Message, *, offset: int = 0) -> bytes:
        envelope = {
            "timestamp": int(time.time() * 1000),
            "originEventId": self._origin,
            "traceId": self._trace,
            "offset": offset,
            "message": message,
        }
        kind = message.get("type")
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).upper() if kind in _NAMED else "UNKNOWN"
        return self.frame(name, envelope)

    def chunk(self, kind: str, **fields: Any) -> bytes:
        self._offset += 1
        message = {"type": kind, "id": new_uuid(), "offset": self._offset, **fields}
        return self.event(message, offset=self._offset)

    def text(self, text: str) -> bytes:
        return self.chunk("TextChunk", message=text, formatType="Text")


def stream(reply: ScriptReply, *, links: dict[str, Any], path: str) -> Iterator[bytes]:
    """Yield the events of ``reply``, one piece of bytes each, with what a gateway adds to them.

    ``path`` is the path below the API base, for the error object of a stream that fails.
    """
    for event in _turn_events(reply, links=links, path=path):
        if reply.stream.heartbeats:
            yield _HEARTBEAT
        yield event
    if reply.stream.done:
        yield _DONE


def _turn_events(reply: ScriptReply, *, links: dict[str, Any], path: str) -> Iterator[bytes]:
    events = _Events()
    plan = reply.stream
    if plan.progress:
        progress = {"metrics": {}, "indicatorType": "ACTION", "message": plan.progress}
        yield events.event({"type": "ProgressIndicator", "id": new_uuid(), **progress})
    if plan.retracted:
        yield from (events.text(text) for text in plan.retracted)
        yield events.chunk("ValidationFailureChunk", reason="GROUNDING")
    chunks = plan.chunks if plan.chunks is not None else split_text(_chunked_text(reply))
    yield from (events.text(text) for text in chunks)
    if plan.error:
        spec = ERRORS["unexpected_error"]
        yield events.frame("ERROR", agent_error_body(spec, message=spec.message, path=path))
        return
    for message in reply.messages:
        answer = _answer_event(events, message, envelope=plan.envelope, links=links)
        yield from [answer] * (2 if plan.repeated else 1)
    if plan.end_of_turn:
        yield events.event({"type": "EndOfTurn", "id": new_uuid()})


def split_text(text: str) -> list[str]:
    """Cut ``text`` into chunks of a few words that join to the whole again."""
    return re.findall(r"\s*(?:\S+\s*){1,4}", text)


def _chunked_text(reply: ScriptReply) -> str:
    return spoken_text([message for message in reply.messages if message.get("type") in _CHUNKED])


def _answer_event(events: _Events, message: Message, *, envelope: bool, links: dict[str, Any]) -> bytes:
    if envelope or message.get("type") != "Inform":
        return events.event(message)
    # The official guide prints this event in the synchronous shape; a client has to take both.
    return events.frame("INFORM", {"messages": [message], "_links": links})
