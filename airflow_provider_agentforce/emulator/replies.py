"""Turn what a script says ("a text", "a Confirm", "this raw list") into the messages of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from airflow_provider_agentforce.emulator.messages import ANSWER_TYPES, Message, answer_messages
from airflow_provider_agentforce.emulator.models import SessionRecord, TurnRecord


class ScriptError(ValueError):
    """A script that cannot be used. The message names the file and the entry."""


@dataclass(frozen=True, kw_only=True)
class StreamPlan:
    """How an answer looks when it is streamed.

    ``progress`` is the text of the first event (None: no such event). ``chunks`` are the texts of the
    TextChunks (None: cut from the answer). ``retracted`` are chunks that a ValidationFailureChunk takes back.
    ``error`` ends the stream with an ERROR event in the place of the answer. ``end_of_turn`` false leaves out
    the last event. ``envelope`` false sends the Inform in the synchronous shape.
    """

    progress: str | None = "Working on it"
    chunks: list[str] | None = None
    retracted: list[str] = field(default_factory=list)
    error: bool = False
    end_of_turn: bool = True
    envelope: bool = True


STREAM_KEYS = tuple(option.name for option in fields(StreamPlan))


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the agent answers to one message. ``latency`` in seconds; None: the latency of the emulator."""

    messages: list[Message]
    latency: float | None = None
    stream: StreamPlan = field(default_factory=StreamPlan)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What a script sees of one message.

    ``type`` is the message type (``Text``, ``Reply``, ``Cancel``, …); ``text`` is empty for types without
    text. ``variables`` are the session's, after those of this message. ``history`` holds the turns before
    this one. ``number`` counts from 1.
    """

    text: str
    type: str
    sequence_id: float
    session: SessionRecord
    variables: dict[str, Any]
    history: list[TurnRecord]

    @property
    def number(self) -> int:
        """The place of this message in the session."""
        return self.session.applied + 1


def to_reply(answer: Any, *, where: str) -> Reply:
    """Return the reply that ``answer`` describes: a text, a mapping, or a list of those.

    A mapping may hold ``text``, ``type``, ``latency``, ``stream``, ``messages`` (a list taken as it is), and
    any field of the message itself, which adds to or replaces the documented default.

    :param where: file and entry, for the error text.
    :raises ScriptError: ``answer`` is none of these.
    """
    if isinstance(answer, str):
        return Reply(messages=answer_messages("Inform", answer))
    if isinstance(answer, list):
        replies = [to_reply(item, where=f"{where}[{index}]") for index, item in enumerate(answer)]
        return Reply(messages=[message for reply in replies for message in reply.messages])
    if not isinstance(answer, Mapping):
        raise ScriptError(f"{where}: an answer is a text, a mapping or a list, not {type(answer).__name__}.")
    return _from_mapping(dict(answer), where=where)


def _from_mapping(answer: dict[str, Any], *, where: str) -> Reply:
    latency = _latency(answer.pop("latency", None), where=where)
    plan = _stream_plan(answer.pop("stream", None), where=where)
    if "messages" in answer:
        messages = _raw_messages(answer.pop("messages"), where=where)
        if answer:
            raise ScriptError(f"{where}: messages: stands alone, without {', '.join(map(str, answer))}.")
        return Reply(messages=messages, latency=latency, stream=plan)
    kind = answer.pop("type", "Inform")
    if kind not in ANSWER_TYPES:
        raise ScriptError(
            f"{where}: unknown type {kind!r}: one of {', '.join(ANSWER_TYPES)}, or use messages:."
        )
    text = answer.pop("text", None) or answer.pop("message", "")
    if not isinstance(text, str):
        raise ScriptError(f"{where}: text must be a text, not {type(text).__name__}.")
    return Reply(messages=answer_messages(kind, text, **answer), latency=latency, stream=plan)


def _raw_messages(messages: Any, *, where: str) -> list[Message]:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise ScriptError(f"{where}: messages must be a list of mappings.")
    return messages


def _latency(value: Any, *, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ScriptError(f"{where}: latency must be a number of seconds, not {value!r}.")
    return float(value)


def _stream_plan(value: Any, *, where: str) -> StreamPlan:
    if value is None:
        return StreamPlan()
    if not isinstance(value, Mapping) or set(value) - set(STREAM_KEYS):
        raise ScriptError(f"{where}: stream must be a mapping with any of {', '.join(STREAM_KEYS)}.")
    return StreamPlan(**value)
