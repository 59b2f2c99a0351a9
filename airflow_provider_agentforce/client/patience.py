"""How long a caller waits, and who may end the wait: the only place that sleeps."""

from __future__ import annotations

import math
import time

from airflow_provider_agentforce.exceptions import AgentforceTransientError, TaskStoppedError

_SLICE = 0.1


class Patience:
    """Waits that a kill ends at once and that never outlast the caller's own time.

    :param longest: seconds; a single wait that is longer is not begun. It is not shortened either: coming
        back earlier than the server asked only makes it refuse again.
    """

    def __init__(self, *, longest: float = 60.0) -> None:
        self.longest = longest
        self.stopped = False
        self._end = math.inf
        self._firm = False

    def ends_in(self, seconds: float | None, *, firm: bool = False) -> None:
        """Set the time left for the caller as a whole, ``None`` for no limit.

        :param firm: let no call outlast it either, as nobody else ends the caller.
        """
        self._end = math.inf if seconds is None else time.monotonic() + seconds
        self._firm = firm

    def time_for_call(self, longest: float) -> float:
        """Return how many seconds a call may take: *longest*, or what a firm end leaves.

        :raises AgentforceTransientError: if that is nothing.
        """
        left = min(longest, self._end - time.monotonic()) if self._firm else longest
        if left <= 0:
            raise AgentforceTransientError("The time for these calls is used up; nothing more is sent.")
        return left

    def allows(self, seconds: float) -> bool:
        """Tell whether a wait of *seconds* fits."""
        return not self.stopped and seconds <= min(self.longest, self._end - time.monotonic())

    def stop(self) -> None:
        """End the present wait and refuse every later one. Safe in a signal handler: it takes no lock."""
        self.stopped = True

    def check(self) -> None:
        """Raise :class:`TaskStoppedError` if the caller was told to stop."""
        if self.stopped:
            raise TaskStoppedError("The task was told to stop; nothing more is sent.")

    def sleep(self, seconds: float) -> None:
        """Wait *seconds*, in slices, since an event's lock must not be taken in a signal handler.

        :raises TaskStoppedError: as soon as the caller is told to stop.
        """
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _SLICE))
        self.check()
