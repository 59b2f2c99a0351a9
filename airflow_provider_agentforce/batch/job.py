"""A batch from its input to its results: what is checked before, and what is written after."""

from __future__ import annotations

import json
import logging
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_agentforce.batch import runner
from airflow_provider_agentforce.batch.checkpoint import Asked, Checkpoint, Past
from airflow_provider_agentforce.batch.options import Options
from airflow_provider_agentforce.batch.progress import final_table
from airflow_provider_agentforce.batch.prompts import Compile, Prompts
from airflow_provider_agentforce.batch.reader import Record, Source, Survey, read, source_of, survey
from airflow_provider_agentforce.batch.results import (
    FAILURES,
    INVALID_OUTPUT,
    SKIPPED,
    STATUSES,
    UNKNOWN,
    Row,
    moment,
)
from airflow_provider_agentforce.batch.runner import Runner, Watcher
from airflow_provider_agentforce.batch.storage import Storage, guarded, storage_of
from airflow_provider_agentforce.batch.unknown import UnknownRows
from airflow_provider_agentforce.batch.worker import WorkItem, settle
from airflow_provider_agentforce.client.models import FAILED
from airflow_provider_agentforce.exceptions import (
    AgentforceInputError,
    BatchFailedError,
    one_line,
)

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient

log = logging.getLogger(__name__)

_HOUR = 3600.0
CHECKPOINT = "_ledger"
RESULTS = "results.jsonl"
DEAD_LETTER = "dead_letter"
_SUFFIXES = (".jsonl", ".csv")
# Records without a question after which the runner has its turn again.
_BREATH = 100
_KEPT_IN_MEMORY = 8_000_000
_SHOWN_REASONS = 3
_PLACE = re.compile(r"^(records\[\d+\]|line \d+): (\w+Error: )?| \[session .*\]$")


class LongWait(Exception):  # noqa: N818 - not an error: the batch goes on later
    """Nothing can be asked for a minute or more.

    :ivar seconds: for how long.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass(frozen=True)
class Job:
    """One try at a batch.

    :param records: a list of dicts, or the URI of a file.
    :param source_path: path object of the input, ``None`` for a list.
    :param result_folder: path object of the folder for the results.
    :param identity: what makes the batch this one, beside its input, messages and agent.
    :param compile_template: makes of a template a function from a record to text.
    :param storage_of: gives the storage for a path object.
    :param resolve: finds out what became of records whose delivery is unknown; ``None``: they stay unknown.
    :param cycle: changes with a person's clear.
    """

    client: AgentforceClient
    records: Any
    source_path: Any
    result_folder: Any
    identity: dict[str, str]
    compile_template: Compile
    options: Options
    storage_of: Callable[[Any], Storage] = storage_of
    resolve: Callable[[UnknownRows], None] | None = None
    cycle: int = 0

    def run(self, *, killed: Callable[[], bool], watcher: Watcher) -> dict[str, Any]:
        """Ask about all records that have no row yet, and return the manifest.

        :param killed: tells whether the task was told to stop.
        :param watcher: is told how it goes.
        :raises AgentforceInputError: for input that cannot be used; nothing was sent.
        :raises BatchFailedError: if more records failed than are allowed; all results are written.
        :raises LongWait: if the options allow to yield.
        :raises AgentforceError: if nothing further can be asked; what was answered is kept.
        """
        options, settings = self.options, self.client.settings
        options.check(settings)
        self._check_input_is_not_output()
        prompts = Prompts(options, self.compile_template, settings.max_messages_per_session)
        source = source_of(self.records, self.source_path)
        known = survey(source, options.key)
        marks = {
            **self.identity,
            "records": known.fingerprint,
            "message or variables": prompts.fingerprint,
            "agent": str(options.start.agent_id),
        }
        storage = self.storage_of(self.result_folder / CHECKPOINT)
        with closing(Checkpoint(storage, marks, known.positions, self.result_folder)) as checkpoint:
            past = checkpoint.open(changes_allowed=options.changes_allowed)
            self._take_up(past, checkpoint)
            todo = _Todo(source, prompts, checkpoint, past.pending, options)
            run = partial(Runner, self.client, checkpoint, options, killed=killed, watcher=watcher)
            asking = _asked(run(), todo)
            left, resolved = asking.left, 0
            if self.resolve is not None:
                unknown = self._unknown(checkpoint, source, prompts)
                if unknown.open():
                    self.resolve(unknown)
                resolved = unknown.resolved
                if unknown.ask_again and not asking.stopped_early:
                    asking = _asked(run(), replace(todo, pending={}, only=unknown.ask_again, read_to=0))
                    left = {**left, **asking.left}
            results = _Results(self, known, todo, left)
            manifest = {**results.write(past), "resolved": resolved}
            results.judge(manifest, stopped_early=asking.stopped_early)
            return manifest

    def _unknown(self, checkpoint: Checkpoint, source: Source, prompts: Prompts) -> UnknownRows:
        records = read(source, self.options.key)
        return UnknownRows(checkpoint, records, prompts, self.options, cycle=self.cycle)

    def _check_input_is_not_output(self) -> None:
        names = (RESULTS, *(DEAD_LETTER + suffix for suffix in _SUFFIXES))
        if str(self.source_path) in {str(self.result_folder / name) for name in names}:
            raise AgentforceInputError(
                f"records: {self.source_path} is a file that this batch writes. Choose another result_path."
            )

    def _take_up(self, past: Past, checkpoint: Checkpoint) -> None:
        """End what the last try left open, and count what it started."""
        done = checkpoint.rows.counts.total()
        if done:
            log.info(
                "Earlier tries have done %d of %d records; their rows are kept.", done, len(checkpoint.rows)
            )
        if past.open_sessions:
            ended = runner.end_all(self.client, past.open_sessions)
            checkpoint.ended(*ended)
            log.info(
                "Ended %d of %d sessions that an earlier try left open.", len(ended), len(past.open_sessions)
            )
        if past.lost_starts:
            checkpoint.ended(*past.lost_starts)
            log.warning(
                "An earlier try was killed while it started %d sessions. They may be open until they expire. "
                "Their external session keys: %s",
                len(past.lost_starts),
                ", ".join(past.lost_starts),
            )
        now = time.time()
        self.client.limiter.recall(now - start for start in past.starts if now - start < _HOUR)


@dataclass
class _Todo:
    """The records that are still to be asked, in the order of the input.

    :param pending: positions of records that an earlier try may have asked, with where, if that is known.
    :param only: positions of the records that are to be asked; ``None``: all that have no row.
    :ivar read_to: the position of the next record.
    :ivar rest: the records that were not read yet.
    """

    source: Source
    prompts: Prompts
    checkpoint: Checkpoint
    pending: dict[int, Asked | None]
    options: Options
    read_to: int = 0
    only: set[int] | None = None

    def __post_init__(self) -> None:
        self.rest = read(self.source, self.options.key)

    def __iter__(self) -> Iterator[WorkItem | None]:
        """Yield what is to be asked, and ``None`` now and then while that is nothing.

        Takes down the rows of what cannot or must not be asked.
        """
        rows = self.checkpoint.rows
        if not self.pending and all(self._is_done(position) for position in range(len(rows))):
            self.read_to, self.rest = len(rows), iter(())
        for record in self.rest:
            self.read_to = record.position + 1
            item = None if self._is_done(record.position) else self._item(record)
            if item is not None or record.position % _BREATH == 0:
                yield item

    def _is_done(self, position: int) -> bool:
        if self.only is not None:
            return position not in self.only
        rows = self.checkpoint.rows
        status = rows.status(position)
        again = rows.asked_again(position) or (self.options.resend_unknown and status == UNKNOWN)
        return status is not None and not again and position not in self.pending

    def _item(self, record: Record) -> WorkItem | None:
        rows, position = self.checkpoint.rows, record.position
        before = rows.attempts(position) if rows.status(position) else 0
        last = self._row_on_hold(position)
        rows.drop(position)
        if position in self.pending:
            before += 1
            if not self.options.resend_unknown:
                settle(self.checkpoint, record, _killed(record, before, self.pending[position]))
                return None
        item = self.prompts.about(record)
        if isinstance(item, Row):
            settle(self.checkpoint, record, item)
            return None
        if last is not None and last.resolution is not None and len(item.messages) == 1:
            (message,) = item.messages
            if last.request is not None:
                message = replace(message, content={"text": last.request["text"]})
            item = replace(item, messages=(message,), resolution=last.resolution)
        return replace(item, before=before)

    def _row_on_hold(self, position: int) -> Row | None:
        """Return the row of a record that was asked before, and may be asked again."""
        rows = self.checkpoint.rows
        if rows.status(position) is None or not rows.attempts(position):
            return None
        return Row(**json.loads(self.checkpoint.row_at(position)))


@dataclass
class _Results:
    """What is written at the end.

    :param left: records that were read and have no row, by position.
    """

    job: Job
    known: Survey
    todo: _Todo
    left: dict[int, WorkItem]

    def __post_init__(self) -> None:
        self._folder = self.job.result_folder
        self._storage = self.job.storage_of(self._folder)
        self._source, self._checkpoint = self.todo.source, self.todo.checkpoint
        self._rows = self._checkpoint.rows
        skipped = len(self._rows) - self._rows.counts.total()
        self._counts = self._rows.counts + Counter({SKIPPED: skipped})

    def write(self, past: Past) -> dict[str, Any]:
        """Write all results and return the manifest."""
        results = self._folder / RESULTS
        self._write(RESULTS, self._lines)
        counts = {status: self._counts[status] for status in STATUSES if self._counts[status]}
        log.info("The batch is done. Results: %s\n%s", results, final_table(counts))
        return {
            "result_path": str(self._folder),
            "results": str(results),
            "dead_letter": self._write_dead_letter(),
            "records": len(self._rows),
            "counts": counts,
            "sessions": len(past.starts) + self._checkpoint.sessions,
            "messages": self._rows.messages,
            "duration": round(time.time() - past.began, 3),
        }

    def judge(self, manifest: dict[str, Any], *, stopped_early: bool) -> None:
        """Fail the task if too many records failed.

        :raises BatchFailedError: it says why, by the commonest reasons.
        """
        failures, total = sum(self._counts[status] for status in FAILURES), len(self._rows)
        partial = failures and self.job.options.fail_on_partial_error
        if not (stopped_early or partial or failures == total):
            return
        more = ", more than max_failures allows; the rest was skipped" if stopped_early else ""
        raise BatchFailedError(
            f"{failures} of {total} records failed{more}: {self._reasons()}. Results: {manifest['results']}.",
            manifest=manifest,
            retryable=self._rows.again > 0,
        )

    def _lines(self) -> Iterator[bytes]:
        for position, key in enumerate(self.known.keys):
            if self._rows.status(position) is None:
                yield Row(key=key, status=SKIPPED).line()
            else:
                yield self._checkpoint.row_at(position)

    def _write_dead_letter(self) -> str | None:
        """Write the records that are worth another run, in the form of the input."""
        worth = {FAILED, INVALID_OUTPUT, SKIPPED, *([UNKNOWN] if self.job.options.resend_unknown else [])}
        name = f"{DEAD_LETTER}{self._source.suffix}"
        if not any(self._counts[status] for status in worth):
            self._do("removed", lambda: self._storage.remove(name))
            return None
        # A store may have to be tried again, and the input is not read a third time.
        with tempfile.SpooledTemporaryFile(_KEPT_IN_MEMORY) as written:
            self._do("written", lambda: written.writelines(self._source.encode(self._dead(worth))))
            self._write(name, lambda: _from_start(written))
        return str(self._folder / name)

    def _dead(self, worth: set[str]) -> Iterator[bytes]:
        """Yield the records whose status is one of *worth*, as lines of JSON."""
        for position in range(self.todo.read_to):
            if position in self.left:
                yield self.left[position].record.line()
            elif self._rows.status(position) in worth:
                yield self._checkpoint.record_at(position)
        for record in self.todo.rest:
            status = self._rows.status(record.position)
            if status is None or status in worth:
                yield record.line()

    def _reasons(self) -> str:
        """Return why records failed, the commonest reasons first, with the key of one record each."""
        counted: Counter[str] = Counter()
        first: dict[str, int] = {}
        for position in self._rows.having(*FAILURES):
            row = json.loads(self._checkpoint.row_at(position))
            reason = one_line(_PLACE.sub("", row["error"] or row["status"]), 120)
            counted[reason] += 1
            first.setdefault(reason, position)
        shown = [self._reason(*one, first) for one in counted.most_common(_SHOWN_REASONS)]
        more = len(counted) - len(shown)
        return "; ".join(shown + ([f"{more} other reasons"] if more else []))

    def _reason(self, reason: str, number: int, first: dict[str, int]) -> str:
        row = json.loads(self._checkpoint.row_at(first[reason]))
        where = "a record without a key" if row["key"] is None else one_line(str(row["key"]), 40)
        record = self._checkpoint.record_at(first[reason])
        has = ""
        if row["attempts"] == 0 and record:
            has = f"; the record has: {one_line(', '.join(json.loads(record)), 100)}"
        return f"{number} × {reason} (first: {where}{has})"  # noqa: RUF001 - as people write it

    def _write(self, name: str, content: Callable[[], Iterable[bytes]]) -> None:
        self._do("written", lambda: self._storage.write(name, content))

    def _do(self, what: str, call: Callable[[], None]) -> None:
        failure = f"The results in {self._folder} cannot be {what}"
        guarded(
            call, failure, "The answers are in the checkpoint; the next try writes them without asking again."
        )


def _from_start(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    return iter(file)


def _asked(asking: Runner, todo: _Todo) -> Runner:
    """Have all of *todo* asked.

    :raises LongWait: if the options allow to yield.
    """
    pause = asking.run(iter(todo))
    if pause is not None:
        raise LongWait(pause)
    return asking


def _killed(record: Record, attempts: int, asked: Asked | None) -> Row:
    where: dict[str, Any] = {}
    if asked is not None:
        where = {
            "session_id": asked.session_id,
            "external_session_key": asked.external_key,
            "sequence_id": asked.number,
            "started_at": moment(asked.at),
        }
    return Row(
        key=record.key,
        status=UNKNOWN,
        applied=None,
        attempts=attempts,
        **where,
        error="An earlier try was killed while it asked, or before its answer was written down.",
    )
