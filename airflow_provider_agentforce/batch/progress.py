"""What people see of a batch while it runs, and at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping

from airflow_provider_agentforce.batch.results import STATUSES

_SECONDS = 5.0
_SHARE = 0.05
_RECENT = 60.0


class Progress:
    """Says when a line is due, and what it says.

    :param total: number of records.
    :param done: how many were done before this try.
    """

    def __init__(self, total: int, done: int) -> None:
        self._total = total
        self._said_at = self._began = time.monotonic()
        self._said = done
        self._recent = [(self._began, done)]

    def due(self, done: int) -> bool:
        """Tell whether a line is due: after a few seconds, or 5 %."""
        passed = time.monotonic() - self._said_at
        return passed >= _SECONDS or (passed >= 1 and done - self._said >= _SHARE * self._total)

    def line(self, counts: Mapping[str, int], open_sessions: int, limit: int, paused: float) -> str:
        """Return the line.

        :param counts: of the records that are done, by status; the line shows them all, so that they add up.
        """
        now, done = time.monotonic(), sum(counts.values())
        self._said_at, self._said = now, done
        self._recent = [one for one in self._recent if now - one[0] <= _RECENT] or self._recent[-1:]
        since, before = self._recent[0]
        rate = (done - before) / max(now - since, 0.001)
        self._recent.append((now, done))
        of_status = " + ".join(f"{counts[status]:,} {status}" for status in STATUSES if counts.get(status))
        share = ": ".join(filter(None, (f"{100 * done // max(1, self._total)}%", of_status)))
        parts = [
            f"{done:,} of {self._total:,} records ({share})",
            f"{rate:.1f}/s",
            f"{open_sessions} of at most {limit} sessions open",
        ]
        if paused >= 1:
            parts.append(f"waiting {duration(paused)} for the org's limits")
        elif rate > 0 and done < self._total:
            parts.append(f"about {duration((self._total - done) / rate)} left")
        return ", ".join(parts) + "."


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:  # noqa: PLR2004
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def final_table(counts: Mapping[str, int]) -> str:
    """Return the counts per status as a table, with those that occur."""
    rows = [f"  {status:<20} {counts[status]:>9,}" for status in STATUSES if counts.get(status)]
    return "\n".join([*rows, f"  {'records':<20} {sum(counts.values()):>9,}"])
