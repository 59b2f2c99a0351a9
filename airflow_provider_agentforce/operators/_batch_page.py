"""The XCom of a batch for its page: progress, reasons of failures, and some of the answers."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.batch.results import FAILURES, STATUSES, short_reason
from airflow_provider_agentforce.client.models import ANSWER_LOST
from airflow_provider_agentforce.exceptions import one_line
from airflow_provider_agentforce.instrumentation.metrics import gauge, incr
from airflow_provider_agentforce.operators._page import TaskPage

if TYPE_CHECKING:
    from airflow_provider_agentforce.batch.progress import ProgressSnapshot
    from airflow_provider_agentforce.batch.results import Row
    from airflow_provider_agentforce.operators._base import AgentforceBaseOperator

# Seconds between two writes.
_PAUSE = 3.0
_MOST_BYTES = 40_000
_MOST_READ = 2_000
_MOST_REASONS = 20
_MOST_KEYS = 5
_MOST_PROBLEMS = 80
_RECENT = 20
_TEXT = 200
PROBLEMS = (*FAILURES, ANSWER_LOST)
_FILES = ("result_path", "results", "dead_letter", "tables", "plan")


class BatchPage(TaskPage):
    """The page of a batch, written every few seconds at most."""

    def __init__(self, task: AgentforceBaseOperator, context: Context) -> None:
        super().__init__(task, context, "batch")
        self._written = 0.0
        self._forget()

    def row(self, row: Row) -> None:
        """Add a row."""
        if row.status in PROBLEMS:
            self._add_problem(row)
        else:
            self._recent.append(row)

    def snapshot(self, snapshot: ProgressSnapshot) -> None:
        """Set the progress."""
        self.add(**vars(snapshot))
        if time.monotonic() - self._written >= _PAUSE:
            self.tell()
            self._written = time.monotonic()

    def known(self, rows_having: Callable[..., Iterator[Row]]) -> None:
        """Read all existing rows, including those of earlier tries, instead of those added.

        :param rows_having: gives the rows with some statuses.
        """
        self._forget()
        problems = rows_having(*PROBLEMS)
        for row in islice(problems, _MOST_READ):
            self._add_problem(row)
        rest = rows_having(*(status for status in STATUSES if status not in PROBLEMS))
        size = len(json.dumps(self.body()))
        for row in chain(problems, rest):
            self._others.append(_shown(row))
            size += len(json.dumps(self._others[-1]))
            if size > _MOST_BYTES:
                break

    def made(self, manifest: Mapping[str, Any]) -> None:
        """Set the path of the results."""
        counts = manifest.get("counts")
        more = {"counts": counts, "done": sum(counts.values())} if counts is not None else {}
        summary = manifest.get("summary")
        self.add(
            files={name: manifest[name] for name in _FILES if manifest.get(name)},
            records=manifest.get("records"),
            summary=summary[:_MOST_READ] if isinstance(summary, str) else None,
            sessions=manifest.get("sessions"),
            messages=manifest.get("messages"),
            duration=manifest.get("duration"),
            **more,
        )

    def body(self) -> dict[str, Any]:
        """Return the reasons of failures and the rows."""
        reasons = sorted(self._reasons.items(), key=lambda one: -one[1][0])[:_MOST_REASONS]
        return {
            "reasons": [{"reason": text, "count": number, "keys": keys} for text, (number, keys) in reasons],
            "problems": self._problems,
            "recent": [_shown(row) for row in self._recent],
            "others": self._others,
        }

    def _forget(self) -> None:
        self._reasons: dict[str, tuple[int, list[str]]] = {}
        self._problems: list[dict[str, Any]] = []
        self._others: list[dict[str, Any]] = []
        self._recent: deque[Row] = deque(maxlen=_RECENT)

    def _add_problem(self, row: Row) -> None:
        shown = _shown(row)
        number, keys = self._reasons.get(shown["reason"], (0, []))
        if shown["reason"] in self._reasons or len(self._reasons) < _MOST_READ:
            few = keys if len(keys) >= _MOST_KEYS else [*keys, shown["key"]]
            self._reasons[shown["reason"]] = (number + 1, few)
        if len(self._problems) < _MOST_PROBLEMS:
            self._problems.append(shown)


def _shown(row: Row) -> dict[str, Any]:
    return {
        "key": one_line(str(row.key), 80),
        "status": row.status,
        "text": row.text[:_TEXT],
        "reason": short_reason(row.error) if row.error else "",
        "resolution": row.resolution,
    }


class BatchWatcher:
    """Reports a batch to Airflow's metrics and to its page."""

    def __init__(self, page: BatchPage) -> None:
        self._page = page

    def known(self, rows_having: Callable[..., Iterator[Row]]) -> None:
        """Show the rows of earlier tries."""
        self._page.known(rows_having)

    def row(self, row: Row) -> None:
        """Count a finished record."""
        incr("agentforce.batch.records", tags={"status": row.status})
        self._page.row(row)

    def snapshot(self, snapshot: ProgressSnapshot) -> None:
        """Show the progress."""
        gauge("agentforce.batch.sessions", snapshot.open_sessions)
        gauge("agentforce.batch.session_limit", snapshot.limit)
        self._page.snapshot(snapshot)
