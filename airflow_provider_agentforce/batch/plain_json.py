"""The JSON text of a record from a Dag or a library, the same in every process."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import date, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

# A decimal is written without an exponent, unless it gets longer than this.
_MOST_DIGITS = 400


def as_json(value: Any, *, ordered: bool = False) -> str:
    """Return *value* as JSON text, the same in every process.

    Dates, decimals, UUIDs and enums become text or their value, values of numpy and pandas the value they
    contain; ``NaN`` and ``NA`` become ``null``.

    :param ordered: sort the names of fields.
    :raises ValueError: for anything else that JSON cannot represent, such as a set.
    """
    encoder = _ORDERED if ordered else _ENCODER
    try:
        try:
            return encoder.encode(value)
        except ValueError:
            # Not a finite number, or a circular reference.
            return encoder.encode(_finite(value, 0))
    except TypeError as error:
        raise ValueError(str(error)) from None


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind.__name__ in {"NAType", "NaTType"} and kind.__module__.startswith("pandas"):
        return None
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        short = isinstance(value, Decimal) and abs(value.adjusted()) <= _MOST_DIGITS
        return f"{value:f}" if short else str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if kind.__module__.partition(".")[0] in {"numpy", "pandas"} and hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a value of type {kind.__name__} has no stable representation in JSON")


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
