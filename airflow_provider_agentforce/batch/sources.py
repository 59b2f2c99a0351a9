"""The sources of a batch's records: a list, or files that are read as a stream."""

from __future__ import annotations

import csv
import itertools
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from json import JSONDecodeError
from typing import Any

from airflow_provider_agentforce.batch.csv_text import csv_bytes
from airflow_provider_agentforce.batch.files import lines_of, named, opened
from airflow_provider_agentforce.batch.parquet import parquet_rows
from airflow_provider_agentforce.batch.plain_record import plain
from airflow_provider_agentforce.batch.shard import Shard
from airflow_provider_agentforce.client import validation
from airflow_provider_agentforce.client.json_values import decode_record
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line

_LONGEST_CELL = 10_000_000


class Source(ABC):
    """A source of records. It can be read several times; a file is not kept in memory.

    :ivar suffix: suffix of a file in the format of the input, which :meth:`encode` writes.
    :ivar paths: path objects of the files.
    """

    suffix = ".jsonl"
    paths: Sequence[Any] = ()

    @abstractmethod
    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each record with its place, such as ``line 7``.

        :raises AgentforceInputError: for the first item that is not a record.
        """

    def encode(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield records, given as lines of JSON, in the format of the input."""
        return iter(lines)

    def takes(self, name: str) -> bool:  # noqa: ARG002 - a part of the input takes some
        """Return whether the record of this *name* is one of the batch."""
        return True


class ListSource(Source):
    """Records given as a list, or by an iterator that is read once. Their values become those of JSON."""

    def __init__(self, records: Iterable[Any]) -> None:
        self._records = records

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the records."""
        for position, record in enumerate(self._records):
            where = f"records[{position}]"
            yield where, plain(validation.record(record, position), where)


class FileSource(Source):
    """Records in one file.

    :param path: its path object.
    """

    def __init__(self, path: Any) -> None:
        self._path = path
        self.paths = (path,)


class JsonLinesSource(FileSource):
    """A file with one JSON object per line. Blank lines are skipped, and ``NaN`` is ``null``."""

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the records."""
        with opened(self._path) as file:
            for number, text in enumerate(lines_of(file, self._path), 1):
                if not text.strip():
                    continue
                where = f"line {number}"
                try:
                    record = decode_record(text)
                except (ValueError, RecursionError) as error:
                    at = f"{error.msg}: column {error.colno}" if isinstance(error, JSONDecodeError) else ""
                    raise AgentforceInputError(
                        f"records: {where} of {self._path} is not JSON ({at or error}).{_hint(text)}"
                    ) from None
                if not isinstance(record, dict):
                    raise AgentforceInputError(
                        f"records: {where} of {self._path} must be a JSON object, "
                        f"but is {type(record).__name__}.{_hint(text)}"
                    )
                yield where, record


class CsvSource(FileSource):
    """A CSV file with a header, separated by commas. All values are text; a missing value is a missing field.

    Blank lines are skipped.
    """

    suffix = ".csv"

    def __init__(self, path: Any) -> None:
        super().__init__(path)
        self._header: list[str] = []

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the records."""
        lines = self._lines()
        _, header = next(lines, (0, []))
        _check_names(header, f"the header of {self._path}")
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
        places = {name: place for place, name in enumerate(header)}
        return csv_bytes(itertools.chain([header], (_cells(json.loads(line), places) for line in lines)))

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the values of each row with the number of its first line."""
        # A limit of the whole process, 128 kB by default.
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
                # The module's own words are about a way to open the file.
                what = "a line end of \\r alone; use \\n or \\r\\n" if "new-line" in str(error) else error
                raise AgentforceInputError(
                    f"records: line {lines.line_num} of {self._path} is not CSV ({what})."
                ) from None


class ParquetSource(FileSource):
    """A Parquet file. Its values become those of JSON: a date is its ISO 8601 text, a decimal its digits."""

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the records."""
        with opened(self._path) as file:
            names, rows = parquet_rows(file, self._path)
            _check_names(names, f"the schema of {self._path}")
            for number, row in enumerate(rows, 1):
                where = f"row {number}"
                yield where, plain(row, where)


class FilesSource(Source):
    """Several files, one after the other.

    :param sources: one for each file.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self.paths = [path for source in sources for path in source.paths]

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the records."""
        for source, path in zip(self._sources, self.paths, strict=True):
            for where, fields in source.rows():
                yield f"{where} of {path}", fields


class ShardSource(Source):
    """The records of a shard, and those of the other shards, which it skips.

    :param source: source of all records.
    """

    def __init__(self, source: Source, shard: Shard) -> None:
        self._source = source
        self._shard = shard
        self.suffix, self.paths = source.suffix, source.paths

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield all records."""
        return self._source.rows()

    def encode(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """Yield records in the form of the input."""
        return self._source.encode(lines)

    def takes(self, name: str) -> bool:
        """Return whether the record of this *name* belongs to the shard."""
        return self._shard.takes(name)


def _hint(line: str) -> str:
    return " Write one object per line, not an array." if line.lstrip().startswith("[") else ""


def in_shard(source: Source, shard: Shard | None) -> Source:
    """Return the *source* of a batch, or of the part that is *shard*."""
    return source if shard is None else ShardSource(source, shard)


_FORMS: dict[str, type[FileSource]] = {
    ".jsonl": JsonLinesSource,
    ".ndjson": JsonLinesSource,
    ".csv": CsvSource,
    ".parquet": ParquetSource,
}
_SUFFIXES = f"{', '.join([*_FORMS][:-1])} or {[*_FORMS][-1]}"
_PATTERN = re.compile(r"[*?\[]")
# Spark and other tools use such names for files that are not data.
_HIDDEN = re.compile(r"(^|/)[._]")


def source_of(given: Any, path: Any = None) -> Source:
    """Return the source for *given*.

    :param given: the operator's ``records``.
    :param path: the path object for a *given* URI: of a file, of a folder, or a pattern such as ``*.csv``.
    :raises AgentforceInputError: if it is neither a list nor a URI of a known format.
    """
    if path is not None:
        return _source_at(path)
    if isinstance(given, Mapping | bytes | str) or not isinstance(given, Sequence):
        raise validation.unusable_records(given)
    # As a list: the output of mapped tasks is a sequence that Airflow fetches again at each reading.
    return ListSource(given if isinstance(given, list) else list(given))


def _source_at(path: Any) -> Source:
    with named(path):
        paths = _listed(path)
    if paths is None:
        return _form(path)(path)
    if not paths:
        raise AgentforceInputError(f"records: {path} has no file. Files must end in {_SUFFIXES}.")
    return FilesSource([_form(one)(one) for one in sorted(paths, key=str)])


def would_read(path: Any, file: str) -> bool:
    """Return whether a folder or a pattern would also match *file* once it exists.

    :param path: its path object.
    """
    given = str(path).rstrip("/")
    if not _PATTERN.search(given) or path.exists():
        return file.rpartition("/")[0] == given
    regex = re.escape(given).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    return re.fullmatch(re.sub(r"\\\[(.*?)\\\]", r"[\1]", regex), file) is not None


def _listed(path: Any) -> list[Any] | None:
    """Return the files of a folder or a pattern, ``None`` for a single file."""
    if path.is_dir():
        return [one for one in path.iterdir() if not _HIDDEN.search(one.name) and not one.is_dir()]
    if _PATTERN.search(str(path)) and not path.exists():
        return [one for one in _matching(path) if not one.is_dir()]
    return None


def _matching(path: Any) -> Iterable[Any]:
    """Return the files whose names match the pattern *path*."""
    given, parts = path, list[str]()
    while _PATTERN.search(str(path)):
        if str(path.parent) == str(path):
            raise AgentforceInputError(f"records: {given} has a pattern in the name of its bucket.")
        parts.insert(0, path.name)
        path = path.parent
    pattern, begin = "/".join(parts), len(str(path))
    found: Iterable[Any] = path.glob(pattern)
    if _HIDDEN.search(pattern):
        return found
    return (one for one in found if not _HIDDEN.search(str(one)[begin:]))


def _form(path: Any) -> type[FileSource]:
    for suffix, form in _FORMS.items():
        if str(path).lower().endswith(suffix):
            return form
    raise AgentforceInputError(f"records: {path} must end in {_SUFFIXES}.")


def _check_names(names: Sequence[str], of: str) -> None:
    """Refuse names of columns that are not distinct."""
    for column, name in enumerate(names, 1):
        if not name.strip() or name in names[: column - 1]:
            same = f"the same as column {names.index(name) + 1}" if name.strip() else "blank"
            raise AgentforceInputError(
                f"records: {of} needs a different name for each column, "
                f"but column {column}, {one_line(name, 80)!r}, is {same}."
            )


def _cells(fields: Mapping[str, Any], places: Mapping[str, int]) -> list[Any]:
    """Return the values of a row, which ends after the record's last field.

    :param places: the place of each column by its name.
    """
    width = 1 + max((places[name] for name in fields if name in places), default=-1)
    return [fields.get(name, "") for name in itertools.islice(places, width)]
