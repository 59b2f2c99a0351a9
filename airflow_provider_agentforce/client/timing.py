"""The waits of calls, and their end. Tests and embedding programs set them here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import tenacity

from airflow_provider_agentforce.exceptions import AgentforceTransientError, TaskStoppedError

# For a second or two after another process has renewed its token, the org may also refuse this one's.
_A_MOMENT = tenacity.wait_random(1, 2)
_FULL_JITTER = tenacity.wait_random_exponential(multiplier=1, max=20)
_SLICE = 0.1


@dataclass(frozen=True)
class Timing:
    """The waits and the clock of a client.

    :param back_off: a tenacity wait: the pause before an attempt for which the org names none, in seconds.
    :param renewal_pause: a tenacity wait: the pause before a renewed token is renewed once more.
    :param longest_wait: seconds; a longer wait is not begun, and the call fails instead.
    :param record_delay: seconds before a batch asks again about a record; doubled each time.
    :param start_pause: seconds before the start of a test run whose answer is lost is requested again.
    :param version_pause: seconds for which a known version of an agent is valid.
    :param clock: a monotonic clock in seconds.
    """

    back_off: Callable[[tenacity.RetryCallState], float] = _FULL_JITTER
    renewal_pause: Callable[[tenacity.RetryCallState], float] = _A_MOMENT
    longest_wait: float = 60.0
    record_delay: float = 1.0
    start_pause: float = 2.0
    version_pause: float = 60.0
    clock: Callable[[], float] = time.monotonic


_default = Timing()


def default_timing() -> Timing:
    """Return the timing of clients without one, such as those of hooks."""
    return _default


@contextmanager
def use_timing(timing: Timing) -> Iterator[None]:
    """Make *timing* the default inside the ``with`` block, for all threads."""
    global _default  # noqa: PLW0603 - a default for the process
    previous, _default = _default, timing
    try:
        yield
    finally:
        _default = previous


class Deadline:
    """Waits that end at once on a stop and never outlast the caller's deadline.

    A wait that is too long is neither begun nor shortened: a call that comes back earlier than the server
    asked is only refused again.

    :ivar stopped: whether the caller was asked to stop.
    :ivar firm: whether no call may outlast the caller's time either.
    """

    def __init__(self, timing: Timing) -> None:
        self.clock = timing.clock
        self.longest_wait = timing.longest_wait
        self.start_pause = timing.start_pause
        self.stopped = False
        self.firm = False
        self._end = math.inf

    def ends_in(self, seconds: float | None, *, firm: bool = False) -> None:
        """Set the total time left for the caller; ``None``: no limit.

        :param firm: also apply it to each call, if nothing else stops the caller.
        """
        self._end = math.inf if seconds is None else self.clock() + seconds
        self.firm = firm

    def time_for_call(self, longest: float) -> float:
        """Return the seconds that a call may take: *longest*, or the time until a firm end.

        :raises AgentforceTransientError: if no time is left.
        """
        left = min(longest, self._end - self.clock()) if self.firm else longest
        if left <= 0:
            raise AgentforceTransientError("The time for these calls is used up; nothing more is sent.")
        return left

    def allows(self, seconds: float) -> bool:
        """Return whether a wait of *seconds* fits."""
        return not self.stopped and seconds <= min(self.longest_wait, self._end - self.clock())

    def stop(self) -> None:
        """End the current wait and refuse every later one. Safe in a signal handler: it takes no lock."""
        self.stopped = True

    def check(self) -> None:
        """Raise :class:`TaskStoppedError` if the caller was asked to stop."""
        if self.stopped:
            raise TaskStoppedError("The task was asked to stop; nothing more is sent.")

    def sleep(self, seconds: float) -> None:
        """Wait *seconds*, in slices, because an event's lock must not be taken in a signal handler.

        :raises TaskStoppedError: as soon as the caller is asked to stop.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _SLICE))
        self.check()
