"""Decodes server-sent events, and collects the events of one turn. Pure: bytes in, messages out.

Event shapes: https://developer.salesforce.com/docs/ai/agentforce/guide/agent-api-examples.html
"""

from __future__ import annotations

import re
from typing import Any

from airflow_provider_agentforce.client import models
from airflow_provider_agentforce.client import responses as replies
from airflow_provider_agentforce.client.models import Turn
from airflow_provider_agentforce.client.delivery_policy import Failure
from airflow_provider_agentforce.client.responses import UnreadableReplyError

_LINE_END = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LAST = {"EndOfTurn", "SessionEnded", "Error"}
_ON_THE_WAY = {"ProgressIndicator", "TextChunk", "ValidationFailureChunk", "EndOfTurn"}


class EventDecoder:
    """Splits bytes into the ``data`` of events, however the bytes were cut on their way."""

    def __init__(self) -> None:
        self._partial = bytearray()
        self._started = False
        self._after_cr = False
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next bytes and return the data of every event that they complete."""
        events = []
        for line in self._lines(piece):
            if not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
            elif line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
        return events

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


class StreamedTurn:
    """Collects one turn from its events.

    :ivar begun: whether any byte of a stream has arrived.
    """

    def __init__(self) -> None:
        self.begun = False
        self._ended = False
        self._error: bytes | None = None
        self._decoder = EventDecoder()
        self._messages: list[dict[str, Any]] = []
        self._chunks: list[str] = []

    def feed(self, piece: bytes) -> list[dict[str, Any]]:
        """Take the next bytes and return the messages that they complete, as received.

        :raises UnreadableReplyError: if an event is not a JSON object.
        """
        self.begun = True
        news = []
        for data in self._decoder.feed(piece):
            for message in self._read(data):
                self._note(message)
                news.append(message)
        return news

    def turn(self, *, session: models.Session, sequence_id: int) -> Turn:
        """Return what has arrived so far as a turn."""
        # The answer's last message holds the whole text; streamed pieces stand in for one that never came.
        spoken = "".join(self._chunks)
        return replies.turn(self._messages, session=session, sequence_id=sequence_id, spoken=spoken)

    def check(self) -> None:
        """Make sure that the whole turn has arrived.

        :raises UnreadableReplyError: if the stream told of an error or stopped before its end.
        """
        if self._error is not None:
            raise UnreadableReplyError(replies.error(self._error).text, Failure.UNREADABLE)
        if not self._ended:
            raise UnreadableReplyError("the stream stopped before the end of the turn", Failure.STREAM_CUT)

    def _read(self, data: bytes) -> list[dict[str, Any]]:
        event = replies.decode_object(data)
        if isinstance(event.get("message"), dict):
            return [event["message"]]
        if isinstance(event.get("messages"), list):
            # The official guide also prints whole turns in the shape of a synchronous reply.
            return [message for message in event["messages"] if isinstance(message, dict)]
        if "error" in event:
            self._error = data
        return []

    def _note(self, message: dict[str, Any]) -> None:
        kind = str(message.get("type"))
        if kind == "TextChunk" and isinstance(message.get("message"), str):
            self._chunks.append(message["message"])
        elif kind == "ValidationFailureChunk":
            self._chunks.clear()
        elif kind in _LAST:
            self._ended = True
        if kind not in _ON_THE_WAY:
            self._messages.append(message)
