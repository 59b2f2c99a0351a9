"""Asks a share of the records a second time, in separate sessions, and compares both answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.batch.agent_versions import versions_of
from airflow_provider_agentforce.batch.agreement import (
    COMPARED,
    Agreement,
    asked_twice,
    compare,
    comparison_line,
    records_in_share,
)
from airflow_provider_agentforce.batch.batch_input import BatchInput
from airflow_provider_agentforce.batch.checkpoint import Checkpoint
from airflow_provider_agentforce.batch.options import Options
from airflow_provider_agentforce.batch.output import AGREEMENT, ASKED_TWICE
from airflow_provider_agentforce.batch.progress import ProgressSnapshot
from airflow_provider_agentforce.batch.results import STATUSES, Row
from airflow_provider_agentforce.batch.runner import Runner
from airflow_provider_agentforce.batch.storage import CHECKPOINT, Storage, guarded
from airflow_provider_agentforce.batch.todo import PendingRecords, ask_all, recover

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient

log = logging.getLogger(__name__)

_FOLDER = "agreement"


@dataclass(frozen=True)
class SecondRequests:
    """The second requests of a batch in which every record has a row.

    They have a separate checkpoint, so that after a kill no record is asked a third time.

    :param folder: path object of the results.
    :param asked: the input of the batch.
    :param first: the checkpoint of the batch.
    :param task: the task that continues the batch, if it is not the one that began it.
    :param cycle: changes when the task is cleared.
    """

    client: AgentforceClient
    folder: Any
    storage_of: Callable[[Any], Storage]
    options: Options
    asked: BatchInput
    first: Checkpoint
    task: str | None = None
    cycle: int = 0

    def run(self, *, asks: bool, killed: Callable[[], bool]) -> Agreement:
        """Ask the records that were not asked a second time yet, and compare the answers.

        :param asks: ``False``: compare the answers of earlier tries, and ask nothing more.
        :raises LongWait: for a long wait, if the options allow to yield.
        :raises AgentforceError: if nothing more can be asked; all answers are kept.
        """
        storage = self.storage_of(self.folder / CHECKPOINT / _FOLDER)
        with closing(
            Checkpoint(storage, self.asked.fingerprints, self.asked.found.positions, self.folder)
        ) as second:
            past = second.open(changes_allowed=self.options.changes_allowed)
            recover(self.client, past, second)
            if asks:
                self._ask(second, past.pending, killed=killed)
            agreement = Agreement(sessions=len(past.starts) + second.sessions, messages=second.rows.messages)
            # A later try, or the task that continues, may ask nothing a second time.
            count = {"sessions": agreement.sessions, "messages": agreement.messages}
            self.first.write_note(ASKED_TWICE, count)
            for first_row, second_row in self._pairs(second):
                fields = compare(first_row, second_row)
                if fields is not None:
                    agreement.add(fields)
            self._write(second)
            return agreement

    def _ask(self, second: Checkpoint, pending: Any, *, killed: Callable[[], bool]) -> None:
        asked = self.asked
        names = ((one.position, one.name) for one in asked.records() if asked.asks(one.position))
        chosen = asked_twice(names, records_in_share(self.options.agreement_share, asked.total))
        chosen = frozenset(one for one in chosen if self.first.rows.status(one) in COMPARED)
        # Pending records always get a row, also if they are not in the sample.
        if not chosen.union(pending):
            return
        # In a shared session, a record could see its first answer.
        options = replace(self.options, messages_per_session=1, max_failures=None, resend_unknown=False)
        versions = versions_of(self.client, second, options, task=self.task, cycle=self.cycle)
        wanted = self._comparable(chosen, second, versions.current).union(pending)
        log.info("Asking %d of %d records a second time, in new sessions.", len(wanted), asked.total)
        todo = PendingRecords(
            self.asked.records(), self.asked.prompts, second, pending, options, wanted=wanted
        )
        run = partial(Runner, self.client, second, options, versions)
        ask_all(run(killed=killed, watcher=_NoWatcher(), total=len(wanted)), todo)
        versions.finish()

    def _comparable(self, chosen: frozenset[int], second: Checkpoint, version: str | None) -> frozenset[int]:
        """Return the records that this *version* of the agent has answered, or that have a second answer."""
        if version is None:
            return chosen
        rows = ((one, Row.from_line(self.first.row_at(one))) for one in chosen)
        others = {one for one, row in rows if row.agent_version not in {None, version}}
        others -= set(second.rows.having(*STATUSES))
        if others:
            log.warning(
                "%d records are not asked a second time, because another version of the agent answered them.",
                len(others),
            )
        return chosen - others

    def _pairs(self, second: Checkpoint) -> Iterator[tuple[Row, Row]]:
        for position in second.rows.having(*STATUSES):
            if self.first.rows.status(position) is not None:
                yield Row.from_line(self.first.row_at(position)), Row.from_line(second.row_at(position))

    def _write(self, second: Checkpoint) -> None:
        def lines() -> Iterator[bytes]:
            yield from (comparison_line(*rows) for rows in self._pairs(second))
            self.first.check_owner()

        self.first.check_owner()
        guarded(
            lambda: self.storage_of(self.folder).write(AGREEMENT, lines),
            f"The results in {self.folder} cannot be written",
            "The answers are in the checkpoint; the next try writes them without asking again.",
        )


class _NoWatcher:
    """Ignores second requests, which must not count as further records or progress."""

    def known(self, checkpoint: Checkpoint) -> None:
        """Do nothing."""

    def row(self, row: Row) -> None:
        """Do nothing."""

    def snapshot(self, snapshot: ProgressSnapshot) -> None:
        """Do nothing."""
