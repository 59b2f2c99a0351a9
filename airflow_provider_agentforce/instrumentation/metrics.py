"""Airflow metrics: the results of the calls, and what the operators count themselves.

Names and tags have few values, so that they do not burden the backend: no id, no text, no task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_provider_agentforce._compat import stats

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.call_events import CallEvent

log = logging.getLogger(__name__)

# By operation: the counter of a call that succeeds, and that of one that fails.
_NAMES = {
    "token": (None, "agentforce.token.failed"),
    "start": ("agentforce.session.started", "agentforce.session.start_failed"),
    "send": ("agentforce.message.sent", "agentforce.message.failed"),
    "end": ("agentforce.session.ended", "agentforce.session.end_failed"),
    "feedback": ("agentforce.feedback.sent", "agentforce.feedback.failed"),
    "query": (None, "agentforce.agent.lookup_failed"),
    "session_trace": ("agentforce.trace.read", "agentforce.trace.failed"),
    "test": ("agentforce.test.started", "agentforce.test.start_failed"),
    "read": (None, "agentforce.read.failed"),
    "write": (None, "agentforce.write.failed"),
}


def incr(name: str, count: int = 1, *, tags: dict[str, str] | None = None) -> None:
    """Add *count* to a counter. Never raises."""
    _report("incr", name, count, tags)


def gauge(name: str, value: float, *, tags: dict[str, str] | None = None) -> None:
    """Set a gauge. Never raises."""
    _report("gauge", name, value, tags)


def timing(name: str, seconds: float, *, tags: dict[str, str] | None = None) -> None:
    """Report a duration. Never raises."""
    # As a timedelta: Airflow takes a number as milliseconds or, by a setting of 2.11, as seconds.
    _report("timing", name, timedelta(seconds=seconds), tags)


def count_calls(_begun: CallEvent) -> Callable[[CallEvent], None]:
    """Count a call when it has ended: an observer of the client."""
    return _count


def _count(call: CallEvent) -> None:
    for reason in call.repeated_after:
        incr("agentforce.call.retried", tags={"operation": call.operation, "reason": reason})
    if call.operation == "token":
        incr("agentforce.token.requested")
    succeeded, failed = _NAMES[call.operation]
    if call.error is not None:
        incr(failed, tags={"error_type": type(call.error).__name__})
        return
    tags = _tags(call)
    if succeeded is not None:
        incr(succeeded, tags=tags)
    if call.operation == "send":
        timing("agentforce.message.duration", call.duration, tags=tags)


def _tags(call: CallEvent) -> dict[str, str] | None:
    if call.operation == "send":
        return {"outcome": str(call.outcome)}
    if call.operation == "end":
        return {"found": "gone" if call.outcome == "gone" else "open"}
    return None


def _report(method: str, name: str, value: object, tags: dict[str, str] | None) -> None:
    try:
        backend = stats()
        if backend is not None:
            getattr(backend, method)(name, value, tags=tags)
    except Exception as error:  # noqa: BLE001 - whatever the metrics backend raises
        log.debug("Metric %s could not be reported: %s", name, type(error).__name__)
