"""The subset of SOQL that the org understands: fields, parents and children, conditions, aggregates and
order.

Source: https://developer.salesforce.com/docs/atlas.en-us.soql_sosl.meta/soql_sosl/sforce_api_calls_soql.htm
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from airflow_provider_agentforce.emulator.errors import ApiError

Record = dict[str, Any]
_Query = Callable[[list[Record]], list[Record]]
_Holds = Callable[[Record], bool]
_Part = TypeVar("_Part")

_TOKEN = re.compile(
    r"\s*('(?:[^'\\]|\\.)*'|(?:order|group)\s+by\b|not\s+in\b|-?\d[\d.:TZ+-]*|[\w.]+|[!<>]=|\S)",
    re.IGNORECASE,
)
_ESCAPE = re.compile(r"\\(.)")
_WORDS = {"true": True, "false": False, "null": None}
_ID = re.compile(r"0\w{14}(?:\w{3})?")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
# Parts of SOQL that the emulator lacks. They have a separate error, because the org's would call the query
# wrong.
_UNSUPPORTED = re.compile(
    r"typeof|using|with|having|offset|for|nulls|not|includes|excludes|fields|format|tolabel|convert\w+|distance|"
    r"today|yesterday|tomorrow|(last|this|next)_\w+|calendar_\w+|fiscal_\w+|day_\w+|week_\w+|hour_in_day",
    re.IGNORECASE,
)
_AGGREGATES: dict[str, Callable[[list[Any]], Any]] = {
    "count": len,
    "count_distinct": lambda values: len(set(map(_comparable, values))),
    "sum": lambda values: sum(values) if values else None,
    "avg": lambda values: sum(values) / len(values) if values else None,
    "min": lambda values: min(values, default=None),
    "max": lambda values: max(values, default=None),
}
_ORDERED = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class QueryResult:
    """The result of a query.

    :param records: each with its ``attributes`` and the selected fields.
    :param total: their number; ``COUNT()`` returns it without records.
    """

    records: list[Record]
    total: int


def select(soql: str, tables: Mapping[str, list[Record]]) -> QueryResult:
    """Return the result of ``soql``.

    :param tables: every record by the name of its type. A parent is a field with a mapping, children are a
        field with a list.
    :raises ApiError: the query is malformed, or names a type or field that does not exist.
    """
    parser = _Parser(soql, tables)
    source, query = parser.query()
    parser.end()
    records = query(_table(source, tables))
    return QueryResult([] if parser.counts else records, len(records))


def page(records: list[Record]) -> dict[str, Any]:
    """Return all ``records``, as the data API sends them."""
    return {"totalSize": len(records), "done": True, "records": records}


@dataclass(frozen=True)
class _Select:
    """A compiled query.

    :param holds: returns whether a record matches; ``None``: all do.
    :param groups: fields that the records are grouped by; ``None`` for none.
    :param order: names of fields, each with a flag for descending order.
    """

    fields: list[Callable[[Record, Record], None]]
    holds: _Holds | None
    groups: list[str] | None
    order: list[tuple[str, bool]]
    limit: int | None

    @property
    def is_grouped(self) -> bool:
        """Whether its results are not single records."""
        return self.groups is not None or any(isinstance(field, _Aggregate) for field in self.fields)

    def check(self) -> None:
        """Refuse fields that have no common value in a group.

        :raises ApiError: there is one.
        """
        groups = {name.lower() for name in self.groups or ()}
        fields = [*self.fields, *(partial(_add_field, name) for name, _ in self.order)]
        for field in fields if self.is_grouped else ():
            if isinstance(field, partial) and field.args[0].lower() not in groups:
                detail = f"Field must be grouped or aggregated: {field.args[0]}"
                raise ApiError("rest_malformed_query", detail=detail)

    def __call__(self, records: list[Record]) -> list[Record]:
        """Return the matches among *records*."""
        # A field that does not exist is refused even if no record matches.
        for record in records[:1]:
            _shown(record, self.fields)
        kept = list(filter(self.holds or (lambda _: True), records))
        for name, descending in reversed(self.order):
            kept.sort(key=partial(_sortable, name), reverse=descending)
        if self.is_grouped:
            return _counted(kept, self.fields, self.groups or [])[: self.limit]
        return [_shown(record, self.fields) for record in kept[: self.limit]]


class _Parser:
    """Compiles a query to functions of records, from left to right.

    :ivar counts: the query asks for ``COUNT()`` alone.
    """

    def __init__(self, soql: str, tables: Mapping[str, list[Record]]) -> None:
        self._tokens: list[str] = _TOKEN.findall(soql)
        self._tables = tables
        self._last = ""
        self.counts = False

    def query(self) -> tuple[str, _Query]:
        """Return the type or relationship of the query, and the compiled query."""
        self._expect("select")
        fields = self._list(",", self._field)
        if self.counts and len(fields) > 1:
            raise ApiError(
                "rest_malformed_query", detail="COUNT() must be the only element in the SELECT list"
            )
        self._expect("from")
        source = self._take()
        holds = self._any_of() if self._accept("where") else None
        groups = self._list(",", self._take) if self._accept("group by") else None
        order = self._list(",", self._order) if self._accept("order by") else []
        limit = int(self._take(r"\d+")) if self._accept("limit") else None
        selected = _Select(fields, holds, groups, order, limit)
        selected.check()
        return source, selected

    def end(self) -> None:
        if self._tokens:
            self._refuse()

    def _field(self) -> Callable[[Record, Record], None]:
        if self._accept("("):
            source, query = self.query()
            self._expect(")")
            return partial(_add_children, source, query)
        name = self._take()
        if name.lower() not in _AGGREGATES or not self._accept("("):
            return partial(_add_field, name)
        if name.lower() == "count" and self._accept(")"):
            self.counts = True
            return lambda _record, _shown: None
        aggregate = _Aggregate(_AGGREGATES[name.lower()], self._take())
        self._expect(")")
        if self._tokens and self._tokens[0].lower() not in {",", "from"}:
            aggregate.alias = self._take()
        return aggregate

    def _any_of(self) -> _Holds:
        parts = self._list("or", self._all_of)
        return parts[0] if len(parts) == 1 else lambda record: any(holds(record) for holds in parts)

    def _all_of(self) -> _Holds:
        parts = self._list("and", self._condition)
        return parts[0] if len(parts) == 1 else lambda record: all(holds(record) for holds in parts)

    def _condition(self) -> _Holds:
        if self._accept("("):
            inner = self._any_of()
            self._expect(")")
            return inner
        name = self._take()
        for word, wanted in (("in", True), ("not in", False)):
            if self._accept(word):
                values = self._values()
                return lambda record: (_comparable(_read(record, name)) in values) == wanted
        if self._accept("like"):
            text = re.escape(str(self._value())).replace("%", ".*").replace("_", ".")
            like = re.compile(text, re.IGNORECASE | re.DOTALL)
            return lambda record: like.fullmatch(str(_read(record, name) or "")) is not None
        sign = self._take("=|!=|[<>]=?")
        value = _comparable(self._value())
        if sign in _ORDERED:
            return partial(_in_order, name, _ORDERED[sign], value)
        return lambda record: bool(_comparable(_read(record, name)) == value) == (sign == "=")

    def _values(self) -> list[Any]:
        """Return the values after ``IN``: a list, or the results of another query."""
        self._expect("(")
        if self._tokens and self._tokens[0].lower() == "select":
            source, query = self.query()
            chosen = query(_table(source, self._tables))
            values = [value for one in chosen for key, value in one.items() if key != "attributes"]
        else:
            values = self._list(",", self._value)
        self._expect(")")
        return [_comparable(value) for value in values]

    def _order(self) -> tuple[str, bool]:
        name, descending = self._take(), self._accept("desc")
        return name, descending or (self._accept("asc") and False)

    def _value(self) -> Any:
        token = self._take(r"'.*'|-?\d[\d.:TZ+-]*|true|false|null")
        if token.startswith("'"):
            return _ESCAPE.sub(r"\1", token[1:-1])
        if _NUMBER.fullmatch(token):
            return float(token) if "." in token else int(token)
        # A date or a time, which is written without quotes.
        return _WORDS.get(token.lower(), token)

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
        self._last = self._tokens.pop(0)
        return self._last

    def _refuse(self) -> None:
        found = self._tokens[0] if self._tokens else "<EOF>"
        for token in (self._last, found):
            if _UNSUPPORTED.fullmatch(token):
                detail = f"{token.upper()} is not supported here; a real org may accept the query"
                raise ApiError("rest_malformed_query", detail=detail)
        raise ApiError("rest_malformed_query", detail=f"unexpected token: '{found}'")


class _Aggregate:
    """``COUNT(field)``, ``SUM(field)`` and the like, for records that have a value.

    :ivar alias: name of the result; by default ``expr0``, ``expr1`` and so on.
    """

    def __init__(self, function: Callable[[list[Any]], Any], path: str) -> None:
        self._function = function
        self._path = path
        self.alias: str | None = None

    def __call__(self, record: Record, _shown: Record) -> None:
        """Check that the field exists; the result is not that of a single record."""
        _read(record, self._path)

    def of(self, records: list[Record]) -> Any:
        """Return the result for a group of records."""
        values = [_read(one, self._path) for one in records]
        return self._function([value for value in values if value is not None])


def _counted(
    records: list[Record], fields: list[Callable[[Record, Record], None]], groups: list[str]
) -> list[Record]:
    """Return one record for each group, with its common values and its aggregates."""
    members: dict[tuple[Any, ...], list[Record]] = {} if groups else {(): []}
    for record in records:
        members.setdefault(tuple(_read(record, name) for name in groups), []).append(record)
    found = []
    for group in members.values():
        shown: Record = {"attributes": {"type": "AggregateResult"}}
        unnamed = 0
        for field in fields:
            if not isinstance(field, _Aggregate):
                field(group[0], shown)
                continue
            alias = field.alias or f"expr{unnamed}"
            unnamed += field.alias is None
            shown[alias] = field.of(group)
        found.append(shown)
    return found


def _shown(record: Record, fields: list[Callable[[Record, Record], None]]) -> Record:
    shown: Record = {"attributes": record["attributes"]}
    for add in fields:
        add(record, shown)
    return shown


def _add_field(path: str, record: Record, shown: Record) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        key = _key(parent, record)
        if record[key] is None:
            shown[key] = None
            return
        record = record[key]
        shown = shown.setdefault(key, {"attributes": record["attributes"]})
    key = _key(name, record)
    shown[key] = record[key]


def _add_children(source: str, query: _Query, record: Record, shown: Record) -> None:
    key = _key(source, record)
    children = query(record[key])
    shown[key] = page(children) if children else None


def _sortable(path: str, record: Record) -> tuple[bool, Any]:
    """Sort missing values first."""
    value = _read(record, path)
    return value is not None, value


def _in_order(path: str, holds: Callable[[Any, Any], bool], value: Any, record: Record) -> bool:
    found = _comparable(_read(record, path))
    if found is None:
        return False
    if isinstance(found, str) != isinstance(value, str):
        raise ApiError("rest_filter_operator", detail=f"filter criteria must be of type of {path}")
    return holds(found, value)


def _comparable(value: Any) -> Any:
    """Return a value for comparisons: texts are compared without case, ids by their short form."""
    if not isinstance(value, str):
        return value
    return value[:15] if _ID.fullmatch(value) else value.lower()


def _read(record: Record, path: str) -> Any:
    for name in path.split("."):
        value = record[_key(name, record)]
        if value is None:
            return None
        record = value
    return record


def _key(name: str, record: Record) -> str:
    """Return the name of a field in the org's spelling."""
    if name in record:
        return name
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
