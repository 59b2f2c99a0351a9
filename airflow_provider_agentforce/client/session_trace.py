"""The org's own trace of a session: its messages, its actions, and the tokens of the models. Pure.

:mod:`.otlp` reads it.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

# A text may have been escaped several times, but not more often than this.
_ESCAPES = 3
# Seconds by which the clocks may differ.
_TOLERATED = 60.0

Moment = datetime | float


@dataclass(frozen=True)
class TracedAction:
    """An action that the agent ran.

    :param name: its name in the trace.
    :param success: ``None`` if the trace does not say.
    :param duration: seconds, or ``None``.
    """

    name: str
    success: bool | None = None
    duration: float | None = None


@dataclass(frozen=True)
class TracedMessage:
    """A message to the agent, and its answer.

    :param position: place among the messages of the session in the trace, counted from 1.
    :param text: the text that the agent received.
    :param answer: the agent's answer; ``None`` if the trace has no answer.
    :param complete: whether the turn has ended in the trace, so that no more of its answer will follow.
    :param at: seconds since the epoch at which the turn began, or ``None``.
    """

    position: int
    text: str
    answer: str | None = None
    complete: bool = False
    at: float | None = None

    @property
    def answered(self) -> bool:
        """Whether the trace has the complete answer."""
        return self.complete and self.answer is not None


@dataclass(frozen=True)
class TracedSpan:
    """A span as the org has written it: a turn, a call of a model, an action or another step.

    :param span_id: its id; may be empty.
    :param parent_id: id of the span that it is inside of, or empty.
    :param name: its name in the trace.
    :param began: seconds since the epoch, like *ended*; ``None`` if the trace does not say.
    :param action: the action that it is, or ``None``.
    :param model: name of the model that was called, or ``None``.
    :param tokens: tokens of the call, as ``input_tokens`` and ``output_tokens``.
    :param messages: what the user (``False``) and the agent (``True``) said, in order.
    """

    span_id: str
    parent_id: str
    name: str
    began: float | None = None
    ended: float | None = None
    action: TracedAction | None = None
    model: str | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)
    messages: tuple[tuple[bool, str], ...] = ()


@dataclass(frozen=True)
class SessionTrace:
    """The org's trace of a session, which may be incomplete.

    :param session_id: id of the session.
    :param agent: name of the agent, or ``None``.
    :param messages: the messages to the agent, in order.
    :param actions: the actions that the agent ran, in order.
    :param input_tokens: sum of all model calls, like the other two; 0 if the trace does not say.
    :param models: names of the models.
    :param spans: all spans of the session, in order of their beginning.
    """

    session_id: str
    agent: str | None = None
    messages: tuple[TracedMessage, ...] = ()
    actions: tuple[TracedAction, ...] = ()
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    models: tuple[str, ...] = ()
    spans: tuple[TracedSpan, ...] = ()

    def find_message(
        self,
        text: str,
        position: int | None = None,
        sent_at: Moment | None = None,
        *,
        same_before: int | None = None,
    ) -> TracedMessage | None:
        """Return the message that was sent to the agent, or ``None`` if the trace does not have it (yet).

        A trace may be incomplete, so ``None`` does not say that the message was not delivered. Another
        message with the same text is never taken for this one: where the two cannot be told apart, neither
        is returned.

        :param text: the text that was sent.
        :param position: place of the message in the session, counted from 1: its ``sequence_id``.
        :param sent_at: when it was sent, an aware datetime or seconds since the epoch.
        :param same_before: how many messages with the same text the session has had before this one, which
            is then known by its place among them, also in a trace that counts other messages, too. Without
            it both ``position`` and ``sent_at`` have to agree.
        """
        same = self.with_text(text)
        sent = sent_at.timestamp() if isinstance(sent_at, datetime) else sent_at
        if same_before is None:
            one = _only_one_since(sent, same)
            return one if one is not None and _agrees(one, position, sent, is_last=False) else None
        found = same[same_before] if same_before < len(same) else None
        is_last = len(same) == same_before + 1
        # The clocks may differ, which matters if other messages have the same text.
        tolerated = 0.0 if same_before else _TOLERATED
        agrees = found is not None and _agrees(found, position, sent, is_last=is_last, tolerated=tolerated)
        return found if agrees else None

    def with_text(self, text: str) -> list[TracedMessage]:
        """Return the messages with this text, in order."""
        return [one for one in self.messages if is_same_text(one.text, text)]

    def to_dict(self) -> dict[str, Any]:
        """Return the trace as JSON values, without messages, answers and spans."""
        values = asdict(replace(self, messages=(), spans=()))
        del values["messages"], values["spans"]
        return {
            **values,
            "actions": list(values["actions"]),
            "models": list(self.models),
            "messages": len(self.messages),
        }


def _only_one_since(moment: float | None, messages: Iterable[TracedMessage]) -> TracedMessage | None:
    later = [one for one in messages if moment is not None and one.at is not None and one.at >= moment]
    return later[0] if len(later) == 1 else None


def _agrees(
    found: TracedMessage, position: int | None, sent: float | None, *, is_last: bool, tolerated: float = 0.0
) -> bool:
    """Return whether the place and time of a message allow it to be the message that was sent.

    :param is_last: it is the last of its text, and as many were sent.
    :param tolerated: seconds by which it may seem to be earlier.
    """
    in_place = found.position == position
    if sent is None or found.at is None:
        return in_place and is_last
    return (in_place or is_last) and found.at >= sent - (tolerated if in_place and is_last else 0.0)


def is_same_text(one: str, other: str) -> bool:
    """Return whether two texts are the same except for changes that a trace may make."""
    return _plain(one) == _plain(other)


def _plain(text: str) -> str:
    """Return a text without the parts that a trace may change: escapes, white space, Unicode forms."""
    for _ in range(_ESCAPES):
        text = html.unescape(text)
    return " ".join(unicodedata.normalize("NFC", text).split())
