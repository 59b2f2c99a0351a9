"""The XCom of a batch for its page: progress, reasons of failures, and some of the answers."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce._compat import Context
from airflow_provider_agentforce.batch.reader import key_in
from airflow_provider_agentforce.batch.results import FAILURES, STATUSES, short_reason
from airflow_provider_agentforce.client.models import ANSWER_LOST
from airflow_provider_agentforce.exceptions import one_line
from airflow_provider_agentforce.instrumentation.metrics import gauge, incr
from airflow_provider_agentforce.operators._page import TaskPage

if TYPE_CHECKING:
    from airflow_provider_agentforce.batch.checkpoint import Checkpoint
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
        self._checkpoint: Checkpoint | None = None
        # Rows as the page shows them, by key.
        self._problems: dict[Any, dict[str, Any]] = {}
        self._others: dict[Any, dict[str, Any]] = {}
        self._recent: deque[Row] = deque(maxlen=_RECENT)

    def row(self, row: Row) -> None:
        """Add a row."""
        self._problems.pop(row.key, None)
        self._others.pop(row.key, None)
        if row.status not in PROBLEMS:
            self._recent.append(row)
        elif len(self._problems) < _MOST_PROBLEMS:
            self._problems[row.key] = _shown(row)

    def snapshot(self, snapshot: ProgressSnapshot) -> None:
        """Set the progress."""
        self.add(**vars(snapshot))
        if time.monotonic() - self._written >= _PAUSE:
            self.write()
            self._written = time.monotonic()

    def known(self, checkpoint: Checkpoint) -> None:
        """Read the existing rows, including those of earlier tries, instead of those added."""
        self._checkpoint = checkpoint
        self._recent.clear()
        self._others.clear()
        problems = checkpoint.rows_having(*PROBLEMS)
        self._problems = {row.key: _shown(row) for row in islice(problems, _MOST_PROBLEMS)}
        rest = checkpoint.rows_having(*(status for status in STATUSES if status not in PROBLEMS))
        size = len(json.dumps(self.body()))
        for row in chain(problems, rest):
            self._others[row.key] = shown = _shown(row)
            size += len(json.dumps(shown))
            if size > _MOST_BYTES:
                break

    def add_results(self, manifest: Mapping[str, Any]) -> None:
        """Set the files and the figures of the results."""
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
        return {
            **self._failures(),
            "problems": list(self._problems.values()),
            "recent": [_shown(row) for row in self._recent],
            "others": list(self._others.values()),
        }

    def _failures(self) -> dict[str, Any]:
        """Return the most common reasons, and how many records failed for others."""
        if self._checkpoint is None:
            return {"reasons": []}
        found, rest = self._checkpoint.most_common_failures(_MOST_REASONS, _MOST_KEYS)
        reasons = [
            {"reason": reason, "count": number, "keys": [_shown_key(key_in(name)) for name in names]}
            for reason, number, names in found
        ]
        return {"reasons": reasons, "failed_otherwise": rest}


def _shown(row: Row) -> dict[str, Any]:
    return {
        "key": _shown_key(row.key),
        "status": row.status,
        "text": row.text[:_TEXT],
        "reason": short_reason(row.error) if row.error else "",
        "resolution": row.resolution,
    }


def _shown_key(key: Any) -> str:
    return "(no key)" if key is None else one_line(str(key), 80)


class BatchWatcher:
    """Reports a batch to Airflow's metrics and to its page."""

    def __init__(self, page: BatchPage) -> None:
        self._page = page
        self._finished: Counter[str] = Counter()

    def known(self, checkpoint: Checkpoint) -> None:
        """Show the rows of earlier tries."""
        self._page.known(checkpoint)

    def row(self, row: Row) -> None:
        """Count a finished record; the metric is sent with the next report."""
        self._finished[row.status] += 1
        self._page.row(row)

    def snapshot(self, snapshot: ProgressSnapshot) -> None:
        """Show the progress."""
        while self._finished:
            status, number = self._finished.popitem()
            incr("agentforce.batch.records", number, tags={"status": status})
        gauge("agentforce.batch.sessions", snapshot.open_sessions)
        gauge("agentforce.batch.session_limit", snapshot.limit)
        self._page.snapshot(snapshot)
