"""Reads the code and the words of an error, in every shape that the API, OAuth and gateways give it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_CODE_FIELDS = ("error", "errorCode", "code")
_TEXT_FIELDS = ("error_description", "message", "detail")
# Errors wrap errors, but a reply must not decide how deep that is followed.
_DEEPEST = 4


def errors_in(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the errors that a JSON value holds: itself, those of a list, or those below ``errors``."""
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, Mapping):
            continue
        inner = item.get("errors")
        if isinstance(inner, list) and not any(map(item.get, (*_CODE_FIELDS, *_TEXT_FIELDS))):
            yield from (one if isinstance(one, Mapping) else {"message": one} for one in inner)
        elif reason_of(item):
            yield item


def code_of(error: Mapping[str, Any]) -> str:
    """Return the class or code of an error, such as ``NotFoundException``; ``""`` for none."""
    named = (error.get(name) for name in _CODE_FIELDS)
    codes = (str(code).strip() for code in named if code and type(code) in (str, int))
    return next(filter(None, codes), "")


def words_of(error: Mapping[str, Any], depth: int = _DEEPEST) -> str:
    """Return what an error says, with what the errors in it say; ``""`` for nothing."""
    wrapped = error.get("error")
    parts = [*map(error.get, (*_TEXT_FIELDS, "errors")), None if isinstance(wrapped, str) else wrapped]
    return _joined(reason_of(part, depth - 1) for part in parts)


def reason_of(error: Any, depth: int = _DEEPEST) -> str:
    """Return code and words of an error, or of all in a list; ``""`` for none."""
    if isinstance(error, Mapping) and depth:
        return ": ".join(filter(None, [code_of(error), words_of(error, depth)]))
    if isinstance(error, list) and depth:
        return _joined(reason_of(one, depth - 1) for one in error)
    return error.strip() if isinstance(error, str) else ""


def _joined(parts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(filter(None, parts)))
