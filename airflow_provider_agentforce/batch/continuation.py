"""How a second task goes on with a batch of which a first one has asked a sample.

The folder belongs to one batch, which its checkpoint knows by the first task. Beside the checkpoint stand
three notes: what the batch asks, so that the second task need not be given it again; the manifest of a try
that came to its end; and who goes on with the batch. That one is written before the second task asks
anything. From then on the first task only returns its manifest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from airflow_provider_agentforce.batch.checkpoint import HEADER, changed_marks
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
class Begun:
    """What the first task leaves for the one that goes on.

    :param identity: what makes the batch this one, beside its input, messages and agent.
    :param arguments: what it asks, in JSON's form.
    """

    identity: dict[str, str]
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Continued:
    """Who goes on with a batch.

    :param by: the task instance, the same for each of its tries.
    :param identity: of the batch.
    :param manifest: of the first task.
    """

    by: str
    identity: dict[str, str]
    manifest: dict[str, Any]


class Continuation:
    """The notes by which a batch goes from one task to another.

    Methods raise :class:`.LedgerError` when the store is away.

    :param notes: in the checkpoint's folder.
    :param shown: the folder of the results as people know it.
    """

    def __init__(self, notes: Notes, shown: Any) -> None:
        self._notes = notes
        self._shown = str(shown)

    @classmethod
    def of(cls, folder: Any, storage_of: Callable[[Any], Storage]) -> Continuation:
        """Return that of the batch whose results are in *folder*."""
        return cls(Notes(storage_of(folder / CHECKPOINT), folder), folder)

    def begin(self, begun: Begun) -> None:
        """Keep what the batch asks, and that it has not come to its end."""
        self._notes.remove(_FINISHED)
        self._notes.write(_BEGUN, asdict(begun))

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Note that every record of the sample has its row."""
        self._notes.write(_FINISHED, dict(manifest))

    def begun(self) -> Begun:
        """Return what the first task has left.

        :raises AgentforceInputError: if there is no batch to go on with.
        """
        kept = self._notes.read(_BEGUN)
        if kept is None:
            raise AgentforceInputError(
                f"continue_from: {self._shown} holds no batch of a task with a sample, or its _ledger/ was "
                "deleted. Give the output of a task with sample=; if it is gone, let that task run again."
            )
        return _as(Begun, kept, _BEGUN)

    def manifest(self, identity: dict[str, str], marks: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the manifest of the first task if another one goes on with its batch, else ``None``.

        :param marks: of what the first task would ask now.
        :raises AgentforceInputError: if that is not what the other one asks.
        """
        continued = self._continued(identity)
        if continued is None:
            return None
        changed = changed_marks(self._notes.read(HEADER) or {}, marks)
        if changed:
            raise AgentforceInputError(
                f"result_path: the task {continued.by} goes on with the batch in {self._shown}, and this "
                f"one is another; not the same: {', '.join(changed)}. Choose another folder, such as one "
                "with {{ run_id }} in its name."
            )
        log.info("The task %s goes on with this batch; nothing more is asked here.", continued.by)
        return continued.manifest

    def _continued(self, identity: Mapping[str, str]) -> Continued | None:
        """Return who goes on with the batch of this identity, ``None`` if no other task does."""
        kept = self._notes.read(_CONTINUED)
        continued = None if kept is None else _as(Continued, kept, _CONTINUED)
        return continued if continued and continued.identity == identity else None

    def take_over(self, by: str, identity: dict[str, str], marks: Mapping[str, str]) -> None:
        """Make *by* the task that goes on with the batch.

        :param identity: of the batch.
        :param marks: of the batch as *by* sees it.
        :raises AgentforceInputError: if that is another batch, or this one has not come to its end, or
            another task goes on with it.
        """
        continued = self._continued(identity)
        if continued is not None and continued.by != by:
            raise AgentforceInputError(
                f"continue_from: the task {continued.by} goes on with the batch in {self._shown} already, "
                "and only one can."
            )
        changed = changed_marks(self._notes.read(HEADER) or {}, marks)
        if changed:
            raise AgentforceInputError(
                f"continue_from: {self._shown} holds another batch; not the same: {', '.join(changed)}. "
                "Leave out what the first task was given, or give the same."
            )
        if continued is not None:
            return
        manifest = self._notes.read(_FINISHED)
        if manifest is None:
            raise AgentforceInputError(
                f"continue_from: the batch in {self._shown} has not come to its end. Its task still runs or "
                "was cut short; let it finish first."
            )
        self._notes.write(_CONTINUED, asdict(Continued(by, identity, manifest)))


def _as(kind: Callable[..., _T], kept: dict[str, Any], name: str) -> _T:
    """Return what a note holds.

    :raises LedgerError: if another program has written it.
    """
    try:
        return kind(**kept)
    except TypeError:
        raise unreadable_file(name) from None
