"""Looks for a message in the org's own trace of its session, and says whether to look again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.client.models import Session
from airflow_provider_agentforce.client.session_trace import SessionTrace, TracedMessage, is_same_text
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceInputError,
    TaskStoppedError,
    one_line,
)

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient

_WINDOW = 72 * 3600.0
_NOT_THERE = (404, 410)
_OF_ONE_SESSION = (200, *_NOT_THERE)
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 30.0, 300.0, 2.0
# The first pause is at most this share of the available time.
_SHARE = 1 / 20
_LONGEST_NOTE = 600
NO_KIND = "The trace does not say what kind of answer it is: it may be a question, or report a failure."


@dataclass(frozen=True)
class SoughtMessage:
    """A message whose delivery is not known.

    :param text: the text that was sent.
    :param position: its ``sequence_id``, or ``None``.
    :param sent_at: the earliest time at which it may have been sent, seconds since the epoch, or ``None``.
    :param same_before: how many messages with the same text its session received before, or ``None``.
    """

    session_id: str
    text: str
    position: int | None = None
    sent_at: float | None = None
    same_before: int | None = None


@dataclass(frozen=True)
class TraceFinding:
    """The result of one look at the trace.

    :param message: the message, if the trace has it, which means that it was delivered.
    :param trace: the whole trace, if there is one.
    :param final: whether another look would find nothing more.
    :param note: what the trace has, or why it has nothing, as one line.
    :param error: the error if the trace could not be read.
    """

    message: TracedMessage | None = None
    trace: SessionTrace | None = None
    final: bool = False
    note: str = ""
    error: AgentforceError | None = None


def read_trace(client: AgentforceClient, session_id: str, started_at: float | None = None) -> TraceFinding:
    """Read the trace of a session once. This changes nothing in the org, so it may be repeated.

    :param started_at: when the session started, in seconds since the epoch, or later.
    :raises TaskStoppedError: the client was stopped.
    """
    too_old = started_at is not None and time.time() - started_at > _WINDOW
    try:
        return TraceFinding(trace=client.get_session_trace(Session(session_id)), final=too_old)
    except TaskStoppedError:
        raise
    except AgentforceError as error:
        # A missing trace may still appear, and a temporary failure may pass.
        waiting = (error.status in _NOT_THERE or error.retryable) and not too_old
        # Without the session, so that many sessions share a note.
        note = one_line(f"{error.what} {error.hint}", _LONGEST_NOTE)
        return TraceFinding(final=not waiting, note=note, error=error)


def concerns_all(error: AgentforceError) -> bool:
    """Return whether the traces of the other sessions would fail the same way."""
    its_own = error.status in _OF_ONE_SESSION or isinstance(error, AgentforceInputError)
    return not error.retryable and not its_own


def look(client: AgentforceClient, sought: SoughtMessage) -> TraceFinding:
    """Look for a message once.

    :raises TaskStoppedError: the client was stopped.
    """
    found = read_trace(client, sought.session_id, sought.sent_at)
    if found.trace is None:
        return found
    message = found.trace.find_message(
        sought.text, sought.position, sought.sent_at, same_before=sought.same_before
    )
    if message is None:
        count, same = len(found.trace.messages), len(found.trace.with_text(sought.text))
        note = f"The message is not among the {count} messages in the trace of its session."
        if same:
            note = (
                f"Messages with the same text in the trace of its session: {same}. Nothing tells whether it "
                "is one of them."
            )
        if found.final:
            note += " The session is older than 72 hours, so no more will come."
        return replace(found, note=note)
    note = f"The message and its answer are in the trace of its session. {NO_KIND}"
    if not message.answered:
        note = "The message is in the trace of its session, so it was delivered; its answer is not complete."
    return replace(found, message=message, final=message.answered or found.final, note=note)


def same_before(
    text: str | None, position: int | None, earlier: Sequence[Mapping[str, Any] | None]
) -> int | None:
    """Return how many of the messages before one have its text; ``None`` if not all of them are known.

    :param position: its ``sequence_id``.
    :param earlier: the ``request`` of each message before it in its session, as far as they are known.
    """
    if text is None or position is None or len(earlier) != position - 1 or None in earlier:
        return None
    texts = [str(one.get("text") or "") for one in earlier if one is not None]
    return sum(is_same_text(one, text) for one in texts)


def first_pause(seconds: float) -> float:
    """Return how long to wait after the first look, in seconds, when there are *seconds* in all."""
    return min(_FIRST_PAUSE, max(seconds, 0.0) * _SHARE)


def next_pause(pause: float) -> float:
    """Return the pause after *pause*."""
    return min(pause * _GROWTH, _LONGEST_PAUSE)
