"""A batch from its input to its results: checks, then the records that are still pending."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.batch.agent_versions import version_reader, versions_of
from airflow_provider_agentforce.batch.agreement import Agreement
from airflow_provider_agentforce.batch.answer_folder import AnswerFolder
from airflow_provider_agentforce.batch.asked_twice import SecondRequests
from airflow_provider_agentforce.batch.batch_input import BatchInput, question_fingerprints
from airflow_provider_agentforce.batch.checkpoint import Checkpoint
from airflow_provider_agentforce.batch.continuation import Continuation, Handover
from airflow_provider_agentforce.batch.earlier_tries import EarlierTries
from airflow_provider_agentforce.batch.kept_records import CalledSource, changes_between_tries, kept
from airflow_provider_agentforce.batch.options import Options
from airflow_provider_agentforce.batch.output import FILES, Output, traced_rows
from airflow_provider_agentforce.batch.plan import PLAN, plan_files, plan_of
from airflow_provider_agentforce.batch.prompts import Compile, Prompts
from airflow_provider_agentforce.batch.reader import Record
from airflow_provider_agentforce.batch.results import UNKNOWN
from airflow_provider_agentforce.batch.reuse import Reuse
from airflow_provider_agentforce.batch.runner import Runner, Watcher
from airflow_provider_agentforce.batch.shard import Shard
from airflow_provider_agentforce.batch.sources import Source, in_shard, source_of, would_read
from airflow_provider_agentforce.batch.split_folder import check_split
from airflow_provider_agentforce.batch.storage import CHECKPOINT, Storage, guarded, prepared, storage_of
from airflow_provider_agentforce.batch.todo import PendingRecords, ask_all, recover
from airflow_provider_agentforce.batch.unknown import UnknownRows
from airflow_provider_agentforce.exceptions import AgentforceInputError, LedgerError

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One try at a batch.

    :param records: a list of dicts, the URI of a file, folder or pattern, an iterator of dicts, or a function
        that returns an iterable of them.
    :param source_path: path object of a URI, otherwise ``None``.
    :param result_folder: path object of the folder for the results.
    :param identity: identifies the batch, in addition to its input, messages and agent.
    :param compile_template: compiles a template to a function from a record to text.
    :param storage_of: returns the storage for a path object.
    :param begins: what this task, which only asks a sample, hands over to one that continues; otherwise
        ``None``.
    :param continues_as: the task instance, if it continues a batch that another one began.
    :param resolve: resolves records whose delivery is unknown; ``None``: they stay unknown.
    :param check_folder: called before anything is sent with the time at which the batch in the folder began,
        which identifies the folder; it may refuse it.
    :param cycle: changes when the task is cleared.
    :param reuse: the store of earlier answers; ``None``: all records are asked.
    :param shard: the part of the records that is asked, ``None`` for all. The folder is that of the shard.
    """

    client: AgentforceClient
    records: Any
    source_path: Any
    result_folder: Any
    identity: dict[str, str]
    compile_template: Compile
    options: Options
    storage_of: Callable[[Any], Storage] = storage_of
    begins: Handover | None = None
    continues_as: str | None = None
    resolve: Callable[[UnknownRows], None] | None = None
    check_folder: Callable[[float], None] = lambda _began: None
    cycle: int = 0
    reuse: AnswerFolder | None = None
    shard: Shard | None = None

    def run(self, *, killed: Callable[[], bool], watcher: Watcher) -> dict[str, Any]:
        """Ask about all records that have no row yet, and return the manifest.

        :param killed: returns whether the task was asked to stop.
        :param watcher: receives the progress.
        :raises AgentforceInputError: for input that cannot be used; nothing was sent.
        :raises BatchFailedError: if more records failed than are allowed; all results are written.
        :raises LongWait: for a long wait, if the options allow to yield.
        :raises AgentforceError: if nothing more can be asked; all answers are kept.
        """
        options, folder = self.options, self.result_folder
        options.check(self.client.settings)
        continuation = Continuation.of(folder, self.storage_of)
        prompts = Prompts(options, self.compile_template, self.client.settings.max_messages_per_session)
        questions = question_fingerprints(prompts, options, self.client.settings.host)
        manifest = self._handed_over(continuation, questions)
        if manifest is not None:
            return manifest
        self._check_split()
        storage = self.storage_of(folder / CHECKPOINT)
        fingerprints = {**self.identity, **questions}
        asked = BatchInput.of(in_shard(self._source(storage), self.shard), prompts, options, fingerprints)
        begins = self._begins(asked)
        if self.continues_as is not None and begins is not None:
            continuation.take_over(self.continues_as, begins, asked.fingerprints)
        with closing(self._checkpoint(storage, asked)) as checkpoint:
            past = self._open(checkpoint, continuation, begins)
            watcher.known(checkpoint)
            return self._ask_and_write(asked, checkpoint, past, continuation, killed=killed, watcher=watcher)

    def _ask_and_write(
        self,
        asked: BatchInput,
        checkpoint: Checkpoint,
        past: EarlierTries,
        continuation: Continuation,
        *,
        killed: Callable[[], bool],
        watcher: Watcher,
    ) -> dict[str, Any]:
        """Ask about the records that have no row yet, write the results, and return the manifest."""
        versions = versions_of(
            self.client, checkpoint, self.options, task=self.continues_as, cycle=self.cycle
        )
        with self._reusing(lambda: versions.current) as reuse:
            run = partial(Runner, self.client, checkpoint, self.options, versions)
            run = partial(run, killed=killed, watcher=watcher)
            stopped_early, resolved, refusal = self._ask(run, asked, checkpoint, past, reuse)
            versions.finish()
            asks = not (stopped_early or versions.must_stop)
            agreement = self._agreement(asked, checkpoint, asks=asks, killed=killed)
            output = self._output(asked, checkpoint, agreement)
            shard = self.shard and str(self.shard)
            manifest = {**output.write(past), **versions.summary(), "resolved": resolved, "shard": shard}
            watcher.known(checkpoint)
            if self.begins is not None:
                checkpoint.check_owner()
                continuation.finish(manifest)
            if reuse is not None:
                reuse.keep(checkpoint)
        output.judge(manifest, stopped_early=stopped_early, refusal=refusal)
        versions.judge(manifest)
        return manifest

    def _handed_over(self, continuation: Continuation, questions: dict[str, str]) -> dict[str, Any] | None:
        """Return the manifest of this task if another one continues its batch, else ``None``."""
        if self.continues_as is not None:
            return None
        try:
            return continuation.manifest(self.identity, questions)
        except LedgerError:
            if self.begins is not None:
                raise
            return None  # opening the checkpoint says what is wrong with the folder

    def _begins(self, asked: BatchInput) -> Handover | None:
        """Return what this task hands over, or takes over; ``None`` if it does neither."""
        begins = self.begins
        if self.continues_as is not None:
            begins = Handover(self.identity, {})
        if begins is None:
            return None
        return replace(begins, question=asked.first_question())

    def _open(
        self, checkpoint: Checkpoint, continuation: Continuation, begins: Handover | None
    ) -> EarlierTries:
        """Open the checkpoint, and settle what earlier tries left open."""
        past = checkpoint.open(changes_allowed=self.options.changes_allowed)
        # A task with another number of shards may have begun meanwhile: of two, at least one sees the other's
        # checkpoint.
        self._check_split()
        self.check_folder(past.began)
        if self.begins is not None and begins is not None:
            checkpoint.check_owner()
            continuation.begin(begins)
        if checkpoint.rows.counts[UNKNOWN]:
            self._keep_traced(checkpoint)
        recover(self.client, past, checkpoint)
        return past

    def _keep_traced(self, checkpoint: Checkpoint) -> None:
        """Keep the answers that traces have given for unknown rows since the last try."""
        folder = self.result_folder
        rows = guarded(
            lambda: traced_rows(self.storage_of(folder)), f"The results in {folder} cannot be read"
        )
        for row in rows:
            checkpoint.resolve(row)
        checkpoint.flush()

    def _agreement(
        self, asked: BatchInput, checkpoint: Checkpoint, *, asks: bool, killed: Callable[[], bool]
    ) -> Agreement | None:
        if not self.options.agreement_share:
            return None
        where = self.client, self.result_folder, self.storage_of
        second = SecondRequests(*where, self.options, asked, checkpoint, self.continues_as, self.cycle)
        return second.run(asks=asks, killed=killed)

    def _reusing(self, version: Callable[[], str | None]) -> AbstractContextManager[Reuse | None]:
        if self.reuse is None:
            return nullcontext()
        return closing(Reuse(self.reuse, self.options, self.client.settings, version))

    def _checkpoint(self, storage: Storage, asked: BatchInput) -> Checkpoint:
        positions, keeps = asked.found.positions, self.options.include_record
        return Checkpoint(storage, asked.fingerprints, positions, self.result_folder, keeps_records=keeps)

    def _ask(
        self,
        run: Callable[..., Runner],
        asked: BatchInput,
        checkpoint: Checkpoint,
        past: EarlierTries,
        reuse: Reuse | None,
    ) -> tuple[bool, int, str]:
        """Ask about all records that have no row yet, and have unknown rows resolved.

        :returns: whether too many records have failed; the number of resolved rows, over all tries; and the
            text for a person's decision to fail the task, or ``""``.
        """
        unknown = None
        if self.resolve is not None:
            unknown = UnknownRows(checkpoint, asked.prompts, self.options, cycle=self.cycle)
        todo = PendingRecords(
            *(asked.records(), asked.prompts, checkpoint, past.pending, self.options, unknown),
            wanted=asked.sample,
            reuse=reuse,
        )
        run = partial(run, total=asked.total, unknown=unknown)
        stopped_early = ask_all(run(), todo)
        if unknown is None:
            return stopped_early, 0, ""
        again = self._resolved(unknown)
        if again and not stopped_early:
            todo = replace(todo, records=iter(again), pending={}, asked_anyway=True, reuse=None)
            stopped_early = ask_all(run(), todo)
        return stopped_early, unknown.resolved, unknown.refusal

    def _output(self, asked: BatchInput, checkpoint: Checkpoint, agreement: Agreement | None) -> Output:
        options, folder = self.options, self.result_folder
        return Output(folder, self.storage_of(folder), checkpoint, options, asked, agreement)

    def _resolved(self, unknown: UnknownRows) -> list[Record]:
        """Have unknown rows resolved, and return the records to ask again."""
        unknown.load()
        while self.resolve is not None and unknown.open() and not unknown.refusal:
            self.resolve(unknown)
            unknown.continue_with_rest()
        return unknown.ask_again

    def plan(self, *, killed: Callable[[], bool]) -> dict[str, Any]:
        """Read all records and render all messages, write what a batch would ask, and return it.

        :param killed: returns whether the task was asked to stop.
        :raises AgentforceInputError: for input that cannot be used.
        :raises BatchFailedError: if more records cannot be asked than may fail; the plan is written.
        """
        options, settings = self.options, self.client.settings
        options.check(settings)
        prompts = Prompts(options, self.compile_template, settings.max_messages_per_session)
        once = changes_between_tries(self.records)
        source = CalledSource(self.records) if once else source_of(self.records, self.source_path)
        self._check_split()
        source = in_shard(source, self.shard)
        look = version_reader(self.client, str(options.start.agent_id))
        with self._reusing(functools.cache(lambda: look().version)) as reuse:
            plan = plan_of(source, prompts, options, settings, killed=killed, reuse=reuse)
        storage = self.storage_of(self.result_folder)
        failure = f"The plan in {self.result_folder} cannot be written"
        prepared(storage, failure)
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
        if changes_between_tries(self.records):
            return kept(self.records, self.result_folder / CHECKPOINT, storage, self.identity)
        source = source_of(self.records, self.source_path)
        if self.begins is not None and not source.paths:
            # The task that continues does not receive them again.
            kept(partial(_fields_of, source), self.result_folder / CHECKPOINT, storage, self.identity)
        for written in (str(self.result_folder / name) for name in FILES if source.paths):
            if written in map(str, source.paths) or would_read(self.source_path, written):
                raise AgentforceInputError(
                    f"records: {written} is a file that this batch writes. Choose another result_path."
                )
        return source


def _fields_of(source: Source) -> Iterator[dict[str, Any]]:
    return (fields for _, fields in source.rows())
