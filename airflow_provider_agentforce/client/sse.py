"""Decodes server-sent events. Pure: bytes in, events out.

The specification: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import re
from typing import NamedTuple

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Event(NamedTuple):
    """One event.

    :param name: its ``event`` field, ``""`` if it has none.
    :param data: its ``data`` lines, joined.
    """

    name: str
    data: bytes


class EventDecoder:
    """Splits bytes into events, however the bytes were cut in transit."""

    def __init__(self) -> None:
        self._partial = bytearray()
        self._started = False
        self._after_cr = False
        self._name = ""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[Event]:
        """Take the next bytes and return every event that they complete."""
        return [event for line in self._lines(piece) for event in self._read(line)]

    def finish(self) -> list[Event]:
        """Return an event that the end of the stream completes instead of a blank line.

        The specification drops it. Here the caller has to see whether it is whole.
        """
        rest, self._partial = self._without_mark(bytes(self._partial)), bytearray()
        return [*self._read(rest), *self._read(b"")]

    def _read(self, line: bytes) -> list[Event]:
        field, _, value = line.partition(b":")
        if field == b"data" and line != field:
            self._data.append(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ").decode("utf-8", "replace")
        if line:
            return []
        event = Event(self._name, b"\n".join(self._data))
        found = [event] if self._data else []
        self._name, self._data = "", []
        return found

    def _lines(self, piece: bytes) -> list[bytes]:
        if not piece:
            return []
        # A CR ends its line at once; the LF of a CRLF may come with the next bytes.
        fresh = piece.removeprefix(b"\n") if self._after_cr else piece
        self._after_cr = piece.endswith(b"\r")
        first, *others = _LINE_END.split(fresh)
        self._partial += first
        if not others:
            return []
        lines = [self._without_mark(bytes(self._partial)), *others[:-1]]
        self._partial = bytearray(others[-1])
        return lines

    def _without_mark(self, line: bytes) -> bytes:
        if self._started:
            return line
        self._started = True
        return line.removeprefix(_BYTE_ORDER_MARK)
