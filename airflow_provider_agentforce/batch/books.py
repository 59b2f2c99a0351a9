"""What one try has announced, learnt and not yet written down. Belongs to the thread that runs the batch."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from airflow_provider_agentforce.batch.ledger import BatchLedger
from airflow_provider_agentforce.batch.rows import Row, RowStore
from airflow_provider_agentforce.exceptions import AgentforceError

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 2.0
_OPEN_SECONDS = 0.1
# A store that takes long to write is written less often: this many times what it takes.
_OPEN_SHARE = 10.0
_ENDERS = 20


class Books:
    """Keeps the ledger of a try up to date.

    :param most: records that may be in doubt at once: announced, and not settled.
    """

    def __init__(self, ledger: BatchLedger, store: RowStore, most: int) -> None:
        self._ledger = ledger
        self._store = store
        self._most = most
        self._announced: set[str] = set()
        self._withdrawn: set[str] = set()
        self._unwritten: list[tuple[str, Row]] = []
        self._oldest_unwritten = 0.0
        self._starts: list[float] = []
        self._open: dict[str, None] = {}
        self._open_noted: list[str] = []
        self._open_due = 0.0

    @property
    def in_doubt(self) -> int:
        """Records that are announced and have no row yet."""
        return len(self._announced) - len(self._unwritten)

    @property
    def room(self) -> int:
        """How many records the next part may announce, as it settles those that have a row."""
        return self._most - self.in_doubt

    @property
    def balanced(self) -> bool:
        """Whether everything that was announced is settled and written."""
        return not self._announced

    @property
    def due(self) -> bool:
        """Whether rows have waited long enough to be written, or nothing else is to come."""
        old = time.monotonic() - self._oldest_unwritten >= _FLUSH_SECONDS
        return bool(self._unwritten) and (old or not self.in_doubt)

    def announce(self, names: Collection[str]) -> None:
        """Write down what is about to be asked, and what has been learnt so far.

        :raises AgentforceError: then none of *names* may be asked.
        """
        # Whether or not this is written as a whole, these are not asked if it fails.
        self._withdrawn.update(names)
        rows, starts = self._unwritten[:], self._starts[:]
        self._ledger.write(rows, announced=names, starts=starts)
        self._withdrawn.difference_update(names)
        self._wrote(rows, starts)
        self._announced.update(names)

    def settle(self, name: str, row: Row) -> None:
        """Take the row of a record."""
        if not self._unwritten:
            self._oldest_unwritten = time.monotonic()
        self._unwritten.append((name, row))
        self._store.put(name, row)

    def withdraw(self, name: str) -> None:
        """Note that a record was announced and is not asked."""
        self._withdrawn.add(name)

    def session(self, session_id: str, *, has_begun: bool) -> None:
        """Note that a session has begun or ended."""
        if has_begun:
            self._starts.append(time.time())
            self._open[session_id] = None
        else:
            self._open.pop(session_id, None)

    def save(self) -> None:
        """Write what has been learnt and withdrawn.

        :raises AgentforceError: if it cannot be written.
        """
        rows, starts = self._unwritten[:], self._starts[:]
        if rows or starts or self._withdrawn:
            self._ledger.write(rows, withdrawn=self._withdrawn, starts=starts)
            self._wrote(rows, starts)
            self._announced -= self._withdrawn
            self._withdrawn.clear()

    def note_open(self, *, at_once: bool = False) -> None:
        """Write down which sessions are open, if that has changed and the last time is long enough ago."""
        began = time.monotonic()
        now_open = list(self._open)
        if now_open == self._open_noted or not (at_once or began >= self._open_due):
            return
        self._open_noted = now_open
        try:
            self._ledger.note_open(now_open)
        except AgentforceError as error:
            log.warning("The open sessions could not be noted for a next try: %s", error)
        self._open_due = began + max(_OPEN_SECONDS, _OPEN_SHARE * (time.monotonic() - began))

    def end_open(self, client: AgentforceClient) -> None:
        """Try once more to end what could not be ended."""
        for session_id in end_all(client, self._open):
            self.session(session_id, has_begun=False)

    def _wrote(self, rows: list[tuple[str, Row]], starts: list[float]) -> None:
        del self._unwritten[: len(rows)], self._starts[: len(starts)]
        self._announced.difference_update(name for name, _ in rows)
        self._oldest_unwritten = time.monotonic()


def end_all(client: AgentforceClient, session_ids: Collection[str]) -> list[str]:
    """End sessions, several at once, and return those that are ended."""
    if not session_ids:
        return []
    with ThreadPoolExecutor(_ENDERS) as pool:
        ended = pool.map(lambda one: client.end_quietly({"session_id": one}), session_ids)
        return [one for one, done in zip(session_ids, ended, strict=True) if done]
