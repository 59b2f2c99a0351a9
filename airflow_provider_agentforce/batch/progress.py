"""The progress of a batch for people, while it runs and at its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from airflow_provider_agentforce.batch.results import STATUSES

_SECONDS = 5.0
_SHARE = 0.05
_RECENT = 60.0


@dataclass(frozen=True)
class ProgressSnapshot:
    """The progress of a batch.

    :param records: the number of records.
    :param done: the number of records with a row.
    :param counts: the same by status, for each status that occurs.
    :param rate: records per second, recently.
    :param open_sessions: the number of open sessions.
    :param limit: the number of sessions allowed.
    :param paused: seconds to wait for the org's limits.
    :param left: seconds that the rest will take, ``None`` if there is no estimate.
    """

    records: int
    done: int
    counts: dict[str, int]
    rate: float
    open_sessions: int
    limit: int
    paused: float
    left: float | None

    def line(self) -> str:
        """Return the line for the log; it has all counts, so that they add up."""
        of_status = " + ".join(f"{number:,} {status}" for status, number in self.counts.items())
        share = ": ".join(filter(None, (f"{100 * self.done // max(1, self.records)}%", of_status)))
        parts = [
            f"{self.done:,} of {self.records:,} records ({share})",
            f"{self.rate:.1f}/s",
            f"{self.open_sessions} of at most {self.limit} sessions open",
        ]
        if self.paused >= 1:
            parts.append(f"waiting {duration(self.paused)} for the org's limits")
        elif self.left is not None:
            parts.append(f"about {duration(self.left)} left")
        return ", ".join(parts) + "."


class Progress:
    """Decides when to report progress, and measures the rate.

    :param total: number of records.
    :param done: the number of records done before this try.
    """

    def __init__(self, total: int, done: int) -> None:
        self._total = total
        self._said_at = self._began = time.monotonic()
        self._said = done
        self._recent = [(self._began, done)]

    def due(self, done: int) -> bool:
        """Return whether a report is due: after a few seconds, or 5 %."""
        passed = time.monotonic() - self._said_at
        return passed >= _SECONDS or (passed >= 1 and done - self._said >= _SHARE * self._total)

    def snapshot(
        self, counts: Mapping[str, int], open_sessions: int, limit: int, paused: float
    ) -> ProgressSnapshot:
        """Return the progress, as reported now.

        :param counts: the number of finished records by status.
        """
        now, done = time.monotonic(), sum(counts.values())
        self._said_at, self._said = now, done
        self._recent = [one for one in self._recent if now - one[0] <= _RECENT] or self._recent[-1:]
        since, before = self._recent[0]
        rate = (done - before) / max(now - since, 0.001)
        self._recent.append((now, done))
        known = {status: counts[status] for status in STATUSES if counts.get(status)}
        left = (self._total - done) / rate if rate > 0 and done < self._total and paused < 1 else None
        return ProgressSnapshot(self._total, done, known, rate, open_sessions, limit, paused, left)


def duration(seconds: float) -> str:
    """Return seconds in words."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:  # noqa: PLR2004
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def final_table(counts: Mapping[str, int]) -> str:
    """Return a table of the counts per status, for each status that occurs."""
    rows = [f"  {status:<20} {counts[status]:>9,}" for status in STATUSES if counts.get(status)]
    return "\n".join([*rows, f"  {'records':<20} {sum(counts.values()):>9,}"])
