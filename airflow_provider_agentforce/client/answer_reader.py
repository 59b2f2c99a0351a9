"""Reads a body piece by piece and detects its end as early as possible. Pure.

An answer must not depend on how its connection ends, and must not wait for an end that adds nothing.
"""

from __future__ import annotations

import re
from typing import Any

from airflow_provider_agentforce.client import json_values, responses
from airflow_provider_agentforce.client.delivery_policy import Failure
from airflow_provider_agentforce.client.error_words import errors_in
from airflow_provider_agentforce.client.models import Session, Turn
from airflow_provider_agentforce.client.responses import UnreadableReplyError, error_message, identity_of
from airflow_provider_agentforce.client.sse import Event, EventDecoder

EVENT_STREAM = "text/event-stream"
MAX_BODY_BYTES = 4 * 1024 * 1024
# A turn takes about 100 kB, mostly prompts for the models, and a session may have a hundred.
MAX_TRACE_BYTES = 4 * MAX_BODY_BYTES

# A string is one token, closed or not, so that the brackets in it are not counted.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?P<closed>"?)|(?P<opens>[\[{])|[\]}]', re.DOTALL)
_BEGINS_A_VALUE = re.compile(rb"(?:\xef\xbb\xbf)?\s*[\[{]")
# May precede JSON or an event stream: a byte order mark and blank lines.
_BLANK = b"\xef\xbb\xbf \t\r\n"
_PROGRESS = "PROGRESS_INDICATOR"
_LAST = {"EndOfTurn", "SessionEnded", "Error"}
_ON_THE_WAY = {"ProgressIndicator", "TextChunk", "ValidationFailureChunk", "EndOfTurn"}


class JsonReader:
    """Reads a JSON object or array, or a body of any other kind up to its end.

    :param most: maximum number of bytes kept.
    :ivar complete: whether the value has arrived completely. Bytes after it are not read.
    """

    def __init__(self, most: int = MAX_BODY_BYTES) -> None:
        self.complete = False
        self._most = most
        self._body = bytearray()
        self._value: Any = None
        self._decided = False
        self._depth = 0
        self._open_string = b""

    @property
    def body(self) -> bytes:
        """The bytes received so far, up to the maximum."""
        return bytes(self._body)

    @property
    def value(self) -> Any:
        """The JSON value.

        :raises UnreadableReplyError: if the body is not JSON.
        """
        return self._value if self.complete else responses.decode_reply(self.body)

    def feed(self, piece: bytes) -> list[dict[str, Any]]:
        """Take the next bytes. A JSON body has no messages to pass on before its end."""
        if self.complete:
            return []
        kept = piece[: self._most - len(self._body)]
        start = len(self._body)
        self._body += kept
        if not start and kept.rstrip()[-1:] in b"]}":
            # Most bodies arrive in one piece.
            self._finish(len(kept))
        end = None if self._decided or self.complete else self._end_of_value(kept)
        if end is not None:
            self._decided = True
            self._finish(start + end)
        return []

    def _end_of_value(self, piece: bytes) -> int | None:
        """Return where in *piece* the outermost bracket is closed."""
        carried, self._open_string = self._open_string, b""
        text = carried + piece
        for token in _TOKEN.finditer(text):
            if token["closed"] == b"":
                self._open_string = b'"' + text[token.end() :]
            elif token["closed"] is None:
                self._depth += 1 if token["opens"] else -1
                if self._depth <= 0:
                    return token.end() - len(carried)
        return None

    def _finish(self, end: int) -> None:
        if not _BEGINS_A_VALUE.match(self._body):
            return
        rest = self._body[end:]
        del self._body[end:]
        try:
            self._value = responses.decode_reply(self.body)
            self.complete = True
        except UnreadableReplyError:
            self._body += rest


class LongReader(JsonReader):
    """Reads a long reply up to its end.

    :param most: maximum number of bytes kept.
    :ivar too_long: whether there was more, so that reading stopped.
    """

    too_long = False

    def feed(self, piece: bytes) -> list[dict[str, Any]]:
        """Take the next bytes."""
        self._body += piece
        if len(self._body) > self._most:
            self.too_long = self.complete = True
            self._body.clear()
        return []


class AnswerReader:
    """Reads the answer to a message, JSON or an event stream.

    When the connection fails, :meth:`turn` still knows whether the answer had arrived.

    :param content_type: the reply's ``Content-Type`` header. It decides, unless the first byte shows that a
        gateway has set it wrongly.
    :param session: the session that the message was sent in.
    :param sequence_id: the number of the message.
    :param request: what was asked, for the turn.
    """

    def __init__(
        self,
        content_type: str | None,
        *,
        session: Session,
        sequence_id: int,
        request: dict[str, Any] | None = None,
    ) -> None:
        media_type = (content_type or "").partition(";")[0].strip().lower()
        self._answer: _EventStream | _JsonAnswer = (
            _EventStream() if media_type == EVENT_STREAM else _JsonAnswer()
        )
        self._begun = False
        self._session = session
        self._sequence_id = sequence_id
        self._request = request

    @property
    def complete(self) -> bool:
        """Whether the answer has arrived completely, so that nothing more needs to be read."""
        return self._answer.complete

    @property
    def body(self) -> bytes:
        """The bytes received so far, at most 4 MiB."""
        return self._answer.body

    def feed(self, piece: bytes) -> list[dict[str, Any]]:
        """Take the next bytes and return the streamed messages that they complete, each message once."""
        if not self._begun:
            piece = piece.lstrip(_BLANK)
            self._begun = bool(piece)
            kind = _KNOWN_BY_FIRST_BYTE.get(piece[:1])
            if kind is not None and kind is not type(self._answer):
                self._answer = kind()
        return self._answer.feed(piece)

    def turn(self) -> Turn:
        """Return the answer. An error of the org instead of it is an answer with the outcome ``failed``.

        :raises UnreadableReplyError: if it is incomplete, or not an answer.
        """
        return self._turn(self._answer.checked())

    def partial(self) -> Turn | None:
        """Return the readable part of an incomplete answer, ``None`` if there is none."""
        messages = self._answer.messages
        return self._turn(messages) if messages or self._answer.text else None

    def _turn(self, messages: list[dict[str, Any]]) -> Turn:
        return responses.turn(
            messages,
            session=self._session,
            sequence_id=self._sequence_id,
            streamed=self._answer.text,
            request=self._request,
        )


class _JsonAnswer(JsonReader):
    """An answer as one JSON value."""

    text = ""

    @property
    def messages(self) -> list[dict[str, Any]]:
        try:
            return self.checked()
        except UnreadableReplyError:
            return []

    def checked(self) -> list[dict[str, Any]]:
        return responses.messages_of(self.value)


class _EventStream:
    """An answer as an event stream.

    :ivar complete: whether its last message has arrived. Bytes after it are not read.
    """

    def __init__(self) -> None:
        self.complete = False
        self._messages: list[dict[str, Any]] = []
        self._body = bytearray()
        self._decoder = EventDecoder()
        self._chunks: list[str] = []
        self._seen: set[tuple[str, ...]] = set()
        self._garbled: UnreadableReplyError | None = None

    @property
    def body(self) -> bytes:
        return bytes(self._body)

    @property
    def messages(self) -> list[dict[str, Any]]:
        self._finish()
        return self._messages

    @property
    def text(self) -> str:
        self._finish()
        return "".join(self._chunks)

    def feed(self, piece: bytes) -> list[dict[str, Any]]:
        self._body += piece[: MAX_BODY_BYTES - len(self._body)]
        return [message for event in self._decoder.feed(piece) for message in self._take(event)]

    def checked(self) -> list[dict[str, Any]]:
        self._finish()
        if self._garbled is not None:
            raise self._garbled
        if not self.complete:
            raise UnreadableReplyError("the stream stopped before the end of the turn", Failure.STREAM_CUT)
        return self._messages

    def _finish(self) -> None:
        garbled = self._garbled
        for event in self._decoder.finish():
            self._take(event)
        # An event that was cut off is the end of the stream, not garbage.
        self._garbled = garbled

    def _take(self, event: Event) -> list[dict[str, Any]]:
        if self.complete:
            return []
        try:
            messages = _messages_in(event)
        except UnreadableReplyError as error:
            if event.name.upper() != _PROGRESS:
                self._garbled = self._garbled or error
            return []
        return [message for message in messages if self._note(message)]

    def _note(self, message: dict[str, Any]) -> bool:
        """Keep a message; return whether it is the first of its kind."""
        kind, identity = str(message.get("type")), identity_of(message)
        is_new = identity is None or identity not in self._seen
        if identity is not None:
            self._seen.add(identity)
        if kind == "TextChunk" and is_new and isinstance(message.get("message"), str):
            self._chunks.append(message["message"])
        elif kind == "ValidationFailureChunk":
            self._chunks.clear()
        if kind not in _ON_THE_WAY:
            self._messages.append(message)
        self.complete = self.complete or kind in _LAST
        return is_new


# No JSON value begins like a field of an event stream, and no field like an object or array.
_KNOWN_BY_FIRST_BYTE: dict[bytes, type[_EventStream | _JsonAnswer]] = {
    **dict.fromkeys((b"{", b"["), _JsonAnswer),
    **dict.fromkeys((b"e", b"d", b"i", b"r", b":"), _EventStream),
}


def _messages_in(event: Event) -> list[dict[str, Any]]:
    """Return the messages of an event; none for a heartbeat, an empty event or ``[DONE]``.

    :raises UnreadableReplyError: if it is a message that cannot be read.
    """
    is_error = event.name.upper() == "ERROR"
    try:
        value = responses.decode_reply(event.data)
    except UnreadableReplyError:
        if b"{" in event.data and not is_error:
            raise
        value = json_values.storable(event.data.decode("utf-8", "replace")) if is_error else None
    return _messages_of_a_turn(value, is_error=is_error) or _errors_of_a_turn(value, is_error=is_error)


def _messages_of_a_turn(value: Any, *, is_error: bool) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        message = value.get("message")
        if isinstance(message, dict):
            return [error_message(message) if is_error and "type" not in message else message]
        if isinstance(value.get("messages"), list):
            # The official guide also prints whole turns in the shape of a synchronous reply.
            return [message for message in value["messages"] if isinstance(message, dict)]
        if str(value.get("type")) in responses.MESSAGE_TYPES:
            return [value]
    return []


def _errors_of_a_turn(value: Any, *, is_error: bool) -> list[dict[str, Any]]:
    errors = [one for one in errors_in(value) if is_error or one.get("error") or one.get("errorCode")]
    return [*map(error_message, errors)] or ([error_message({"message": value})] if is_error else [])
