"""Reads the org's traces of a batch's sessions, and resolves its unknown rows."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import IO, TYPE_CHECKING, Any

from airflow_provider_agentforce.batch.output import RESULTS, rewrite_tables
from airflow_provider_agentforce.batch.results import UNKNOWN
from airflow_provider_agentforce.batch.storage import Storage, guarded, storage_of
from airflow_provider_agentforce.client import trace_lookup
from airflow_provider_agentforce.client.json_values import storable
from airflow_provider_agentforce.client.models import ANSWER_LOST, ANSWERED
from airflow_provider_agentforce.client.session_trace import SessionTrace, TracedMessage
from airflow_provider_agentforce.client.trace_lookup import TraceFinding
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.client import AgentforceClient

log = logging.getLogger(__name__)

TRACES = "traces.jsonl"
# Concurrent calls: each trace is parsed in memory, and may be long.
_AT_ONCE = 8
# Reasons of missing traces that the log shows, the most common first.
_SHOWN_NOTES = 3
_TRACE = "trace"
_EMPTY = "The org has an empty trace of the session."
_ENCODER = json.JSONEncoder(ensure_ascii=False)


class _FoundMessages:
    """Messages with their answers, in a temporary file, because they may be long and many."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - see close()

    def put(self, message: TracedMessage) -> int:
        """Store a message, and return its offset."""
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(_encoded(asdict(message)))
        return place

    def get(self, place: int) -> TracedMessage:
        """Return the message at an offset."""
        self._file.seek(place)
        return TracedMessage(**json.loads(self._file.readline()))

    def close(self) -> None:
        """Remove them."""
        self._file.close()


@dataclass
class _Doubt:
    """The message of an unknown row, whose delivery is in doubt.

    :ivar text: its text, ``None`` if it was not kept.
    :ivar position: its number in the session.
    :ivar sent_at: in seconds since the epoch; ``None`` if other messages of the record went before it, as
        only the time of the first is known.
    :ivar same_before: how many messages with this text the session has had before, or ``None``.
    :ivar place: offset of the message that was found, ``None`` if none was.
    :ivar settled: whether it was found with its whole answer.
    :ivar noted: whether its row says that it was found.
    """

    text: str | None
    position: int
    sent_at: float | None
    same_before: int | None = None
    place: int | None = None
    settled: bool = False
    noted: bool = False

    @property
    def found(self) -> bool:
        """Whether a trace has shown it, so that it was delivered."""
        return self.noted or self.place is not None

    def look(self, trace: SessionTrace, messages: _FoundMessages) -> None:
        """Look for it at its position."""
        if self.text is not None:
            found = trace.find_message(self.text, self.position, self.sent_at, same_before=self.same_before)
        else:
            began = self.sent_at
            there = (one for one in trace.messages if one.position == self.position)
            found = next((one for one in there if began and one.at and one.at >= began), None)
        if found is not None:
            self.place, self.settled = messages.put(found), found.answered


@dataclass
class _Sought:
    """A session whose trace is requested.

    :ivar session_id: id of the session.
    :ivar answered: number of its last message that was answered.
    :ivar started_at: when its first message was sent, in seconds since the epoch.
    :ivar doubts: the message of its unknown row, by the number of that row; at most one, because a session in
        doubt is not used further.
    :ivar line: its line in the file.
    """

    session_id: str
    answered: int = 0
    started_at: float | None = None
    doubts: dict[int, _Doubt] = field(default_factory=dict)
    line: dict[str, Any] | None = None

    @property
    def complete(self) -> bool:
        """Whether another read would show no more."""
        settled = all(doubt.settled for doubt in self.doubts.values())
        return settled and self.line is not None and bool(self.line["complete"])

    def note(self, number: int, row: Mapping[str, Any], position: int) -> None:
        """Add a row whose messages were sent in it, the last one at *position*."""
        if row.get("status") != UNKNOWN:
            self.answered = max(self.answered, position)
            return
        text = (row.get("request") or {}).get("text")
        sent_at = _seconds(row.get("started_at")) if row.get("outcome") is None else None
        before = trace_lookup.same_before(text, position, row.get("earlier_requests") or [])
        noted = (row.get("resolution") or {}).get("by") == _TRACE
        self.doubts[number] = _Doubt(text, position, sent_at, before, noted=noted)

    def take(self, finding: TraceFinding, messages: _FoundMessages, rate: float | None) -> None:
        """Store the result of a read; if it is empty, an earlier result stays."""
        trace = finding.trace
        if trace is None or not (trace.messages or trace.actions):
            if self.line is None or not self.line["found"]:
                self.line = _line(SessionTrace(self.session_id), note=finding.note or _EMPTY)
            return
        for doubt in self.doubts.values():
            doubt.look(trace, messages)
        complete = len(trace.messages) >= self.answered and all(one.complete for one in trace.messages)
        self.line = _line(trace, found=True, complete=complete, rate=rate)


class SessionTraces:
    """The traces of the sessions of a batch, or of single sessions. Call :meth:`close` when done.

    :param folder: path object of the batch's results; ``None`` for single sessions.
    :param sessions: single sessions: the number of the last answered message of each by its id.
    :param credits_per_action: what an action costs, for an estimate.
    :param on_trace: receives each trace that is there, once no more of it is expected.
    :param storage_of: returns the storage for a path object.
    :raises AgentforceInputError: if the folder has no results of a batch.
    :raises LedgerError: if it cannot be read.
    """

    def __init__(
        self,
        client: AgentforceClient,
        *,
        folder: Any = None,
        sessions: Mapping[str, int] | None = None,
        credits_per_action: float | None = None,
        on_trace: Callable[[SessionTrace], None] | None = None,
        storage_of: Callable[[Any], Storage] = storage_of,
    ) -> None:
        self._client = client
        self._on_trace = on_trace
        self._held: list[SessionTrace] = []
        self._rate = credits_per_action
        self._sought = {name: _Sought(name, answered) for name, answered in (sessions or {}).items()}
        self._files = None if folder is None else _Files(folder, storage_of(folder))
        if self._files is not None:
            self._load(self._files)
        self._messages = _FoundMessages()

    def close(self) -> None:
        """Remove what was kept for a later look."""
        self._messages.close()

    def look(self, *, last: bool) -> bool:
        """Read every trace that is not complete once, and write the results.

        :param last: no other read follows: an answer that is still missing counts as lost.
        :returns: whether there is nothing more to wait for.
        :raises AgentforceError: if the org keeps no traces, with an error that says what to switch on; or if
            no call has succeeded at the end.
        """
        left = [one for one in self._sought.values() if not one.complete]
        waiting, failed = 0, 0
        for sought, finding in self._findings(left):
            if finding.error is not None:
                failed += finding.error.retryable
                if trace_lookup.concerns_all(finding.error) or (last and failed == len(left)):
                    raise finding.error
            sought.take(finding, self._messages, self._rate)
            done = sought.complete or finding.final
            waiting += not done
            if done or last:
                self._export(finding.trace)
        log.info("%d of %d traces are complete.", len(self._sought) - waiting, len(self._sought))
        over = last or not waiting
        self._write(over=over)
        return over

    def _write(self, *, over: bool) -> None:
        if self._files is not None:
            self._files.write(list(self._sought.values()), self._messages, over=over)
        if over:
            self._warn()
            for trace in self._held:
                self._on_trace(trace)  # type: ignore[misc] # without it none is held

    def _export(self, trace: SessionTrace | None) -> None:
        """Export a trace; that of a single session only at the end, because nothing records that it was
        exported.
        """
        if self._on_trace is None or trace is None:
            return
        if self._files is None:
            self._held.append(trace)
        else:
            self._on_trace(trace)

    def _warn(self) -> None:
        notes = Counter(one.line["note"] for one in self._sought.values() if one.line and one.line["note"])
        for note, count in notes.most_common(_SHOWN_NOTES):
            log.warning("%d sessions have no trace. %s", count, note)

    def result(self) -> dict[str, Any]:
        """Return the result of the task."""
        lines = [one.line for one in self._sought.values() if one.line is not None]
        found = [line for line in lines if line["found"]]
        result: dict[str, Any] = {
            "traces": None if self._files is None else str(self._files.folder / TRACES),
            "found": len(found),
            "resolved": 0,
            "missing": len(self._sought) - len(found),
            "unknown": 0,
            "actions": sum(len(line["actions"]) for line in found),
            "total_tokens": sum(line["total_tokens"] for line in found),
            "credits": None if self._rate is None else sum(line["credits"] or 0 for line in found),
        }
        if self._files is None:
            return {**result, "sessions": lines}
        return {**result, **_row_counts(self._files)}

    def _load(self, files: _Files) -> None:
        """Find the sessions of the rows, and the results of an earlier read."""
        several = False
        for number, row in enumerate(files.rows()):
            several = several or bool(row.get("earlier_answers"))
            session_id, position = row.get("session_id"), row.get("sequence_id")
            if isinstance(session_id, str) and isinstance(position, int):
                started_at = _seconds(row.get("started_at"))
                sought = self._sought.setdefault(session_id, _Sought(session_id, started_at=started_at))
                sought.note(number, row, position)
        if several:
            # It is not known whether a message that was not kept is the last one of its record.
            for sought in self._sought.values():
                sought.doubts = {number: one for number, one in sought.doubts.items() if one.text is not None}
        for line in files.lines():
            known = self._sought.get(str(line.get("session_id")))
            if known is not None:
                known.line = {**_line(SessionTrace(known.session_id)), **line}

    def _findings(self, left: list[_Sought]) -> Iterator[tuple[_Sought, TraceFinding]]:
        """Read traces, several at once, with few of them in memory."""
        pending: deque[tuple[_Sought, Future[TraceFinding]]] = deque()
        most = min(_AT_ONCE, self._client.settings.max_concurrent_sessions)
        with ThreadPoolExecutor(most) as pool:
            try:
                for sought in left:
                    reading = pool.submit(
                        trace_lookup.read_trace, self._client, sought.session_id, sought.started_at
                    )
                    pending.append((sought, reading))
                    if len(pending) >= 2 * most:
                        first, done = pending.popleft()
                        yield first, done.result()
                while pending:
                    first, done = pending.popleft()
                    yield first, done.result()
            finally:
                for _, reading in pending:
                    reading.cancel()


def _row_counts(files: _Files) -> dict[str, int]:
    """Count the rows that traces have resolved, and those that are still unknown."""
    counts = Counter[str]()
    for row in files.rows():
        unknown = row.get("status") == UNKNOWN
        counts["unknown"] += unknown
        counts["resolved"] += not unknown and (row.get("resolution") or {}).get("by") == _TRACE
    return {name: counts[name] for name in ("resolved", "unknown")}


class _Files:
    """The files in the folder of a batch."""

    def __init__(self, folder: Any, storage: Storage) -> None:
        self.folder = folder
        self._storage = storage
        if RESULTS not in self._ask(storage.names):
            raise AgentforceInputError(f"results: {folder / RESULTS} does not exist.")

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the batch."""
        with self._ask(lambda: self._storage.open(RESULTS)) as file:
            for number, line in enumerate(file, 1):
                row = _parsed(line)
                if row is None:
                    where = f"line {number} of {self.folder / RESULTS}"
                    raise AgentforceInputError(f"results: {where} is not a row of a batch.")
                yield row

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the results of an earlier read."""
        body = self._ask(lambda: self._storage.read(TRACES)) or b""
        return filter(None, map(_parsed, body.splitlines()))

    def write(self, sought: list[_Sought], messages: _FoundMessages, *, over: bool) -> None:
        """Write the traces, and resolve the rows whose message was found."""
        lines = [one.line for one in sought if one.line is not None]
        self._ask(lambda: self._storage.write(TRACES, lambda: map(_encoded, lines)))
        doubts = {number: doubt for one in sought for number, doubt in one.doubts.items() if doubt.found}
        news = {number for number, one in doubts.items() if over or one.settled or not one.noted}
        if not news:
            return
        # Some stores truncate a file before anything is written to it, so the rows are saved first.
        with tempfile.TemporaryFile() as aside:
            for number, row in enumerate(self.rows()):
                if number in news and row.get("status") == UNKNOWN:
                    row = _found(row, doubts[number], messages, over=over)  # noqa: PLW2901 - the same row, resolved
                aside.write(_encoded(row))
            self._ask(lambda: self._storage.write(RESULTS, lambda: _again(aside)))
        for number in news:
            doubts[number].noted = True
        self._ask(lambda: rewrite_tables(self._storage))

    def _ask(self, call: Callable[[], Any]) -> Any:
        hint = "The next try reads again; nothing is sent."
        return guarded(call, f"The results in {self.folder} cannot be used", hint)


def _found(row: dict[str, Any], doubt: _Doubt, messages: _FoundMessages, *, over: bool) -> dict[str, Any]:
    """Return the row of a message that was delivered: with its answer, without it, or still unknown."""
    found = None if doubt.place is None else messages.get(doubt.place)
    answer = found.answer if found is not None else None
    read = f" What could be read: {one_line(answer)}" if answer and not doubt.settled else ""
    resolution = {
        "by": _TRACE,
        "acted": True,
        "answer": None,
        "user": None,
        "at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "note": f"The message is in the org's trace of its session.{read or f' {trace_lookup.NO_KIND}'}",
    }
    if not (doubt.settled or over):
        return {**row, "applied": True, "resolution": resolution}
    outcome = ANSWERED if doubt.settled else ANSWER_LOST
    return {
        **row,
        "status": outcome,
        "outcome": outcome,
        "text": answer if doubt.settled else "",
        "earlier_answers": _earlier_answers(row),
        "sequence_id": doubt.position,
        "error": None,
        "applied": True,
        "resolution": {**resolution, "answer": "recovered" if doubt.settled else "lost"},
    }


def _earlier_answers(row: dict[str, Any]) -> list[str]:
    earlier = list(row.get("earlier_answers") or [])
    if row.get("outcome") is not None and len(earlier) < len(row.get("earlier_requests") or []):
        # The text is that of the earlier answer: nothing of the last one was read.
        earlier.append(row.get("text") or "")
    return earlier


def _line(
    trace: SessionTrace,
    *,
    found: bool = False,
    complete: bool = False,
    note: str | None = None,
    rate: float | None = None,
) -> dict[str, Any]:
    values = trace.to_dict()
    price = None if rate is None else rate * len(trace.actions)
    about = {"session_id": trace.session_id, "found": found, "complete": complete, "note": note}
    return {**about, **values, "credits": price}


def _again(file: IO[bytes]) -> IO[bytes]:
    file.seek(0)
    return file


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _encoded(value: Any) -> bytes:
    return _ENCODER.encode(storable(value)).encode("utf-8") + b"\n"


def _seconds(moment: Any) -> float | None:
    try:
        return datetime.fromisoformat(moment).timestamp()
    except (TypeError, ValueError):
        return None
