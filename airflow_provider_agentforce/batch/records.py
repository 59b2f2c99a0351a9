"""The input of a batch: a list of dicts, or a file of JSON Lines or CSV that is read as a stream."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_agentforce.exceptions import AgentforceInputError

_JSON_LINES = (".jsonl", ".ndjson")
# What begins with it is the name of a record that lacks its key: no text of a CSV or JSON file does.
_KEYLESS = "\ud800"


@dataclass(frozen=True)
class Record:
    """One record.

    :param position: counted from 0.
    :param fields: what the input says of it.
    :param key: its value of the key field, else its position; ``None`` if it lacks the field.
    :param name: under which the ledger knows it.
    :param where: its place in the input in words, such as ``line 7``.
    """

    position: int
    fields: Mapping[str, Any]
    key: Any
    name: str
    where: str


class Source(ABC):
    """Where the records come from. Can be read several times; the file is not held in memory."""

    @abstractmethod
    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each record with the words that name its place, such as ``line 7``.

        :raises AgentforceInputError: at the first one that is no record.
        """

    @abstractmethod
    def encode(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
        """Yield *rows* in the form of the input."""

    suffix = ".jsonl"


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

    def encode(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
        """Yield *rows* as JSON Lines."""
        return _json_lines(rows)


class JsonLinesSource(Source):
    """A file with one JSON object a line. Blank lines are passed over."""

    def __init__(self, path: Any) -> None:
        self._path = path

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the records."""
        with _opened(self._path) as file:
            for number, line in enumerate(_byte_lines(file), 1):
                if not line.strip():
                    continue
                where = f"line {number}"
                try:
                    record = json.loads(_text(line.removeprefix(b"\xef\xbb\xbf"), where, self._path))
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

    def encode(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
        """Yield *rows* as JSON Lines."""
        return _json_lines(rows)


class CsvSource(Source):
    """A CSV file with a header, separated by commas. All values are texts; a missing one is no field.

    Blank lines are passed over.
    """

    suffix = ".csv"

    def __init__(self, path: Any) -> None:
        self._path = path

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the records."""
        lines = self._lines()
        _, header = next(lines, (0, []))
        self._check(header)
        for number, values in lines:
            if len(values) > len(header):
                raise AgentforceInputError(
                    f"records: line {number} of {self._path} has {len(values)} values, "
                    f"and the header names {len(header)}."
                )
            yield f"line {number}", dict(zip(header, values, strict=False))

    def encode(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
        """Yield *rows* as CSV with the header of the input."""
        _, header = next(self._lines(), (0, []))
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        for values in itertools.chain([header], (row.values() for row in rows)):
            writer.writerow(values)
            yield buffer.getvalue().encode("utf-8")
            buffer.seek(0)
            buffer.truncate()

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the values of each row with the number of the line at which it begins."""
        with _opened(self._path) as file:
            lines = csv.reader(_texts(file, self._path), strict=True)
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
        twice = sorted({name for name in header if header.count(name) > 1 or not name.strip()})
        if twice:
            raise AgentforceInputError(
                f"records: the header of {self._path} needs a name of its own for each column, "
                f"but has {twice[0]!r} {'twice' if twice[0].strip() else 'as one'}."
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
    # Fetched once: what several mapped tasks returned is otherwise fetched anew at each reading.
    return ListSource(given if isinstance(given, list) else list(given))


def read(source: Source, key: str | None) -> Iterator[Record]:
    """Yield the records of *source*.

    :param key: the field that names a record; ``None``: its position does.
    """
    for position, (where, fields) in enumerate(source.rows()):
        value = position if key is None else _key(fields.get(key))
        name = f"{_KEYLESS}{position}" if value is None else str(value)
        yield Record(position, fields, value, name, where)


def _key(value: Any) -> str | int | float | None:
    """Return *value* as JSON keeps it, and ``None`` for one that names nothing."""
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, str | int | float) else str(value)


@dataclass(frozen=True)
class Survey:
    """What a first reading of the whole input found.

    :param names: of the records, in their order.
    :param fingerprint: of their contents.
    """

    names: tuple[str, ...]
    fingerprint: str


def survey(source: Source, key: str | None) -> Survey:
    """Read the whole input once, before anything is sent.

    :raises AgentforceInputError: if it is empty, has a key twice or none at all, or a line that is no record.
    """
    digest = hashlib.sha256()
    places: dict[str, str] = {}
    keyed = False
    for record in read(source, key):
        first = places.setdefault(record.name, record.where)
        if first != record.where:
            raise AgentforceInputError(
                f"records: {record.where} has the same {key} as {first}: {record.key!r:.80}. "
                "Keys must be unique."
            )
        digest.update(_canonical(record))
        keyed = keyed or record.key is not None
    if not places:
        raise AgentforceInputError("records is empty. Give at least one record, or skip the task.")
    if not keyed:
        fields = ", ".join(map(str, record.fields))
        raise AgentforceInputError(
            f"key: no record has a value in the field {key!r:.80}. The last one has the fields {fields:.200}."
        )
    return Survey(tuple(places), digest.hexdigest())


def _canonical(record: Record) -> bytes:
    try:
        return json.dumps(record.fields, sort_keys=True, default=str).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise AgentforceInputError(f"records: {record.where} cannot be written as JSON ({error}).") from None


def _json_lines(rows: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    for row in rows:
        text = json.dumps(row, ensure_ascii=False, default=str)
        try:
            yield text.encode("utf-8") + b"\n"
        except UnicodeEncodeError:  # half of a surrogate pair, which JSON can only escape
            yield json.dumps(row, default=str).encode("ascii") + b"\n"


def _opened(path: Any) -> Any:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise AgentforceInputError(f"records: there is no file {path}.") from None
    except IsADirectoryError:
        raise AgentforceInputError(f"records: {path} is a folder, not a file.") from None
    except PermissionError:
        raise AgentforceInputError(f"records: {path} may not be read by this task.") from None


def _byte_lines(file: Any) -> Iterator[bytes]:
    # Airflow 2.11 wraps the file in an object that has its methods, but cannot be iterated over.
    return iter(file.readline, b"")


def _texts(file: Any, path: Any) -> Iterator[str]:
    for number, line in enumerate(_byte_lines(file), 1):
        yield _text(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, f"line {number}", path)


def _text(line: bytes, where: str, path: Any) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise AgentforceInputError(f"records: {where} of {path} is not UTF-8.") from None
