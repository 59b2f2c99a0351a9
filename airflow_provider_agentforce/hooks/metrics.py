"""Airflow metrics: what the calls came to, and what the operators count themselves.

Names and tags take few values, so that they do not burden the backend: no id, no text, no task.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_provider_agentforce._compat import stats
from airflow_provider_agentforce.client.calls import Operation
from airflow_provider_agentforce.client.policy import Failure

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.jobs import Job, Result

log = logging.getLogger(__name__)

# What a call counts as when it succeeds and when it does not.
_NAMES = {
    Operation.TOKEN: (None, "agentforce.token.failed"),
    Operation.START: ("agentforce.session.started", "agentforce.session.start_failed"),
    Operation.SEND: ("agentforce.message.sent", "agentforce.message.failed"),
    Operation.END: ("agentforce.session.ended", "agentforce.session.end_failed"),
    Operation.FEEDBACK: ("agentforce.feedback.sent", "agentforce.feedback.failed"),
    Operation.QUERY: (None, "agentforce.agent.lookup_failed"),
}


def incr(name: str, count: int = 1, *, tags: dict[str, str] | None = None) -> None:
    """Add *count* to a counter. Never raises."""
    _tell("incr", name, count, tags)


def gauge(name: str, value: float, *, tags: dict[str, str] | None = None) -> None:
    """Set a gauge. Never raises."""
    _tell("gauge", name, value, tags)


def timing(name: str, seconds: float, *, tags: dict[str, str] | None = None) -> None:
    """Report a duration. Never raises."""
    # Airflow takes a number for milliseconds or, by a setting of 2.11, for seconds.
    _tell("timing", name, timedelta(seconds=seconds), tags)


def count_calls(job: Job) -> Callable[[], None]:
    """Count a call when it has ended: an observer of the client."""
    return lambda: _count(job)


def _count(job: Job) -> None:
    for failure in job.repeated_after:
        reason = {"operation": job.operation.value, "reason": failure.name.lower()}
        incr("agentforce.call.retried", tags=reason)
    if job.operation is Operation.TOKEN:
        incr("agentforce.token.requested")
    succeeded, failed = _NAMES[job.operation]
    if job.error is not None or job.result is None:
        incr(failed, tags={"error_type": type(job.error).__name__})
        return
    tags = _tags(job.operation, job.result)
    if succeeded is not None:
        incr(succeeded, tags=tags)
    if job.operation is Operation.SEND:
        timing("agentforce.message.duration", time.monotonic() - job.begun, tags=tags)


def _tags(operation: Operation, result: Result) -> dict[str, str] | None:
    if operation is Operation.SEND:
        return {"outcome": result.value.outcome}
    if operation is Operation.END:
        return {"found": "gone" if result.failure is Failure.NOT_FOUND else "open"}
    return None


def _tell(method: str, name: str, value: object, tags: dict[str, str] | None) -> None:
    try:
        to = stats()
        if to is not None:
            getattr(to, method)(name, value, tags=tags)
    except Exception as error:  # noqa: BLE001 - whatever the metrics backend raises
        log.debug("Metric %s could not be reported: %s", name, type(error).__name__)
