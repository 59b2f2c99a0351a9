"""Lets others watch the calls, such as metrics and traces, without a say in what becomes of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from airflow_provider_agentforce.client.calls import Operation
from airflow_provider_agentforce.client.jobs import Job
from airflow_provider_agentforce.exceptions import DeliveryUnknownError

log = logging.getLogger(__name__)

Observer = Callable[[Job], Callable[[], None]]
"""Is given a call before its first attempt, and returns what is called after the last one.

While that runs, the call's ``result`` or ``error`` is set. All runs in the thread of the call. An exception
that it raises is logged and changes nothing.
"""

_T = TypeVar("_T")


@contextmanager
def observed(observers: Sequence[Observer], job: Job) -> Iterator[None]:
    """Show *job* to *observers* while it is carried out."""
    endings: list[Callable[[], None]] = []
    try:
        for observer in observers:
            ending = _tried(lambda begin=observer: begin(job))  # type: ignore[misc]
            if ending is not None:
                endings.append(ending)
        yield
    except BaseException as error:
        job.error = error
        raise
    finally:
        try:
            _end(endings, job)
        finally:
            # Its traceback holds the job, so the two would keep each other, and a whole reply, in memory.
            job.error = None


def _end(endings: list[Callable[[], None]], job: Job) -> None:
    try:
        for ending in reversed(endings):
            _tried(ending)
    except BaseException as interruption:
        # A time-out or kill raised by a signal handler. It must not hide that the message has left, or an
        # Airflow retry would send it again.
        if isinstance(job.error, DeliveryUnknownError):
            raise job.error from interruption
        if job.operation is Operation.SEND and job.error is None:
            raise _delivered(job, interruption) from interruption
        raise


def _tried(call: Callable[[], _T]) -> _T | None:
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - whatever a metrics or tracing library raises
        log.warning("An observer of the calls failed: %s", type(error).__name__)
        return None


def _delivered(job: Job, interruption: BaseException) -> DeliveryUnknownError:
    lost = DeliveryUnknownError(
        f"The agent answered, but the task was interrupted: {type(interruption).__name__}.",
        operation=job.operation.value,
        applied=True,
        session_id=job.session_id,
    )
    lost.turn = job.result.value if job.result else None
    return lost
