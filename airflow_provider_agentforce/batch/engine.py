"""Runs a batch: announces records, has workers ask about them, and writes down what came of it.

The calling thread reads the input, renders, writes the ledger and reports; the workers only talk to the
agent. So everything but the queues and the pace belongs to one thread, and templates never meet another.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from airflow_provider_agentforce.batch.asking import Ask, Asker, Manner, Outcome
from airflow_provider_agentforce.batch.books import Books
from airflow_provider_agentforce.batch.ledger import BatchLedger
from airflow_provider_agentforce.batch.pace import Pace
from airflow_provider_agentforce.batch.progress import Progress
from airflow_provider_agentforce.batch.rows import FAILURES, Row, RowStore
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceTransientError,
    RateLimitedError,
    TaskStoppedError,
)

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient

log = logging.getLogger(__name__)

_TICK = 0.1
_GATHER_SECONDS = 0.03
# What is left of a minute when those who were at work have come to their end.
_LONG_WAIT = 45.0
# Twice the hour that an hourly limit can ask to wait.
_REFUSED_SECONDS = 7200.0
# Of the five that Airflow gives a task to stop.
_STOP_SECONDS = 4.0
_START_SECONDS = 1.5
_IN_A_ROW = 20

# An outcome; a session and whether it has begun; or what stopped a worker.
_News = Outcome | tuple[str, bool] | Exception


@dataclass(frozen=True)
class Plan:
    """What bounds a run.

    :param workers: sessions at once, at the most.
    :param total: number of records.
    :param most_failures: stop when more records than this have failed; ``None``: never.
    :param yields: return from a wait of a minute or more instead of sitting through it.
    """

    workers: int
    total: int
    most_failures: int | None = None
    yields: bool = False


class Watcher(Protocol):
    """Who counts for a metrics backend."""

    def row(self, status: str) -> None:
        """Take note of a record that is done."""

    def sessions(self, now: int, most: int) -> None:
        """Take note of how many sessions are open, and how many may be."""


class Engine:
    """One try at a batch.

    :param killed: tells whether the task was told to stop.
    :param watcher: is told how it goes.
    :ivar pace: what it has learnt of the org's limits.
    :ivar stopped_early: whether ``plan.most_failures`` was passed.
    """

    def __init__(
        self,
        client: AgentforceClient,
        ledger: BatchLedger,
        store: RowStore,
        plan: Plan,
        manner: Manner,
        *,
        killed: Callable[[], bool],
        watcher: Watcher,
    ) -> None:
        self.pace = Pace(plan.workers)
        self.stopped_early = False
        self._client = client
        self._books = Books(ledger, store, 2 * plan.workers)
        self._store = store
        self._plan = plan
        self._manner = manner
        self._killed = killed
        self._watcher = watcher
        self._inbox: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._ready: deque[Ask] = deque()
        self._delayed: list[tuple[float, int, Ask]] = []
        self._numbers = itertools.count()
        self._few = plan.workers // 4
        self._in_a_row = 0
        self._refusals_said = 0
        self._error: AgentforceError | None = None
        self._stopping = False
        self._aborted = False

    def run(self, asks: Iterator[Ask]) -> float | None:
        """Ask until all is done.

        :param asks: the records to ask.
        :returns: ``None`` when all is done or ``most_failures`` is passed; else the seconds to wait before
            going on, with ``plan.yields``.
        :raises AgentforceError: if nothing further can be asked; what is done is in the ledger.
        """
        threads = [
            threading.Thread(target=self._work, name=f"agentforce-{number}", daemon=True)
            for number in range(min(self._plan.workers, self._plan.total))
        ]
        for thread in threads:
            thread.start()
        progress = Progress(self._plan.total, self._done)
        try:
            pause = self._go_on(asks, progress)
        except BaseException:
            # A time-out that Airflow raises here, or a defect: what is under way must not outlast the task.
            self._aborted = True
            raise
        finally:
            self._wind_up(threads)
        self._say(progress)
        if self._error is not None:
            raise self._error
        return pause

    @property
    def _done(self) -> int:
        return sum(self._store.counts.values())

    @property
    def _failures(self) -> int:
        return sum(self._store.counts[status] for status in FAILURES)

    def _go_on(self, asks: Iterator[Ask], progress: Progress) -> float | None:
        exhausted = False
        while not self._is_over():
            exhausted = exhausted or self._prepare(asks)
            self._write_if_due()
            if exhausted and self._books.balanced and not self._ready:
                return None
            self._take(_TICK)
            self._let_gather()
            self._books.note_open()
            self._look_at_the_clock(progress)
            if self._plan.yields and self.pace.paused_for >= _LONG_WAIT and not self._in_work():
                return self.pace.paused_for
        return None

    def _is_over(self) -> bool:
        if self._killed():
            self._error = TaskStoppedError("The task was told to stop; the next try goes on with the rest.")
        most = self._plan.most_failures
        if most is not None and self._failures > most:
            self.stopped_early = True
        return self.stopped_early or self._error is not None

    def _prepare(self, asks: Iterator[Ask]) -> bool:
        """Render what the next part may announce; tell whether there is nothing more."""
        missing = self._plan.workers - len(self._ready)
        new = list(itertools.islice(asks, max(0, missing)))
        self._ready += new
        return len(new) < missing

    def _write_if_due(self) -> None:
        """Settle and announce in one part: no more records are ever in doubt than twice the workers."""
        room = min(self._books.room, len(self._ready))
        enough = min(len(self._ready), max(1, self._few))
        hungry = room > 0 and self._inbox.qsize() <= self._few and room >= enough
        if not (hungry or self._books.due):
            return
        new = [self._ready.popleft() for _ in range(room)]
        try:
            self._books.announce([ask.record.name for ask in new])
        except AgentforceError as error:
            self._error = error
            return
        for ask in new:
            self._inbox.put(ask)

    def _take(self, seconds: float) -> None:
        """Take what the workers have brought, waiting for the first of it."""
        try:
            self._note(self._outbox.get(timeout=seconds))
            while True:
                self._note(self._outbox.get_nowait())
        except queue.Empty:
            pass
        while self._delayed and self._delayed[0][0] <= time.monotonic():
            self._inbox.put(heapq.heappop(self._delayed)[2])

    def _let_gather(self) -> None:
        """While the workers have enough to do, wait for more news: each waking disturbs them all."""
        if self._inbox.qsize() > self._few:
            time.sleep(_GATHER_SECONDS)
            self._take(0.0)

    def _note(self, news: _News) -> None:
        if isinstance(news, tuple):
            self._books.session(news[0], has_begun=news[1])
            return
        if isinstance(news, Exception):
            raise news
        name = news.ask.record.name
        if news.row is not None:
            self._books.settle(name, news.row)
            self._watcher.row(news.row.status)
            self._note_failing(news.row)
        elif news.again is not None:
            due = time.monotonic() + news.delay
            heapq.heappush(self._delayed, (due, next(self._numbers), news.again))
        else:
            self._books.withdraw(name)
        if news.fatal is not None and self._error is None:
            self._error = news.fatal

    def _note_failing(self, row: Row) -> None:
        """When nothing reaches the org any more, leave the rest to the next try."""
        self._in_a_row = self._in_a_row + 1 if row.again else 0
        if self._in_a_row >= max(_IN_A_ROW, 2 * self._plan.workers) and self._error is None:
            self._error = AgentforceTransientError(
                f"{self._in_a_row} records in a row could not be asked. The last one: {row.error}"
            )

    def _look_at_the_clock(self, progress: Progress) -> None:
        if progress.due(self._done):
            self._say(progress)
        if self.pace.refused_for > _REFUSED_SECONDS:
            self._error = RateLimitedError("The org has refused every session for two hours.", status=429)

    def _say(self, progress: Progress) -> None:
        pace = self.pace
        self._watcher.sessions(pace.open_sessions, pace.limit)
        log.info("%s", progress.line(self._failures, pace.open_sessions, pace.limit, pace.paused_for))
        if pace.refusals > self._refusals_said:
            self._refusals_said = pace.refusals
            log.warning(
                "The org has refused %d times for its limits (HTTP 429); nothing is lost. It seems to "
                "allow %d at once; the connection's max_concurrent_sessions says %d.",
                pace.refusals,
                pace.limit,
                self._client.settings.max_concurrent_sessions,
            )

    def _in_work(self) -> int:
        return self._books.in_doubt - self._inbox.qsize() - len(self._delayed)

    def _wind_up(self, threads: list[threading.Thread]) -> None:
        """Stop the workers, take what they still bring, and write it down; withdraw what was not asked."""
        self._stopping = True
        self.pace.stop()
        for _ in threads:
            self._inbox.put(None)
        hurried: float | None = None
        while any(thread.is_alive() for thread in threads):
            self._take(_TICK)
            self._save()
            if self._killed() or self._aborted:
                hurried = time.monotonic() if hurried is None else hurried
                passed = time.monotonic() - hurried
                self._client.stop(keep_starts=passed < _START_SECONDS)
                if passed > _STOP_SECONDS:
                    break
        self._take(0.0)
        self._withdraw()
        if hurried is None and self._error is None:
            self._books.end_open(self._client)
        self._save()
        self._books.note_open(at_once=True)

    def _withdraw(self) -> None:
        """Take back what was announced and is in nobody's hands. A worker that hangs keeps its record."""
        left = [ask for _, _, ask in self._delayed]
        while not self._inbox.empty():
            ask = self._inbox.get()
            left += [] if ask is None else [ask]
        for ask in left:
            self._books.withdraw(ask.record.name)

    def _save(self) -> None:
        try:
            self._books.save()
        except AgentforceError as error:
            self._error = self._error or error

    def _work(self) -> None:
        asker = Asker(
            self._client, self.pace, self._manner, lambda one, begun: self._outbox.put((one, begun))
        )
        try:
            while (epoch := self.pace.enter()) is not None:
                try:
                    if not self._serve(asker, epoch):
                        return
                finally:
                    asker.close()
                    self.pace.leave()
        except Exception as error:  # noqa: BLE001 - a defect; the calling thread raises it
            self._outbox.put(error)

    def _serve(self, asker: Asker, epoch: int) -> bool:
        """Ask with one place: one record, or as many as one session takes. ``False``: there is no more."""
        ask = self._inbox.get()
        while ask is not None:
            self._outbox.put(Outcome(ask) if self._stopping else asker.ask(ask, epoch))
            if not asker.keeps_session:
                return True
            ask = self._inbox.get()
            if ask is not None and not asker.fits(ask):
                self._inbox.put(ask)
                return True
        return False
