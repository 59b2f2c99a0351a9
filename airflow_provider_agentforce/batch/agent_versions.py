"""Which version of the agent answered in a batch, and what follows when another one is published meanwhile.

The org tells only which version is active now. So a row names a version when a look before its session
started and a look after it saw the same one; otherwise it names none. Looks happen when a try begins, every
minute, and when all is asked.
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
_MAY_SEE = "Let the Run As user see the agent (BotDefinition, BotVersion), and give the app the scope api."


class Look(NamedTuple):
    """What one look has found.

    :param began: seconds of a monotonic clock, as *ended*.
    :param at: wall-clock time at which it began.
    :param version: id of the active version, ``None`` if there is none or it cannot be read.
    :param error: why there is none.
    """

    began: float
    ended: float
    at: float
    version: str | None
    error: str = ""


def looks_at(client: AgentforceClient, agent_id: str) -> Callable[[], Look]:
    """Return a function that looks at an agent."""

    def look() -> Look:
        began, at, version, error = time.monotonic(), time.time(), None, ""
        try:
            found = client.within(_LOOK_SECONDS).find_agents(agent_id)
            version = found[0].version if len(found) == 1 else None
            error = "" if version else f"{client.settings.host} shows no active version of {agent_id}."
        except AgentforceError as caught:
            error = caught.what
        except Exception as caught:
            log.exception("Looking at the agent failed.")
            error = f"Unexpected {type(caught).__name__}."
        return Look(began, time.monotonic(), at, version, error)

    return look


def versions_of(
    client: AgentforceClient, checkpoint: Checkpoint, options: Options, *, cycle: int
) -> AgentVersions:
    """Return the versions of the agent that a batch asks, with the first look behind them.

    :param cycle: changes with a person's clear.
    :raises AgentforceInputError: if the batch is to stop at a change that it could not see.
    """
    look, pause = looks_at(client, str(options.start.agent_id)), client.timing.version_pause
    versions = AgentVersions(
        checkpoint, look, pause=pause, stops=options.on_agent_change == STOP, cycle=cycle
    )
    versions.begin()
    return versions


@dataclass
class _Seen:
    """A version that several looks one after the other have seen.

    :param since: when the first of them ended.
    :param until: when the last of them began.
    """

    version: str | None
    since: float
    until: float


class AgentVersions:
    """The versions of the agent during one try at a batch.

    :param look: has a look at the agent, which takes its time.
    :param pause: seconds between two looks.
    :param stops: ask nothing more once the version has changed.
    :param cycle: changes with a person's clear; then the version of that time is the one to go on with.
    :ivar changed: the first version and another one that was seen, ``None`` while there is only one.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        look: Callable[[], Look],
        *,
        pause: float,
        stops: bool = False,
        cycle: int = 0,
    ) -> None:
        self.changed: tuple[str, str] | None = None
        self._checkpoint = checkpoint
        self._look = look
        self._pause = pause
        self._stops = stops
        self._cycle = cycle
        self._seen: list[_Seen] = []
        self._note: dict[str, Any] = {}
        self._due = 0.0
        self._looking = False
        self._looks: queue.SimpleQueue[Look] = queue.SimpleQueue()
        self._lock = threading.Lock()
        # By position: the version that a row names and no later look has confirmed, and its session's start.
        self._unconfirmed: dict[int, tuple[str, float]] = {}
        # Positions of rows that name a version which is not certain.
        self._doubtful: set[int] = set()
        self._said = False

    @property
    def must_stop(self) -> bool:
        """Whether nothing more is to be asked."""
        return self._stops and self.changed is not None

    @property
    def current(self) -> str | None:
        """The version that the last look saw, ``None`` if it saw none."""
        return self._seen[-1].version if self._seen else None

    def judge(self, manifest: dict[str, Any]) -> None:
        """Fail the task if records were not asked since the version has changed.

        :raises BatchFailedError: it names the versions.
        """
        skipped = manifest["counts"].get(SKIPPED, 0)
        if self.must_stop and self.changed is not None and skipped:
            raise BatchFailedError(
                f"The agent has changed from version {self.changed[0]} to {self.changed[1]}; {skipped} of "
                f"{manifest['records']} records were not asked. Results: {manifest['results']}.",
                hint="Clear the task to ask the rest of the version that is active then.",
                manifest=manifest,
                retryable=False,
            )

    def summary(self) -> dict[str, Any]:
        """Return what the manifest says of the versions."""
        return {"agent_version": self.all[0] if len(self.all) == 1 else None, "agent_versions": self.all}

    @property
    def all(self) -> list[str]:
        """All versions that were seen since the batch began, in order."""
        return list(self._note.get("versions", ()))

    def begin(self) -> None:
        """Have the first look, and correct rows that an earlier try left unconfirmed.

        :raises AgentforceInputError: if the batch is to stop at a change that it could not see.
        """
        note, look = self._checkpoint.read_note(_NOTE), self._look()
        rows = self._checkpoint.rows
        if self._stops and look.version is None and rows.counts.total() < len(rows):
            raise AgentforceInputError(
                f'on_agent_change="stop": the version of the agent cannot be read. {look.error}',
                hint=_MAY_SEE,
            )
        if note and note["version"] != look.version:
            self._doubtful.update(self._rows_since(note["at"], look.version))
        expected = note.get("expected") if note.get("cycle") == self._cycle else None
        self._note = {**note, "cycle": self._cycle, "expected": expected}
        self._take(look)

    def marked(self, row: Row, position: int, began: float, ended: float) -> Row:
        """Return the row with the version that answered, as far as it is known. For all threads.

        :param began: when the start of its session began, in seconds of the monotonic clock, and *ended*.
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
        return replace(row, agent_version=seen.version)

    def look_when_due(self) -> None:
        """Have another look if the last one is a minute old, without waiting for it."""
        if self._doubtful:
            self._correct()
        if self._looking and not self._looks.empty():
            self._take(self._looks.get())
        elif not self._looking and time.monotonic() >= self._due:
            self._looking = True
            threading.Thread(target=lambda: self._looks.put(self._look()), daemon=True).start()

    def finish(self) -> None:
        """Have a last look, and correct the rows whose version is not certain. Nothing is asked meanwhile."""
        if self._looking:
            self._take(self._looks.get())
        if self._unconfirmed:
            self._take(self._look())
        self._doubtful.update(self._unconfirmed)
        self._unconfirmed.clear()
        self._correct()

    def _take(self, look: Look) -> None:
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
            self._say_once(look.error)
            return
        self._correct()
        self._compare(look.version)
        versions = [*self.all, *([look.version] if look.version not in self.all[-1:] else [])]
        self._note |= {"version": look.version, "at": look.at, "versions": versions}
        self._checkpoint.write_note(_NOTE, self._note)

    def _confirm(self, look: Look) -> None:
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
                "The agent has changed while the batch goes on: version %s is active now, and %s was when it "
                "began.%s",
                version,
                expected,
                " Nothing more is asked." if self._stops else " Each row names the version that answered.",
            )

    def _say_once(self, error: str) -> None:
        if not self._said:
            self._said = True
            log.warning("The agent's version is not known, and rows name none: %s %s", error, _MAY_SEE)

    def _correct(self) -> None:
        """Have the rows that are doubtful name no version."""
        checkpoint, rows = self._checkpoint, self._checkpoint.rows
        written = [position for position in self._doubtful if rows.status(position) is not None]
        if not written:
            return
        # What is not written yet cannot be read.
        checkpoint.flush()
        for position in written:
            line, record = checkpoint.line_at(position)
            row = Row.from_line(line)
            if row.agent_version is not None and row.reused_from is None:
                question = rows.question(position)
                checkpoint.settle(str(row.key), replace(row, agent_version=None), record, question)
            self._doubtful.discard(position)
        checkpoint.flush()
        log.warning(
            "The agent's version of %d rows is not certain, since it changed or could not be read about the "
            "time; they name none.",
            len(written),
        )

    def _rows_since(self, at: float, version: str | None) -> list[int]:
        """Return the positions of rows whose version no look since *at* confirms."""
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
