"""Reads the input of a batch: names its records, and looks through all of them before anything is sent."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_agentforce.batch.fields import Fields
from airflow_provider_agentforce.batch.plain_json import as_json
from airflow_provider_agentforce.batch.sources import Source
from airflow_provider_agentforce.client.json_values import storable
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line, shown

log = logging.getLogger(__name__)

# What begins with it is the name of a record that lacks its key: no key may have this character.
_KEYLESS = "\ud800"
_ELSEWHERE = -1
_KEYS = (str, int, float, bool)
_SCALARS = {*_KEYS, type(None)}
# An int may have more digits than Python writes.
_PLAIN_KEYS = frozenset({str, float, bool})


@dataclass(frozen=True)
class Record:
    """One record.

    :param position: counted from 0, among those of the batch; below 0 for one of another shard.
    :param fields: what the input says of it.
    :param key: its value of the key field, else its position; ``None`` if it lacks the field.
    :param name: under which the checkpoint knows it.
    :param where: its place in the input in words, such as ``line 7``.
    """

    position: int
    fields: Mapping[str, Any]
    key: Any
    name: str
    where: str

    def line(self) -> bytes:
        """Return the record as a line of JSON."""
        text = _written(self)
        try:
            return text.encode("utf-8") + b"\n"
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only escape
            return json.dumps(json.loads(text)).encode("ascii") + b"\n"


def read_records(source: Source, key: str | None) -> Iterator[Record]:
    """Yield the records of a batch.

    :param key: the field that names a record; ``None``: its place in the input does, counted from 0.
    :raises AgentforceInputError: at the first one that is not a record.
    """
    return (record for record in read_all(source, key) if record.position >= 0)


def read_all(source: Source, key: str | None) -> Iterator[Record]:
    """Yield the records of a batch as :func:`read_records` does, and those of its other shards."""
    position = 0
    for number, (where, fields) in enumerate(source.rows()):
        value = number if key is None else _key(fields.get(key), where, key)
        name = f"{_KEYLESS}{number}" if value is None else str(value)
        taken = source.takes(name)
        yield Record(position if taken else _ELSEWHERE, fields, value, name, where)
        position += taken


def _key(value: Any, where: str, field: str) -> str | int | float | None:
    """Return *value* as JSON keeps it, and ``None`` for one that names nothing."""
    if type(value) not in _PLAIN_KEYS and value is not None:
        try:
            value = json.loads(as_json(value))
        except (ValueError, RecursionError) as error:
            reason = one_line(str(error), 200)
            raise AgentforceInputError(f"records: {where}: the {field} cannot be a key: {reason}.") from None
        value = value if isinstance(value, _KEYS) or value is None else str(value)
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, str) and storable(value) != value:
        raise AgentforceInputError(
            f"records: {where}: the {field} {value!a:.80} has a character that no result can keep."
        )
    return value  # type: ignore[no-any-return]


@dataclass
class Survey:
    """What a first reading of the whole input found, some 200 bytes a record.

    :ivar positions: the position of each record by its name, in the order of the input.
    :ivar keys: the key of each record.
    :ivar fingerprint: of their contents.
    :ivar fields: the fields that they have.
    """

    fields: Fields
    positions: dict[str, int] = field(default_factory=dict)
    keys: list[Any] = field(default_factory=list)
    fingerprint: str = ""


def survey(
    source: Source,
    key: str | None,
    *,
    typed: bool = False,
    empty_allowed: bool = False,
    look: Callable[[Record], None] | None = None,
) -> Survey:
    """Read the whole input once, before anything is sent.

    :param typed: find out which types the fields have.
    :param empty_allowed: do not refuse an input without records.
    :param look: is given each record, which has a form in JSON.
    :raises AgentforceInputError: if it is empty and may not be, has a key twice or none at all, or a line
        that is not a record.
    """
    found, inspection = Survey(Fields(typed=typed)), Inspection(key, empty_allowed=empty_allowed)
    digest = hashlib.sha256()
    for record in read_all(source, key):
        inspection.add(record)
        if record.position < 0:
            continue
        if found.positions.setdefault(record.name, record.position) != record.position:
            refuse_same_key(source, key, record)
        found.keys.append(record.key)
        digest.update(_written(record, ordered=True).encode("utf-8", "surrogatepass"))
        found.fields.add(record.fields)
        if look is not None:
            look(record)
    inspection.finish()
    found.fingerprint = digest.hexdigest()
    return found


class Inspection:
    """Looks at all records of an input, and refuses what no batch can be made of.

    :param key: the field that names a record.
    :param empty_allowed: warn of an input without records, and do not refuse it.
    """

    def __init__(self, key: str | None, *, empty_allowed: bool = False) -> None:
        self._key = key
        self._empty_allowed = empty_allowed
        self._last: Record | None = None
        self._has_key = False

    def add(self, record: Record) -> None:
        """Look at the next record."""
        self._last = record
        self._has_key = self._has_key or record.key is not None

    def finish(self) -> None:
        """Look back when there are no more records.

        :raises AgentforceInputError: if there were none and there have to be some, or none with a key.
        """
        if self._last is None and self._empty_allowed:
            log.warning("There are no records, so nothing is asked.")
            return
        if self._last is None:
            raise AgentforceInputError("records is empty. Give at least one record, or skip the task.")
        if not self._has_key:
            fields = one_line(", ".join(map(str, self._last.fields)), 200)
            raise AgentforceInputError(
                f"key: no record has a value in the field {shown(self._key)}. "
                f"The last one has the fields {fields}."
            )


def check_form(record: Record) -> None:
    """Look whether JSON has a form for a record.

    :raises AgentforceInputError: if it has none; it names the field.
    """
    if not {*map(type, record.fields), *map(type, record.fields.values())} <= _SCALARS:
        _written(record)


def _written(record: Record, *, ordered: bool = False) -> str:
    try:
        return as_json(record.fields, ordered=ordered)
    except (ValueError, RecursionError) as error:
        field = next((name for name, value in record.fields.items() if not _has_json(value)), None)
        of = "" if field is None else f", because of the field {one_line(repr(field), 80)},"
        raise AgentforceInputError(
            f"records: {record.where}{of} cannot be written as JSON ({one_line(str(error))})."
        ) from None


def _has_json(value: Any) -> bool:
    try:
        as_json(value)
    except (ValueError, RecursionError):
        return False
    return True


def refuse_same_key(source: Source, key: str | None, record: Record) -> None:
    """Say where a record's key stands twice, if it does.

    :raises AgentforceInputError: with both places.
    """
    first = next((one for one in read_records(source, key) if one.name == record.name), None)
    if first is None or first.position != record.position:
        where = first.where if first else "one before it"
        raise AgentforceInputError(
            f"records: {record.where} has the same {key} as {where}: {one_line(repr(record.key), 80)}. "
            "Keys must be unique."
        )
