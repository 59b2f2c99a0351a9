"""Finds the JSON in an agent's answer, without I/O, in a time that grows linearly with the answer.

An agent that is asked for JSON returns it alone, in a code fence, or between sentences. An agent with a
custom connection returns it as a ``result`` whose type begins with ``SURFACE_ACTION__`` and whose value is
JSON as text (https://developer.salesforce.com/docs/ai/agentforce/guide/, "custom connections").
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from airflow_provider_agentforce.client import json_values
from airflow_provider_agentforce.client.models import Turn

# NaN is read like any number, so that its end is known, and refused afterwards.
_DECODER = json_values.decoder(parse_constant=float)
_FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})[^\n`]*\n\s*", re.MULTILINE)
_FENCE_END = re.compile(r"\s*(?:```|~~~|\Z)")
_OPENER = re.compile(r"[\[{]")
# Brackets are common in prose; only JSON begins like this.
_MEANT = re.compile(r"\[?\s*\{\s*\"|\[\s*\"")
_MOST_FOUND = 200
# The decoder counts the lines before each error, so an unlimited number of errors would take quadratic time.
_MOST_FAILURES = 1000


@dataclass(frozen=True)
class JsonPiece:
    """A piece of JSON.

    :param value: its value, with texts that every XCom backend can store.
    :param text: the same as JSON text.
    """

    value: Any
    text: str


def is_structured(result: Any) -> bool:
    """Return whether a ``result`` entry is the structured answer of a custom connection."""
    return isinstance(result, dict) and str(result.get("type")).startswith("SURFACE_ACTION__")


def json_in(turn: Turn) -> Iterator[JsonPiece]:
    """Yield what may be the requested JSON, the most likely first, at most 200 pieces.

    The order: results of a custom connection; the whole text, and if that is JSON nothing else; the contents
    of code fences; every object and array in the text, up to one that is broken, because a part of an answer
    must not count as the answer.
    """
    return islice(_everything(turn), _MOST_FOUND)


def _everything(turn: Turn) -> Iterator[JsonPiece]:
    for result in filter(is_structured, turn.results):
        found = _of_result(result.get("value"))
        if found is not None:
            yield found
    whole = _whole(turn.text)
    if whole is not None:
        yield whole
        return
    search = _Search(turn.text)
    yield from search.fenced()
    yield from search.embedded()


def _of_result(value: Any) -> JsonPiece | None:
    if isinstance(value, str):
        return _whole(value)
    return JsonPiece(value, json.dumps(value)) if isinstance(value, dict | list) else None


def _whole(text: str) -> JsonPiece | None:
    stripped = text.strip()
    try:
        found, end = _read(stripped, 0)
    except (ValueError, RecursionError):
        return None
    return found if end == len(stripped) else None


def _read(text: str, start: int) -> tuple[JsonPiece | None, int]:
    """Return the JSON at *start* and the position after it; ``None`` for JSON that contains ``NaN``."""
    value, end = _DECODER.raw_decode(text, start)
    kept = json_values.storable(value)
    try:
        return JsonPiece(kept, json.dumps(kept, allow_nan=False)), end
    except ValueError:
        return None, end


class _Search:
    """A search for JSON in a text. It gives up after too many failures."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._failures = 0

    def fenced(self) -> Iterator[JsonPiece]:
        """Yield the contents of each fence that contains only JSON."""
        for fence in _FENCE.finditer(self._text):
            found, end = self._read(fence.end())
            if found is not None and _FENCE_END.match(self._text, end):
                yield found
            if self._given_up:
                return

    def embedded(self) -> Iterator[JsonPiece]:
        """Yield every object and array that is not inside another one."""
        position = 0
        while not self._given_up and (opener := _OPENER.search(self._text, position)):
            found, position = self._read(opener.start())
            if found is not None:
                yield found
            elif _MEANT.match(self._text, opener.start()):
                return

    @property
    def _given_up(self) -> bool:
        return self._failures >= _MOST_FAILURES

    def _read(self, start: int) -> tuple[JsonPiece | None, int]:
        """Return the JSON at *start*, if any, and the position up to which the text was searched."""
        try:
            return _read(self._text, start)
        except json.JSONDecodeError as error:
            self._failures += 1
            return None, max(error.pos, start + 1)
        except RecursionError:
            self._failures = _MOST_FAILURES
            return None, len(self._text)
