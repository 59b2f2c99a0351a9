"""Merges the results of all shards of a batch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

from airflow_provider_agentforce.batch.agreement import Agreement
from airflow_provider_agentforce.batch.output import (
    AGREEMENT,
    DEAD_LETTER,
    RESULTS,
    WrittenTables,
    result_lines,
)
from airflow_provider_agentforce.batch.reader import read_records
from airflow_provider_agentforce.batch.results import STATUSES
from airflow_provider_agentforce.batch.sample import joined_samples
from airflow_provider_agentforce.batch.shard import Shard
from airflow_provider_agentforce.batch.sources import Source, source_of
from airflow_provider_agentforce.batch.storage import CHECKPOINT, Storage, guarded, lines_in, storage_of
from airflow_provider_agentforce.batch.table import Line, Table
from airflow_provider_agentforce.exceptions import AgentforceInputError, shown

_SUMS = ("records", "sessions", "messages", "resolved", "reused")
_MISSING = object()
# The types of the values of a shard's manifest.
_KINDS: dict[str, Any] = {
    "shard": str,
    "result_path": str,
    "dead_letter": str | None,
    "counts": Mapping,
    "duration": int | float,
    "sample": Mapping | None,
    "agreement": Mapping | None,
    "agent_id": str | None,
    "agent_versions": list | tuple,
    **dict.fromkeys(_SUMS, int),
}


def merge(
    manifests: Iterable[Any],
    path_of: Callable[[str], Any],
    storage_of: Callable[[Any], Storage] = storage_of,
) -> dict[str, Any]:
    """Write the results of all shards into the folder of their batch, and return its manifest.

    Rows are in the order of the shards. Only one row at a time is in memory.

    :param manifests: manifests of the shards.
    :param path_of: returns the path object of a URI.
    :raises AgentforceInputError: if they are not all shards of one batch, each once.
    :raises LedgerError: if a file cannot be read or written.
    """
    parts = _in_order(manifests)
    folders = [path_of(str(part["result_path"])) for part in parts]
    dead = [source_of(None, path_of(uri)) for part in parts if (uri := part["dead_letter"])]
    parent = folders[0].parent
    storage = storage_of(parent)
    failure = f"The results in {parent} cannot be merged"
    shards = list(zip(map(storage_of, folders), parts, strict=True))
    made = [guarded(partial(_tables_of, shard, part), failure) for shard, part in shards]
    tables = guarded(_Merger(storage, [shard for shard, _ in shards], made).write, failure)
    dead_letter = guarded(lambda: _write_dead_letter(dead, storage), failure)
    twice = [shard for shard, part in shards if part["agreement"]]
    agreement = guarded(lambda: _write_agreement(twice, storage), failure)
    return {
        "result_path": str(parent),
        "results": str(parent / RESULTS),
        "tables": {form: str(parent / name) for form, name in tables.items()},
        "plan": None,
        "dead_letter": dead_letter and str(parent / dead_letter),
        **_totals(parts),
        "sample": joined_samples(part["sample"] for part in parts),
        "agreement": agreement and {**agreement, "results": str(parent / AGREEMENT)},
        "shard": None,
        **_versions(parts),
    }


def _in_order(manifests: Iterable[Any]) -> list[Mapping[str, Any]]:
    """Return the manifests of all shards in order."""
    by_shard = _by_shard(manifests)
    of = max(shard.of for shard in by_shard)
    shards = [Shard(number, of) for number in range(of)]
    missing = [str(one) for one in shards if one not in by_shard]
    folders = {str(one["result_path"]).rpartition("/")[0] for one in by_shard.values()}
    if missing or len(by_shard) > of or len(folders) > 1:
        what = f"shard {', '.join(missing[:10])} is missing" if missing else "they are of several batches"
        raise AgentforceInputError(f"manifests must be those of all shards of one batch, but {what}.")
    return [by_shard[one] for one in shards]


def _by_shard(manifests: Iterable[Any]) -> dict[Shard, Mapping[str, Any]]:
    if isinstance(manifests, str | Mapping) or not isinstance(manifests, Iterable):
        raise AgentforceInputError(
            f"manifests must be the output of a batch mapped over shards(n), but is {shown(manifests)}."
        )
    by_shard = {_shard_of(manifest): manifest for manifest in manifests}
    if not by_shard:
        raise AgentforceInputError("manifests is empty. Give the output of a batch mapped over shards(n).")
    return by_shard


def _shard_of(manifest: Any) -> Shard:
    known = manifest if isinstance(manifest, Mapping) else {}
    if not all(isinstance(known.get(name, _MISSING), kind) for name, kind in _KINDS.items()):
        raise AgentforceInputError(
            "manifests must be those of a batch that was mapped over shards(n): give its output."
        )
    return Shard.read(known["shard"])


def _versions(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    versions = list(dict.fromkeys(chain.from_iterable(part["agent_versions"] for part in parts)))
    return {
        "agent_id": parts[0]["agent_id"],
        "agent_version": versions[0] if len(versions) == 1 else None,
        "agent_versions": versions,
    }


def _totals(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part["counts"])
    return {
        **{name: sum(part[name] for part in parts) for name in _SUMS},
        "counts": {status: counts[status] for status in STATUSES if counts[status]},
        "duration": max(part["duration"] for part in parts),
    }


class _Merger:
    """Writes the rows of all shards as one file and its tables."""

    def __init__(self, storage: Storage, shards: Sequence[Storage], tables: Sequence[WrittenTables]) -> None:
        self._storage = storage
        self._shards = shards
        self._tables = tables

    def write(self) -> dict[str, str]:
        """Write all, and return the name of each table by its format."""
        made = self._tables
        tables = WrittenTables(Table.joined(one.table for one in made), made[0].formats, made[0].bom)
        self._storage.write(RESULTS, self._joined)
        tables.write(self._storage, self._lines)
        return {form: f"results.{form}" for form in tables.formats}

    def _joined(self) -> Iterator[bytes]:
        for shard in self._shards:
            with shard.open(RESULTS) as file:
                yield from lines_in(file)

    def _lines(self) -> Iterator[Line]:
        return chain.from_iterable(map(result_lines, self._shards))


def _tables_of(shard: Storage, part: Mapping[str, Any]) -> WrittenTables:
    """Return the tables of a shard whose folder has all rows of its manifest."""
    tables, rows = WrittenTables.of(shard), _rows_in(shard)
    if tables is not None and rows == part["records"]:
        return tables
    found = f"it has {rows:,} of {part['records']:,} rows" if tables else f"it has no {CHECKPOINT}"
    raise AgentforceInputError(
        f"The folder {part['result_path']} does not have the results of shard {part['shard']}: {found}. "
        "Clear the task of that shard: it writes its results again."
    )


def _rows_in(shard: Storage) -> int:
    try:
        with shard.open(RESULTS) as file:
            # A row that is cut off has no line end.
            return sum(line.endswith(b"\n") for line in lines_in(file))
    except FileNotFoundError:
        return 0


def _write_dead_letter(sources: Sequence[Source], storage: Storage) -> str | None:
    """Write the records of all dead letters as one, in the form of the input, and return its name."""
    for suffix in (".jsonl", ".csv"):
        storage.remove(f"{DEAD_LETTER}{suffix}")
    if not sources:
        return None
    first = sources[0]
    name = f"{DEAD_LETTER}{first.suffix}"
    storage.write(
        name,
        lambda: first.encode(record.line() for source in sources for record in read_records(source, None)),
    )
    return name


def _write_agreement(shards: Sequence[Storage], storage: Storage) -> dict[str, Any] | None:
    """Merge the answers of records that were asked twice into one file; return how often they agree."""
    if not shards:
        storage.remove(AGREEMENT)
        return None

    def lines() -> Iterator[bytes]:
        for shard in shards:
            with shard.open(AGREEMENT) as file:
                yield from lines_in(file)

    agreement = Agreement()
    for fields in (json.loads(line)["fields"] for line in lines()):
        if fields is not None:
            agreement.add(fields)
    storage.write(AGREEMENT, lines)
    return agreement.to_dict()
