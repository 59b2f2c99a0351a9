"""The little SOQL that finds agents: fields of the record, its parent and its children, conditions and order.

Source: https://developer.salesforce.com/docs/atlas.en-us.soql_sosl.meta/soql_sosl/sforce_api_calls_soql.htm
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from airflow_provider_agentforce.emulator.errors import ApiError

Record = dict[str, Any]
_Query = Callable[[list[Record]], list[Record]]
_Part = TypeVar("_Part")

_TOKEN = re.compile(r"\s*('(?:[^'\\]|\\.)*'|order\s+by\b|[\w.]+|!=|\S)", re.IGNORECASE)
_ESCAPE = re.compile(r"\\(.)")
_WORDS = {"true": True, "false": False, "null": None}
_ID = re.compile(r"0\w{14}(?:\w{3})?")


def select(soql: str, tables: Mapping[str, list[Record]]) -> list[Record]:
    """Return the records that ``soql`` asks for, each with its ``attributes`` and the wanted fields.

    :param tables: every record by the name of its type. A parent is a field that holds a mapping, and the
        children are one that holds a list.
    :raises ApiError: the query is malformed, or names a type or field that does not exist.
    """
    parser = _Parser(soql, tables)
    source, query = parser.query()
    parser.end()
    return query(_table(source, tables))


def page(records: list[Record]) -> dict[str, Any]:
    """Return ``records`` as the data API sends them."""
    return {"totalSize": len(records), "done": True, "records": records}


class _Parser:
    """Turns a query into functions of records, from the left to the right."""

    def __init__(self, soql: str, tables: Mapping[str, list[Record]]) -> None:
        self._tokens: list[str] = _TOKEN.findall(soql)
        self._tables = tables

    def query(self) -> tuple[str, _Query]:
        """Return the type or relationship that is asked for, and what it makes of the records there."""
        self._expect("select")
        fields = self._list(",", self._field)
        self._expect("from")
        source = self._take()
        conditions = self._list("and", self._condition) if self._accept("where") else []
        order = self._list(",", self._order) if self._accept("order by") else []
        limit = int(self._take(r"\d+")) if self._accept("limit") else None

        def found(records: list[Record]) -> list[Record]:
            # A field that does not exist is refused though no record fits.
            for record in records[:1]:
                _shown(record, fields)
            kept = [record for record in records if all(holds(record) for holds in conditions)]
            for name, descending in reversed(order):
                kept.sort(key=partial(_sortable, name), reverse=descending)
            return [_shown(record, fields) for record in kept[:limit]]

        return source, found

    def end(self) -> None:
        if self._tokens:
            self._refuse()

    def _field(self) -> Callable[[Record, Record], None]:
        if not self._accept("("):
            return partial(_add_field, self._take())
        source, query = self.query()
        self._expect(")")
        return partial(_add_children, source, query)

    def _condition(self) -> Callable[[Record], bool]:
        name = self._take()
        if self._accept("in"):
            self._expect("(")
            source, query = self.query()
            self._expect(")")
            chosen = query(_table(source, self._tables))
            values = [value for one in chosen for key, value in one.items() if key != "attributes"]
            wanted = [_comparable(value) for value in values]
            return lambda record: _comparable(_read(record, name)) in wanted
        equal = self._take("!?=") == "="
        value = _comparable(self._value())
        return lambda record: bool(_comparable(_read(record, name)) == value) == equal

    def _order(self) -> tuple[str, bool]:
        name, descending = self._take(), self._accept("desc")
        return name, descending or (self._accept("asc") and False)

    def _value(self) -> Any:
        token = self._take(r"'.*'|\d+|true|false|null")
        if token.startswith("'"):
            return _ESCAPE.sub(r"\1", token[1:-1])
        return int(token) if token.isdigit() else _WORDS[token.lower()]

    def _list(self, separator: str, one: Callable[[], _Part]) -> list[_Part]:
        found = [one()]
        while self._accept(separator):
            found.append(one())
        return found

    def _accept(self, word: str) -> bool:
        accepted = bool(self._tokens) and " ".join(self._tokens[0].lower().split()) == word
        if accepted:
            self._tokens.pop(0)
        return accepted

    def _expect(self, word: str) -> None:
        if not self._accept(word):
            self._refuse()

    def _take(self, pattern: str = r"[A-Za-z][\w.]*") -> str:
        if not self._tokens or not re.fullmatch(pattern, self._tokens[0], re.IGNORECASE | re.DOTALL):
            self._refuse()
        return self._tokens.pop(0)

    def _refuse(self) -> None:
        found = self._tokens[0] if self._tokens else "<EOF>"
        raise ApiError("rest_malformed_query", detail=f"unexpected token: '{found}'")


def _shown(record: Record, fields: list[Callable[[Record, Record], None]]) -> Record:
    shown: Record = {"attributes": record["attributes"]}
    for add in fields:
        add(record, shown)
    return shown


def _add_field(path: str, record: Record, shown: Record) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        key = _key(parent, record)
        record = record[key]
        shown = shown.setdefault(key, {"attributes": record["attributes"]})
    key = _key(name, record)
    shown[key] = record[key]


def _add_children(source: str, query: _Query, record: Record, shown: Record) -> None:
    key = _key(source, record)
    children = query(record[key])
    shown[key] = page(children) if children else None


def _sortable(path: str, record: Record) -> tuple[bool, Any]:
    """Put what has no value first."""
    value = _read(record, path)
    return value is not None, value


def _comparable(value: Any) -> Any:
    """Texts compare without regard to case; an id in its short form names the same record."""
    if not isinstance(value, str):
        return value
    return value[:15] if _ID.fullmatch(value) else value.lower()


def _read(record: Record, path: str) -> Any:
    for name in path.split("."):
        record = record[_key(name, record)]
    return record


def _key(name: str, record: Record) -> str:
    """Return the name of a field as the org writes it."""
    found = next((key for key in record if key.lower() == name.lower()), None)
    if found is None:
        kind = record["attributes"]["type"]
        raise ApiError("rest_invalid_field", detail=f"No such column '{name}' on entity '{kind}'.")
    return found


def _table(name: str, tables: Mapping[str, list[Record]]) -> list[Record]:
    found = next((table for key, table in tables.items() if key.lower() == name.lower()), None)
    if found is None:
        raise ApiError("rest_invalid_type", detail=f"sObject type '{name}' is not supported.")
    return found
