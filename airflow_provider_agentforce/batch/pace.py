"""How many sessions may be open at once, found by asking: additive increase, multiplicative decrease."""

from __future__ import annotations

import threading
import time

_SLICE = 1.0
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_MOST_CALM = 64.0


class Pace:
    """Gives places to workers, one for each session, and learns from the org's refusals.

    It begins at the configured limit. A refusal (HTTP 429) lowers the limit to the places that the org has
    not refused, but by no more than half a round; each session that starts adds a little, less and less
    often while the org refuses at the same height. So a limit that is right is never left, and one that is
    too high comes down to the org's within a few rounds.

    :param most: the configured limit.
    :ivar refusals: how often the org refused.
    :ivar sessions: how many sessions were started.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.refusals = 0
        self.sessions = 0
        self._limit = float(most)
        self._ceiling = float(most)
        self._calm = 1.0
        self._changed = threading.Condition()
        self._floor = 1.0
        self._entered = 0
        self._refused = 0
        self._open = 0
        self._epoch = 0
        self._not_before = 0.0
        self._guess = 0.0
        self._pause = _FIRST_PAUSE
        self._refused_since: float | None = None
        self._stopped = False

    @property
    def limit(self) -> int:
        """Sessions that may be open at once now."""
        return max(1, int(self._limit))

    @property
    def open_sessions(self) -> int:
        """Sessions that are open."""
        return self._open

    @property
    def paused_for(self) -> float:
        """Seconds until the next start, 0 for none."""
        return max(0.0, self._not_before - time.monotonic())

    @property
    def refused_for(self) -> float:
        """Seconds for which the org has refused everything, 0 when it has not."""
        return 0.0 if self._refused_since is None else time.monotonic() - self._refused_since

    def enter(self) -> int | None:
        """Wait for a place.

        :returns: what :meth:`refused` takes, or ``None`` after :meth:`stop`.
        """
        with self._changed:
            while not self._stopped:
                wait = self.paused_for
                if not wait and self._entered < self.limit:
                    self._entered += 1
                    return self._epoch
                self._changed.wait(min(wait, _SLICE) if wait else _SLICE)
            return None

    def leave(self) -> None:
        """Give the place back."""
        with self._changed:
            self._entered -= 1
            # Whoever was refused leaves at once, so it hardly matters whose place this was.
            self._refused = max(0, self._refused - 1)
            self._changed.notify()

    def started(self) -> None:
        """Note that a session has started: the org allows as many as are open."""
        with self._changed:
            self.sessions += 1
            self._open += 1
            self._pause = _FIRST_PAUSE
            self._refused_since = None
            if self._not_before == self._guess:
                self._not_before = 0.0
                self._changed.notify_all()
            self._limit = min(self.most, self._limit + 1 / (self._limit * self._calm))
            if self._limit > self._ceiling + 1:
                self._calm = 1.0
            self._changed.notify()

    def ended(self) -> None:
        """Note that a session has ended."""
        with self._changed:
            self._open -= 1

    def refused(self, epoch: int, retry_after: float | None) -> None:
        """Note that the org refused a start or a message for its limits.

        :param epoch: of the place; refusals of one round count once.
        :param retry_after: seconds the org asked to wait.
        """
        with self._changed:
            self.refusals += 1
            self._refused += 1
            self._refused_since = self._refused_since or time.monotonic()
            if epoch == self._epoch:
                self._begin_round(guess=retry_after is None and not self._open)
            held = float(max(self._open, self._entered - self._refused))
            self._limit = min(self._limit, max(self._floor, held))
            self._hold(retry_after or 0.0)

    def hold(self, seconds: float) -> None:
        """Start nothing for *seconds*, as a limit of the connection asks."""
        with self._changed:
            self._hold(seconds)

    def stop(self) -> None:
        """Let nobody in any more."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _begin_round(self, *, guess: bool) -> None:
        """Note the first refusal of a round.

        :param guess: how long to wait, since neither the org nor the end of a session will tell.
        """
        self._epoch += 1
        self._ceiling = self._limit
        self._floor = max(1.0, self._limit / 2)
        self._calm = min(_MOST_CALM, self._calm * 2)
        until = time.monotonic() + self._pause
        if guess and until > self._not_before:
            self._not_before = self._guess = until
            self._pause = min(_LONGEST_PAUSE, self._pause * 2)

    def _hold(self, seconds: float) -> None:
        self._not_before = max(self._not_before, time.monotonic() + seconds)
