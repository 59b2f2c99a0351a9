"""Reads the code and the text of an error, in every format of the API, OAuth and gateways. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_CODE_FIELDS = ("error", "errorCode", "code")
_TEXT_FIELDS = ("error_description", "message", "detail")
# Errors wrap errors, but a reply must not decide how deep the client looks.
_DEEPEST = 4


def errors_in(value: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the errors in a JSON value: the value itself, those of a list, or those below ``errors``."""
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
    """Return the text of an error and of the errors in it; ``""`` for none."""
    wrapped = error.get("error")
    parts = [*map(error.get, (*_TEXT_FIELDS, "errors")), None if isinstance(wrapped, str) else wrapped]
    return _joined(reason_of(part, depth - 1) for part in parts)


def reason_of(error: Any, depth: int = _DEEPEST) -> str:
    """Return code and text of an error, or of all errors in a list; ``""`` for none."""
    if isinstance(error, Mapping) and depth:
        return ": ".join(filter(None, [code_of(error), words_of(error, depth)]))
    if isinstance(error, list) and depth:
        return _joined(reason_of(one, depth - 1) for one in error)
    return error.strip() if isinstance(error, str) else ""


def _joined(parts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(filter(None, parts)))
