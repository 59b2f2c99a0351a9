"""The folder of a batch that several tasks share, with one folder for each shard in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from airflow_provider_agentforce.batch.shard import Shard
from airflow_provider_agentforce.batch.storage import CHECKPOINT, Storage, guarded
from airflow_provider_agentforce.exceptions import AgentforceInputError


def check_split(folder: Any, shard: Shard | None, storage_of: Callable[[Any], Storage]) -> None:
    """Refuse the folder of a batch that is divided differently, or not at all.

    :param folder: path object of the batch's folder, which contains that of each shard.
    :param shard: ``None`` for a batch that is not divided.
    :raises AgentforceInputError: the other batch would have asked the same records.
    :raises LedgerError: if it cannot be read.
    """
    names = guarded(lambda: _names(storage_of(folder)), f"The folder {folder} cannot be read")
    of = None if shard is None else shard.of
    before: set[int | None] = {one.of for one in shards_in(folder, names, storage_of)}
    if CHECKPOINT in names:
        before.add(None)
    for other in before - {of}:
        held, again = ("a batch without shards", "no shard") if other is None else _described(other)
        raise AgentforceInputError(
            f"result_path: {folder} has the results of {held}. Divided differently, records would belong to "
            f"tasks that do not know of them, and be asked twice. Use {again} again, or choose another "
            "result_path."
        )


def _described(of: int) -> tuple[str, str]:
    return f"{of} shards", f"shards({of})"


def shards_in(folder: Any, names: Iterable[str], storage_of: Callable[[Any], Storage]) -> list[Shard]:
    """Return the shards that have begun.

    :param names: names in the folder of the batch.
    """
    found = sorted(
        (shard for name in names if (shard := Shard.of_folder(name))), key=lambda one: (one.of, one.number)
    )
    return [one for one in found if CHECKPOINT in _names(storage_of(folder / one.folder))]


def _names(storage: Storage) -> list[str]:
    try:
        return storage.names()
    except NotADirectoryError:  # an empty folder in some stores, or a file, for which the first write fails
        return []
