"""The results of a batch as a table: each record's fields, the answer, and the status of the record."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from operator import or_
from typing import Any, NamedTuple

from airflow_provider_agentforce.batch import parquet
from airflow_provider_agentforce.batch.csv_text import csv_bytes
from airflow_provider_agentforce.batch.fields import (
    BOOLEAN,
    INTEGER,
    LONG_INTEGER,
    NUMBER,
    TEXT,
    Fields,
)
from airflow_provider_agentforce.batch.results import Row
from airflow_provider_agentforce.client.json_values import decode_own, storable

CSV, JSON_LINES, PARQUET = "csv", "jsonl", "parquet"
FORMATS = (CSV, JSON_LINES, PARQUET)
_RESULT = "result"
_OTHER_FIELDS = "other_fields"
_KINDS = {"str": TEXT, "int": INTEGER, "float": NUMBER, "bool": BOOLEAN}
_SCHEMA_KINDS = {"string": TEXT, "integer": INTEGER, "number": NUMBER, "boolean": BOOLEAN, "null": 0}
_MOST_ROWS = 5_000
_MOST_CELLS = 1_000_000
_MOST_BYTES = 8_000_000
# The beginnings of a formula in a spreadsheet, also after spaces and in full-width characters.
_FORMULA = re.compile("[\\s\ufeff\u200b]*[=+\\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?[0-9][0-9.,]*([eE][+-]?[0-9]+)?")
# As JSON writes the values that storable() replaces.
_UNSTORABLE = re.compile(rb"\\u0000|\\u[dD][89a-fA-F]")
_encode = json.JSONEncoder(ensure_ascii=False).encode


class Line(NamedTuple):
    """A row and its record as lines of JSON.

    :param record: empty if it was not kept.
    """

    row: bytes
    record: bytes

    def joined(self) -> bytes:
        """Return the row with its record as the field ``record``."""
        record = self.record.rstrip() or b"null"
        if _is_unstorable(record):
            record = _encode(self.fields()).encode("utf-8")
        return self.row.rstrip()[:-1] + b', "record": ' + record + b"}\n"

    @classmethod
    def split(cls, joined: bytes) -> Line:
        """Return the line from which :meth:`joined` made *joined*."""
        row = decode_own(joined)
        record = row.pop("record", None)
        return cls(_encode(row).encode("utf-8"), b"" if record is None else _encode(record).encode("utf-8"))

    def fields(self) -> dict[str, Any]:
        """Return the fields of the record."""
        value: dict[str, Any] = decode_own(self.record or b"{}")
        return storable(value) if _is_unstorable(self.record) else value


class _Column(NamedTuple):
    """A column of a table.

    :param kind: the kinds of its values.
    :param part: where its value is: in the record, in the row, in the row's result, or elsewhere.
    """

    part: int
    field: str
    kind: int
    name: str


_RECORD, _ROW, _PROPERTY, _OTHER = range(4)
# The columns of the row and of its result are the same in all tables.
_ORDER = {_RECORD: 0, _OTHER: 1, _ROW: 2, _PROPERTY: 2}


class Table:
    """A table with a column for each field of the records, and for each field of a row.

    :ivar columns: its definition.
    :ivar names: names of the columns.
    """

    def __init__(self, columns: Iterable[_Column]) -> None:
        self.columns = list(columns)
        self._record = frozenset(one.field for one in self.columns if one.part in {_RECORD, _OTHER})
        self.names = [column.name for column in self.columns]

    @classmethod
    def of(cls, record: Fields | None, schema: Mapping[str, Any] | None, kinds_of_keys: int) -> Table:
        """Return the table of a batch.

        After the row's ``result`` there is a column for each property of the output's schema. No two columns
        have the same name, even for programs that do not distinguish ``Name`` from ``name``.

        :param record: the fields of the records; ``None``: leave them out.
        :param schema: JSON schema of the output, ``None`` if there is none.
        :param kinds_of_keys: the kinds of the records' keys.
        """
        row = list(_columns_of_row(schema, kinds_of_keys))
        taken = {column.name.casefold() for column in row}
        return cls([*([] if record is None else _columns_of_record(record, taken)), *row])

    @classmethod
    def from_columns(cls, columns: Iterable[Iterable[Any]]) -> Table:
        """Return the table whose :attr:`columns` were stored as JSON."""
        return cls(_Column(*one) for one in columns)

    @classmethod
    def joined(cls, tables: Iterable[Table]) -> Table:
        """Return one table for the rows of all *tables*, the shards of one batch."""
        widest_first = sorted(tables, key=lambda table: -len(table.columns))
        columns: dict[tuple[int, str], _Column] = {}
        taken: set[str] = set()
        for column in itertools.chain.from_iterable(table.columns for table in widest_first):
            place = (column.part, column.field)
            if place in columns:
                known = columns[place]
                columns[place] = known._replace(kind=known.kind | column.kind)
            else:
                columns[place] = column._replace(name=_free(column.name, taken))
        # As in each of them: first the fields of the records, then those of the row.
        return cls(sorted(columns.values(), key=lambda column: _ORDER[column.part]))

    def csv(self, lines: Iterable[Line], *, bom: bool) -> Iterator[bytes]:
        """Yield the table as CSV, with an apostrophe before each text that would be a formula.

        :param bom: begin with a byte order mark, so that Excel recognizes UTF-8.
        """
        taken: set[str] = set()
        header = [_free(_cell(name), taken) for name in self.names]
        rows = (list(map(_cell, self._values(line))) for line in lines)
        return csv_bytes(itertools.chain([header], rows), bom=bom)

    def parquet(self, lines: Iterable[Line]) -> Iterator[bytes]:
        """Yield the table as Parquet."""
        types = [_type_of(column.kind) for column in self.columns]
        return parquet.parquet_bytes(self.names, types, self._batches(lines))

    def _batches(self, lines: Iterable[Line]) -> Iterator[list[list[Any]]]:
        most = max(1, min(_MOST_ROWS, _MOST_CELLS // len(self.columns)))
        batch: list[list[Any]] = []
        size = 0
        for line in lines:
            batch.append(self._values(line))
            size += len(line.row) + len(line.record)
            if len(batch) >= most or size >= _MOST_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _values(self, line: Line) -> list[Any]:
        record = line.fields() if self._record else {}
        row = decode_own(line.row)
        result = row[_RESULT] if isinstance(row[_RESULT], dict) else {}
        other = {}
        if _OTHER_FIELDS in self._record:
            other[_OTHER_FIELDS] = {name: record[name] for name in record if name not in self._record} or None
        parts = (record, row, result, other)
        return [parts[part].get(field) for part, field, _, _ in self.columns]


def _is_unstorable(line: bytes) -> bool:
    return b"\\u" in line and _UNSTORABLE.search(line) is not None


def _columns_of_row(schema: Mapping[str, Any] | None, kinds_of_keys: int) -> Iterator[_Column]:
    for one in fields(Row):
        kind = _KINDS.get(str(one.type).removesuffix(" | None"))
        if one.name == "key":
            yield _Column(_ROW, one.name, kinds_of_keys, one.name)
        elif one.name == _RESULT and schema is not None:
            yield _Column(_ROW, one.name, TEXT, one.name)
            yield from _columns_of_result(schema)
        elif kind is not None:
            yield _Column(_ROW, one.name, kind, one.name)


def _columns_of_result(schema: Mapping[str, Any]) -> Iterator[_Column]:
    properties = _referred(schema).get("properties")
    taken: set[str] = set()
    for name, property_ in (properties if isinstance(properties, Mapping) else {}).items():
        yield _Column(_PROPERTY, name, _kind_in_schema(property_), _free(f"{_RESULT}_{name}", taken))


def _columns_of_record(record: Fields, taken: set[str]) -> Iterator[_Column]:
    """Yield the columns of a record.

    :param taken: names that are taken, in lower case.
    """
    names: dict[str, str] = {}
    for name in record.held:
        if name.casefold() not in taken:
            names[name] = _free(name, taken)
    for name, kind in record.held.items():
        yield _Column(_RECORD, name, kind, names.get(name) or _free(f"record_{name}", taken))
    if record.more:
        yield _Column(_OTHER, _OTHER_FIELDS, TEXT, _free(_OTHER_FIELDS, taken))


def _free(name: str, taken: set[str]) -> str:
    """Return *name*, with a number if it is taken, and mark it as taken."""
    free, number = name, 1
    while free.casefold() in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free.casefold())
    return free


def _referred(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return *schema*, or the definition in it that it refers to."""
    found: Any = schema
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        for part in reference.split("/")[1:]:
            found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _kind_in_schema(property_: Any) -> int:
    """Return which kinds of values a property may have."""
    if not isinstance(property_, Mapping):
        return TEXT
    if "anyOf" in property_:
        return functools.reduce(or_, map(_kind_in_schema, property_["anyOf"]), 0)
    types = property_.get("type")
    listed = types if isinstance(types, list) else [types]
    return functools.reduce(or_, (_SCHEMA_KINDS.get(str(one), TEXT) for one in listed), 0)


def _type_of(kind: int) -> str:
    """Return the type of a Parquet column for values of a kind."""
    if kind == BOOLEAN:
        return parquet.BOOLEANS
    if kind and not kind & ~(INTEGER | LONG_INTEGER):
        return parquet.INTEGERS
    return parquet.NUMBERS if kind and not kind & ~(INTEGER | NUMBER) else parquet.TEXTS


def _cell(value: Any) -> Any:
    """Return *value* for the CSV writer."""
    kind = type(value)
    if kind is str:
        if value[:1].isalnum():
            return value
        formula = _FORMULA.match(value) and not _NUMBER.fullmatch(value)
        return f"'{value}" if formula else value
    if kind is bool:
        return "true" if value else "false"
    return value if value is None or kind in {int, float} else _encode(value)
