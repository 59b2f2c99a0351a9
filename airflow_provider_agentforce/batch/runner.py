"""Runs a batch: hands records to workers, and reports their results.

The calling thread reads the input, renders, flushes the checkpoint and reports; the workers talk to the agent
and claim records. So templates are rendered in one thread only.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from airflow_provider_agentforce.batch.agent_versions import AgentVersions
from airflow_provider_agentforce.batch.checkpoint import Checkpoint
from airflow_provider_agentforce.batch.options import Options
from airflow_provider_agentforce.batch.progress import Progress, ProgressSnapshot
from airflow_provider_agentforce.batch.results import FAILURES, UNKNOWN, Row
from airflow_provider_agentforce.batch.worker import (
    Answered,
    AskAgain,
    Fatal,
    NotStarted,
    Outcome,
    OutOfBudget,
    Worker,
    WorkItem,
    settle,
)
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceTransientError,
    BudgetExceededError,
    LedgerError,
    RateLimitedError,
    TaskStoppedError,
)

if TYPE_CHECKING:
    from airflow_provider_agentforce.batch.unknown import UnknownRows
    from airflow_provider_agentforce.client.client import AgentforceClient

log = logging.getLogger(__name__)

_TICK = 0.1
_GATHER_SECONDS = 0.03
# The rest of a minute, after the current requests have finished.
_LONG_WAIT = 45.0
# Twice the hour that an hourly limit may require.
_REFUSED_SECONDS = 7200.0
# Of the five seconds that Airflow 3 gives a task to stop.
_STOP_SECONDS = 4.0
_START_SECONDS = 1.5
_IN_A_ROW = 20
_ENDERS = 20
_IDLE_SECONDS = 0.5
_FLUSH_SECONDS = 0.5


class Watcher(Protocol):
    """Counts for a metrics backend, and reports the progress."""

    def known(self, checkpoint: Checkpoint) -> None:
        """Show the existing rows, at the beginning and at the end."""

    def row(self, row: Row) -> None:
        """Count a finished record."""

    def snapshot(self, snapshot: ProgressSnapshot) -> None:
        """Report the progress, every few seconds."""


class Runner:
    """One try at a batch.

    :param versions: versions of the agent.
    :param killed: returns whether the task was asked to stop.
    :param watcher: receives the progress.
    :param total: the number of records to ask, including those that earlier tries have done.
    :param unknown: collects the records whose delivery is unknown; ``None``: they stay unknown.
    :ivar stopped_early: whether more records than ``max_failures`` have failed.
    :ivar out_of_budget: why nothing more may be asked today.
    :ivar left: items that were handed out and have no row, by position.
    """

    def __init__(
        self,
        client: AgentforceClient,
        checkpoint: Checkpoint,
        options: Options,
        versions: AgentVersions,
        *,
        killed: Callable[[], bool],
        watcher: Watcher,
        total: int,
        unknown: UnknownRows | None = None,
    ) -> None:
        self.stopped_early = False
        self.out_of_budget: BudgetExceededError | None = None
        self.left: dict[int, WorkItem] = {}
        self._client = client
        self._checkpoint = checkpoint
        self._options = options
        self._versions = versions
        self._killed = killed
        self._watcher = watcher
        self._unknown = unknown
        self._total = total
        self._most_failures = options.most_failures(self._total)
        self._most_open = options.workers(client.settings)
        self._workers = [
            Worker(client, checkpoint, options, versions, lambda: self._stopping)
            for _ in range(min(self._most_open, self._total))
        ]
        self._inbox: queue.SimpleQueue[WorkItem | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Outcome | Exception] = queue.SimpleQueue()
        self._delayed: list[tuple[float, int, AskAgain]] = []
        self._numbers = itertools.count()
        self._few = self._most_open // 4
        self._in_a_row = 0
        self._has_news = False
        self._began = self._flush_at = time.monotonic()
        self._refusals = client.limiter.refusals
        self._error: AgentforceError | None = None
        self._stopping = self._aborted = False

    def run(self, items: Iterator[WorkItem | Row | None]) -> float | None:
        """Ask until all records are done.

        :param items: the records to ask; ``None`` from time to time while there are none; and the rows of
            those that are not asked.
        :returns: ``None`` when all records are done, too many have failed or the budget ends the batch;
            otherwise the seconds to wait before continuing, if the options allow to yield or the budget
            requires it.
        :raises AgentforceError: if nothing more can be asked; the results so far are in the checkpoint.
        """
        threads = [threading.Thread(target=self._work, args=[one], daemon=True) for one in self._workers]
        for thread in threads:
            thread.start()
        progress = Progress(self._total, self._done)
        try:
            pause = self._loop(items, progress)
        except BaseException:
            # A timeout that Airflow raises here, or a defect: current requests must not outlast the task.
            self._aborted = True
            raise
        finally:
            self._shut_down(threads)
        self._report(progress)
        if self._error is not None:
            raise self._error
        return pause if self.out_of_budget is None else self._pause_for_budget(self.out_of_budget)

    def _pause_for_budget(self, error: BudgetExceededError) -> float | None:
        if error.retryable:
            return error.retry_after
        log.warning("%s The remaining records are skipped.", error.what)
        return None

    @property
    def _done(self) -> int:
        return self._checkpoint.rows.counts.total()

    @property
    def _failures(self) -> int:
        return sum(self._checkpoint.rows.counts[status] for status in FAILURES)

    def _loop(self, items: Iterator[WorkItem | Row | None], progress: Progress) -> float | None:
        exhausted = False
        while not self._is_over():
            exhausted = exhausted or self._fill(items)
            if exhausted and not self.left:
                return None
            # Do not wait while the workers have nothing to do and records are read that need not be asked.
            self._take(0.0 if self._inbox.empty() and not exhausted else _TICK)
            if self._inbox.qsize() > self._few:
                # The workers have enough to do: wait for more results, as each wake-up disturbs them all.
                time.sleep(_GATHER_SECONDS)
                self._take(0.0)
            self._flush_when_due()
            self._keeping_error(self._versions.look_when_due)
            self._check_time(progress)
            pause = self._long_wait()
            if pause is not None:
                return pause
        return None

    def _is_over(self) -> bool:
        if self._killed():
            self._error = TaskStoppedError("The task was killed; the next try asks the rest.")
        if self._most_failures is not None and self._failures > self._most_failures:
            self.stopped_early = True
        stopped = self.stopped_early or self._versions.must_stop or self.out_of_budget is not None
        return stopped or self._error is not None

    def _fill(self, items: Iterator[WorkItem | Row | None]) -> bool:
        """Hand out records, as many in advance as there are workers; return whether there are no more."""
        room, until = self._most_open - self._inbox.qsize(), time.monotonic() + _TICK
        while room > 0 and time.monotonic() < until:
            try:
                item = next(items)
            except StopIteration:
                return True
            except AgentforceError as error:
                # Records that are being asked are finished first.
                self._error = self._error or error
                return True
            if item is None:
                return False
            if isinstance(item, Row):
                self._watcher.row(item)
                # Flushing every few reused records takes longer than reusing them.
                room -= item.reused_from is None
                continue
            room -= 1
            self.left[item.record.position] = item
            self._inbox.put(item)
        return False

    def _take(self, seconds: float) -> None:
        """Take the workers' results, waiting for the first one."""
        try:
            # With a timeout of 0, Python 3.10 sometimes waits forever.
            self._note(self._outbox.get(block=seconds > 0, timeout=seconds))
            while True:
                self._note(self._outbox.get_nowait())
        except queue.Empty:
            pass
        while self._delayed and self._delayed[0][0] <= time.monotonic():
            self._inbox.put(heapq.heappop(self._delayed)[2].item)

    def _note(self, news: Outcome | Exception) -> None:
        self._has_news = True
        match news:
            case Exception():
                raise news
            case Answered(item, row):
                self._done_with(item, row)
                self._watcher.row(row)
                self._count_failing(row)
            case AskAgain():
                due = time.monotonic() + news.delay
                heapq.heappush(self._delayed, (due, next(self._numbers), news))
            case OutOfBudget(error):
                self.out_of_budget = error
            case Fatal(error):
                self._error = self._error or error
            case NotStarted():
                pass

    def _done_with(self, item: WorkItem, row: Row) -> None:
        del self.left[item.record.position]
        if row.status == UNKNOWN and self._unknown is not None:
            self._unknown.add(item.record)

    def _count_failing(self, row: Row) -> None:
        """If the org can no longer be reached, leave the rest to the next try."""
        self._in_a_row = self._in_a_row + 1 if row.again else 0
        if self._in_a_row >= max(_IN_A_ROW, 2 * self._most_open) and self._error is None:
            self._error = AgentforceTransientError(
                f"{self._in_a_row} records in a row could not be asked. The last one: {row.error}"
            )

    def _flush_when_due(self) -> None:
        # Reused answers would be found again, so they need not be written at once.
        if self.left or self._has_news or time.monotonic() >= self._flush_at:
            self._keeping_error(self._checkpoint.flush)
            self._flush_at = time.monotonic() + _FLUSH_SECONDS
            self._has_news = False

    def _keeping_error(self, write: Callable[[], None]) -> None:
        """Call *write*; an error ends the batch, unless an earlier one already does."""
        try:
            write()
        except AgentforceError as error:
            self._error = self._error or error

    def _check_time(self, progress: Progress) -> None:
        if progress.due(self._done):
            self._report(progress)
        refused_for = min(self._client.limiter.refused_for, time.monotonic() - self._began)
        if refused_for > _REFUSED_SECONDS:
            self._error = RateLimitedError(
                "The org has refused every session for two hours.",
                hint="Clear the task when the org has room again: the rest is asked then.",
                status=429,
            )

    def _long_wait(self) -> float | None:
        limiter = self._client.limiter
        if not self._options.yields:
            return None
        wait = max(limiter.paused_for(self._client.settings.max_sessions_per_hour), limiter.asked_for)
        at_work = any(worker.busy for worker in self._workers)
        return wait if wait >= _LONG_WAIT and not at_work else None

    def _report(self, progress: Progress) -> None:
        limiter, settings = self._client.limiter, self._client.settings
        limit = min(self._most_open, limiter.limit(settings.max_concurrent_sessions))
        paused = limiter.paused_for(settings.max_sessions_per_hour)
        snapshot = progress.snapshot(self._checkpoint.rows.counts, limiter.open_sessions, limit, paused)
        log.info("%s", snapshot.line())
        self._watcher.snapshot(snapshot)
        if limiter.refusals > self._refusals:
            self._refusals = limiter.refusals
            log.warning(
                "The org has refused %d times because of its limits (HTTP 429); nothing is lost. It seems to "
                "allow %d at once; the connection's max_concurrent_sessions says %d.",
                limiter.refusals,
                limit,
                settings.max_concurrent_sessions,
            )

    def _shut_down(self, threads: list[threading.Thread]) -> None:
        """Stop the workers, take their last results, and write them."""
        self._stopping = True
        for _ in threads:
            self._inbox.put(None)
        hurried = self._wait_for(threads)
        for _, _, retry in self._delayed:
            if retry.row is not None:
                settle(self._checkpoint, retry.item.record, retry.row, retry.item.question)
                self._done_with(retry.item, retry.row)
        if not hurried and self._error is None:
            self._checkpoint.ended(*end_all(self._client, list(self._checkpoint.open_sessions)))
        self._keeping_error(self._checkpoint.flush)
        unwritten = self._checkpoint.unwritten()
        if unwritten:
            self._error = LedgerError(f"{self._error} {_rescued(unwritten)}")

    def _wait_for(self, threads: list[threading.Thread]) -> bool:
        """Wait for the workers, and cut their requests if the task is killed; return whether it was."""
        hurried: float | None = None
        while alive := [thread for thread in threads if thread.is_alive()]:
            alive[0].join(_TICK)
            self._take(0.0)
            self._keeping_error(self._checkpoint.flush)
            if self._killed() or self._aborted:
                hurried = time.monotonic() if hurried is None else hurried
                passed = time.monotonic() - hurried
                self._client.stop(keep_starts=passed < _START_SECONDS)
                if passed > _STOP_SECONDS:
                    break
        self._take(0.0)
        return hurried is not None

    def _next(self, worker: Worker) -> WorkItem | None:
        """Wait for a record. A worker that waits for long ends its session, because another worker may need
        the slot.
        """
        try:
            return self._inbox.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            worker.close()
            return self._inbox.get()

    def _work(self, worker: Worker) -> None:
        try:
            while (item := self._next(worker)) is not None:
                self._outbox.put(NotStarted() if self._stopping else worker.ask(item))
            worker.close()
        except Exception as error:  # noqa: BLE001 - a defect; the calling thread raises it
            self._outbox.put(error)


def end_all(client: AgentforceClient, session_ids: Collection[str]) -> list[str]:
    """End sessions, several at once, and return those that have ended."""
    if not session_ids:
        return []
    with ThreadPoolExecutor(_ENDERS) as pool:
        ended = pool.map(lambda one: client.end_quietly({"session_id": one}), session_ids)
        return [one for one, done in zip(session_ids, ended, strict=True) if done]


def _rescued(rows: list[bytes]) -> str:
    """Save rows that the checkpoint could not store, and return a sentence that says where."""
    try:
        with tempfile.NamedTemporaryFile(prefix="agentforce-rows-", suffix=".jsonl", delete=False) as file:
            file.writelines(rows)
    except OSError:
        for row in rows:
            log.error("A row that could not be written: %s", row.decode("utf-8").rstrip())  # noqa: TRY400
        return f"{len(rows)} rows that could not be written are in the task's log."
    return f"{len(rows)} rows that could not be written are in {file.name} on this worker."
