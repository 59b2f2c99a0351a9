"""Reads and writes Parquet with ``pyarrow``, which is imported when it is needed."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any

from airflow_provider_agentforce.batch.fields import IN_64_BITS
from airflow_provider_agentforce.batch.plain_json import as_json
from airflow_provider_agentforce.exceptions import AgentforceInputError, one_line

_ROWS = 1_000
# A column of a table has one of these kinds.
TEXTS, INTEGERS, NUMBERS, BOOLEANS = "text", "integer", "number", "boolean"


def pyarrow(needed_by: str) -> Any:
    """Return the module ``pyarrow`` with its submodule ``parquet``.

    :param needed_by: the argument that asks for it, with its value.
    :raises AgentforceInputError: if it is not installed.
    """
    try:
        import_module("pyarrow.parquet")
        return import_module("pyarrow")
    except ImportError as error:
        raise AgentforceInputError(
            f"{needed_by} needs pyarrow, which is not installed. "
            "pip install 'airflow-provider-agentforce[parquet]' brings it."
        ) from error


def parquet_rows(file: Any, path: Any) -> tuple[list[str], Iterator[dict[str, Any]]]:
    """Return the names of a file's columns, and its rows.

    Timestamps are read to the microsecond, maps as dicts.

    :raises AgentforceInputError: if it is not Parquet, or has timestamps with a finer resolution.
    """
    arrow = pyarrow(f"records={str(path)!r}")
    try:
        opened = arrow.parquet.ParquetFile(file)
        schema = opened.schema_arrow
    except arrow.ArrowException as error:
        raise _unreadable(path, error) from None
    target = arrow.schema([field.with_type(_to_microseconds(arrow, field.type)) for field in schema])

    def rows() -> Iterator[dict[str, Any]]:
        try:
            for batch in opened.iter_batches(_ROWS):
                exact = batch if target.equals(schema) else batch.cast(target)
                yield from exact.to_pylist(maps_as_pydicts="strict")
        except (arrow.ArrowException, KeyError, OverflowError, ValueError) as error:
            raise _unreadable(path, error) from None

    return list(schema.names), rows()


def _to_microseconds(arrow: Any, kind: Any) -> Any:
    """Return the type *kind* with each timestamp in it, at any depth, in Python's resolution."""
    types = arrow.types
    if types.is_timestamp(kind) and kind.unit == "ns":
        return arrow.timestamp("us", kind.tz)
    if types.is_time64(kind):
        return arrow.time64("us")
    if types.is_struct(kind):
        return arrow.struct([one.with_type(_to_microseconds(arrow, one.type)) for one in kind])
    if types.is_map(kind):
        return arrow.map_(kind.key_type, _to_microseconds(arrow, kind.item_type))
    if types.is_list(kind) or types.is_large_list(kind):
        make = arrow.list_ if types.is_list(kind) else arrow.large_list
        return make(kind.value_field.with_type(_to_microseconds(arrow, kind.value_type)))
    return kind


def _unreadable(path: Any, error: Exception) -> AgentforceInputError:
    return AgentforceInputError(f"records: {path} cannot be read as Parquet ({one_line(str(error), 200)}).")


class _Written(io.RawIOBase):
    """A writable file whose bytes are taken away as they arrive."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._size += len(piece)
        return len(piece)

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def parquet_bytes(
    names: Sequence[str], kinds: Sequence[str], batches: Iterable[Sequence[Sequence[Any]]]
) -> Iterator[bytes]:
    """Yield the bytes of a Parquet file, a row group for each batch.

    :param kinds: the kind of each column.
    :param batches: rows with JSON values. A text column has other values as JSON; in any other column a value
        of another kind is left out.
    """
    arrow = pyarrow('output_formats="parquet"')
    types = {
        TEXTS: arrow.string(),
        INTEGERS: arrow.int64(),
        NUMBERS: arrow.float64(),
        BOOLEANS: arrow.bool_(),
    }
    schema = arrow.schema([(name, types[kind]) for name, kind in zip(names, kinds, strict=True)])
    file = _Written()
    with arrow.parquet.ParquetWriter(file, schema) as writer:
        for rows in batches:
            columns = zip(zip(*rows, strict=True), kinds, schema.types, strict=True)
            arrays = [_array(arrow, values, kind, of) for values, kind, of in columns]
            writer.write_batch(arrow.record_batch(arrays, schema=schema))
            yield file.taken()
    yield file.taken()


def _array(arrow: Any, values: Sequence[Any], kind: str, of: Any) -> Any:
    try:
        return arrow.array(values, of)
    except (arrow.ArrowException, TypeError, ValueError, OverflowError):
        return arrow.array(map(_CONVERTERS[kind], values), of)


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else as_json(value)


def _integer(value: Any) -> int | None:
    whole = int(value) if isinstance(value, float) and value.is_integer() else value
    fits = isinstance(whole, int) and not isinstance(whole, bool) and abs(whole) < IN_64_BITS
    return whole if fits else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    TEXTS: _text,
    INTEGERS: _integer,
    NUMBERS: _number,
    BOOLEANS: _boolean,
}
