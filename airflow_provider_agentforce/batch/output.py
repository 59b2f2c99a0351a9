"""The files that a batch writes at its end: its results, tables of them, and the dead letter."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from airflow_provider_agentforce.batch.agreement import Agreement
from airflow_provider_agentforce.batch.batch_input import BatchInput
from airflow_provider_agentforce.batch.checkpoint import Checkpoint
from airflow_provider_agentforce.batch.earlier_tries import EarlierTries
from airflow_provider_agentforce.batch.fields import kind_of
from airflow_provider_agentforce.batch.options import Options
from airflow_provider_agentforce.batch.parts import unreadable_file
from airflow_provider_agentforce.batch.progress import final_table
from airflow_provider_agentforce.batch.results import (
    FAILURES,
    INVALID_OUTPUT,
    SKIPPED,
    STATUSES,
    UNKNOWN,
    Row,
)
from airflow_provider_agentforce.batch.sample import sample_result
from airflow_provider_agentforce.batch.storage import CHECKPOINT, Storage, guarded, lines_in
from airflow_provider_agentforce.batch.table import CSV, FORMATS, JSON_LINES, PARQUET, Line, Table
from airflow_provider_agentforce.client.json_values import decode_own
from airflow_provider_agentforce.client.models import FAILED
from airflow_provider_agentforce.exceptions import BatchFailedError, one_line

log = logging.getLogger(__name__)

_RESULTS = "results."
RESULTS = f"{_RESULTS}{JSON_LINES}"
# The columns and formats of the tables, which are needed to write them again.
_TABLES = f"{CHECKPOINT}/tables.json"
DEAD_LETTER = "dead_letter"
# Both answers of the records that were asked twice.
AGREEMENT = "agreement.jsonl"
# How many sessions and messages the second requests took.
ASKED_TWICE = "asked_twice.json"
FILES = (
    *(f"{_RESULTS}{form}" for form in FORMATS),
    *(f"{DEAD_LETTER}{form}" for form in (".jsonl", ".csv")),
    AGREEMENT,
)
_SHOWN_REASONS = 3


@dataclass
class Output:
    """The files of a batch in which every record to ask has a row.

    :param folder: path object of their folder.
    :param storage: storage of that folder.
    :param asked: what the batch asks; the dead letter has the format of its input.
    :param agreement: the agreement of records that were asked twice, if there are any.
    """

    folder: Any
    storage: Storage
    checkpoint: Checkpoint
    options: Options
    asked: BatchInput
    agreement: Agreement | None = None

    def __post_init__(self) -> None:
        self._rows = self.checkpoint.rows
        self._counts = self._rows.counts
        found, options = self.asked.found, self.options
        fields = found.fields if options.include_record else None
        if self.checkpoint.is_mixed:
            # The checkpoint also has rows of other records, which the first reading did not see.
            for line in self._lines():
                found.fields.add(line.fields())
                found.kinds_of_keys |= kind_of(decode_own(line.row)["key"])
        self._table = Table.of(fields, options.schema, found.kinds_of_keys)

    def write(self, past: EarlierTries) -> dict[str, Any]:
        """Write all files and return the manifest."""
        sample = self.asked.sample
        results, twice = self.folder / RESULTS, self.agreement
        if twice is None:
            self._remove(AGREEMENT)
        second = self.checkpoint.read_note(ASKED_TWICE)
        tables = self._write_tables()
        counts = {status: self._counts[status] for status in STATUSES if self._counts[status]}
        log.info("The batch is done. Results: %s\n%s", results, final_table(counts))
        return {
            "result_path": str(self.folder),
            "results": str(results),
            "tables": tables,
            "plan": None,
            "dead_letter": self._write_dead_letter(),
            "agent_id": self.options.start.agent_id,
            "records": self._counts.total(),
            "reused": self._rows.reused,
            "counts": counts,
            "sessions": len(past.starts) + self.checkpoint.sessions + second.get("sessions", 0),
            "messages": self._rows.messages + second.get("messages", 0),
            # The batch may have begun on another worker, whose clock may be ahead.
            "duration": max(0.0, round(time.time() - past.began, 3)),
            "sample": None if sample is None else sample_result(self.checkpoint, sample),
            "agreement": twice and {**twice.to_dict(), "results": str(self.folder / AGREEMENT)},
        }

    def judge(self, manifest: dict[str, Any], *, stopped_early: bool, refusal: str = "") -> None:
        """Fail the task if too many records failed, or answers agree too rarely.

        :param refusal: the text for a person's decision to fail the task.
        :raises BatchFailedError: with the most common reasons.
        """
        if refusal:
            raise BatchFailedError(
                f"{refusal} For {self._counts[UNKNOWN]} records it is not known whether the agent acted. "
                f"Results: {manifest['results']}.",
                hint=self._what_to_do(),
                manifest=manifest,
                retryable=False,
            )
        failures, total = sum(self._counts[status] for status in FAILURES), self._counts.total()
        partial = failures and self.options.fail_on_partial_error
        if not (stopped_early or partial or 0 < failures == total):
            if failures:
                log.warning("%d of %d records failed: %s.", failures, total, self._reasons())
            if self.agreement is not None and total:
                self.agreement.judge(self.options.min_agreement, manifest)
            return
        more = ", more than max_failures allows; the rest was skipped" if stopped_early else ""
        raise BatchFailedError(
            f"{failures} of {total} records failed{more}: {self._reasons()}. Results: {manifest['results']}.",
            hint=self._what_to_do(),
            manifest=manifest,
            retryable=self._rows.again > 0,
        )

    def _what_to_do(self) -> str:
        """Return what to do about the records that failed, and about those whose delivery is unknown."""
        again = sum(map(self._rows.is_asked_next, range(len(self._rows))))
        unknown = self._counts[UNKNOWN]
        parts = [
            f"Clearing the task asks about {again} records, on which the agent did not act."
            if again
            else "Clearing the task asks about none again: the agent may have acted on each."
        ]
        if unknown:
            parts.append(
                f"For {unknown} it is not known whether the agent acted: look at what they were to change. "
                'With on_unknown_delivery="resend" they are asked again, too.'
            )
        return " ".join(parts)

    def _write_tables(self) -> dict[str, str]:
        """Write the requested tables, remove those of an earlier try, and return their names."""
        options = self.options
        # Other tasks read the rows as JSON, so they are always written.
        self._write(RESULTS, self._rows_as_json)
        tables = {"columns": self._table.columns, "formats": options.output_formats, "bom": options.csv_bom}
        self._write(_TABLES, lambda: [json.dumps(tables).encode()])
        for form, content in _contents(self._table, self._lines, bom=options.csv_bom).items():
            if form in options.output_formats:
                self._write(f"{_RESULTS}{form}", content)
            else:
                self._remove(f"{_RESULTS}{form}")
        return {form: str(self.folder / f"{_RESULTS}{form}") for form in options.output_formats}

    def _lines(self) -> Iterator[Line]:
        return (Line(*self.checkpoint.line_at(position)) for position in self._rows.having(*STATUSES))

    def _rows_as_json(self) -> Iterator[bytes]:
        joined = self.options.include_record
        return (line.joined() if joined else line.row for line in self._lines())

    def _write_dead_letter(self) -> str | None:
        """Write the dead letter, in the format of the input."""
        worth = {FAILED, INVALID_OUTPUT, SKIPPED, *([UNKNOWN] if self.options.resend_unknown else [])}
        name = f"{DEAD_LETTER}{self.asked.source.suffix}"
        if not any(self._counts[status] for status in worth):
            self._remove(name)
            return None
        self._write(
            name,
            lambda: self.asked.source.encode(map(self.checkpoint.record_at, self._rows.having(*worth))),
        )
        return str(self.folder / name)

    def _reasons(self) -> str:
        """Return why records failed, the most common reasons first, each with the key of one record."""
        found = self._rows.most_common_failures(_SHOWN_REASONS, 1)
        shown = [self._reason(reason, number, first) for reason, number, [first] in found]
        more = len(self._rows.failures) - len(shown)
        return "; ".join(shown + ([f"{more} other reasons"] if more else []))

    def _reason(self, reason: str, number: int, first: int) -> str:
        row = Row.from_line(self.checkpoint.row_at(first))
        where = "a record without a key" if row.key is None else one_line(str(row.key), 40)
        record = self.checkpoint.record_at(first)
        has = ""
        if row.attempts == 0 and record:
            has = f"; the record has: {one_line(', '.join(json.loads(record)), 100)}"
        return f"{number} × {reason} (first: {where}{has})"  # noqa: RUF001 - as people write it

    def _write(self, name: str, content: Callable[[], Iterable[bytes]]) -> None:
        def owned() -> Iterator[bytes]:
            yield from content()
            # On a disk the file replaces the old one only after this.
            self.checkpoint.check_owner()

        self.checkpoint.check_owner()
        self._do("written", lambda: self.storage.write(name, owned))

    def _remove(self, name: str) -> None:
        self.checkpoint.check_owner()
        self._do("removed", lambda: self.storage.remove(name))

    def _do(self, what: str, call: Callable[[], None]) -> None:
        failure = f"The results in {self.folder} cannot be {what}"
        guarded(
            call, failure, "The answers are in the checkpoint; the next try writes them without asking again."
        )


@dataclass(frozen=True)
class WrittenTables:
    """The tables of a batch that is done.

    :param table: their columns.
    :param formats: the formats in which they are written.
    :param bom: whether the CSV begins with a byte order mark.
    """

    table: Table
    formats: list[str]
    bom: bool

    @classmethod
    def of(cls, storage: Storage) -> WrittenTables | None:
        """Return the tables of a batch's folder, ``None`` if their definition no longer exists.

        :raises LedgerError: if another program has written the file.
        :raises OSError: or an error of the store's library.
        """
        body = storage.read(_TABLES)
        if body is None:
            return None
        try:
            made = json.loads(body)
            return cls(Table.from_columns(made["columns"]), made["formats"], made["bom"])
        except (ValueError, TypeError, KeyError):
            raise unreadable_file(_TABLES) from None

    def write(self, storage: Storage, lines: Callable[[], Iterator[Line]]) -> None:
        """Write the tables with these *lines*.

        :raises OSError: or an error of the store's library.
        """
        for form, content in _contents(self.table, lines, bom=self.bom).items():
            if form in self.formats:
                storage.write(f"{_RESULTS}{form}", content)


def result_names(formats: Iterable[str]) -> list[str]:
    """Return the names of the files that have all rows."""
    return list(dict.fromkeys([RESULTS, *(f"{_RESULTS}{form}" for form in formats)]))


def rewrite_tables(storage: Storage) -> None:
    """Write the tables of a batch again from its rows, some of which have changed.

    :param storage: storage of the folder with its results.
    :raises OSError: or an error of the store's library.
    """
    tables = WrittenTables.of(storage)
    if tables is None:
        log.warning("The tables of the batch are not updated, because %s no longer exists.", _TABLES)
        return
    tables.write(storage, lambda: result_lines(storage))


def _contents(
    table: Table, lines: Callable[[], Iterator[Line]], *, bom: bool
) -> dict[str, Callable[[], Iterable[bytes]]]:
    """Return the function that renders each table, except the rows as JSON."""
    return {CSV: lambda: table.csv(lines(), bom=bom), PARQUET: lambda: table.parquet(lines())}


def traced_rows(storage: Storage) -> list[Row]:
    """Return the rows of a batch's results that traces have resolved; none if there are no results.

    :raises OSError: or an error of the store's library.
    """
    try:
        lines = [line.row for line in result_lines(storage) if b'"trace"' in line.row]
    except FileNotFoundError:
        return []
    rows = map(Row.from_line, lines)
    return [row for row in rows if (row.resolution or {}).get("by") == "trace"]


def result_lines(storage: Storage) -> Iterator[Line]:
    """Yield the rows of a finished batch."""
    with storage.open(RESULTS) as file:
        yield from map(Line.split, lines_in(file))
