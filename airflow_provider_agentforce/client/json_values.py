"""JSON whose values every XCom backend and database can store. Pure.

A reply may hold legal JSON that PostgreSQL or msgpack refuses. By the time that shows, the agent has acted;
so every value is made storable where it is parsed.
"""

from __future__ import annotations

import codecs
import functools
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

# Databases accept this depth, and Python can recurse much deeper.
_DEEPEST = 100
_storable_text = functools.partial(re.compile("[\x00\ud800-\udfff]").sub, "\ufffd")


def decode(body: bytes) -> Any:
    """Parse *body* as UTF-8 JSON with values that can be stored.

    :raises ValueError: if it is not JSON. The text says what it is instead.
    """
    # A byte that is not UTF-8 becomes U+FFFD, as other characters that cannot be stored do.
    text = body.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")
    try:
        value = _DECODER.decode(text)
        if text.count("[") + text.count("{") > _DEEPEST:
            _check_depth(value)
        # Only an escape can stand for a character that UTF-8 or JSON does not allow.
        return storable(value) if "\\u" in text else value
    except RecursionError:
        raise ValueError("JSON nested too deep") from None
    except ValueError as error:
        raise ValueError("empty" if not text.strip() else f"not JSON ({error})") from None


def _check_depth(value: Any) -> None:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return
    raise RecursionError


def decoder(parse_constant: Callable[[str], Any]) -> json.JSONDecoder:
    """Return a JSON decoder that reads a number which no database stores as its digits.

    :param parse_constant: is given ``NaN``, ``Infinity`` or ``-Infinity``, which JSON does not have.
    """
    return json.JSONDecoder(parse_int=_integer, parse_float=_float, parse_constant=parse_constant)


def decode_own(line: bytes) -> Any:
    """Parse a line of JSON that this package has written.

    Anything after the value is ignored, and the encoding of bytes is not detected.

    :raises ValueError: if it does not begin with JSON.
    """
    return _OWN.raw_decode(line.decode("utf-8"))[0]


def decode_unambiguous(text: str) -> Any:
    """Parse JSON in which no object has a name twice. Nothing in it is replaced.

    :raises ValueError: if it is not such JSON; the text gives the name that occurs twice.
    """
    return _UNAMBIGUOUS.decode(text)


def decode_record(text: str) -> Any:
    """Parse JSON like :func:`decode_unambiguous`, with ``None`` for a number that is not finite."""
    return _RECORD.decode(text)


def _with_each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the name {twice!r:.80} occurs twice in an object")
    return value


def as_decoded(value: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what :func:`decode` makes of *value*, at any depth: it can be stored."""
    return storable(_DECODER.decode(json.dumps(value)))  # type: ignore[no-any-return]


def storable(value: Any) -> Any:
    """Replace the characters that msgpack or PostgreSQL refuse by U+FFFD, in keys too."""
    return mapped(value, _storable_text)


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """Return *value* with *change* applied to every text in it, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [mapped(item, change) for item in value]
    if isinstance(value, dict):
        return {change(key): mapped(item, change) for key, item in value.items()}
    return value


def _integer(digits: str) -> int | str:
    # Beyond 64 bits neither msgpack nor JSONB keeps the number; its digits are kept instead.
    return int(digits) if len(digits) <= 18 else _wide_integer(digits)  # noqa: PLR2004


def _wide_integer(digits: str) -> int | str:
    if len(digits) <= 20 and -(2**63) <= int(digits) < 2**63:  # noqa: PLR2004
        return int(digits)
    return digits


def _float(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


_DECODER = decoder(parse_constant=str)
_OWN = json.JSONDecoder()
_UNAMBIGUOUS = json.JSONDecoder(object_pairs_hook=_with_each_name_once)
_RECORD = json.JSONDecoder(
    object_pairs_hook=_with_each_name_once, parse_float=_finite, parse_constant=lambda _: None
)
