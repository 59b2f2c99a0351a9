"""Lets threads that need the same result share one call, and its failure."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Callable
from concurrent.futures import Future
from copy import copy
from typing import Generic, TypeVar

from airflow_provider_agentforce.client.timing import Deadline
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceTransientError,
    TaskStoppedError,
)

_SLICE = 0.1
_ONLY = "flight"

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """One call at a time, for all threads that ask while it is under way."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        # At most one entry; to set a default takes no lock, which a fork or a signal could leave taken.
        self._flights: dict[str, Future[T]] = {}

    def share(self, make: Callable[[], T], deadline: Deadline, *, longest: float) -> T:
        """Return what *make* returns, or the result of another thread's call in progress.

        :param deadline: of the calling thread.
        :param longest: seconds to wait for another thread's call.
        :raises AgentforceError: as *make*. All threads that wait share the failure of the one call, unless
            it ended because the time of the thread that made it ended; then another thread makes a call.
        """
        if self._pid != os.getpid():
            # A fork does not copy the thread that makes the call.
            SingleFlight.__init__(self)
        while True:
            own: Future[T] = Future()
            flight = self._flights.setdefault(_ONLY, own)
            if flight is own:
                return self._lead(flight, make, deadline)
            try:
                return self._wait(flight, deadline, longest)
            except _AbandonedError:
                continue

    def _lead(self, flight: Future[T], make: Callable[[], T], deadline: Deadline) -> T:
        failure: Exception = _AbandonedError()
        try:
            flight.set_running_or_notify_cancel()
            made = make()
        except AgentforceError as error:
            if not (deadline.firm or isinstance(error, TaskStoppedError)):
                failure = error
            raise
        else:
            self._land(flight)
            flight.set_result(made)
            return made
        finally:
            try:
                self._give_up(flight, failure)
            finally:
                # Once more, as a signal may have cut the first.
                self._give_up(flight, failure)

    def _give_up(self, flight: Future[T], failure: Exception) -> None:
        self._land(flight)
        if not flight.done():
            flight.set_exception(failure)

    def _land(self, flight: Future[T]) -> None:
        if self._flights.get(_ONLY) is flight:
            self._flights.pop(_ONLY, None)

    def _wait(self, flight: Future[T], deadline: Deadline, longest: float) -> T:
        end = deadline.clock() + deadline.time_for_call(longest)
        while True:
            deadline.check()
            try:
                return flight.result(timeout=_SLICE)
            except concurrent.futures.TimeoutError:
                if not (flight.running() or flight.done()):
                    # A signal came between the thread that wanted to make the call and its call.
                    self._land(flight)
                    raise _AbandonedError from None
                if deadline.clock() < end:
                    continue
                raise AgentforceTransientError("Another thread's call is taking too long.") from None
            except AgentforceError as error:
                # Each thread raises its own error, because a traceback belongs to one thread.
                raise copy(error) from error.__cause__


class _AbandonedError(Exception):
    """The thread that made the call gave up for a reason that concerns it alone."""
