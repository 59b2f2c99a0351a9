"""The version of the agent that answered in a batch, and the reaction if another one is published meanwhile.

The org only reports which version is active now. A row therefore names a version if a read before its session
started and a read after it returned the same one; otherwise it names none. The version is read when a try
begins, every minute, and at the end.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_provider_agentforce.batch.results import SKIPPED, Row
from airflow_provider_agentforce.exceptions import AgentforceError, AgentforceInputError, BatchFailedError

if TYPE_CHECKING:
    from airflow_provider_agentforce.batch.checkpoint import Checkpoint
    from airflow_provider_agentforce.batch.options import Options
    from airflow_provider_agentforce.client.client import AgentforceClient

log = logging.getLogger(__name__)

MARK, STOP = "mark", "stop"
_NOTE = "agent_version.json"
_LOOK_SECONDS = 10.0
_HINT = "Give the Run As user access to the agent (BotDefinition, BotVersion), and the app the scope api."


class VersionLookup(NamedTuple):
    """The result of one read of the version.

    :param began: when it began, in seconds of a monotonic clock.
    :param ended: when it ended, of the same clock.
    :param at: wall-clock time at which it began.
    :param version: id of the active version, ``None`` if there is none or it cannot be read.
    :param error: the reason if there is none.
    :param hint: what to do about it.
    :param stops_all: whether no session can start for the same reason.
    """

    began: float
    ended: float
    at: float
    version: str | None
    error: str = ""
    hint: str = _HINT
    stops_all: bool = False


def version_reader(client: AgentforceClient, agent_id: str) -> Callable[[], VersionLookup]:
    """Return a function that reads an agent's version."""

    def look() -> VersionLookup:
        began, at = time.monotonic(), time.time()
        version: str | None = None
        facts: dict[str, Any] = {}
        try:
            found = client.within(_LOOK_SECONDS).find_agents(agent_id)
            version = found[0].version if len(found) == 1 else None
            if version is None:
                facts["error"] = f"{client.settings.host} shows no active version of {agent_id}."
        except AgentforceError as caught:
            facts = {"error": caught.what, "hint": caught.hint, "stops_all": caught.operation == "token"}
        except Exception as caught:
            log.exception("Reading the agent's version failed.")
            facts["error"] = f"Unexpected {type(caught).__name__}."
        return VersionLookup(began, time.monotonic(), at, version, **facts)

    return look


def versions_of(
    client: AgentforceClient, checkpoint: Checkpoint, options: Options, *, task: str | None, cycle: int
) -> AgentVersions:
    """Return the versions of the agent that a batch asks, after the first read.

    :param task: the task that continues the batch, if it is not the one that began it.
    :param cycle: changes when the task is cleared.
    :raises AgentforceInputError: if the batch must stop at a change that it could not detect.
    """
    look, pause = version_reader(client, str(options.start.agent_id)), client.timing.version_pause
    versions = AgentVersions(
        checkpoint, look, pause=pause, stops=options.on_agent_change == STOP, task=task, cycle=cycle
    )
    versions.begin()
    return versions


@dataclass
class _Seen:
    """A version that several consecutive reads returned. Times are seconds of a monotonic clock.

    :param since: when the first of them ended.
    :param until: when the last of them began.
    """

    version: str | None
    since: float
    until: float


class AgentVersions:
    """The versions of the agent during one try at a batch.

    :param look: reads the version, which may take a while.
    :param pause: seconds between two reads.
    :param stops: ask nothing more after the version has changed.
    :param task: the task that continues the batch, if it is not the one that began it.
    :param cycle: changes when the task is cleared; the batch then continues with the version of that time.
        A task that continues the batch of another one expects the version of that one.
    :ivar changed: the expected version and a different one that was read, ``None`` while there is only one.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        look: Callable[[], VersionLookup],
        *,
        pause: float,
        stops: bool = False,
        task: str | None = None,
        cycle: int = 0,
    ) -> None:
        self.changed: tuple[str, str] | None = None
        self._checkpoint = checkpoint
        self._look = look
        self._pause = pause
        self._stops = stops
        self._try = {"task": task, "cycle": cycle}
        self._seen: list[_Seen] = []
        self._note: dict[str, Any] = {}
        self._due = 0.0
        self._looking = False
        self._looks: queue.SimpleQueue[VersionLookup] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # By position: the version of a row that no later read has confirmed, and its session's start.
        self._unconfirmed: dict[int, tuple[str, float]] = {}
        # Positions of rows whose version is not certain.
        self._doubtful: set[int] = set()
        self._warned = False
        # The number of rows that name no version because it changed.
        self._uncertain = 0

    @property
    def must_stop(self) -> bool:
        """Whether nothing more may be asked."""
        return self._stops and self.changed is not None

    @property
    def current(self) -> str | None:
        """The version of the last read, ``None`` if there was none."""
        return self._seen[-1].version if self._seen else None

    def judge(self, manifest: dict[str, Any]) -> None:
        """Fail the task if records were not asked because the version has changed.

        :raises BatchFailedError: it names the versions.
        """
        skipped, uncertain = manifest["counts"].get(SKIPPED, 0), self._uncertain
        if self.must_stop and self.changed is not None and (skipped or uncertain):
            raise BatchFailedError(
                f"The agent has changed from version {self.changed[0]} to {self.changed[1]}; {skipped} of "
                f"{manifest['records']} records were not asked, and {uncertain} may have been answered by "
                f"either version. Results: {manifest['results']}.",
                hint="Clear the task to ask the version that is active then about the rest.",
                manifest=manifest,
                retryable=False,
            )

    def summary(self) -> dict[str, Any]:
        """Return the versions for the manifest."""
        return {"agent_version": self.all[0] if len(self.all) == 1 else None, "agent_versions": self.all}

    @property
    def all(self) -> list[str]:
        """All versions that were read since the batch began, in order."""
        return list(self._note.get("versions", ()))

    def begin(self) -> None:
        """Read the version, and correct rows that an earlier try left unconfirmed.

        :raises AgentforceInputError: if the batch must stop at a change that it could not detect.
        """
        note, look = self._checkpoint.read_note(_NOTE), self._look()
        rows = self._checkpoint.rows
        if self._stops and look.version is None and rows.counts.total() < len(rows):
            raise AgentforceInputError(
                f'on_agent_change="stop": the version of the agent cannot be read. {look.error}',
                hint=look.hint,
            )
        if note and note["version"] != look.version:
            self._doubtful.update(self._rows_since(note["at"], look.version))
        cleared = note.get("task") == self._try["task"] and note.get("cycle") != self._try["cycle"]
        self._note = {**note, **self._try, "expected": None if cleared else note.get("expected")}
        self._take(look)

    def marked(self, row: Row, position: int, began: float, ended: float) -> Row:
        """Name in a row the version that answered, as far as it is known, and return it. Thread-safe.

        :param began: when the start of its session began, in seconds of the monotonic clock.
        :param ended: when that start ended.
        """
        with self._lock:
            for seen in reversed(self._seen):
                if began >= seen.since:
                    break
            else:
                return row
            if seen.version is None or (ended > seen.until and seen is not self._seen[-1]):
                return row
            if ended > seen.until:
                self._unconfirmed[position] = seen.version, ended
        row.agent_version = seen.version
        return row

    def look_when_due(self) -> None:
        """Read the version again if the last read is a minute old, without waiting for the result."""
        if self._doubtful:
            self._correct()
        if self._looking and not self._looks.empty():
            self._take(self._looks.get())
        elif not self._looking and time.monotonic() >= self._due:
            self._looking = True
            threading.Thread(target=lambda: self._looks.put(self._look()), daemon=True).start()

    def finish(self) -> None:
        """Read the version a last time, and correct the rows whose version is not certain. Call it when
        nothing is being asked.
        """
        if self._looking:
            self._take(self._looks.get())
        if self._unconfirmed:
            self._take(self._look())
        self._doubtful.update(self._unconfirmed)
        self._unconfirmed.clear()
        self._correct()

    def _take(self, look: VersionLookup) -> None:
        self._looking, self._due = False, time.monotonic() + self._pause
        before = self.current
        with self._lock:
            if self._seen and before == look.version:
                self._seen[-1].until = look.began
            else:
                self._seen.append(_Seen(look.version, look.ended, look.began))
            if look.version is not None:
                self._confirm(look)
        if look.version is None:
            self._warn_once(look)
            return
        self._correct()
        self._compare(look.version)
        versions = [*self.all, *([look.version] if look.version not in self.all[-1:] else [])]
        self._note |= {"version": look.version, "at": look.at, "versions": versions}
        self._checkpoint.write_note(_NOTE, self._note)

    def _confirm(self, look: VersionLookup) -> None:
        for position, (version, started) in list(self._unconfirmed.items()):
            if version != look.version:
                self._doubtful.add(position)
            elif started > look.began:
                continue
            del self._unconfirmed[position]

    def _compare(self, version: str) -> None:
        expected = self._note["expected"] = self._note["expected"] or version
        if version != expected and (self.changed is None or self.changed[1] != version):
            self.changed = expected, version
            log.warning(
                "The agent has changed during the batch: version %s is active now, and %s was when it "
                "began.%s",
                version,
                expected,
                " Nothing more is asked." if self._stops else " Each row names the version that answered.",
            )

    def _warn_once(self, look: VersionLookup) -> None:
        # If no session can start for the same reason, the batch's own error says so.
        if not self._warned and not look.stops_all:
            self._warned = True
            log.warning("The agent's version is not known, and rows name none: %s %s", look.error, look.hint)

    def _correct(self) -> None:
        """Remove the version from rows where it is not certain."""
        checkpoint, rows = self._checkpoint, self._checkpoint.rows
        written = [position for position in self._doubtful if rows.status(position) is not None]
        if not written:
            return
        # Rows that are not written yet cannot be read.
        checkpoint.flush()
        for position in written:
            line, record = checkpoint.line_at(position)
            row = Row.from_line(line)
            if row.agent_version is not None and row.reused_from is None:
                question = rows.question(position)
                checkpoint.settle(str(row.key), replace(row, agent_version=None), record, question)
                self._uncertain += 1
            self._doubtful.discard(position)
        checkpoint.flush()
        log.warning(
            "The agent's version of %d rows is not certain, because it changed or could not be read at the "
            "time; they name none.",
            len(written),
        )

    def _rows_since(self, at: float, version: str | None) -> list[int]:
        """Return the positions of rows whose version no read since *at* confirms."""
        rows, found = self._checkpoint.rows, []
        for position in range(len(rows)):
            if rows.status(position) is None or not rows.attempts(position):
                continue
            row = Row.from_line(self._checkpoint.row_at(position))
            if row.agent_version in {None, version} or row.started_at is None:
                continue
            if datetime.fromisoformat(row.started_at).timestamp() + row.duration > at:
                found.append(position)
        return found
