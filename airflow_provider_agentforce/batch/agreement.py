"""Compares two answers to the same question: how often the agent answers the same."""

from __future__ import annotations

import heapq
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from statistics import NormalDist
from typing import Any

from airflow_provider_agentforce.batch.results import INVALID_OUTPUT, Row
from airflow_provider_agentforce.batch.stable_hash import stable_hash
from airflow_provider_agentforce.client.models import ANSWERED, ESCALATED, NEEDS_CONFIRMATION, NEEDS_INPUT
from airflow_provider_agentforce.exceptions import BatchFailedError

# Numbers with a fraction agree if they differ by at most this part of the larger one.
TOLERANCE = 0.001
CONFIDENCE = 0.95
# With these statuses the agent has answered the record, in whatever way.
COMPARED = {ANSWERED, NEEDS_INPUT, NEEDS_CONFIRMATION, ESCALATED, INVALID_OUTPUT}
# Stands for the status of the row among the fields of the answer, which may have a field "status".
STATUS = "(status)"
_MOST_FIELDS = 50
_SHOWN_FIELDS = 3
_SHOWN = ("status", "text", "result", "session_id", "sequence_id", "error", "started_at", "agent_version")
_FULL_STOP = re.compile(r"(?<=[^\s.])\.$")
_WIDTHS = ("<wide>", "<narrow>")


def asked_twice(names: Iterable[tuple[int, str]], number: int) -> frozenset[int]:
    """Return the positions of the records to ask a second time, the same ones in every try.

    :param names: the position and the name of each eligible record.
    :param number: how many.
    """
    ranked = ((rank(name), position) for position, name in names)
    return frozenset(position for _, position in heapq.nsmallest(number, ranked))


def rank(name: str) -> int:
    """Return the rank of a record among those to ask a second time. The lowest are asked."""
    return stable_hash(name, "agreement")


def records_in_share(share: float, total: int) -> int:
    """Return how many of *total* a share is, rounded up."""
    # In decimal: 0.07 * 100 is 7.000000000000001.
    return math.ceil(Decimal(repr(float(share))) * total)


def compare(first: Row, second: Row) -> dict[str, bool] | None:
    """Compare two answers to the same question.

    :returns: for each field whether it agrees; ``None`` if one of the two is not an answer, or they come from
        different versions of the agent.
    """
    versions = {first.agent_version, second.agent_version} - {None}
    if first.status not in COMPARED or second.status not in COMPARED or len(versions) > 1:
        return None
    if first.status != second.status:
        return {STATUS: False}
    one, other = first.result, second.result
    if _are(dict, one, other):
        return _same_fields(one, other)
    if one is not None or other is not None:
        return {"result": same(one, other)}
    return {"text": same(first.text, second.text)}


def same(one: Any, other: Any) -> bool:
    """Return whether two values of JSON agree.

    Texts are compared without case, width, whitespace and a final full stop; numbers with a fraction with a
    tolerance, whole numbers exactly; lists in their order. A missing field is ``null``.
    """
    if _are(str, one, other):
        return _normal(one) == _normal(other)
    if _are(dict, one, other):
        return all(_same_fields(one, other).values())
    if _are(list, one, other):
        return len(one) == len(other) and all(map(same, one, other))
    if _is_number(one) and _is_number(other):
        return _close(one, other)
    return type(one) is type(other) and bool(one == other)


def _are(kind: type, one: Any, other: Any) -> bool:
    return isinstance(one, kind) and isinstance(other, kind)


def _same_fields(one: dict[str, Any], other: dict[str, Any]) -> dict[str, bool]:
    return {name: same(one.get(name), other.get(name)) for name in {**one, **other}}


def _close(one: float, other: float) -> bool:
    whole = one == int(one) and other == int(other)
    return one == other if whole else math.isclose(one, other, rel_tol=TOLERANCE)


def _normal(text: str) -> str:
    # Only characters that differ in width are made equal, not all that NFKC considers compatible: 10² is not
    # 102.
    same_width = "".join(
        unicodedata.normalize("NFKC", one) if unicodedata.decomposition(one).startswith(_WIDTHS) else one
        for one in text
    )
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", same_width).casefold())
    return _FULL_STOP.sub("", " ".join(folded.split()))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def wilson(successes: int, total: int) -> tuple[float, float]:
    """Return the Wilson interval of the share of successes, with :data:`CONFIDENCE`."""
    if not total:
        return 0.0, 1.0
    z, p = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), successes / total
    middle = p + z * z / (2 * total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    below = 1 + z * z / total
    return max(0.0, (middle - half) / below), min(1.0, (middle + half) / below)


@dataclass
class Agreement:
    """Counts comparisons.

    :param sessions: number of sessions for second requests.
    :param messages: number of answers in them.
    :ivar records: records whose two answers were compared.
    :ivar agreed: number of records whose answers agree in all fields.
    :ivar compared: how often each field was compared.
    :ivar differed: how often each field differed.
    """

    sessions: int = 0
    messages: int = 0
    records: int = 0
    agreed: int = 0
    compared: Counter[str] = field(default_factory=Counter)
    differed: Counter[str] = field(default_factory=Counter)

    def add(self, fields: Mapping[str, bool]) -> None:
        """Count a comparison."""
        self.records += 1
        self.agreed += all(fields.values())
        self.compared.update(fields.keys() - {STATUS})
        self.differed.update(name for name, agrees in fields.items() if not agrees)

    @property
    def share(self) -> float | None:
        """The share of records whose answers agree, ``None`` if none was compared."""
        return self.agreed / self.records if self.records else None

    def to_dict(self) -> dict[str, Any]:
        """Return the values for the manifest: the share, its interval, and the share of each field."""
        low, high = wilson(self.agreed, self.records)
        # The status of every pair is compared.
        compared = {**({STATUS: self.records} if self.differed[STATUS] else {}), **self.compared}
        worst = heapq.nlargest(_MOST_FIELDS, compared, key=lambda name: self.differed[name] / compared[name])
        return {
            "records": self.records,
            "share": None if self.share is None else round(self.share, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "fields": {name: round(1 - self.differed[name] / compared[name], 4) for name in worst},
        }

    def judge(self, least: float | None, manifest: dict[str, Any]) -> None:
        """Fail the task if the answers agree too rarely.

        :param least: the required share, or ``None``.
        :raises BatchFailedError: it says how often they agree, and in which fields they differ.
        """
        share = self.share
        if least is None or (share is not None and share >= least):
            return
        where = manifest["agreement"]["results"]
        if share is None:
            what = (
                "No record has two answers of the same version of the agent, so min_agreement cannot be "
                "checked. Ask in another result_path, or leave min_agreement out."
            )
        else:
            low, high = wilson(self.agreed, self.records)
            most = ", ".join(
                f"{name} ({number})" for name, number in self.differed.most_common(_SHOWN_FIELDS)
            )
            what = (
                f"The answers to {self.agreed} of {self.records} records that were asked twice agree: "
                f"{share:.1%} (95 % interval: {low:.1%} to {high:.1%}), and min_agreement is {least:.1%}. "
                f"They differ in: {most}."
            )
        raise BatchFailedError(
            f"{what} Both answers: {where}.",
            hint="Compare the answers. Make the message or the agent's instructions clearer, or lower "
            "min_agreement.",
            manifest=manifest,
            retryable=False,
        )


def comparison_line(first: Row, second: Row) -> bytes:
    """Return the line of ``agreement.jsonl`` for a record.

    Its ``agrees`` and its ``fields`` are ``null`` if they cannot be compared.
    """
    fields = compare(first, second)
    line = {
        "key": first.key,
        "agrees": None if fields is None else all(fields.values()),
        "fields": fields,
        "first": {name: getattr(first, name) for name in _SHOWN},
        "second": {name: getattr(second, name) for name in _SHOWN},
    }
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
