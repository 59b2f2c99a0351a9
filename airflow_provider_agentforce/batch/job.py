"""A batch from its input to its results: what is checked before, and what is still to be asked."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.batch import runner
from airflow_provider_agentforce.batch.checkpoint import Asked, Checkpoint, Past
from airflow_provider_agentforce.batch.kept_records import CalledSource, gives_once, kept
from airflow_provider_agentforce.batch.options import Options
from airflow_provider_agentforce.batch.output import FILES, Output
from airflow_provider_agentforce.batch.plan import PLAN, plan_files, plan_of
from airflow_provider_agentforce.batch.prompts import Compile, Prompts
from airflow_provider_agentforce.batch.reader import Record, Survey, read_records, survey
from airflow_provider_agentforce.batch.results import SKIPPED, UNKNOWN, Row, moment
from airflow_provider_agentforce.batch.runner import Runner, Watcher
from airflow_provider_agentforce.batch.shard import Shard
from airflow_provider_agentforce.batch.sources import Source, in_shard, source_of
from airflow_provider_agentforce.batch.split_folder import check_split
from airflow_provider_agentforce.batch.storage import CHECKPOINT, Storage, guarded, storage_of
from airflow_provider_agentforce.batch.table import PARQUET, Table
from airflow_provider_agentforce.batch.unknown import UnknownRows
from airflow_provider_agentforce.batch.worker import WorkItem, settle
from airflow_provider_agentforce.exceptions import AgentforceInputError

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient

log = logging.getLogger(__name__)

_HOUR = 3600.0
# Records without a question after which the runner has its turn again.
_BREATH = 100
_SKIPPED_AT_ONCE = 1_000


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
    :param check_folder: is given, before anything is sent, the time at which the batch in the folder began,
        which tells the folder from others; it may refuse it.
    :param cycle: changes with a person's clear.
    :param shard: the part of the records that is asked, ``None`` for all. The folder is the shard's own.
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
    check_folder: Callable[[float], None] = lambda _began: None
    cycle: int = 0
    shard: Shard | None = None

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
        prompts = Prompts(options, self.compile_template, settings.max_messages_per_session)
        self._check_split()
        storage = self.storage_of(self.result_folder / CHECKPOINT)
        source = in_shard(self._source(storage), self.shard)
        known = survey(source, options.key, typed=PARQUET in options.output_formats)
        with closing(self._checkpoint(storage, known, prompts)) as checkpoint:
            past = checkpoint.open(changes_allowed=options.changes_allowed)
            self.check_folder(past.began)
            self._take_up(past, checkpoint)
            unknown = None
            if self.resolve is not None:
                unknown = UnknownRows(checkpoint, prompts, options, cycle=self.cycle)
            records = read_records(source, options.key)
            todo = _Todo(records, prompts, checkpoint, past.pending, options, unknown)
            run = partial(
                Runner, self.client, checkpoint, options, killed=killed, watcher=watcher, unknown=unknown
            )
            stopped_early = _asked(run(), todo)
            if unknown is not None:
                again = self._resolved(unknown)
                if again and not stopped_early:
                    todo = replace(todo, records=iter(again), pending={}, asked_anyway=True)
                    stopped_early = _asked(run(), todo)
            output = self._output(checkpoint, source, known)
            manifest = {
                **output.write(past),
                "resolved": unknown.resolved if unknown else 0,
                "shard": self.shard and str(self.shard),
            }
            output.judge(manifest, stopped_early=stopped_early)
            return manifest

    def _checkpoint(self, storage: Storage, known: Survey, prompts: Prompts) -> Checkpoint:
        marks = {
            **self.identity,
            "records": known.fingerprint,
            "message or variables": prompts.fingerprint,
            "agent": str(self.options.start.agent_id),
        }
        keeps = self.options.include_record
        return Checkpoint(storage, marks, known.positions, self.result_folder, keeps_records=keeps)

    def _output(self, checkpoint: Checkpoint, source: Source, known: Survey) -> Output:
        options, folder = self.options, self.result_folder
        fields = known.fields if options.include_record else None
        table = Table.of(fields, options.schema, known.keys)
        return Output(folder, self.storage_of(folder), checkpoint, options, source, table)

    def _resolved(self, unknown: UnknownRows) -> list[Record]:
        """Have unknown rows resolved, and return the records to ask again."""
        unknown.load()
        if self.resolve is not None and unknown.open():
            self.resolve(unknown)
        return unknown.ask_again

    def plan(self, *, killed: Callable[[], bool]) -> dict[str, Any]:
        """Read all records and render all messages, write what a batch would ask, and return that.

        :param killed: tells whether the task was told to stop.
        :raises AgentforceInputError: for input that cannot be used.
        :raises BatchFailedError: if more records cannot be asked than may fail; the plan is written.
        """
        options, settings = self.options, self.client.settings
        options.check(settings)
        prompts = Prompts(options, self.compile_template, settings.max_messages_per_session)
        once = gives_once(self.records)
        source = CalledSource(self.records) if once else source_of(self.records, self.source_path)
        self._check_split()
        plan = plan_of(in_shard(source, self.shard), prompts, options, settings, killed)
        storage = self.storage_of(self.result_folder)
        failure = f"The plan in {self.result_folder} cannot be written"
        guarded(storage.prepare, failure)
        for name, body in plan_files(plan).items():
            guarded(partial(storage.write, name, partial(list, [body])), failure)
        log.info("%s", plan.summary())
        manifest = {
            "result_path": str(self.result_folder),
            "plan": str(self.result_folder / PLAN),
            "summary": plan.summary(),
            **plan.to_dict(),
        }
        plan.judge(manifest)
        return manifest

    def _check_split(self) -> None:
        folder = self.result_folder if self.shard is None else self.result_folder.parent
        check_split(folder, self.shard, self.storage_of)

    def _source(self, storage: Storage) -> Source:
        if gives_once(self.records):
            return kept(self.records, self.result_folder / CHECKPOINT, storage, self.identity)
        source = source_of(self.records, self.source_path)
        written = {str(self.result_folder / name) for name in FILES}
        for path in source.paths:
            if str(path) in written:
                raise AgentforceInputError(
                    f"records: {path} is a file that this batch writes. Choose another result_path."
                )
        return source

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
                "Earlier tries lost the starts of %d sessions, which may be open until they expire. External "
                "session keys: %s",
                len(past.lost_starts),
                ", ".join(past.lost_starts),
            )
        now = time.time()
        self.client.limiter.recall(now - start for start in past.starts if now - start < _HOUR)


@dataclass
class _Todo:
    """The records that are still to be asked, in the order of the input.

    :param records: of the batch; read once.
    :param pending: positions of records that an earlier try may have asked, with where, if that is known.
    :param unknown: holds the records whose delivery is unknown; ``None``: they stay unknown.
    :param asked_anyway: all records are asked, also those that have a row.
    """

    records: Iterator[Record]
    prompts: Prompts
    checkpoint: Checkpoint
    pending: dict[int, Asked | None]
    options: Options
    unknown: UnknownRows | None = None
    asked_anyway: bool = False

    def __iter__(self) -> Iterator[WorkItem | None]:
        """Yield what is to be asked, and ``None`` now and then while that is nothing.

        Takes down the rows of what cannot or must not be asked.
        """
        if self._is_all_done():
            self.records = iter(())
        for record in self.records:
            item = None if self._is_done(record.position) else self._item(record)
            self._hold_unknown(record)
            if item is not None or record.position % _BREATH == 0:
                yield item

    def skip(self, left: Mapping[int, WorkItem]) -> None:
        """Take down that records are skipped: the rest, and those that were handed out and have no row.

        :param left: what was handed out and has no row.
        """
        rows = self.checkpoint.rows
        for number, record in enumerate(chain((item.record for item in left.values()), self.records)):
            self._hold_unknown(record)
            if rows.status(record.position) is None:
                settle(self.checkpoint, record, Row(key=record.key, status=SKIPPED))
            if number % _SKIPPED_AT_ONCE == 0:
                self.checkpoint.flush()
        self.checkpoint.flush()

    def _is_all_done(self) -> bool:
        """Tell whether no record need be read: none is asked, and none is to be resolved."""
        rows = self.checkpoint.rows
        if self.pending or (self.unknown is not None and rows.counts[UNKNOWN]):
            return False
        return all(self._is_done(position) for position in range(len(rows)))

    def _hold_unknown(self, record: Record) -> None:
        if self.unknown is not None and self.checkpoint.rows.status(record.position) == UNKNOWN:
            self.unknown.add(record)

    def _is_done(self, position: int) -> bool:
        if self.asked_anyway:
            return False
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
        return Row.from_line(self.checkpoint.row_at(position))


def _asked(asking: Runner, todo: _Todo) -> bool:
    """Have all of *todo* asked, and take down that the rest is skipped.

    :returns: whether there may be a rest, since more records have failed than may.
    :raises LongWait: if the options allow to yield.
    """
    pause = asking.run(iter(todo))
    if pause is not None:
        raise LongWait(pause)
    todo.skip(asking.left)
    return asking.stopped_early


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
