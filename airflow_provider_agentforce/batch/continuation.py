"""Lets a second task continue a batch of which a first task has asked a sample.

The folder belongs to one batch, which its checkpoint identifies by the first task. Beside the checkpoint are
three notes: what the batch asks, so that the second task need not repeat it; the manifest of a try that has
ended; and the task that continues the batch. The last one is written before the second task asks anything.
From then on the first task only returns its manifest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from airflow_provider_agentforce.batch.checkpoint import HEADER, changed_fingerprints
from airflow_provider_agentforce.batch.notes import Notes
from airflow_provider_agentforce.batch.parts import unreadable_file
from airflow_provider_agentforce.batch.storage import CHECKPOINT, Storage
from airflow_provider_agentforce.exceptions import AgentforceInputError

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_BEGUN = "begun.json"
_FINISHED = "finished.json"
_CONTINUED = "continued.json"


@dataclass(frozen=True)
class Handover:
    """What the first task leaves for the one that continues.

    :param identity: identifies the batch, in addition to its input, messages and agent.
    :param arguments: what it asks, as JSON.
    :param question: hash of the first question that it asks, as rendered.
    """

    identity: dict[str, str]
    arguments: dict[str, Any]
    question: str = ""


@dataclass(frozen=True)
class Continued:
    """The task that continues a batch.

    :param by: the task instance, the same for each of its tries.
    :param identity: identity of the batch.
    :param manifest: manifest of the first task.
    """

    by: str
    identity: dict[str, str]
    manifest: dict[str, Any]


class Continuation:
    """The notes that pass a batch from one task to another.

    Methods raise :class:`.LedgerError` if the store is not available.

    :param notes: the notes in the checkpoint's folder.
    :param shown: the results folder as the user gave it.
    """

    def __init__(self, notes: Notes, shown: Any) -> None:
        self._notes = notes
        self._shown = str(shown)

    @classmethod
    def of(cls, folder: Any, storage_of: Callable[[Any], Storage]) -> Continuation:
        """Return the continuation of the batch whose results are in *folder*."""
        return cls(Notes(storage_of(folder / CHECKPOINT), folder), folder)

    def begin(self, handover: Handover) -> None:
        """Store what the batch asks, and that it has not ended."""
        self._notes.remove(_FINISHED)
        self._notes.write(_BEGUN, asdict(handover))

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Record that every record of the sample has its row."""
        self._notes.write(_FINISHED, dict(manifest))

    def handover(self, needed: Collection[str]) -> Handover:
        """Return what the first task left.

        :param needed: the names of its arguments.
        :raises AgentforceInputError: if there is no batch to continue.
        """
        kept = self._notes.read(_BEGUN)
        if kept is None:
            raise AgentforceInputError(
                f"continue_from: {self._shown} has no batch of a task with a sample, or its _ledger/ was "
                "deleted. Give the output of a task with sample=; if it is gone, let that task run again."
            )
        handover = _as(Handover, kept, _BEGUN)
        parts: list[tuple[Any, Collection[str]]] = [
            (handover.identity, ["connection"]),
            (handover.arguments, needed),
        ]
        if not all(isinstance(part, dict) and part.keys() >= set(names) for part, names in parts):
            raise unreadable_file(_BEGUN)
        return handover

    def manifest(self, identity: dict[str, str], fingerprints: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the manifest of the first task if another one continues its batch, else ``None``.

        :param fingerprints: hashes of what the first task would ask now.
        :raises AgentforceInputError: if that differs from what the other one asks.
        """
        continued = self._continued(identity)
        if continued is None:
            return None
        changed = changed_fingerprints(self._notes.read(HEADER) or {}, fingerprints)
        if changed:
            raise AgentforceInputError(
                f"result_path: the task {continued.by} continues the batch in {self._shown}, and this "
                f"one is not the same. What differs: {', '.join(changed)}. Choose another folder, such as "
                "one with {{ run_id }} in its name."
            )
        log.info("The task %s continues this batch; nothing more is asked here.", continued.by)
        return continued.manifest

    def _continued(self, identity: Mapping[str, str]) -> Continued | None:
        """Return the task that continues the batch of this identity, ``None`` if there is none."""
        kept = self._notes.read(_CONTINUED)
        continued = None if kept is None else _as(Continued, kept, _CONTINUED)
        return continued if continued and continued.identity == identity else None

    def take_over(self, by: str, handover: Handover, fingerprints: Mapping[str, str]) -> None:
        """Make *by* the task that continues the batch.

        :param handover: the batch, with the first question as *by* renders it.
        :param fingerprints: hashes of the batch as *by* sees it.
        :raises AgentforceInputError: if that is another batch, or it has not ended, or another task continues
            it.
        """
        continued = self._continued(handover.identity)
        if continued is not None and continued.by != by:
            raise AgentforceInputError(
                f"continue_from: the task {continued.by} already continues the batch in {self._shown}, "
                "and only one can."
            )
        changed = changed_fingerprints(self._notes.read(HEADER) or {}, fingerprints)
        if changed:
            raise AgentforceInputError(
                f"continue_from: {self._shown} has another batch. What differs: {', '.join(changed)}. "
                "Leave these arguments out or give the values of the first task, or let that task ask its "
                "sample again in another folder."
            )
        if continued is not None:
            return
        first = (self._notes.read(_BEGUN) or {}).get("question")
        if first and handover.question and first != handover.question:
            raise AgentforceInputError(
                "continue_from: the first message or its variables differ from those of the first task, "
                "although the templates are the same: they also contain a value that has changed, such as "
                "params, a Variable, the time or the name of the task. Put such values into the records."
            )
        manifest = self._notes.read(_FINISHED)
        if manifest is None:
            raise AgentforceInputError(
                f"continue_from: the batch in {self._shown} has not ended. Its task is still running or "
                "was cut off; let it finish first."
            )
        self._notes.write(_CONTINUED, asdict(Continued(by, handover.identity, manifest)))


def _as(kind: Callable[..., _T], kept: dict[str, Any], name: str) -> _T:
    """Return the contents of a note.

    :raises LedgerError: if another program has written it.
    """
    try:
        return kind(**kept)
    except TypeError:
        raise unreadable_file(name) from None
