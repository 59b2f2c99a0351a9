"""One request and its reply."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING

import h11
from typing_extensions import Self

from airflow_provider_agentforce.client.answer_reader import MAX_BODY_BYTES
from airflow_provider_agentforce.client.api_requests import HttpCall
from airflow_provider_agentforce.client.delivery_policy import Failure
from airflow_provider_agentforce.client.transport import errors
from airflow_provider_agentforce.client.transport.connection import Connection
from airflow_provider_agentforce.client.transport.errors import FramingError, TransportError, WireError
from airflow_provider_agentforce.client.transport.routes import Route

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.transport.transport import Transport

_ALWAYS_SENT = (("Accept-Encoding", "identity"), ("User-Agent", "airflow-provider-agentforce"))
_END = h11.EndOfMessage()
_MAX_INTERIM_REPLIES = 20
# How long the last chunk of a reply whose content is whole may take, for the connection to be used again; and
# what a server said before it stopped reading.
_GRACE_SECONDS = 0.05
_ZLIB_OR_GZIP = 47
_LENGTHS = re.compile(rb"^content-length\s*:(.*)$", re.IGNORECASE | re.MULTILINE)


class Exchange:
    """One call, and a context manager: a connection whose exchange ended cleanly goes back to the pool.

    :param bearer: the access token, if the call needs one.
    :param timeout: seconds for the whole exchange, from connecting to the last byte of the reply. It does not
        bound the look-up of the host's name.
    :param before_send: is called right before the first byte of the request leaves; if it raises, no byte
        leaves.
    :param during_cleanup: try even after the transport was stopped.
    :param starts_session: a stop can be asked to let it complete.
    :param max_body: bytes that the reply may hold.
    :ivar sent: whether a byte of the request was handed to the network.
    :ivar status: HTTP status of the reply, ``None`` until its head has arrived.
    :ivar headers: of the reply, with lower-case names.
    """

    def __init__(
        self,
        transport: Transport,
        call: HttpCall,
        *,
        bearer: str | None,
        timeout: float,
        before_send: Callable[[], None] | None = None,
        during_cleanup: bool = False,
        starts_session: bool = False,
        max_body: int = MAX_BODY_BYTES,
    ) -> None:
        self.sent = False
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.call = call
        self.starts_session = starts_session
        self._max_body = max_body
        self.during_cleanup = during_cleanup
        self._transport = transport
        self._bearer = bearer
        self._before_send = before_send
        self._timeout = timeout
        self._end = 0.0
        self._stopped = False
        self._framing = ""
        self._broken_write = False
        self._connection: Connection | None = None
        # Only the code that takes the connection out of this list may cut it or give it back, so a late stop
        # cannot cut the next exchange.
        self._cuttable: list[Connection] = []
        self._length = 0

    def __enter__(self) -> Self:
        self._transport.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        # It belongs to a call that refers to the exchange: without the cycle, a long reply is freed at once.
        self._before_send = None
        try:
            if connection is not None and self._uncut() and self._is_clean(connection, kind):
                self._transport.give_back(connection)
                connection = None
        finally:
            if connection is not None:
                connection.close()
            self._transport.remove(self)

    def send(self) -> None:
        """Send the request and read the head of the reply.

        :raises TransportError: no final status came.
        """
        self._end = time.monotonic() + self._timeout
        self._transport.send(self)

    def perform(self) -> None:
        """Do what :meth:`send` says; called by the adapter of ``requests``."""
        connection, data = self._ready()
        if self._before_send is not None:
            self._before_send()
            if not connection.usable:
                # Meanwhile the other side may have closed it.
                connection.close()
                connection, data = self._ready()
        self._raise_if_stopped()
        if time.monotonic() >= self._end:
            raise TransportError(Failure.UNREACHABLE, "no time was left to send")
        try:
            self._write(connection, data)
            reply = self._head(connection)
        except errors.WIRE_ERRORS as error:
            if errors.is_foreign(error):
                raise
            head, closed = connection.head, connection.closed_by_peer
            self.status = errors.status_begun(head)
            found = errors.without_reply(error, head=head, closed=closed, address=connection.route.address)
            raise self._error(found) from error
        # Much faster than to iterate over h11's headers themselves.
        raw = reply.headers.raw_items()
        self.headers = {name.decode("ascii").lower(): value.decode("latin-1") for name, value in raw}
        self.status = reply.status_code
        self._framing = _framing_problem(connection.head, self.headers)

    def iter_bytes(self) -> Iterator[bytes]:
        """Return the decoded body as it arrives.

        :raises TransportError: the reply is incomplete, or longer than ``max_body``.
        """
        connection = self._connection
        assert connection is not None  # noqa: S101 - send() has opened it
        try:
            if self._framing:
                raise FramingError(self._framing)
            decode = _decoder(self.headers.get("content-encoding", ""))
            connection.max_body = self._max_body
            while type(event := connection.next_event(self._end)) is h11.Data:
                piece = decode(bytes(event.data), self._max_body - self._length + 1)
                self._length += len(piece)
                if self._length > self._max_body:
                    raise FramingError(f"longer than {self._max_body} bytes")
                if piece:
                    yield piece
        except errors.WIRE_ERRORS as error:
            if errors.is_foreign(error):
                raise
            raise self._error(errors.in_reply(error, closed=connection.closed_by_peer)) from error
        if self._stopped and not self._complete_by_itself:
            # Without a length or chunks, our own cutting looks like the end of the reply.
            raise TransportError(Failure.STOPPED)

    def extend(self, seconds: float) -> None:
        """Give the exchange more time: its reader has used so much for something else."""
        self._end += seconds

    def stop(self) -> None:
        """Cut the exchange. Takes no lock: safe in a signal handler."""
        self._stopped = True
        with suppress(IndexError):
            self._cuttable.pop().shut()

    def _uncut(self) -> bool:
        """Take the connection out; return whether it was not cut."""
        try:
            self._cuttable.pop()
        except IndexError:
            return False
        return True

    def _ready(self) -> tuple[Connection, bytes]:
        """Return a connection that is kept or newly opened, and the bytes to send on it."""
        self._raise_if_stopped()
        connection: Connection | None = None
        route: Route | None = None
        try:
            route = self._transport.route(self.call.url)
            connection = self._transport.take(route) or Connection(route, self._raise_if_stopped)
            self._connection, self._cuttable = connection, [connection]
            if not connection.kept:
                connection.open(self._end)
            return connection, connection.encode(self._events(route))
        except (*errors.WIRE_ERRORS, ValueError) as error:
            if errors.is_foreign(error):
                raise
            found = errors.before_sending(
                error,
                connected=connection is not None and connection.connected,
                closed=connection is not None and connection.closed_by_peer,
                address=route.address if route is not None else "",
            )
            raise self._error(found) from error

    def _write(self, connection: Connection, data: bytes) -> None:
        self.sent = True
        try:
            connection.write(data, self._end)
        except (OSError, errors.DeadlineError) as error:
            if errors.is_foreign(error):
                raise
            # A server that refuses (401, 413, 429) may have answered before it read everything.
            if self._stopped:
                raise
            self._broken_write = True
            self._end = max(self._end, time.monotonic() + _GRACE_SECONDS)

    def _events(self, route: Route) -> list[h11.Request | h11.Data | h11.EndOfMessage]:
        call, body = self.call, self.call.body or b""
        headers = [("Host", call.url.split("/", 3)[2]), *call.headers.items(), *_ALWAYS_SENT]
        if self._bearer is not None:
            headers.append(("Authorization", f"Bearer {self._bearer}"))
        if route.absolute and route.proxy_authorization:
            headers.append(("Proxy-Authorization", route.proxy_authorization))
        headers.append(("Content-Length", str(len(body))))
        checked = _with(tuple(headers)).headers
        request = h11.Request(method=call.method, target=route.target(call.url), headers=checked)
        return [request, h11.Data(data=body), _END] if body else [request, _END]

    def _head(self, connection: Connection) -> h11.Response:
        for _ in range(_MAX_INTERIM_REPLIES + 1):
            event = connection.next_event(self._end)
            if type(event) is h11.Response:
                return event
            if type(event) is not h11.InformationalResponse:
                raise WireError("the connection ended without a reply")
        raise FramingError(f"more than {_MAX_INTERIM_REPLIES} interim replies")

    def _is_clean(self, connection: Connection, kind: type[BaseException] | None) -> bool:
        if kind is not None or self._stopped or self._broken_write or self.status is None or self._framing:
            return False
        if not self._length:
            # A server that sends no body where one was due may send it late, to the next exchange.
            return False
        try:
            return connection.finish(_GRACE_SECONDS)
        except errors.WIRE_ERRORS as error:
            if errors.is_foreign(error):
                raise
            return False  # the answer is here; only the connection is not used again

    @property
    def _complete_by_itself(self) -> bool:
        return "content-length" in self.headers or "transfer-encoding" in self.headers

    def _raise_if_stopped(self) -> None:
        if self._stopped:
            raise TransportError(Failure.STOPPED if self.sent else Failure.STOPPED_BEFORE)

    def _error(self, error: TransportError) -> TransportError:
        if self._stopped:
            return TransportError(Failure.STOPPED if self.sent else Failure.STOPPED_BEFORE)
        return error


def _framing_problem(head: bytes, headers: Mapping[str, str]) -> str:
    """Return why a head is ambiguous: h11 accepts it, but a proxy may have read it differently."""
    lengths = _LENGTHS.findall(head)
    if len(lengths) > 1 or b"," in b"".join(lengths):
        return "more than one Content-Length"
    if lengths and "transfer-encoding" in headers:
        return "both Content-Length and Transfer-Encoding"
    return ""


@lru_cache(maxsize=64)
def _with(headers: tuple[tuple[str, str], ...]) -> h11.Request:
    """Return a request with *headers*. h11 checks each one, and most requests repeat those of another."""
    return h11.Request(method="GET", target="/", headers=list(headers))


def _decoder(encoding: str) -> Callable[[bytes, int], bytes]:
    """Return a function that decodes one layer of *encoding*, up to a given number of bytes."""
    if encoding.strip().lower() in {"", "identity"}:
        return lambda data, _most: data
    if encoding.strip().lower() not in {"gzip", "x-gzip", "deflate"}:
        raise FramingError(f"an unknown Content-Encoding: {encoding}")
    return _Inflater(encoding).decode


class _Inflater:
    """Decodes a body that is compressed as *encoding* says."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._inflate = zlib.decompressobj(_ZLIB_OR_GZIP)

    def decode(self, data: bytes, most: int) -> bytes:
        """Return the content of the next bytes, at most *most* bytes.

        :raises FramingError: they are not valid.
        """
        found = b""
        while data and len(found) < most:
            if self._inflate.eof:
                # A gzip body may have several members.
                self._inflate = zlib.decompressobj(_ZLIB_OR_GZIP)
            before = self._inflate.copy()
            try:
                found += self._inflate.decompress(data, most - len(found))
            except zlib.error as error:
                # The part before a bad end counts, as it does when it arrives in a separate piece.
                found += _decoded_before(before, data)
                if not found:
                    raise FramingError(f"not valid {self._encoding}") from error
                return found
            data = self._inflate.unused_data
        return found


def _decoded_before(inflate: zlib._Decompress, data: bytes) -> bytes:
    found = b""
    with suppress(zlib.error):
        for place in range(len(data)):
            found += inflate.decompress(data[place : place + 1], MAX_BODY_BYTES)
    return found
