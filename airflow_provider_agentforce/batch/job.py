"""A batch from its input to its results: what is checked before, and what is written after."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.batch.asking import Manner
from airflow_provider_agentforce.batch.books import end_all
from airflow_provider_agentforce.batch.engine import Engine, Plan, Watcher
from airflow_provider_agentforce.batch.feed import asks
from airflow_provider_agentforce.batch.ledger import BatchLedger, Past
from airflow_provider_agentforce.batch.progress import final_table
from airflow_provider_agentforce.batch.questions import Compile, Questions
from airflow_provider_agentforce.batch.records import Source, Survey, read, source_of, survey
from airflow_provider_agentforce.batch.rows import (
    FAILURES,
    INVALID_OUTPUT,
    SKIPPED,
    STATUSES,
    UNKNOWN,
    Row,
    RowStore,
)
from airflow_provider_agentforce.client import checks
from airflow_provider_agentforce.client.models import FAILED
from airflow_provider_agentforce.exceptions import AgentforceInputError, BatchFailedError
from airflow_provider_agentforce.structured import OutputType

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient

log = logging.getLogger(__name__)

_HOUR = 3600.0
RESULTS = "results.jsonl"
DEAD_LETTER = "dead_letter"
_SUFFIXES = (".jsonl", ".csv")


class LongWait(Exception):  # noqa: N818 - no error: the batch goes on later
    """Nothing can be asked for a minute or more.

    :ivar seconds: for how long.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass
class Job:
    """One try at a batch. Most parameters are those of the operator.

    :param source_path: path object of the input, ``None`` for a list.
    :param result_folder: path object of the folder for the results.
    :param compile_template: makes of a template a function from a record to text.
    :param identity: what makes the batch this one, beside its input, messages and agent.
    :param start: options of :meth:`AgentforceClient.start_session`.
    """

    client: AgentforceClient
    records: Any
    source_path: Any
    result_folder: Any
    key: str | None
    message: Any
    variables: Any
    compile_template: Compile
    identity: dict[str, str]
    start: dict[str, Any]
    max_concurrency: int | None = None
    messages_per_session: int = 1
    max_failures: float | None = None
    fail_on_partial_error: bool = False
    output_type: Any = None
    output_retries: int = 1
    resend_unknown: bool = False
    changes_allowed: bool = False
    yields: bool = False
    _store: RowStore = field(init=False)

    def run(self, *, killed: Callable[[], bool], watcher: Watcher) -> dict[str, Any]:
        """Ask about all records that have no row yet, and return the manifest.

        :param killed: tells whether the task was told to stop.
        :param watcher: is told how it goes.
        :raises AgentforceInputError: for input that cannot be used; nothing was sent.
        :raises BatchFailedError: if more records failed than are allowed; all results are written.
        :raises LongWait: with ``yields``.
        :raises AgentforceError: if nothing further can be asked; what was answered is kept.
        """
        self._check_start()
        self._check_input_is_not_output()
        manner = self._manner()
        most = self.client.settings.max_messages_per_session
        questions = Questions(
            self.message, self.variables, compile_template=self.compile_template, key=self.key, most=most
        )
        source = source_of(self.records, self.source_path)
        known = survey(source, self.key)
        plan = self._plan(len(known.names))
        ledger = BatchLedger(self.result_folder, self._marks(known, questions))
        with closing(RowStore()) as self._store:
            past = ledger.open(self._store, changes_allowed=self.changes_allowed)
            self._take_up(past, ledger, known)
            engine = Engine(self.client, ledger, self._store, plan, manner, killed=killed, watcher=watcher)
            return self._ask(engine, _Input(source, known, self.key), questions, past)

    def _ask(self, engine: Engine, given: _Input, questions: Questions, past: Past) -> dict[str, Any]:
        todo = asks(
            read(given.source, given.key),
            self._store,
            questions,
            pending=past.pending,
            resend_unknown=self.resend_unknown,
        )
        pause = engine.run(todo)
        if pause is not None:
            raise LongWait(pause)
        self._skip_rest(given)
        manifest = self._write_results(given, engine, past)
        self._judge(manifest, engine)
        return manifest

    def _check_start(self) -> None:
        """Refuse what would fail the start of every session."""
        if self.start.get("tz") is not None:
            checks.time_zone(self.start["tz"])
        if self.start.get("surface_type") is not None:
            checks.name(self.start["surface_type"], "surface_type")
        if not isinstance(self.start.get("bypass_user", True), bool):
            raise AgentforceInputError(
                f"bypass_user must be True or False, but is {self.start['bypass_user']!r:.80}."
            )

    def _check_input_is_not_output(self) -> None:
        names = (RESULTS, *(DEAD_LETTER + suffix for suffix in _SUFFIXES))
        if str(self.source_path) in {str(self.result_folder / name) for name in names}:
            raise AgentforceInputError(
                f"records: {self.source_path} is a file that this batch writes. Choose another result_path."
            )

    def _manner(self) -> Manner:
        most = self.client.settings.max_messages_per_session
        if self.messages_per_session > most:
            raise AgentforceInputError(
                f"messages_per_session is {self.messages_per_session}, and the connection allows {most} "
                "messages a session (extra max_messages_per_session)."
            )
        return Manner(
            start=self.start,
            messages_per_session=self.messages_per_session,
            output=None if self.output_type is None else OutputType(self.output_type),
            output_retries=self.output_retries,
            resend_unknown=self.resend_unknown,
        )

    def _plan(self, total: int) -> Plan:
        allowed = self.client.settings.max_concurrent_sessions
        workers = min(self.max_concurrency or allowed, allowed)
        return Plan(workers, total, _most_failures(self.max_failures, total), self.yields)

    def _marks(self, known: Survey, questions: Questions) -> dict[str, str]:
        return {
            **self.identity,
            "records": known.fingerprint,
            "message or variables": questions.fingerprint,
            "agent": str(self.start["agent_id"]),
        }

    def _take_up(self, past: Past, ledger: BatchLedger, known: Survey) -> None:
        """End what the last try left open, and count what it started."""
        self._store.keep_only(known.names)
        past.pending &= set(known.names)
        if self._store.counts.total():
            done, total = self._store.counts.total(), len(known.names)
            log.info("Earlier tries have done %d of %d records; their rows are kept.", done, total)
        if past.open_sessions:
            log.info("Ending %d sessions that an earlier try left open.", len(past.open_sessions))
            end_all(self.client, past.open_sessions)
        ledger.forget_open()
        now = time.time()
        self.client.recall_starts(now - start for start in past.starts if now - start < _HOUR)

    def _skip_rest(self, given: _Input) -> None:
        if all(name in self._store for name in given.known.names):
            return
        for record in read(given.source, given.key):
            if record.name not in self._store:
                self._store.put(record.name, Row(key=record.key, status=SKIPPED))

    def _write_results(self, given: _Input, engine: Engine, past: Past) -> dict[str, Any]:
        results = self.result_folder / RESULTS
        _write(results, self._store.lines(given.known.names))
        counts = {status: self._store.counts[status] for status in STATUSES if self._store.counts[status]}
        log.info("The batch is done. Results: %s\n%s", results, final_table(counts))
        return {
            "result_path": str(self.result_folder),
            "results": str(results),
            "dead_letter": self._write_dead_letter(given),
            "records": len(given.known.names),
            "counts": counts,
            "sessions": len(past.starts) + engine.pace.sessions,
            "messages": self._store.messages,
            "duration": round(time.time() - past.began, 3),
        }

    def _write_dead_letter(self, given: _Input) -> str | None:
        """Write the records that are worth another run, in the form of the input."""
        worth = {FAILED, INVALID_OUTPUT, SKIPPED, *([UNKNOWN] if self.resend_unknown else [])}
        path = self.result_folder / f"{DEAD_LETTER}{given.source.suffix}"
        if not any(self._store.counts[status] for status in worth):
            path.unlink(missing_ok=True)
            return None
        chosen = (
            record.fields
            for record in read(given.source, given.key)
            if self._store.status(record.name) in worth
        )
        _write(path, given.source.encode(chosen))
        return str(path)

    def _judge(self, manifest: dict[str, Any], engine: Engine) -> None:
        """Fail the task if too many records failed."""
        counts, total = self._store.counts, manifest["records"]
        failures = sum(counts[status] for status in FAILURES)
        partial = failures and self.fail_on_partial_error
        if not (engine.stopped_early or partial or failures == total):
            return
        said = ", ".join(f"{counts[status]} {status}" for status in FAILURES if counts[status])
        error = BatchFailedError(
            f"{failures} of {total} records failed ({said})"
            f"{', more than max_failures allows; the rest was skipped' if engine.stopped_early else ''}. "
            f"Results: {manifest['results']}."
        )
        error.retryable = self._store.again > 0
        error.manifest = manifest
        raise error


@dataclass(frozen=True)
class _Input:
    source: Source
    known: Survey
    key: str | None


def _most_failures(given: Any, total: int) -> int | None:
    if given is None:
        return None
    if isinstance(given, float) and 0 < given < 1:
        return int(given * total)
    if isinstance(given, int) and not isinstance(given, bool) and given >= 0:
        return given
    raise AgentforceInputError(
        f"max_failures must be a whole number from 0, or a share between 0 and 1, but is {given!r:.80}."
    )


def _write(path: Any, lines: Iterable[bytes] | Iterator[bytes]) -> None:
    with path.open("wb") as file:
        for line in lines:
            file.write(line)
