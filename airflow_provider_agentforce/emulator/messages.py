"""The agent's answers: messages with every field that the API reference requires, from the script's text.

Source: the message types of the Agent API reference
(https://developer.salesforce.com/docs/ai/agentforce/references/agent-api?meta=Summary). Their streamed
form, the server-sent events of ``/messages/stream``, is that of
https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-examples.md and of captured streams:
lines in the order ``event``, ``id``, ``data``; offsets that count text chunks and are 0 elsewhere.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from airflow_provider_agentforce.emulator.errors import ERRORS, agent_error_body, json_bytes
from airflow_provider_agentforce.emulator.models import (
    SessionRecord,
    TurnRecord,
    new_trace_id,
    new_uuid,
    salesforce_id,
)

Message = dict[str, Any]

_APOLOGY = "Unfortunately a system error occurred. Please try again."
_ERROR_TEXT = "An unexpected error occurred while processing your request."
ACTION = "copilotActionInput/EmulatorAction_179EM0000000001"


def _rated(text: str) -> Message:
    """Return the fields of every answer that can be rated; plan and feedback share one id, as captured."""
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
        "targets": [{"type": "Salesforce:Core:Flow:Id", "value": salesforce_id("300EM0000000001")}],
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
        "collect": [{"targetType": ACTION, "targetProperty": "value", "data": None}],
    },
    "Confirm": lambda text: {
        **_rated(text),
        "confirm": [{"type": ACTION, "property": "", "value": {}}],
    },
    "Failure": lambda text: {**_rated(text), "code": "ACTION_FAILED", "errors": [_APOLOGY]},
    "Escalate": _escalate,
    "SessionEnded": lambda _text: {"metrics": {}, "reason": "Action", "feedbackId": ""},
    "Error": _error,
}
ANSWER_TYPES = tuple(_FIELDS)
_TEXTLESS = ("Escalate", "SessionEnded")
# The reference has no event name for ValidationFailureChunk and for unknown types: those travel as UNKNOWN.
_NAMED = (*ANSWER_TYPES, "ProgressIndicator", "TextChunk", "EndOfTurn")
# A failure is reported at the end of a turn, never in advance.
_CHUNKED = ("Inform", "Inquire", "Confirm")
_HEARTBEAT = b"event: ping\ndata:\n\n"
_DONE = b"data: [DONE]\n\n"


def answer_message(kind: str, text: str = "", **fields: Any) -> Message:
    """Return one message of type ``kind``; ``fields`` add to or replace its documented defaults."""
    return {"type": kind, "id": new_uuid(), **_FIELDS[kind](text), **fields}


def answer_messages(kind: str, text: str = "", **fields: Any) -> list[Message]:
    """Return the messages of an answer. An Inform carries the text for a type that has none."""
    spoken = [answer_message("Inform", text)] if text and kind in _TEXTLESS else []
    return [*spoken, answer_message(kind, text, **fields)]


def greeting_messages(text: str) -> list[Message]:
    """Return the messages of a session start: one Inform that cannot be rated, or none without a text."""
    if not text:
        return []
    greeting = answer_message("Inform", text, feedbackId="", planId="")
    del greeting["metrics"]
    return [greeting]


class ScriptError(ValueError):
    """An invalid script. The message names the file and the entry."""


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """How an answer looks when it is streamed.

    ``progress`` is the text of the first event (None: no such event). ``chunks`` are the texts of the
    TextChunks (None: cut from the answer). ``retracted`` are chunks that a ValidationFailureChunk takes back.
    ``error`` ends the stream with an ERROR event instead of the answer. ``end_of_turn`` false leaves out
    the last event. ``envelope`` false sends the Inform in the synchronous shape.

    What gateways add: ``heartbeats`` puts an empty ``ping`` before each event, ``repeated`` sends the
    messages of the answer twice under the same id, ``done`` ends with ``data: [DONE]``, and ``hold_open``
    keeps the connection open for so many seconds after the last event.
    """

    progress: str | None = "Working on it"
    chunks: list[str] | None = None
    retracted: list[str] = field(default_factory=list)
    error: bool = False
    end_of_turn: bool = True
    envelope: bool = True
    heartbeats: bool = False
    repeated: bool = False
    done: bool = False
    hold_open: float = 0.0

    def with_changes(self, changes: Any, *, where: str) -> StreamPlan:
        """Return this plan with ``changes``, a mapping of its keys; None changes nothing.

        :param where: what to name in the error text.
        :raises ScriptError: an unknown key, or an invalid number of seconds.
        """
        if changes is None:
            return self
        if not isinstance(changes, Mapping) or set(changes) - set(STREAM_KEYS):
            raise ScriptError(f"{where}: stream must be a mapping with any of {', '.join(STREAM_KEYS)}.")
        plan = replace(self, **changes)
        _seconds(plan.hold_open, "stream.hold_open", where=where)
        return plan


STREAM_KEYS = tuple(option.name for option in fields(StreamPlan))


@dataclass(frozen=True, kw_only=True)
class ScriptReply:
    """The agent's answer to one message. ``latency`` in seconds; None: the latency of the emulator."""

    messages: list[Message]
    latency: float | None = None
    stream: StreamPlan = field(default_factory=StreamPlan)


@dataclass(frozen=True, kw_only=True)
class ScriptTurn:
    """A message as a script receives it; ``message`` is the JSON object as it was sent."""

    message: dict[str, Any]
    sequence_id: float
    session: SessionRecord

    @property
    def type(self) -> str:
        """The type of the message: ``Text``, ``Reply``, ``Cancel``, …."""
        return str(self.message["type"])

    @property
    def text(self) -> str:
        """The caller's text; empty for types without text."""
        return str(self.message.get("text", ""))

    @property
    def variables(self) -> dict[str, Any]:
        """The session's variables by name, after those of this message."""
        return dict(self.session.variables)

    @property
    def history(self) -> list[TurnRecord]:
        """The turns before this one."""
        return list(self.session.turns)

    @property
    def number(self) -> int:
        """The number of this message in the session, from 1."""
        return self.session.applied + 1


def to_reply(answer: Any, *, where: str) -> ScriptReply:
    """Return the reply that ``answer`` describes: a text, a mapping, or a list of those.

    A mapping may contain ``text``, ``type``, ``latency``, ``stream``, ``messages`` (a list, sent unchanged),
    and any field of the message itself, which adds to or replaces the documented default.

    :param where: file and entry, for the error text.
    :raises ScriptError: ``answer`` is none of these.
    """
    if isinstance(answer, str):
        return ScriptReply(messages=answer_messages("Inform", answer))
    if isinstance(answer, list):
        replies = [to_reply(item, where=f"{where}[{index}]") for index, item in enumerate(answer)]
        return ScriptReply(messages=[message for reply in replies for message in reply.messages])
    if not isinstance(answer, Mapping):
        raise ScriptError(
            f"{where}: an answer is a string, a mapping or a list, not {type(answer).__name__}."
        )
    return _from_mapping(dict(answer), where=where)


def _from_mapping(answer: dict[str, Any], *, where: str) -> ScriptReply:
    latency = answer.pop("latency", None)
    if latency is not None:
        latency = _seconds(latency, "latency", where=where)
    plan = StreamPlan().with_changes(answer.pop("stream", None), where=where)
    if "messages" in answer:
        messages = _raw_messages(answer.pop("messages"), where=where)
        if answer:
            raise ScriptError(f"{where}: messages cannot be combined with {', '.join(map(str, answer))}.")
        return ScriptReply(messages=messages, latency=latency, stream=plan)
    kind = answer.pop("type", "Inform")
    if kind not in ANSWER_TYPES:
        raise ScriptError(
            f"{where}: unknown type {kind!r}: one of {', '.join(ANSWER_TYPES)}, or use messages:."
        )
    text = answer.pop("text", None) or answer.pop("message", "")
    if not isinstance(text, str):
        raise ScriptError(f"{where}: text must be a string, not {type(text).__name__}.")
    return ScriptReply(messages=answer_messages(kind, text, **answer), latency=latency, stream=plan)


def _raw_messages(messages: Any, *, where: str) -> list[Message]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ScriptError(f"{where}: messages must be a list of mappings.")
    return messages


def _seconds(value: Any, name: str, *, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ScriptError(f"{where}: {name} must be a number of seconds, not {value!r}.")
    return float(value)


class _Events:
    """The event ids and chunk offsets of one turn."""

    def __init__(self) -> None:
        self._origin = f"{int(time.time() * 1000)}-REQ"
        self._trace = new_trace_id()
        self._offset = 0

    def frame(self, event: str, data: dict[str, Any]) -> bytes:
        return b"event: %s\nid: %s\ndata: %s\n\n" % (event.encode(), self._origin.encode(), json_bytes(data))

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
    """Yield the events of ``reply`` as bytes, with what a gateway adds to them.

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
    """Split ``text`` into chunks of a few words."""
    return re.findall(r"\s*(?:\S+\s*){1,4}", text)


def _chunked_text(reply: ScriptReply) -> str:
    spoken = [message for message in reply.messages if message.get("type") in _CHUNKED]
    return "\n".join(str(text) for message in spoken if (text := message.get("message")))


def _answer_event(events: _Events, message: Message, *, envelope: bool, links: dict[str, Any]) -> bytes:
    if envelope or message.get("type") != "Inform":
        return events.event(message)
    # The official guide shows this event in the synchronous shape; a client must accept both.
    return events.frame("INFORM", {"messages": [message], "_links": links})
