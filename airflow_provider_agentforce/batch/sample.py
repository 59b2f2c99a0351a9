"""The sample of a batch: a few records that are asked before a person decides about the rest."""

from __future__ import annotations

import heapq
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_agentforce.batch.plain_json import as_json
from airflow_provider_agentforce.batch.stable_hash import stable_hash
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line, shown

if TYPE_CHECKING:
    from airflow_provider_agentforce.batch.checkpoint import Checkpoint
    from airflow_provider_agentforce.batch.reader import Record

_MOST_SHOWN = 20
_LONGEST_TEXT = 500


@dataclass(frozen=True)
class Sample:
    """Which records of a batch are asked first.

    A hash of the keys selects them, so every try and every day selects the same ones.

    :param size: how many records.
    :param by: a field: each of its values gets its share of the sample, and at least one record while there
        is room. ``None``: records are selected regardless of their fields.
    :param seed: another number selects other records.
    :raises AgentforceInputError: for anything else.
    """

    size: int
    _: KW_ONLY
    by: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not _is_whole(self.size, least=1):
            raise validation.refusal(self.size, "sample: size", "must be a number of records from 1")
        if self.seed is not None and not _is_whole(self.seed):
            raise validation.refusal(self.seed, "sample: seed", "must be a whole number, or None")
        by: Any = self.by
        if by is not None and not (isinstance(by, str) and by):
            raise validation.refusal(by, "sample: by", "must be the name of a field")


def _is_whole(value: Any, least: float = -math.inf) -> bool:
    number = isinstance(value, int) and not isinstance(value, bool)
    return number and value >= least


def sample_of(given: Any) -> Sample | None:
    """Return the sample of an argument, ``None`` for none.

    :param given: a number of records, a :class:`Sample`, or ``None``.
    :raises AgentforceInputError: for anything else.
    """
    if given is None or isinstance(given, Sample):
        return given
    if not _is_whole(given):
        raise validation.refusal(
            given, "sample", 'must be a number of records, or Sample(20, by="a field"), or None'
        )
    return Sample(given)


class Sampler:
    """Selects the records of a sample while the input is read for the first time.

    At most the positions of ``size`` records for each value of the field ``by`` are in memory.
    """

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._purpose = "sample" if sample.seed is None else f"sample {sample.seed}"
        self._counts: Counter[str] = Counter()
        # For each group the records with the smallest hashes, as a heap with the largest of these first.
        self._smallest: dict[str, list[tuple[int, int]]] = {}
        self._last: Record | None = None
        self._has_field = sample.by is None

    def add(self, record: Record) -> None:
        """Consider the next record."""
        self._last = record
        group = self._group(record)
        self._counts[group] += 1
        heap = self._smallest.setdefault(group, [])
        place = (-stable_hash(record.name, self._purpose), record.position)
        if len(heap) < self._sample.size:
            heapq.heappush(heap, place)
        else:
            heapq.heappushpop(heap, place)

    def chosen(self) -> frozenset[int]:
        """Return the positions of the selected records: all, if there are at most ``size``.

        :raises AgentforceInputError: if no record has the field ``by``.
        """
        if not self._has_field and self._last is not None:
            fields = one_line(", ".join(map(str, self._last.fields)), 200)
            raise AgentforceInputError(
                f"sample: no record has the field {shown(self._sample.by)}. "
                f"The last one has the fields {fields}."
            )
        seats = shares(self._counts, self._sample.size)
        return frozenset(
            position
            for group, number in seats.items()
            for _, position in heapq.nlargest(number, self._smallest[group])
        )

    def _group(self, record: Record) -> str:
        if self._sample.by is None:
            return ""
        self._has_field = self._has_field or self._sample.by in record.fields
        return as_json(record.fields.get(self._sample.by), ordered=True)


def shares(counts: Counter[str], size: int) -> Counter[str]:
    """Distribute *size* places among groups in proportion to their *counts* (Huntington-Hill method).

    Each group gets at least one while there is room, and at most as many as it has members.
    """
    given: Counter[str] = Counter()
    # Groups without a place come first, the largest first.
    waiting = [(-math.inf, -count, group) for group, count in counts.items()]
    heapq.heapify(waiting)
    while waiting and given.total() < size:
        _, _, group = heapq.heappop(waiting)
        given[group] += 1
        places, count = given[group], counts[group]
        if places < count:
            heapq.heappush(waiting, (-count / math.sqrt(places * (places + 1)), -count, group))
    return given


def sample_result(checkpoint: Checkpoint, chosen: frozenset[int]) -> dict[str, Any]:
    """Return the manifest's entry for a sample whose records have their rows.

    :returns: ``size``; ``remaining``: the number of records that the rest asks; ``preview``: the first rows
        in the order of the input, each with ``key``, ``text``, ``outcome`` and ``error``.
    """
    rows = checkpoint.rows
    shown = islice((position for position in sorted(chosen) if rows.status(position)), _MOST_SHOWN)
    return {
        "size": len(chosen),
        "remaining": sum(map(rows.is_asked_next, range(len(rows)))),
        "preview": [_shown(json.loads(checkpoint.row_at(position))) for position in shown],
    }


def joined_samples(samples: Iterable[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Merge the samples of the shards of a batch; return ``None`` if there are none."""
    found = [one for one in samples if one is not None]
    if not found:
        return None
    sums = {name: sum(one[name] for one in found) for name in ("size", "remaining")}
    return {**sums, "preview": [row for one in found for row in one["preview"]][:_MOST_SHOWN]}


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    error = row["error"] and one_line(row["error"], _LONGEST_TEXT)
    return {
        "key": row["key"],
        "text": one_line(row["text"], _LONGEST_TEXT),
        "outcome": row["outcome"],
        "error": error,
    }
