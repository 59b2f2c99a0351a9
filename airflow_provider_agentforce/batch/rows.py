"""The rows of a batch: what became of each record, kept on disk rather than in memory."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from airflow_provider_agentforce.client.json_values import storable
from airflow_provider_agentforce.client.models import (
    ANSWERED,
    ESCALATED,
    FAILED,
    NEEDS_CONFIRMATION,
    NEEDS_INPUT,
)

INVALID_OUTPUT = "invalid_output"
UNKNOWN = "unknown"
SKIPPED = "skipped"
STATUSES = (
    ANSWERED,
    NEEDS_INPUT,
    NEEDS_CONFIRMATION,
    ESCALATED,
    FAILED,
    INVALID_OUTPUT,
    UNKNOWN,
    SKIPPED,
)
FAILURES = (FAILED, INVALID_OUTPUT, UNKNOWN)


@dataclass(frozen=True)
class Row:
    """What became of one record.

    :param key: of the record, as the input has it.
    :param status: one of :data:`STATUSES`.
    :param text: the last answer, ``""`` if there is none.
    :param outcome: of the last answer, or ``None``.
    :param result: the validated output, when an ``output_type`` is given.
    :param earlier_answers: texts of the answers before the last one.
    :param session_id: the session it was asked in, or ``None``.
    :param sequence_id: number of its last message in that session, or ``None``.
    :param error: one line that says what went wrong, or ``None``.
    :param applied: ``False``: the agent did not act on it; ``True``: it did; ``None``: cannot be known.
    :param attempts: how often it was tried, over all tries of the task.
    :param started_at: when the last attempt began, ISO 8601 in UTC, or ``None``.
    :param duration: seconds that the last attempt took, to the last answer.
    """

    key: Any
    status: str
    text: str = ""
    outcome: str | None = None
    result: Any = None
    earlier_answers: list[str] = field(default_factory=list)
    session_id: str | None = None
    sequence_id: int | None = None
    error: str | None = None
    applied: bool | None = False
    attempts: int = 0
    started_at: str | None = None
    duration: float = 0.0

    @property
    def again(self) -> bool:
        """Whether the next try asks it again by itself: it failed, and the agent did not act."""
        return self.status == FAILED and self.applied is False

    def to_dict(self) -> dict[str, Any]:
        """Return the row of the results file."""
        return dict(vars(self))


def moment(seconds: float) -> str:
    """Return a wall-clock time in seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


class RowStore:
    """The last row of each record, in a temporary file; in memory are only places and counts.

    :ivar counts: rows per status.
    :ivar messages: answers in all rows.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self.messages = 0
        self._places: dict[str, tuple[int, int, str, int]] = {}
        self._again: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def put(self, name: str, row: Row) -> None:
        """Keep *row* as the one of the record called *name*."""
        line = json.dumps(storable(row.to_dict()), ensure_ascii=False).encode("utf-8") + b"\n"
        self.drop(name)
        place = self._file.seek(0, 2)
        self._file.write(line)
        answers = len(row.earlier_answers) + (row.outcome is not None)
        self._places[name] = (place, len(line), row.status, answers)
        self.counts[row.status] += 1
        self.messages += answers
        if row.again and row.attempts:
            self._again.add(name)

    @property
    def again(self) -> int:
        """How many records the next try asks again by itself."""
        return len(self._again)

    def drop(self, name: str) -> None:
        """Forget the row of a record that is to be asked again."""
        if name in self._places:
            _, _, status, answers = self._places.pop(name)
            self.counts[status] -= 1
            self.messages -= answers
            self._again.discard(name)

    def keep_only(self, names: Iterable[str]) -> None:
        """Forget the rows of all other records."""
        for name in self._places.keys() - set(names):
            self.drop(name)

    def get(self, name: str) -> Row | None:
        """Return the row of a record, ``None`` for one without."""
        for line in self.lines([name]):
            return Row(**json.loads(line))
        return None

    def status(self, name: str) -> str | None:
        """Return the status of a record, ``None`` for one without a row."""
        place = self._places.get(name)
        return None if place is None else place[2]

    def lines(self, names: Iterable[str]) -> Iterator[bytes]:
        """Yield the rows of *names* that there are, as lines of JSON."""
        for name in names:
            if name in self._places:
                place, length, *_ = self._places[name]
                self._file.seek(place)
                yield self._file.read(length)

    def close(self) -> None:
        """Give the disk space back."""
        self._file.close()
