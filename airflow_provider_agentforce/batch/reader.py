"""Reads the input of a batch: names its records, and checks all of them before anything is sent."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

from airflow_provider_agentforce.batch.fields import Fields, kind_of
from airflow_provider_agentforce.batch.hash_index import HashIndex
from airflow_provider_agentforce.batch.plain_json import as_json
from airflow_provider_agentforce.batch.plain_record import record_text
from airflow_provider_agentforce.batch.sources import Source
from airflow_provider_agentforce.client.json_values import storable
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line, shown

log = logging.getLogger(__name__)

# The names of records without a key begin with it; no key may contain this character.
_KEYLESS = "\ud800"
_ELSEWHERE = -1
_KEYS = (str, int, float, bool)
# An int may have more digits than Python converts.
_PLAIN_KEYS = frozenset({str, float, bool})


class Record(NamedTuple):
    """One record.

    :param position: counted from 0, among those of the batch; below 0 for one of another shard.
    :param fields: its fields in the input.
    :param key: the value of the key field, otherwise its position; ``None`` if the field is missing.
    :param name: its name in the checkpoint.
    :param where: its place in the input, such as ``line 7``.
    """

    position: int
    fields: Mapping[str, Any]
    key: Any
    name: str
    where: str

    def line(self) -> bytes:
        """Return the record as a line of JSON."""
        text = record_text(self.fields, self.where)
        try:
            return text.encode("utf-8") + b"\n"
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only escape
            return json.dumps(json.loads(text)).encode("ascii") + b"\n"


def read_records(source: Source, key: str | None) -> Iterator[Record]:
    """Yield the records of a batch.

    :param key: the field that names a record; ``None``: its position in the input, from 0.
    :raises AgentforceInputError: for the first item that is not a record.
    """
    return (record for record in read_all(source, key) if record.position >= 0)


def read_all(source: Source, key: str | None) -> Iterator[Record]:
    """Yield the records of a batch like :func:`read_records`, and those of its other shards."""
    position = 0
    for number, (where, fields) in enumerate(source.rows()):
        value = number if key is None else _key(fields.get(key), where, key)
        name = f"{_KEYLESS}{number}" if value is None else str(value)
        taken = source.takes(name)
        yield Record(position if taken else _ELSEWHERE, fields, value, name, where)
        position += taken


def key_in(name: str) -> str | None:
    """Return the key that the name of a record is made of, as text; ``None`` if the record lacks it."""
    return None if name.startswith(_KEYLESS) else name


def _key(value: Any, where: str, field: str) -> str | int | float | None:
    """Return *value* as in JSON, and ``None`` if it is empty."""
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
            f"records: {where}: the {field} {value!a:.80} has a character that no result can contain."
        )
    return value  # type: ignore[no-any-return]


@dataclass
class Survey:
    """The result of the first reading of the whole input, about 40 bytes per record.

    :ivar positions: the position of each record by its name.
    :ivar contents: a hash of the fields of each record, valid in this process only.
    :ivar kinds_of_keys: the kinds of their keys, as in :mod:`.fields`.
    :ivar fingerprint: hash of their contents, the same in every process.
    :ivar fields: their fields.
    """

    fields: Fields
    positions: HashIndex = field(default_factory=HashIndex)
    contents: array[int] = field(default_factory=lambda: array("q"))
    kinds_of_keys: int = 0
    fingerprint: str = ""

    def unchanged(self, records: Iterator[Record]) -> Iterator[Record]:
        """Yield the records of another reading.

        :raises AgentforceInputError: at the first one that is not the same, or if records are missing.
        """
        number = 0
        for number, record in enumerate(records, 1):
            if number > len(self.contents) or _content(record.fields) != self.contents[number - 1]:
                raise _changed(record.where)
            yield record
        if number < len(self.contents):
            raise _changed(f"the record after the first {number}")


def survey(
    source: Source,
    key: str | None,
    *,
    typed: bool = False,
    empty_allowed: bool = False,
    look: Callable[[Record], None] | None = None,
) -> Survey:
    """Read the whole input once, before anything is sent.

    :param typed: find the types of the fields.
    :param empty_allowed: do not refuse an input without records.
    :param look: called with each record.
    :raises AgentforceInputError: if it is empty and must not be, has a key twice or none at all, or has a
        line that is not a record.
    """
    found, inspection = Survey(Fields(typed=typed)), Inspection(key, empty_allowed=empty_allowed)
    digest = hashlib.sha256()
    for record in read_all(source, key):
        inspection.add(record)
        if record.position < 0:
            continue
        if found.positions.add(record.name):
            refuse_same_key(source, key, record)
        found.kinds_of_keys |= kind_of(record.key)
        text = record_text(record.fields, record.where, ordered=True)
        digest.update(text.encode("utf-8", "surrogatepass"))
        found.contents.append(_content(record.fields))
        found.fields.add(record.fields)
        if look is not None:
            look(record)
    inspection.finish()
    found.fingerprint = digest.hexdigest()
    return found


def _content(fields: Mapping[str, Any]) -> int:
    return hash(repr(fields))


def _changed(where: str) -> AgentforceInputError:
    return AgentforceInputError(
        f"records: the input has changed since this try began: {where} is not what it was. Nothing more is "
        "asked, and the answers so far are kept.",
        hint="Restore the input and clear the task. For the new records choose another result_path, or set "
        'on_change="continue".',
    )


class Inspection:
    """Checks all records of an input, and refuses those that a batch cannot process.

    :param key: the field that names a record.
    :param empty_allowed: warn about an input without records instead of refusing it.
    """

    def __init__(self, key: str | None, *, empty_allowed: bool = False) -> None:
        self._key = key
        self._empty_allowed = empty_allowed
        self._last: Record | None = None
        self._has_key = False

    def add(self, record: Record) -> None:
        """Check the next record."""
        self._last = record
        self._has_key = self._has_key or record.key is not None

    def finish(self) -> None:
        """Check the input as a whole, after the last record.

        :raises AgentforceInputError: if there were none and must be some, or none has a key.
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


def refuse_same_key(source: Source, key: str | None, record: Record) -> NoReturn:
    """Refuse a record whose key has occurred before.

    :raises AgentforceInputError: with both positions.
    """
    # An iterator cannot be read again.
    first = next((one for one in read_records(source, key) if one.name == record.name), None)
    where = first.where if first else "one before it"
    raise AgentforceInputError(
        f"records: {record.where} has the same {key} as {where}: {one_line(repr(record.key), 80)}. "
        "Keys must be unique."
    )
