"""The rows of a batch: the result of each record, and the position of its row in the checkpoint's files."""

from __future__ import annotations

import itertools
import json
import re
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, NamedTuple

from typing_extensions import Self

from airflow_provider_agentforce.client.json_values import decode_own, storable
from airflow_provider_agentforce.client.models import (
    ANSWER_LOST,
    ANSWERED,
    ESCALATED,
    FAILED,
    NEEDS_CONFIRMATION,
    NEEDS_INPUT,
)
from airflow_provider_agentforce.exceptions import one_line

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
    ANSWER_LOST,
)
FAILURES = (FAILED, INVALID_OUTPUT, UNKNOWN)
_MOST_COUNTED = 65535
_HASHED = 16
_PLACE = re.compile(r"^(records\[\d+\]|(line|row) \d+( of .+?)?): (\w+Error: )?| \[session .*\]$")
_MOMENT = re.compile(r"[0-9-]{10}T[0-9:]{8}\.[0-9]{3}\+00:00")
_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False)


# Not frozen, because that makes it three times as slow to create.
@dataclass
class Row:
    """The result of one record.

    :param key: key of the record, as in the input.
    :param status: one of :data:`STATUSES`.
    :param text: the last answer, ``""`` if there is none.
    :param outcome: outcome of the last answer, or ``None``.
    :param result: the validated output, if there is an ``output_type``.
    :param earlier_answers: texts of the answers before the last one.
    :param request: the last message that was sent: ``type``, ``text``, ``reply``, ``variables``; or ``None``.
    :param earlier_requests: the messages before it.
    :param session_id: the session it was asked in, or ``None``.
    :param external_session_key: the UUID of that session in the org's event log, or ``None``.
    :param sequence_id: number of its last message in that session, or ``None``.
    :param error: one line that says what went wrong, or ``None``.
    :param applied: ``False``: the agent did not act on it; ``True``: it did; ``None``: not known.
    :param attempts: the number of attempts, over all tries of the task.
    :param started_at: when the last attempt began, ISO 8601 in UTC, or ``None``.
    :param duration: seconds of the last attempt, to the last answer; for an attempt that was killed, to the
        try that found it.
    :param resolution: like that of a turn: how an unknown delivery was resolved.
    :param agent_version: id of the agent's version that answered, ``None`` if that is not certain.
    :param reused_from: where an earlier answer comes from: ``session_id`` and ``at``, ISO 8601 in UTC;
        ``None`` for a record that was asked.
    """

    key: Any
    status: str
    text: str = ""
    outcome: str | None = None
    result: Any = None
    earlier_answers: list[str] = field(default_factory=list)
    request: dict[str, Any] | None = None
    earlier_requests: list[dict[str, Any]] = field(default_factory=list)
    session_id: str | None = None
    sequence_id: int | None = None
    error: str | None = None
    applied: bool | None = False
    attempts: int = 0
    started_at: str | None = None
    duration: float = 0.0
    resolution: dict[str, Any] | None = None
    external_session_key: str | None = None
    agent_version: str | None = None
    reused_from: dict[str, Any] | None = None

    @property
    def again(self) -> bool:
        """Whether the next try asks it again: it failed, and the agent did not act."""
        return self.status == FAILED and self.applied is False

    @property
    def failure(self) -> str:
        """Why it failed, as failures are grouped; ``""`` for a row that did not."""
        return short_reason(self.error or self.status) if self.status in FAILURES else ""

    @property
    def may_be_resent(self) -> bool:
        """Whether it is unknown whether the agent acted, and the org is not known to have the message."""
        return self.status == UNKNOWN and self.applied is not True

    @property
    def answers(self) -> int:
        """The number of its answers."""
        return 0 if self.reused_from else len(self.earlier_answers) + (self.outcome is not None)

    @classmethod
    def from_line(cls, line: bytes) -> Self:
        """Parse the result of :meth:`line`."""
        return cls(**decode_own(line))

    def line(self) -> bytes:
        """Return the line of the results file."""
        text = _ENCODER.encode(vars(self))
        try:
            if "\\u0000" not in text:
                return text.encode("utf-8") + b"\n"
        except UnicodeEncodeError:  # half of a surrogate pair
            pass
        return _ENCODER.encode(storable(vars(self))).encode("utf-8") + b"\n"


def short_reason(error: str) -> str:
    """Return why a record failed, without its position in the input and its session."""
    return one_line(_PLACE.sub("", error), 120)


def moment(seconds: float) -> str:
    """Return a wall-clock time in seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


def is_moment(text: str) -> bool:
    """Return whether *text* has the form that :func:`moment` returns."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return _MOMENT.fullmatch(text) is not None


class Entry(NamedTuple):
    """The checkpoint's entry of a row, so that the row itself need not be parsed.

    :param name: name of the record.
    :param status: status of the row.
    :param again: whether the next try asks it again.
    :param attempts: how often it was tried.
    :param answers: how many answers it has.
    :param length: bytes of the row's line.
    :param record_length: bytes of the record's line after it; 0 if the record is not stored.
    :param question: hash of the question, in hexadecimal digits; empty if it is not needed.
    :param failure: why it failed, as failures are grouped; empty if it did not.
    """

    name: str
    status: str
    again: bool
    attempts: int
    answers: int
    length: int
    record_length: int
    question: str = ""
    failure: str = ""


class RowIndex:
    """The last row of each record by the record's position: its status and place, about 25 bytes each.

    :ivar counts: number of rows per status.
    :ivar messages: number of answers in all rows.
    :ivar again: number of records that were tried and that the next try asks again.
    :ivar failures: number of rows that failed, per reason.
    """

    def __init__(self, total: int) -> None:
        self.counts: Counter[str] = Counter()
        self.messages = 0
        self.again = 0
        self.failures: Counter[str] = Counter()
        self._status = bytearray(total)
        self._again = bytearray(total)
        self._file, self._length, self._record = (array("I", bytes(4 * total)) for _ in range(3))
        self._offset = array("Q", bytes(8 * total))
        # For each file ever written: where its bytes are now.
        self._files: list[tuple[str, int]] = []
        self._attempts, self._answers = (array("H", bytes(2 * total)) for _ in range(2))
        # 16 bytes each, once there is one.
        self._questions = bytearray()
        # The reason, and the name of the record.
        self._failure: dict[int, tuple[str, str]] = {}

    def __len__(self) -> int:
        return len(self._status)

    def add_file(self, name: str) -> int:
        """Add a file, and return its number."""
        self._files.append((name, 0))
        return len(self._files) - 1

    def move_files(self, places: Mapping[str, int], merged: str) -> None:
        """Record that files have become part of the file *merged*.

        :param places: the offset of each by its name.
        """
        self._files = [
            (merged, at + places[name]) if name in places else (name, at) for name, at in self._files
        ]

    def put(self, position: int, entry: Entry) -> None:
        """Make *entry* the row of the record at *position*."""
        self.drop(position)
        self._status[position] = STATUSES.index(entry.status) + 1
        self._again[position] = entry.again
        self._attempts[position] = min(entry.attempts, _MOST_COUNTED)
        self._answers[position] = min(entry.answers, _MOST_COUNTED)
        self._length[position], self._record[position] = entry.length, entry.record_length
        if entry.question or self._questions:
            self._put_question(position, entry.question)
        if entry.status in FAILURES:
            self._failure[position] = sys.intern(entry.failure or entry.status), entry.name
        self._count(position, 1)

    def place(self, position: int, file: int, offset: int) -> None:
        """Record the number of the file and the offset of the row."""
        self._file[position], self._offset[position] = file, offset

    def drop(self, position: int) -> None:
        """Forget the row of a record that is to be asked again."""
        if self._status[position]:
            self._count(position, -1)
            self._status[position] = 0
            self._failure.pop(position, None)

    def status(self, position: int) -> str | None:
        """Return the status of a record, ``None`` for one without a row."""
        number = self._status[position]
        return STATUSES[number - 1] if number else None

    def asked_again(self, position: int) -> bool:
        """Return whether the next try asks the record again."""
        return bool(self._status[position] and self._again[position])

    def is_asked_next(self, position: int) -> bool:
        """Return whether the next try asks the record, also if it was skipped."""
        return self.status(position) in {None, SKIPPED} or self.asked_again(position)

    def question(self, position: int) -> str:
        """Return the hash of the question about a record with a row, ``""`` if it is not known."""
        found = bytes(self._questions[_HASHED * position : _HASHED * (position + 1)])
        return found.hex() if any(found) else ""

    @property
    def reused(self) -> int:
        """The number of records with an earlier answer: those that are answered and were not tried."""
        answered = STATUSES.index(ANSWERED) + 1
        pairs = zip(self._status, self._attempts, strict=True)
        return sum(status == answered and not attempts for status, attempts in pairs)

    def attempts(self, position: int) -> int:
        """Return how often a record with a row was tried."""
        return self._attempts[position]

    def at(self, position: int) -> tuple[str, int, int, int]:
        """Return the name of the file, the offset, and the lengths of a row and of its record."""
        name, base = self._files[self._file[position]]
        return name, base + self._offset[position], self._length[position], self._record[position]

    def having(self, *statuses: str) -> Iterator[int]:
        """Yield the positions of rows with one of *statuses*, in the order of the input."""
        wanted = {STATUSES.index(status) + 1 for status in statuses}
        return itertools.compress(itertools.count(), map(wanted.__contains__, self._status))

    def most_common_failures(self, most: int, places: int) -> list[tuple[str, int, dict[int, str]]]:
        """Return the most common reasons of failures, each with its count and where it occurs.

        :param most: how many reasons.
        :param places: how many records of each, the first ones in the order of the input: their names by
            position.
        """
        found = {reason: (number, dict[int, str]()) for reason, number in self.failures.most_common(most)}
        for position in self.having(*FAILURES) if found else ():
            reason, name = self._failure[position]
            _, where = found.get(reason, (0, {}))
            if len(where) < places:
                where[position] = name
        return [(reason, number, where) for reason, (number, where) in found.items()]

    def _put_question(self, position: int, question: str) -> None:
        if not self._questions:
            self._questions = bytearray(_HASHED * len(self))
        hashed = bytes.fromhex(question) or bytes(_HASHED)
        self._questions[_HASHED * position : _HASHED * (position + 1)] = hashed

    def _count(self, position: int, by: int) -> None:
        self.counts[STATUSES[self._status[position] - 1]] += by
        self.messages += by * self._answers[position]
        if position in self._failure:
            reason, _ = self._failure[position]
            self.failures[reason] += by
            if not self.failures[reason]:
                del self.failures[reason]
        if self._again[position] and self._attempts[position]:
            self.again += by
