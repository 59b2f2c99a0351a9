"""The input of a batch: a list of dicts, or a file of JSON Lines or CSV that is read as a stream."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from airflow_provider_agentforce.batch.files import lines_of, opened
from airflow_provider_agentforce.client.json_values import decode_unambiguous, storable
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line

_JSON_LINES = (".jsonl", ".ndjson")
# What begins with it is the name of a record that lacks its key: no key may have this character.
_KEYLESS = "\ud800"
_LONGEST_CELL = 10_000_000
_KEYS = (str, int, float, bool)
# An int may have more digits than Python writes.
_PLAIN_KEYS = frozenset({str, float, bool})


@dataclass(frozen=True)
class Record:
    """One record.

    :param position: counted from 0.
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
        text = as_json(self.fields)
        try:
            return text.encode("utf-8") + b"\n"
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only escape
            return json.dumps(json.loads(text)).encode("ascii") + b"\n"


class Source(ABC):
    """Where the records come from. Can be read several times; the file is not held in memory.

    :ivar suffix: of a file in the form of the input.
    """

    suffix = ".jsonl"

    @abstractmethod
    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each record with the words that name its place, such as ``line 7``.

        :raises AgentforceInputError: at the first one that is not a record.
        """

    def encode(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield records, given as lines of JSON, in the form of the input."""
        return iter(lines)


class ListSource(Source):
    """Records given as a list."""

    def __init__(self, records: Sequence[Any]) -> None:
        self._records = records

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the records."""
        for position, record in enumerate(self._records):
            if not isinstance(record, Mapping):
                raise AgentforceInputError(
                    f"records[{position}] must be a dict, but is {type(record).__name__}."
                )
            yield f"records[{position}]", dict(record)


class JsonLinesSource(Source):
    """A file with one JSON object a line. Blank lines are passed over."""

    def __init__(self, path: Any) -> None:
        self._path = path

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the records."""
        with opened(self._path) as file:
            for number, text in enumerate(lines_of(file, self._path), 1):
                if not text.strip():
                    continue
                where = f"line {number}"
                try:
                    record = decode_unambiguous(text)
                except (ValueError, RecursionError) as error:
                    raise AgentforceInputError(
                        f"records: {where} of {self._path} is not JSON ({error})."
                    ) from None
                if not isinstance(record, dict):
                    raise AgentforceInputError(
                        f"records: {where} of {self._path} must be a JSON object, "
                        f"but is {type(record).__name__}."
                    )
                yield where, record


class CsvSource(Source):
    """A CSV file with a header, separated by commas. All values are text; a missing value makes no field.

    Blank lines are passed over.
    """

    suffix = ".csv"

    def __init__(self, path: Any) -> None:
        self._path = path
        self._header: list[str] = []

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the records."""
        lines = self._lines()
        _, header = next(lines, (0, []))
        self._check(header)
        self._header = header
        for number, values in lines:
            if len(values) > len(header):
                raise AgentforceInputError(
                    f"records: line {number} of {self._path} has {len(values)} values, "
                    f"and the header names {len(header)}."
                )
            yield f"line {number}", dict(zip(header, values, strict=False))

    def encode(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield records as CSV with the header of the input."""
        header = self._header or next(self._lines(), (0, []))[1]
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        writer.writerow(header)
        for line in lines:
            yield _taken(buffer)
            fields = json.loads(line)
            width = 1 + max(map(header.index, fields.keys() & set(header)), default=-1)
            writer.writerow([fields.get(name, "") for name in header[:width]])
        yield _taken(buffer)

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the values of each row with the number of the line at which it begins."""
        # A limit of the whole process, 128 kB unless somebody sets it.
        csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_CELL))
        with opened(self._path) as file:
            lines = csv.reader(lines_of(file, self._path), strict=True)
            first = 1
            try:
                for values in lines:
                    if values:
                        yield first, values
                    first = lines.line_num + 1
            except csv.Error as error:
                raise AgentforceInputError(
                    f"records: line {lines.line_num} of {self._path} is not CSV ({error})."
                ) from None

    def _check(self, header: list[str]) -> None:
        for column, name in enumerate(header, 1):
            if not name.strip() or name in header[: column - 1]:
                same = f"the same as column {header.index(name) + 1}" if name.strip() else "blank"
                raise AgentforceInputError(
                    f"records: the header of {self._path} needs a different name for each column, "
                    f"but column {column}, {one_line(name, 80)!r}, is {same}."
                )


def source_of(given: Any, path: Any = None) -> Source:
    """Return the source for *given*.

    :param given: the operator's ``records``.
    :param path: the path object for a *given* URI.
    :raises AgentforceInputError: if it is neither a list nor a URI of a known form.
    """
    if path is not None:
        name = str(path).lower()
        if name.endswith(_JSON_LINES):
            return JsonLinesSource(path)
        if name.endswith(".csv"):
            return CsvSource(path)
        raise AgentforceInputError(f"records: {path} must end in {', '.join(_JSON_LINES)} or .csv.")
    if isinstance(given, Mapping | bytes) or not isinstance(given, Sequence):
        raise AgentforceInputError(
            f"records must be a list of dicts or the URI of a file, but is {type(given).__name__}."
        )
    # Fetched once: what several mapped tasks returned is otherwise fetched again at each reading.
    return ListSource(given if isinstance(given, list) else list(given))


def read(source: Source, key: str | None) -> Iterator[Record]:
    """Yield the records of *source*.

    :param key: the field that names a record; ``None``: its position does.
    :raises AgentforceInputError: at the first one that is not a record.
    """
    for position, (where, fields) in enumerate(source.rows()):
        value = position if key is None else _key(fields.get(key), where, key)
        name = f"{_KEYLESS}{position}" if value is None else str(value)
        yield Record(position, fields, value, name, where)


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
    """

    positions: dict[str, int] = field(default_factory=dict)
    keys: list[Any] = field(default_factory=list)
    fingerprint: str = ""


def survey(source: Source, key: str | None) -> Survey:
    """Read the whole input once, before anything is sent.

    :raises AgentforceInputError: if it is empty, has a key twice or none at all, or a line that is not a
        record.
    """
    found = Survey()
    digest = hashlib.sha256()
    for record in read(source, key):
        if found.positions.setdefault(record.name, record.position) != record.position:
            raise _twice(source, key, record)
        found.keys.append(record.key)
        digest.update(_canonical(record))
    if not found.keys:
        raise AgentforceInputError("records is empty. Give at least one record, or skip the task.")
    if all(value is None for value in found.keys):
        fields = one_line(", ".join(map(str, record.fields)), 200)
        raise AgentforceInputError(
            f"key: no record has a value in the field {key!r:.80}. The last one has the fields {fields}."
        )
    found.fingerprint = digest.hexdigest()
    return found


def as_json(value: Any, *, ordered: bool = False) -> str:
    """Return *value* as JSON text, the same in every process.

    Dates, decimals, UUIDs and enums become text or their value, numpy's and pandas' values what they hold;
    what is not a number or not there (``NaN``, ``NA``) becomes ``null``.

    :param ordered: sort the names of fields.
    :raises ValueError: for anything else that JSON has no form for, such as a set.
    """
    encoder = _ORDERED if ordered else _ENCODER
    try:
        try:
            return encoder.encode(value)
        except ValueError:
            # Not a finite number, or a circle.
            return encoder.encode(_finite(value, 0))
    except TypeError as error:
        raise ValueError(str(error)) from None


def _canonical(record: Record) -> bytes:
    try:
        return as_json(record.fields, ordered=True).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError) as error:
        field = next((name for name, value in record.fields.items() if not _has_json(value)), None)
        of = "" if field is None else f", because of the field {field!r:.80},"
        raise AgentforceInputError(
            f"records: {record.where}{of} cannot be written as JSON ({one_line(str(error))})."
        ) from None


def _has_json(value: Any) -> bool:
    try:
        as_json(value)
    except (ValueError, RecursionError):
        return False
    return True


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind.__name__ in {"NAType", "NaTType"} and kind.__module__.startswith("pandas"):
        return None
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if kind.__module__.partition(".")[0] in {"numpy", "pandas"} and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a value of type {kind.__name__} has no form in JSON that is always the same")


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=_plain)
_ORDERED = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False, default=_plain)


def _finite(value: Any, depth: int) -> Any:
    """Return *value* with ``None`` for floats that are not numbers."""
    if depth > 100:  # noqa: PLR2004 - a circle, or as good as one
        raise ValueError("Circular reference detected")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item, depth + 1) for item in value]
    return value if value is None or isinstance(value, str | int) else _finite(_plain(value), depth + 1)


def _twice(source: Source, key: str | None, record: Record) -> AgentforceInputError:
    first = next(one.where for one in read(source, key) if one.name == record.name)
    return AgentforceInputError(
        f"records: {record.where} has the same {key} as {first}: {record.key!r:.80}. Keys must be unique."
    )


def _taken(buffer: io.StringIO) -> bytes:
    text = buffer.getvalue().encode("utf-8")
    buffer.seek(0)
    buffer.truncate()
    return text
