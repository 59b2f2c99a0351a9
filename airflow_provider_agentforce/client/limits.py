"""Holds the limits of an org inside one process, before the org has to refuse."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from airflow_provider_agentforce.client.deadline import Deadline
from airflow_provider_agentforce.exceptions import AgentforceInputError, RateLimitedError

_HOUR = 3600.0
_LOOK_AGAIN = 0.05


@dataclass(eq=False)
class _Place:
    """A start.

    :ivar at: when it was answered, until then when it was allowed; the org may count it at any time between.
    """

    at: float


class SessionLimits:
    """Counts the open sessions and the starts of the last hour of one org.

    What is allowed is the caller's: clients of one org may be set differently.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[object] = set()
        self._starts: deque[_Place] = deque()
        self._since = time.monotonic()

    def recall(self, ages: Iterable[float]) -> None:
        """Count starts of another process.

        :param ages: how many seconds ago each was; those since this process counts itself are passed over.
        """
        with self._lock:
            now = time.monotonic()
            known = [_Place(now - age) for age in ages if now - age < self._since]
            self._starts = deque(sorted([*self._starts, *known], key=lambda place: place.at))

    def reserve(self, deadline: Deadline, *, max_open: int, max_per_hour: int, wait: bool = True) -> object:
        """Take a place. Give the result to :meth:`bind` or :meth:`release`.

        :param max_open: sessions open at once.
        :param max_per_hour: starts in any hour.
        :param wait: for one that comes free.
        :raises RateLimitedError: if there is none, and none comes free within the deadline.
        """
        waited_since = time.monotonic()
        while True:
            deadline.check()
            place, free_in, reason = self._try(max_open, max_per_hour)
            if place is not None:
                return place
            waited = time.monotonic() - waited_since
            if free_in is not None and not (wait and deadline.allows(free_in)):
                raise RateLimitedError(reason, operation="start", retry_after=free_in)
            if not wait or not deadline.allows(waited + _LOOK_AGAIN):
                raise RateLimitedError(reason, operation="start")
            deadline.sleep(_LOOK_AGAIN if free_in is None else free_in)

    def bind(self, place: object, session_id: str) -> None:
        """Say which session has taken *place*."""
        with self._lock:
            if isinstance(place, _Place):
                place.at = time.monotonic()
            self._open.discard(place)
            self._open.add(session_id)

    def release(self, place: object) -> None:
        """Free a place, or the one of a session that has ended, if it was started here."""
        with self._lock:
            self._open.discard(place)

    def _try(self, max_open: int, max_per_hour: int) -> tuple[object | None, float | None, str]:
        with self._lock:
            now = time.monotonic()
            while self._starts and self._starts[0].at <= now - _HOUR:
                self._starts.popleft()
            if len(self._open) >= max_open:
                return None, None, f"{max_open} sessions are open (extra max_concurrent_sessions)."
            if len(self._starts) >= max_per_hour:
                wait = self._starts[0].at + _HOUR - now
                return None, wait, f"{max_per_hour} sessions were started within an hour."
            place = _Place(now)
            self._open.add(place)
            self._starts.append(place)
            return place, None, ""


def check_message_count(sequence_id: int, most: int, session_id: str | None = None) -> None:
    """Refuse the message that would pass the limit of its session.

    :raises AgentforceInputError: if *sequence_id*, the number it would get, is above *most*.
    """
    if sequence_id > most:
        raise AgentforceInputError(
            f"This would be message {sequence_id} of the session, and the connection allows {most} "
            "(extra max_messages_per_session). Start a new session.",
            operation="send",
            session_id=session_id,
        )
