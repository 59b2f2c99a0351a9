"""Shows the calls to observers, such as metrics and traces, which cannot influence them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

log = logging.getLogger(__name__)

_T = TypeVar("_T")


@dataclass(frozen=True)
class CallEvent:
    """The state of a call. All fields but the first five are known only at its end.

    :param operation: ``token``, ``start``, ``send``, ``end``, ``feedback``, ``query``, ``session_trace``,
        ``test``, ``read`` or ``write``.
    :param agent_id: the agent's id.
    :param session_id: the session of the call; at the end of a start, the session that it started.
    :param sequence_id: number of the message.
    :param text: the message; not shown, because it may be confidential.
    :param external_session_key: UUID of the started session in the org's event log.
    :param api_url: origin of the Agent API.
    :param attempts: number of requests that were sent, or should have been.
    :param repeated_after: names of the failures that were followed by another attempt.
    :param status: HTTP status of the last reply.
    :param outcome: the outcome of the answer to a message; for an end ``ended`` or ``gone``.
    :param answer: the agent's answer; not shown.
    :param error: the error that the caller receives instead of an answer.
    :param duration: seconds, including all waits.
    :param plan: the result of :func:`.summary_of` for a plan that was read.
    """

    operation: str
    agent_id: str | None = None
    session_id: str | None = None
    sequence_id: int | None = None
    text: str | None = field(default=None, repr=False)
    external_session_key: str | None = None
    api_url: str = ""
    attempts: int = 0
    repeated_after: tuple[str, ...] = ()
    status: int | None = None
    outcome: str | None = None
    answer: str | None = field(default=None, repr=False)
    error: BaseException | None = None
    duration: float = 0.0
    plan: dict[str, Any] | None = None


Observer = Callable[[CallEvent], Callable[[CallEvent], None]]
"""Receives a call before its first attempt, and returns a function that receives the same call at its end.

Both run in the thread of the call. An exception that they raise is logged and changes nothing.
"""


def observed(
    observers: Sequence[Observer],
    event: Callable[[BaseException | None], CallEvent],
    carry_out: Callable[[], _T],
) -> _T:
    """Carry out a call, show it to *observers* meanwhile, and return its result.

    :param event: returns the current state of the call, with the error that it ends with.
    """
    if not observers:
        return carry_out()
    error: BaseException | None = None
    endings: list[Callable[[CallEvent], None]] = []
    try:
        begun = event(None)
        for observer in observers:
            ending = _tried(observer, begun)
            if ending is not None:
                endings.append(ending)
        return carry_out()
    except BaseException as raised:
        error = raised
        raise
    finally:
        # The error's traceback refers to this frame, so the two would keep each other in memory.
        ended, error = event(error), None
        for ending in reversed(endings):
            _tried(ending, ended)
        del ended


def _tried(call: Callable[[CallEvent], _T], event: CallEvent) -> _T | None:
    try:
        return call(event)
    except Exception as error:  # noqa: BLE001 - whatever a metrics or tracing library raises
        log.warning("An observer of the calls failed: %s", type(error).__name__)
        return None
