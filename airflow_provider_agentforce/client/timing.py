"""When calls are tried again, and by which clock. The one place that tests and embedders set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import tenacity

# For a second or two after another process has renewed its token, the org may refuse this one's, too.
_A_MOMENT = tenacity.wait_random(1, 2)
_FULL_JITTER = tenacity.wait_random_exponential(multiplier=1, max=20)


@dataclass(frozen=True)
class Timing:
    """How a client waits.

    :param back_off: a tenacity wait: the pause before an attempt for which the org names none, in seconds.
    :param renewal_pause: a tenacity wait: the pause before a renewed token is renewed once more.
    :param longest_wait: seconds; a longer wait is not begun, and the call fails instead.
    :param record_delay: seconds before a batch asks again about a record; doubled each time.
    :param clock: counts seconds, and no change of the wall clock moves it.
    """

    back_off: Callable[[tenacity.RetryCallState], float] = _FULL_JITTER
    renewal_pause: Callable[[tenacity.RetryCallState], float] = _A_MOMENT
    longest_wait: float = 60.0
    record_delay: float = 1.0
    clock: Callable[[], float] = time.monotonic


_default = Timing()


def default_timing() -> Timing:
    """Return the timing of clients that are given none, such as those of hooks."""
    return _default


@contextmanager
def use_timing(timing: Timing) -> Iterator[None]:
    """Make *timing* the default inside of the ``with`` block, for all threads."""
    global _default  # noqa: PLW0603 - a default is what it is
    previous, _default = _default, timing
    try:
        yield
    finally:
        _default = previous
