"""Holds the session limits of an org inside one process, and learns from the org's refusals."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from airflow_provider_agentforce.client.after_fork import renew_in_child
from airflow_provider_agentforce.exceptions import RateLimitedError

_FIRST_PAUSE = 1.0
_MOST_CALM = 64.0
# No hourly limit needs a longer pause, so a longer one is a mistake.
LONGEST_REQUEST = 7200.0


@dataclass(eq=False, slots=True)
class Slot:
    """The right to start one session, and then its place among the open ones.

    :ivar at: when the start was allowed, then when it was answered, by the limiter's clock; the org may count
        it at any time between.
    :ivar wanted: how many slots its caller intends to hold.
    :ivar round: refusals of one round count once.
    :ivar session_id: once the session has started.
    """

    at: float
    wanted: int
    round: int
    session_id: str | None = field(default=None)


class ConcurrencyLimiter:
    """Counts the open sessions and the starts of the last hour of one org, for all threads of a process.

    The caller gives the allowed maximum, because clients of one org may be configured differently. Below it,
    the limiter finds out how many sessions the org accepts: additive increase, multiplicative decrease. A
    refusal (HTTP 429) lowers the limit to the slots that the org has not refused, but by no more than half a
    round; each session that starts raises it a little, less and less often while the org refuses at the same
    level. A correct limit is therefore kept, and one that is too high falls to the org's within a few rounds.

    :param clock: counts seconds.
    :ivar window: seconds of the hourly limit.
    :ivar longest_pause: seconds; the org is asked again after at most this time, whatever it says.
    :ivar refusals: how often the org refused.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.window = 3600.0
        self.longest_pause = 60.0
        self.refusals = 0
        self._clock = clock
        self._since = clock()
        self._changed = threading.Condition()
        self._starting: set[Slot] = set()
        self._open: dict[str, Slot] = {}
        self._starts: deque[Slot] = deque()
        self._limit = self._ceiling = math.inf
        self._floor = self._calm = 1.0
        self._round = 0
        self._pause = _FIRST_PAUSE
        # The end of the pause, and of the pause that the org asked for. The first may be a guess, which the
        # next successful start proves wrong.
        self._not_before = self._asked_until = 0.0
        self._guessed = False
        self._refused_since: float | None = None
        renew_in_child(self)

    def renew(self) -> None:
        """Start over in a forked child: the open sessions are the parent's, which alone sees them end."""
        self._changed = threading.Condition()
        self._starting = set()
        self._open = {}

    @property
    def open_sessions(self) -> int:
        """Sessions that are open."""
        return len(self._open)

    @property
    def refused_for(self) -> float:
        """Seconds for which the org has refused everything, 0 when it has not."""
        return 0.0 if self._refused_since is None else self._clock() - self._refused_since

    @property
    def asked_for(self) -> float:
        """The seconds that the org has asked to wait, at most two hours; 0 for none."""
        return max(0.0, self._asked_until - self._clock())

    def limit(self, most_open: int) -> int:
        """Return how many sessions may be open at once now, for a caller that allows *most_open*."""
        return max(1, int(min(self._limit, most_open)))

    def paused_for(self, most_per_hour: int) -> float:
        """Return the seconds until the next start may be tried, 0 if only a free slot is missing."""
        with self._changed:
            return self._paused_for(most_per_hour)

    def recall(self, ages: Iterable[float]) -> None:
        """Count starts of another process.

        :param ages: the age of each in seconds; those since this limiter counts itself are skipped.
        """
        with self._changed:
            now = self._clock()
            known = [Slot(now - age, 0, 0) for age in ages if now - age < self._since]
            self._starts = deque(sorted([*self._starts, *known], key=lambda slot: slot.at))

    def acquire(
        self, *, most_open: int, most_per_hour: int, wanted: int | None = None, wait: float = 0.0
    ) -> Slot:
        """Take a slot. Give it to :meth:`started`, :meth:`release` or :meth:`refused`.

        :param most_open: sessions open at once.
        :param most_per_hour: starts in any hour.
        :param wanted: how many slots the caller means to hold at once; default: *most_open*.
        :param wait: seconds to wait for one that comes free.
        :raises RateLimitedError: if none does; its ``retry_after`` says when one will, if that is known.
        """
        end = self._clock() + wait
        with self._changed:
            while True:
                free_in = self._paused_for(most_per_hour) or None
                if free_in is None and len(self._starting) + len(self._open) < self.limit(most_open):
                    slot = Slot(self._clock(), wanted or most_open, self._round)
                    self._starting.add(slot)
                    self._starts.append(slot)
                    return slot
                left = end - self._clock()
                if left <= 0:
                    reason = self._reason(free_in, most_open, most_per_hour)
                    raise RateLimitedError(reason, operation="start", retry_after=free_in)
                self._changed.wait(left if free_in is None else min(left, free_in))

    def started(self, slot: Slot, session_id: str) -> None:
        """Note that the session of *slot* has started: the org allows as many as are open."""
        with self._changed:
            slot.at, slot.session_id = self._clock(), session_id
            self._starting.discard(slot)
            self._open[session_id] = slot
            self._pause = _FIRST_PAUSE
            self._refused_since = None
            self._asked_until = 0.0
            if self._guessed:
                self._not_before, self._guessed = 0.0, False
                self._changed.notify_all()
            if self._limit < slot.wanted:
                self._limit = min(slot.wanted, self._limit + 1 / (self._limit * self._calm))
                if self._limit > self._ceiling + 1:
                    self._calm = 1.0
            self._changed.notify()

    def ended(self, session_id: str) -> None:
        """Free the slot of a session that has ended, if it was started here."""
        with self._changed:
            if self._open.pop(session_id, None) is not None:
                self._changed.notify()

    def release(self, slot: Slot) -> None:
        """Free a slot whose session did not start. The org may have counted the start all the same."""
        with self._changed:
            self._free(slot)

    def expect(self, processes: int) -> None:
        """Note that at least this many processes use the org. Only a shared limiter needs to know."""

    def refused(self, slot: Slot, retry_after: float | None) -> None:
        """Note that the org refused a start or a message because of its limits, and free the slot.

        :param retry_after: seconds that the org asked to wait.
        """
        with self._changed:
            self._free(slot)
            if slot.session_id is None and slot in self._starts:
                self._starts.remove(slot)
            self.refusals += 1
            now = self._clock()
            self._refused_since = self._refused_since or now
            if slot.round == self._round:
                self._begin_round(min(self._limit, slot.wanted))
                if not retry_after and not self._open:
                    self._guess_pause(now)
            left = float(len(self._starting) + len(self._open))
            self._limit = min(self._limit, slot.wanted, max(self._floor, left))
            self._wait_as_asked(retry_after)

    def throttled(self, retry_after: float | None) -> None:
        """Note that the org refused a call because of its limits, even one in a session that stays open.

        :param retry_after: seconds that the org asked to wait; until then no session starts.
        """
        with self._changed:
            self._wait_as_asked(retry_after)

    def _wait_as_asked(self, retry_after: float | None) -> None:
        if retry_after:
            now = self._clock()
            self._asked_until = max(self._asked_until, now + min(retry_after, LONGEST_REQUEST))
            until = now + min(retry_after, self.longest_pause)
            if until > self._not_before:
                self._not_before, self._guessed = until, False

    def _free(self, slot: Slot) -> None:
        self._starting.discard(slot)
        self._open.pop(slot.session_id or "", None)
        self._changed.notify()

    def _begin_round(self, height: float) -> None:
        self._round += 1
        self._ceiling = height
        self._floor = max(1.0, height / 2)
        self._calm = min(_MOST_CALM, self._calm * 2)

    def _guess_pause(self, now: float) -> None:
        """Pause for a time that neither the org nor the end of a session determines."""
        until = now + min(self._pause, self.longest_pause)
        if until > self._not_before:
            self._not_before, self._guessed = until, True
            self._pause = min(self.longest_pause, self._pause * 2)

    def _paused_for(self, most_per_hour: int) -> float:
        now = self._clock()
        while self._starts and self._starts[0].at <= now - self.window:
            self._starts.popleft()
        full = len(self._starts) >= most_per_hour
        hour = self._starts[-most_per_hour].at + self.window if full else 0.0
        return max(0.0, self._not_before - now, hour - now)

    def _reason(self, free_in: float | None, most_open: int, most_per_hour: int) -> str:
        if free_in is not None and len(self._starts) >= most_per_hour:
            return f"{most_per_hour} sessions were started within an hour."
        if free_in is not None:
            return "The org refuses sessions because of its limits."
        return f"{self.limit(most_open)} sessions are open (extra max_concurrent_sessions)."
