"""The records of a batch that are still pending, after earlier tries."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.batch.checkpoint import Checkpoint
from airflow_provider_agentforce.batch.earlier_tries import EarlierTries, MessagePosition
from airflow_provider_agentforce.batch.options import Options
from airflow_provider_agentforce.batch.prompts import Prompts
from airflow_provider_agentforce.batch.reader import Record
from airflow_provider_agentforce.batch.results import SKIPPED, UNKNOWN, Row, moment
from airflow_provider_agentforce.batch.reuse import Reuse
from airflow_provider_agentforce.batch.runner import Runner, end_all
from airflow_provider_agentforce.batch.unknown import UnknownRows
from airflow_provider_agentforce.batch.worker import WorkItem, settle

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient

log = logging.getLogger(__name__)

_HOUR = 3600.0
# Records that need not be asked after which control returns to the runner.
_YIELD_EVERY = 100
_SKIPPED_AT_ONCE = 1_000


class LongWait(Exception):  # noqa: N818 - not an error: the batch continues later
    """Nothing can be asked for a minute or more.

    :ivar seconds: how long.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass
class PendingRecords:
    """The pending records, in the order of the input.

    :param records: records of the batch; read once.
    :param pending: positions of records that an earlier try may have asked, with the session, if known.
    :param unknown: collects the records whose delivery is unknown; ``None``: they stay unknown.
    :param asked_anyway: ask all records, also those that have a row.
    :param wanted: positions of the eligible records; ``None``: all.
    :param reuse: the store of earlier answers, or ``None``.
    """

    records: Iterator[Record]
    prompts: Prompts
    checkpoint: Checkpoint
    pending: dict[int, MessagePosition | None]
    options: Options
    unknown: UnknownRows | None = None
    asked_anyway: bool = False
    wanted: frozenset[int] | None = None
    reuse: Reuse | None = None

    def __iter__(self) -> Iterator[WorkItem | Row | None]:
        """Yield the items to ask, and ``None`` from time to time while there are none.

        Records that cannot or must not be asked get their row here, which is yielded, too.
        """
        if self._is_all_done():
            self.records = iter(())
        for record in self.records:
            item = None if self._is_done(record.position) else self._item(record)
            self._collect_unknown(record)
            if item is not None or record.position % _YIELD_EVERY == 0:
                yield item

    def skip(self, left: Mapping[int, WorkItem]) -> None:
        """Write the rows of skipped records: the rest, and those that were handed out and have no row.

        :param left: items that were handed out and have no row.
        """
        rows = self.checkpoint.rows
        for number, record in enumerate(chain((item.record for item in left.values()), self.records)):
            self._collect_unknown(record)
            if rows.status(record.position) is None and self._is_wanted(record.position):
                settle(self.checkpoint, record, Row(key=record.key, status=SKIPPED))
            if number % _SKIPPED_AT_ONCE == 0:
                self.checkpoint.flush()
        self.checkpoint.flush()

    def _is_all_done(self) -> bool:
        """Return whether no record need be read, because none is asked and none resolved."""
        rows = self.checkpoint.rows
        if self.pending or (self.unknown is not None and rows.counts[UNKNOWN]):
            return False
        return all(self._is_done(position) for position in range(len(rows)))

    def _collect_unknown(self, record: Record) -> None:
        if self.unknown is not None and self.checkpoint.rows.status(record.position) == UNKNOWN:
            self.unknown.add(record)

    def _is_wanted(self, position: int) -> bool:
        return self.wanted is None or position in self.wanted

    def _is_done(self, position: int) -> bool:
        if self.asked_anyway:
            return False
        if not self._is_wanted(position):
            return True
        rows = self.checkpoint.rows
        if rows.status(position) is None or position in self.pending:
            return False
        return not (rows.asked_again(position) or self._is_resent(position))

    def _is_resent(self, position: int) -> bool:
        """Return whether a record is asked again, although the agent may have acted on it."""
        if not self.options.resend_unknown or self.checkpoint.rows.status(position) != UNKNOWN:
            return False
        return Row.from_line(self.checkpoint.row_at(position)).may_be_resent

    def _settled(self, record: Record, row: Row) -> Row:
        settle(self.checkpoint, record, row)
        return row

    def _item(self, record: Record) -> WorkItem | Row:
        rows, position = self.checkpoint.rows, record.position
        before = rows.attempts(position) if rows.status(position) else 0
        last = self._earlier_row(position)
        rows.drop(position)
        if position in self.pending:
            before += 1
            if not self.options.resend_unknown:
                return self._settled(record, _killed(record, before, self.pending[position]))
        item = self.prompts.about(record)
        if isinstance(item, Row):
            return self._settled(record, item)
        if last is not None and last.resolution is not None:
            first, *others = item.messages
            if last.request is not None and not last.earlier_requests:
                first = replace(first, content={"text": last.request["text"]})
            item.messages, item.resolution = (first, *others), last.resolution
        item.before = before
        return self._unless_reused(item)

    def _unless_reused(self, item: WorkItem) -> WorkItem | Row:
        """Return the item, or the row if an earlier answer is reused."""
        if self.reuse is None:
            return item
        question = self.reuse.question(item)
        row = None if item.before else self.reuse.row_for(item, question)
        if row is not None:
            return self._settled(item.record, row)
        item.question = question
        return item

    def _earlier_row(self, position: int) -> Row | None:
        """Return the row of a record that was asked before and may be asked again."""
        rows = self.checkpoint.rows
        if rows.status(position) is None or not rows.attempts(position):
            return None
        return Row.from_line(self.checkpoint.row_at(position))


def ask_all(runner: Runner, todo: PendingRecords) -> bool:
    """Ask all of *todo*, and write the rows of skipped records.

    :returns: whether too many records have failed, so that the rest was skipped.
    :raises LongWait: for a long wait, if the options allow to yield.
    """
    pause = runner.run(iter(todo))
    if pause is not None:
        raise LongWait(pause)
    todo.skip(runner.left)
    return runner.stopped_early


def _killed(record: Record, attempts: int, asked: MessagePosition | None) -> Row:
    where: dict[str, Any] = {}
    if asked is not None:
        where = {
            "session_id": asked.session_id,
            "external_session_key": asked.external_key,
            "sequence_id": asked.number,
            "started_at": moment(asked.at),
            # It is not recorded which of its messages had left, and when; it was not later than now.
            "duration": round(max(0.0, time.time() - asked.at), 3),
        }
    return Row(
        key=record.key,
        status=UNKNOWN,
        applied=None,
        attempts=attempts,
        **where,
        error="An earlier try was killed while it asked, or before its answer was written.",
    )


def recover(client: AgentforceClient, past: EarlierTries, checkpoint: Checkpoint) -> None:
    """End the sessions that earlier tries left open, and count their starts towards the hourly limit."""
    done = checkpoint.rows.counts.total()
    if done:
        log.info("Earlier tries finished %d of %d records; their rows are kept.", done, len(checkpoint.rows))
    if past.open_sessions:
        ended = end_all(client, past.open_sessions)
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
    client.limiter.recall(now - start for start in past.starts if now - start < _HOUR)
