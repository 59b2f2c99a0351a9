"""Writes the rows of a batch to records of an org.

It reads the results twice: first it makes and checks all values, then it writes the records, 200 per call.
After each call it notes what is written, so that the next try continues there; a record whose note is lost is
written once more, with the same values.
"""

from __future__ import annotations

import hashlib
import json
import logging
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from airflow_provider_agentforce.batch.files import lines_of, opened
from airflow_provider_agentforce.batch.record_values import (
    ENCODER,
    RecordValues,
    RecordWrite,
    WriteFailure,
    WriteOptions,
)
from airflow_provider_agentforce.batch.storage import Storage, storage_of
from airflow_provider_agentforce.batch.write_failures import WriteFailures
from airflow_provider_agentforce.batch.write_notes import WriteNotes
from airflow_provider_agentforce.client.records import MOST_PER_CALL, Records, WriteResult, check_writable
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    AgentforceTransientError,
    BatchFailedError,
    one_line,
)

log = logging.getLogger(__name__)

_MOST_BYTES = 4 * 1024 * 1024
_PREVIEWED = 10
_LONGEST_PREVIEW = 1000
# The states of a row.
_OPEN, _WRITTEN, _FAILED = range(3)
# Calls between two lines about the progress.
_CALLS_A_LINE = 50


@dataclass
class _Tally:
    """The progress.

    :ivar most_failures: how many records may fail, ``None`` for all.
    :ivar states: a byte for each row that qualifies.
    :ivar rows: a hash of each of them.
    """

    failures: WriteFailures
    most_failures: int | None = None
    states: bytearray = field(default_factory=bytearray)
    rows: array[int] = field(default_factory=lambda: array("q"))

    @property
    def total(self) -> int:
        """Number of rows that qualify."""
        return len(self.states)

    @property
    def written(self) -> int:
        """Number of records that this try or an earlier one has written."""
        return self.states.count(_WRITTEN)

    def exceeds(self) -> bool:
        """Return whether more records have failed than may fail."""
        return self.most_failures is not None and self.failures.count > self.most_failures


class RecordWriter:
    """Writes the rows of results to an org.

    :param records: the records of the org.
    :param sources: path objects of files of results.
    :param folder: path object of the folder for errors and notes, which no other task uses.
    :param identity: identifies the run of the task and the org; notes of another run, or about another org,
        are not used.
    :param storage_of: returns the storage for a path object.
    """

    def __init__(
        self,
        records: Records,
        sources: Sequence[Any],
        folder: Any,
        options: WriteOptions,
        *,
        identity: str,
        storage_of: Callable[[Any], Storage] = storage_of,
    ) -> None:
        self._records = records
        self._sources = sources
        self._folder = folder
        self._options = options
        self._identity = identity
        self._storage_of = storage_of

    def run(self, *, dry_run: bool = False) -> dict[str, Any]:
        """Write all records that no earlier try has written, and return the counts.

        :param dry_run: write none, and return the changes of the first ones.
        :raises AgentforceInputError: the results or the fields cannot be used; nothing was written.
        :raises BatchFailedError: more records failed than are allowed, or all of them.
        """
        values = RecordValues(self._records.describe(self._options.sobject), self._options)
        if values.external_id is not None and not values.key.unique:
            log.warning(
                "%s is not unique in the org: a call that is repeated while the org is still working on it "
                "can create a record twice. Mark the field as unique.",
                values.external_id,
            )
        notes = WriteNotes(self._folder, self._storage_of, dry_run=dry_run)
        with WriteFailures() as failures:
            tally = _Tally(failures)
            with notes.reporting(failures):
                values_hash = self._survey(values, tally)
                if dry_run:
                    preview = {} if tally.exceeds() else self._preview(values, tally)
                else:
                    self._write_all(notes, values_hash, values, tally)
                    preview = {}
            result = {
                "written": tally.written,
                "failed": failures.count,
                "records": tally.total,
                "errors": notes.errors if failures.count else None,
                **preview,
            }
            _judge(result, tally)
        if not dry_run:
            # The task succeeds; when it is cleared, it writes all records.
            notes.forget()
        return result

    def _survey(self, values: RecordValues, tally: _Tally) -> str:
        """Make and check the values of all records, and return a hash of them.

        :raises AgentforceInputError: two rows name the same record.
        """
        digest = hashlib.sha256(f"{self._identity} {values.info.name} {values.external_id}".encode())
        named: dict[Any, Any] = {}
        for position, row in enumerate(self._qualifying()):
            tally.rows.append(_hash(row))
            one = values.of(position, row)
            if isinstance(one, WriteFailure):
                tally.states.append(_FAILED)
                tally.failures.add(one)
                continue
            tally.states.append(_OPEN)
            identity = values.identity_of(one.target)
            if identity in named:
                raise AgentforceInputError(
                    f"results: the rows with the keys {one_line(repr(named[identity]), 60)} and "
                    f"{one_line(repr(one.key), 60)} both name the record {one_line(repr(one.target), 60)}. "
                    "Nothing was written."
                )
            named[identity] = one.key
            digest.update(f"{one.position} {ENCODER.encode(one.values)}".encode())
        tally.most_failures = self._options.most_failures(tally.total)
        if not tally.total:
            log.warning("No row has an outcome that qualifies: %s.", ", ".join(self._options.outcomes))
        return digest.hexdigest()[:16]

    def _qualifying(self) -> Iterator[dict[str, Any]]:
        return (row for row in self._rows() if row.get("status") in self._options.outcomes)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for path in self._sources:
            with opened(path, "results") as file:
                for number, line in enumerate(lines_of(file, path, "results"), 1):
                    if line.strip():
                        yield _row(line, number, path)

    def _write_all(self, notes: WriteNotes, values_hash: str, values: RecordValues, tally: _Tally) -> None:
        """Write the remaining records, unless too many fail."""
        for begin, end in notes.spans(values_hash, tally.total):
            tally.states[begin:end] = bytes([_WRITTEN]) * (end - begin)
        if tally.written:
            log.info("Earlier tries have written %d of %d records.", tally.written, tally.total)
        if tally.exceeds():
            return
        try:
            for calls, chunk in enumerate(_chunks(self._remaining(values, tally)), 1):
                rows = [one.values for one in chunk]
                results: dict[int, WriteResult] = {}
                try:
                    self._records.write(
                        values.info.name, rows, external_id=values.external_id, results=results
                    )
                finally:
                    known = [(chunk[at], results[at]) for at in sorted(results)]
                    notes.add(values_hash, self._count(known, tally))
                check_writable(results.values())
                if calls % _CALLS_A_LINE == 0:
                    log.info("%d of %d records are written.", tally.written, tally.total)
                if tally.exceeds():
                    return
        finally:
            log.info(
                "%d of %d records are written, %d failed.", tally.written, tally.total, tally.failures.count
            )
        if not tally.exceeds() and tally.written + tally.failures.count != tally.total:
            raise _changed()

    def _remaining(self, values: RecordValues, tally: _Tally) -> Iterator[RecordWrite]:
        """Yield what is to be written. A template may read more than the row, and fail only now.

        :raises AgentforceTransientError: a row is not the one that was checked.
        """
        for position, row in enumerate(self._qualifying()):
            if position >= tally.total or _hash(row) != tally.rows[position]:
                raise _changed()
            if tally.states[position] != _OPEN:
                continue
            one = values.of(position, row)
            if isinstance(one, WriteFailure):
                tally.failures.add(one)
            else:
                yield one

    def _count(self, results: Iterable[tuple[RecordWrite, WriteResult]], tally: _Tally) -> list[int]:
        """Count the results of a call, and return the positions of the records that are written."""
        written = []
        for one, result in results:
            if result.written:
                tally.states[one.position] = _WRITTEN
                written.append(one.position)
            else:
                failure = WriteFailure(
                    one.key, one.target, result.code, result.message, result.fields, one.values
                )
                tally.failures.add(failure, locked=result.locked)
        return written

    def _preview(self, values: RecordValues, tally: _Tally) -> dict[str, Any]:
        """Return what would change in the first records."""
        log.info("%d of %d records would be written.", tally.total - tally.failures.count, tally.total)
        made = (values.of(position, row) for position, row in enumerate(self._qualifying()))
        checked = (one for one in made if isinstance(one, RecordWrite))
        first = list(islice(checked, _PREVIEWED))
        name = values.key.name
        present = {values.identity_of(record[name]): record for record in self._present(first, values)}
        shown = []
        for one in first:
            now = present.get(values.identity_of(one.target), {})
            changed = [field for field in one.values if field != name]
            changes = {
                field: {"now": _beginning(now.get(field)), "then": _beginning(one.values[field])}
                for field in changed
            }
            shown.append({"key": one.key, name: one.target, "exists": bool(now), "changes": changes})
            log.info("Would write %s: %s", one.target, one_line(ENCODER.encode(changes), 400))
        return {"preview": shown}

    def _present(self, writes: Sequence[RecordWrite], values: RecordValues) -> list[dict[str, Any]]:
        if not writes:
            return []
        wanted = ", ".join(_literal(values.identity_of(one.target)) for one in writes)
        names = ", ".join(dict.fromkeys([values.key.name, *writes[0].values]))
        where = f"FROM {values.info.name} WHERE {values.key.name} IN ({wanted})"
        return list(self._records.query(f"SELECT {names} {where}"))


def _judge(result: dict[str, Any], tally: _Tally) -> None:
    """Fail the task if all records failed, or more than are allowed."""
    failed, reasons, stopped = tally.failures.count, tally.failures.reasons, tally.exceeds()
    if not failed:
        return
    if not stopped and failed < tally.total:
        log.warning("Failed: %s. Errors: %s", reasons, result["errors"])
        return
    more = ", more than max_failures allows; the rest was not attempted" if stopped else ""
    raise BatchFailedError(
        f"{failed} of {tally.total} records could not be written{more}: {reasons}. "
        f"Errors: {result['errors']}.",
        hint="Correct what the reasons name, then clear the task.",
        manifest=result,
        operation="write",
        retryable=tally.failures.locked > 0,
    )


def _changed() -> AgentforceTransientError:
    return AgentforceTransientError(
        "The results changed while they were written.",
        hint="The next try writes what they are then. Write results whose batch has ended.",
        operation="write",
    )


def _hash(row: dict[str, Any]) -> int:
    return hash(ENCODER.encode(row))


def _row(line: str, number: int, path: Any) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or "status" not in row:
        raise AgentforceInputError(
            f"results: line {number} of {path} is not a row of a batch. Give the output of a "
            "ConversationBatchOperator, or the URI of its results.jsonl."
        )
    return row


def _chunks(writes: Iterable[RecordWrite]) -> Iterator[list[RecordWrite]]:
    """Yield the records of each call."""
    chunk: list[RecordWrite] = []
    size = 0
    for one in writes:
        if chunk and (len(chunk) == MOST_PER_CALL or size + one.size > _MOST_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(one)
        size += one.size
    if chunk:
        yield chunk


def _beginning(value: Any) -> Any:
    """Return a value; of a long text, the beginning and its length."""
    if isinstance(value, str) and len(value) > _LONGEST_PREVIEW:
        return f"{value[:_LONGEST_PREVIEW]}… ({len(value):,} characters)"
    return value


def _literal(value: Any) -> str:
    """Return a value as a SOQL literal."""
    if isinstance(value, str):
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return str(value)
