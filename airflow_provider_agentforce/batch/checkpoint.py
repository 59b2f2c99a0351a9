"""The checkpoint of a batch beside its results: a later try asks nothing twice and loses no answer.

A record is claimed before its first message is sent, and the claim is on stable storage before the first byte
leaves; concurrent claims share one write. A claimed record without a row may have been asked. Every process
that works on the batch first makes itself the owner, then reads. It sends the messages of a claimed record,
and starts a session, only after checking that it is still the owner. So if a process that was considered dead
resumes, only one of two processes asks.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from airflow_provider_agentforce.batch.earlier_tries import EarlierTries, MessagePosition, PartReader
from airflow_provider_agentforce.batch.hash_index import HashIndex
from airflow_provider_agentforce.batch.notes import Notes
from airflow_provider_agentforce.batch.parts import Block, PartName, unreadable_file
from airflow_provider_agentforce.batch.results import UNKNOWN, Entry, Row, RowIndex
from airflow_provider_agentforce.batch.storage import LocalStorage, Storage, guarded, is_unusable, prepared
from airflow_provider_agentforce.exceptions import (
    AgentforceError,
    AgentforceInputError,
    LedgerError,
    TaskStoppedError,
    one_line,
)

log = logging.getLogger(__name__)

_VERSION = 2
HEADER = "header.json"
_OWNER = "owner.json"
_MIXED = "mixed"
# Earlier builds did not write them.
_LATER_FINGERPRINTS = frozenset({"org"})
_MOST_FILES = 100
_MERGED_BYTES = 8_000_000
_OPEN_FILES = 8
_CALLS_AT_ONCE = 16
# Records that one appended file may claim. If the file is lost, all of them without a row are unknown.
_WINDOW = 100


@dataclass
class _PendingBlock(Block):
    """A block that is being written.

    :ivar positions: those of the records with its rows.
    :ivar bound: its claims are of records with a lower position.
    :ivar committing: held by the thread that writes it; the others that wait for it find it done.
    :ivar sync: whether it must be durable; otherwise it must only survive this process.
    :ivar done: whether the write was attempted.
    :ivar error: why it could not be written.
    """

    positions: list[int] = field(default_factory=list)
    bound: int = 0
    committing: threading.Lock = field(default_factory=threading.Lock)
    sync: bool = False
    done: bool = False
    error: AgentforceError | None = None


class Checkpoint:
    """The checkpoint of one batch. Its methods are thread-safe.

    :param storage: storage of its folder.
    :param fingerprints: hashes that identify the batch, by the names that users know: ``{"records":
        fingerprint, …}``.
    :param positions: the position of each record by its name.
    :param shown: the folder as the user gave it.
    :param keeps_records: whether every row is stored with its record.
    :ivar rows: the positions of the rows.
    :ivar is_mixed: whether rows of another input may be kept.
    :ivar sessions: how many sessions this try has started.
    :ivar open_sessions: ids of sessions without a recorded end.
    """

    def __init__(
        self,
        storage: Storage,
        fingerprints: dict[str, str],
        positions: HashIndex | Mapping[str, int],
        shown: Any,
        *,
        keeps_records: bool = False,
    ) -> None:
        self.keeps_records = keeps_records
        self.rows = RowIndex(len(positions))
        self.is_mixed = False
        self.sessions = 0
        self.open_sessions: dict[str, None] = {}
        self._storage = storage
        self._notes = Notes(storage, shown)
        self._appending = storage if isinstance(storage, LocalStorage) else None
        self._fingerprints = fingerprints
        self._positions = positions
        self._shown = str(shown)  # text, because a path object is slow to convert
        self._failure = f"The checkpoint of {self._shown} cannot be"
        self._me = uuid.uuid4().hex[:12]
        self._turn = 0
        self._number = 0
        self._bound = 0
        self._size = 0
        self._current: PartName | None = None
        # The files of this try in order, with their sizes.
        self._own: dict[str, int] = {}
        self._unmerged = 0
        self._file = 0
        self._readers: OrderedDict[str, Any] = OrderedDict()
        self._reading = threading.Lock()
        self._lock = threading.RLock()
        self._pending = _PendingBlock()
        self._writing = threading.Lock()

    def open(self, *, changes_allowed: bool) -> EarlierTries:
        """Become the owner, find the rows of earlier tries, and return their other state.

        :param changes_allowed: take over rows of a batch that differs.
        :raises AgentforceInputError: if the folder cannot be written, or belongs to another batch.
        :raises LedgerError: if its contents cannot be read.
        """
        try:
            prepared(self._storage, f"{self._failure} made")
            header = self._notes.read(HEADER)
            if header is None:
                header = {"v": _VERSION, "began": time.time(), **self._fingerprints}
            self._check_same(header, changes_allowed=changes_allowed)
            self._take_over()
            self.is_mixed = bool(header.get(_MIXED)) or bool(changed_fingerprints(header, self._fingerprints))
            self._notes.write(HEADER, {**header, **self._fingerprints, _MIXED: self.is_mixed})
        except LedgerError as error:
            if error.__cause__ is None:
                raise
            raise self._unusable(error.__cause__) from None
        began, same = float(header["began"]), header.get("records") == self._fingerprints.get("records")
        parts = PartReader(self._storage, self._failure, self._positions, self.rows)
        return parts.read(self._turn, self._me, began=began, same=same)

    def claim(self, name: str, asked: MessagePosition | None = None) -> None:
        """Record durably that a record is about to be asked. It may be asked after this has returned.

        :param name: name of the record.
        :param asked: position of its first message, for a try that finds the claim without a row.
        :raises LedgerError: if it cannot be written; the record must not be asked then.
        :raises TaskStoppedError: if another process has taken over.
        """
        with self._lock:
            write = self._pending
            write.claims.append(name)
            if asked is not None:
                write.asked[name] = asked[:3]
            write.sync = True
            write.bound = max(write.bound, self._positions[name] + 1)
        self._commit(write)

    def starting(self, external_key: str | None) -> None:
        """Record that a session is about to be started, so that a killed process leaves its key.

        Nothing is asked in it before a claim, so this becomes durable with the next durable write.

        :raises LedgerError: if it cannot be written; the session must not be started then.
        """
        with self._lock:
            write = self._pending
            write.starting.append(str(external_key))
        self._commit(write)

    def settle(self, name: str, row: Row, record: bytes = b"", question: str = "") -> None:
        """Add the row of a record. It is written with the next claim, or by :meth:`flush`.

        :param record: the record as a line of JSON, if it is kept.
        :param question: hash of the question.
        """
        line = row.line()
        counts = row.attempts, row.answers, len(line), len(record)
        entry = Entry(name, row.status, row.again, *counts, question, row.failure)
        position = self._positions[name]
        with self._lock:
            self._pending.rows.append((entry, line + record))
            self._pending.positions.append(position)
            self.rows.put(position, entry)

    def resolve(self, row: Row) -> None:
        """Replace the row of a record, if it is unknown, by one of the same session that is not.

        It is written by :meth:`flush`.
        """
        position = self._positions.get(str(row.key))
        if position is None or self.rows.status(position) != UNKNOWN:
            return
        line, record = self.line_at(position)
        if row.session_id and Row.from_line(line).session_id == row.session_id:
            self.settle(str(row.key), row, record, self.rows.question(position))

    def withdraw(self, name: str) -> None:
        """Record that a claimed record is not asked."""
        with self._lock:
            self._pending.withdrawn.append(name)

    def started(self, session_id: str, external_key: str | None) -> None:
        """Record that a session has started; it is written with its first claim."""
        with self._lock:
            self._pending.sessions[session_id] = external_key, time.time()
            self.open_sessions[session_id] = None
            self.sessions += 1

    def ended(self, *sessions: str) -> None:
        """Record that sessions have ended, or have not started.

        :param sessions: their ids, or their external keys if the id is not known.
        """
        with self._lock:
            self._pending.ended.extend(sessions)
            for one in sessions:
                self.open_sessions.pop(one, None)

    def flush(self) -> None:
        """Write all pending entries. When this has returned, every row that was settled before can be read.

        :raises LedgerError: if they cannot be written. They are kept for the next attempt.
        """
        if not self._flush_pending():
            with self._writing:  # until another thread has written its block, or given it back
                pass
            self._flush_pending()

    def write_note(self, name: str, value: dict[str, Any]) -> None:
        """Store a value beside the rows, durably.

        :raises LedgerError: if it cannot be written.
        :raises TaskStoppedError: if another process has taken over.
        """
        self.check_owner()
        self._notes.write(name, value)

    def read_note(self, name: str) -> dict[str, Any]:
        """Return the value of :meth:`write_note`, an empty dict if there is none.

        :raises LedgerError: if it cannot be read.
        """
        return self._notes.read(name) or {}

    def unwritten(self) -> list[bytes]:
        """Return the rows that are not written yet."""
        with self._lock:
            return [line[: entry.length] for entry, line in self._pending.rows]

    def row_at(self, position: int) -> bytes:
        """Return the line of the row at *position*."""
        with self._reading:
            name, offset, length, _ = self.rows.at(position)
            return self._read_at(name, offset, length)

    def line_at(self, position: int) -> tuple[bytes, bytes]:
        """Return the line of the row at *position*, and that of its record, ``b""`` if it was not kept."""
        with self._reading:
            name, offset, length, record_length = self.rows.at(position)
            both = self._read_at(name, offset, length + record_length)
        return both[:length], both[length:]

    def rows_having(self, *statuses: str) -> Iterator[Row]:
        """Yield the rows with one of *statuses*, in the order of the input."""
        return (Row.from_line(self.row_at(position)) for position in self.rows.having(*statuses))

    def most_common_failures(self, most: int, names: int) -> tuple[list[tuple[str, int, list[str]]], int]:
        """Return the most common reasons of failures, each with its count and the names of some records.

        :param most: how many reasons.
        :param names: how many names of each, the first ones in the order of the input.
        :returns: and how many records failed for other reasons.
        """
        with self._lock:
            found = self.rows.most_common_failures(most, names)
            rest = self.rows.failures.total() - sum(number for _, number, _ in found)
        return [(reason, number, list(where.values())) for reason, number, where in found], rest

    def record_at(self, position: int) -> bytes:
        """Return the line of the record at *position*, ``b""`` if it was not kept."""
        with self._reading:
            name, offset, length, record_length = self.rows.at(position)
            return self._read_at(name, offset + length, record_length) if record_length else b""

    def close(self) -> None:
        """Close the files."""
        self._storage.close()
        while self._readers:
            self._readers.popitem()[1].close()

    def _flush_pending(self) -> bool:
        """Write the pending entries; return whether there were any."""
        with self._lock:
            write = self._pending
            if not write.has_news and not (self._appending and self._appending.unsynced):
                return False
            write.sync = True
        self._commit(write)
        return True

    def _commit(self, write: _PendingBlock) -> None:
        """Have *write* written, by this thread or by another one that waits for it as well."""
        with write.committing:
            if not write.done:
                with self._writing:
                    self._lead(write)
        if write.error is not None:
            raise copy.copy(write.error)

    def _lead(self, write: _PendingBlock) -> None:
        try:
            # If it is not pending, a signal cut the end of its write, and only that is left to do.
            if self._pending is write:
                with self._lock:
                    write.error = LedgerError("Writing the checkpoint was interrupted.")
                    self._pending = _PendingBlock()
                self._put(write)
                if write.claims or write.starting:
                    self.check_owner()
                write.error = None
                self._merge()
        except AgentforceError as caught:
            write.error = caught
        finally:
            with self._lock:
                # If it is still pending, a signal came first, and another commit writes it.
                if self._pending is not write:
                    if write.error is not None:
                        self._take_back(write)
                    write.done = True

    def check_owner(self) -> None:
        """Check that no other process has taken over.

        :raises TaskStoppedError: if one has; this one must send and write nothing more.
        """
        if self.read_note(_OWNER).get("owner") != self._me:
            raise TaskStoppedError(
                "Another process has taken over this batch; this one stops.",
                hint="Leave it to that process: it continues with what this one has written.",
            )

    def _put(self, write: _PendingBlock) -> None:
        self._bound = max(self._bound, write.bound)
        body, offset = write.encode(self._number)
        part = self._current
        if part is None or self._appending is None or self._bound > part.bound:
            bound = self._bound if self._appending is None else -(-self._bound // _WINDOW) * _WINDOW
            if self._appending is not None and part is not None:
                # A signal may have left a block there that is written again, under the same number.
                size = self._own.get(str(part), self._size)
                self._ask("written", partial(self._appending.append, str(part), size, b""))
            part, self._size = PartName(self._turn, self._me, self._number, bound), 0
            # A store may still complete a write that was interrupted, so the next one has another name.
            self._bound = bound + 1
            self._ask("written", partial(self._storage.write, str(part), lambda: [body]))
            self._bound = bound
            self._file = self.rows.add_file(str(part))
        else:
            self._ask(
                "written", partial(self._appending.append, str(part), self._size, body, sync=write.sync)
            )
        with self._lock:
            self._place(write, self._size + offset)
        self._current, self._size, self._number = part, self._size + len(body), self._number + 1
        self._unmerged += str(part) not in self._own
        self._own[str(part)] = self._size

    def _place(self, block: _PendingBlock, offset: int) -> None:
        """Record the places of a block's rows, except those that have been replaced."""
        newer = set(self._pending.positions)
        for position, (entry, _) in zip(block.positions, block.rows, strict=True):
            if position not in newer:
                self.rows.place(position, self._file, offset)
            offset += entry.length + entry.record_length

    def _take_back(self, write: _PendingBlock) -> None:
        """Keep entries whose write failed. Whether or not they were written, the records that they claim are
        not asked, and their sessions are not started.
        """
        later = self._pending
        later.rows[:0], later.positions[:0] = write.rows, write.positions
        later.withdrawn[:0] = [*write.withdrawn, *write.claims]
        later.sessions = {**write.sessions, **later.sessions}
        later.ended[:0] = [*write.ended, *write.starting]

    def _merge(self) -> None:
        """Merge adjacent files, so that the numbers of their blocks stay in order."""
        if self._unmerged <= _MOST_FILES:
            return
        self._unmerged = 0
        closed = [name for name in self._own if self._appending is None or name != str(self._current)]
        run: list[str] = []
        try:
            for name in closed:
                if sum(self._own[one] for one in run) + self._own[name] > _MERGED_BYTES:
                    self._merge_run(run)
                    run = []
                run.append(name)
            self._merge_run(run)
        except (LedgerError, TaskStoppedError) as error:
            log.warning("The files of the checkpoint could not be merged: %s", error)

    def _merge_run(self, names: list[str]) -> None:
        if len(names) <= 1:
            return
        merged = str(PartName.read(names[0])._replace(bound=PartName.read(names[-1]).bound))
        bodies = dict(zip(names, self._at_once("read", self._storage.read, names), strict=True))
        base, places = 0, {}
        for name, body in bodies.items():
            places[name] = base
            base += len(body or b"")
        self.check_owner()
        with self._reading:
            # It may replace the first of them, which an open reader would continue to read as it was.
            if merged in self._readers:
                self._readers.pop(merged).close()
            self._ask("written", partial(self._storage.write, merged, lambda: filter(None, bodies.values())))
            self.rows.move_files(places, merged)
        sizes = {merged if name in places else name: size for name, size in self._own.items()}
        self._own = {**sizes, merged: base}
        # Another process lists the files after it has become the owner. So if it lists those that are removed
        # here, it also lists the merged one.
        self.check_owner()
        self._at_once("cleared", self._storage.remove, places.keys() - {merged})

    def _check_same(self, header: dict[str, Any], *, changes_allowed: bool) -> None:
        if header.get("v") != _VERSION or not isinstance(header.get("began"), float | int):
            raise unreadable_file(HEADER)
        changed = changed_fingerprints(header, self._fingerprints)
        if changed and not changes_allowed:
            raise AgentforceInputError(
                f"result_path: {self._shown} has the results of another batch. What differs: "
                f"{', '.join(changed)}. Choose another folder, such as one with {{{{ run_id }}}} in its "
                'name, or set on_change="continue" to keep its rows and ask only for the rest.'
            )

    def _take_over(self) -> None:
        before = self._notes.read(_OWNER)
        if before is None:
            before = {"turn": 0}
        if not isinstance(before.get("turn"), int):
            raise unreadable_file(_OWNER)
        self._turn = before["turn"] + 1
        # So each turn has a file. If there is none, it is lost.
        self._put(_PendingBlock())
        self._notes.write(_OWNER, {"turn": self._turn, "owner": self._me})

    def _unusable(self, cause: BaseException) -> AgentforceInputError:
        return AgentforceInputError(
            f"result_path: {self._shown} cannot be used ({type(cause).__name__}: "
            f"{one_line(str(cause), 200)}).",
            retryable=not is_unusable(cause),
        )

    def _read_at(self, name: str, offset: int, length: int) -> bytes:
        if name not in self._readers:
            self._readers[name] = self._ask("read", lambda: self._storage.open(name))
            if len(self._readers) > _OPEN_FILES:
                self._readers.popitem(last=False)[1].close()
        self._readers.move_to_end(name)

        def read() -> bytes:
            self._readers[name].seek(offset)
            body: bytes = self._readers[name].read(length)
            return body

        body: bytes = self._ask("read", read)
        return body

    def _at_once(self, what: str, call: Callable[[str], Any], names: Collection[str]) -> list[Any]:
        """Return the results of *call* for *names*. One by one, they take too long to stop a task."""
        with ThreadPoolExecutor(_CALLS_AT_ONCE) as pool:
            return self._ask(what, lambda: list(pool.map(call, names)))  # type: ignore[no-any-return]

    def _ask(self, what: str, call: Callable[[], Any]) -> Any:
        return guarded(call, f"{self._failure} {what}")


def changed_fingerprints(header: Mapping[str, Any], fingerprints: Mapping[str, str]) -> list[str]:
    """Return the names of *fingerprints* that differ from the batch with this *header*."""
    unknown = _LATER_FINGERPRINTS - header.keys()
    return [
        name
        for name, fingerprint in fingerprints.items()
        if name not in unknown and header.get(name) != fingerprint
    ]
