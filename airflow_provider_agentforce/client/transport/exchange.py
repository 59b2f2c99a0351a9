"""One request and its reply."""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

import h11
from typing_extensions import Self

from airflow_provider_agentforce.client.answer_reader import MAX_BODY_BYTES
from airflow_provider_agentforce.client.delivery_policy import Failure
from airflow_provider_agentforce.client.transport import errors
from airflow_provider_agentforce.client.transport.connection import Connection
from airflow_provider_agentforce.client.transport.errors import FramingError, TransportError

if TYPE_CHECKING:
    from airflow_provider_agentforce.client.transport.transport import Transport

_MAX_INTERIM_REPLIES = 20
# How long the last chunk of a reply whose content is whole may take, for the connection to be used again.
_GRACE_SECONDS = 0.05
_SWITCHING = 101
_ZLIB_OR_GZIP = 47
_LENGTH = re.compile(rb"^content-length\s*:(.*)$", re.IGNORECASE | re.MULTILINE)
_ENCODING = re.compile(rb"^transfer-encoding\s*:", re.IGNORECASE | re.MULTILINE)


class Exchange:
    """One call, and a context manager: a connection whose exchange ended cleanly goes back to the pool.

    :ivar sent: whether a byte of the request was handed to the network.
    :ivar status: HTTP status of the reply, ``None`` until its head has arrived.
    :ivar headers: of the reply, with lower-case names.
    """

    def __init__(
        self,
        transport: Transport,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        timeout: float,
        before_send: Callable[[], None] | None,
        during_cleanup: bool,
        starts_session: bool,
    ) -> None:
        self.sent = False
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.method = method
        self.url = url
        self.request_headers = headers
        self.body = body
        self.starts_session = starts_session
        self.during_cleanup = during_cleanup
        self._transport = transport
        self._before_send = before_send
        self._timeout = timeout
        self._end = 0.0
        self._stopped = False
        self._framing = ""
        self._broken_write = False
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        self._transport.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        connection, self._connection = self._connection, None
        try:
            if connection is not None and self._is_clean(connection, kind):
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
        # The route knows the proxy; without this requests reads the environment for every request.
        self._transport.session.send(
            self._transport.prepared(self), stream=True, allow_redirects=False, proxies={}
        )

    def perform(self) -> None:
        """Do what :meth:`send` says; called by the adapter of ``requests``."""
        connection = self._ready()
        if self._before_send is not None:
            self._before_send()
        self._raise_if_stopped()
        try:
            self._write(connection)
            reply = self._head(connection)
        except Exception as error:
            self.status = errors.status_begun(connection.head)
            raise self._error(
                errors.without_reply(error, head=connection.head, address=connection.route.authority)
            ) from error
        self.headers = {name.decode("ascii"): value.decode("latin-1") for name, value in reply.headers}
        self.status = reply.status_code
        self._framing = _framing_problem(connection.head)

    def iter_bytes(self) -> Iterator[bytes]:
        """Return the decoded body as it arrives.

        :raises TransportError: the reply does not come to its end, or is longer than ``MAX_BODY_BYTES``.
        """
        connection = self._connection
        assert connection is not None  # noqa: S101 - send() has opened it
        try:
            yield from self._pieces(connection)
        except Exception as error:
            raise self._error(errors.in_reply(error)) from error
        if self._stopped and not self._complete_by_itself:
            # Without a length or chunks, our own cutting looks like the end of the reply.
            raise TransportError(Failure.STOPPED)

    def _pieces(self, connection: Connection) -> Iterator[bytes]:
        if self._framing:
            raise FramingError(self._framing)
        decode = _decoder(self.headers.get("content-encoding", ""))
        length = 0
        while isinstance(event := connection.next_event(self._end), h11.Data):
            piece = decode(bytes(event.data), MAX_BODY_BYTES - length + 1)
            length += len(piece)
            if length > MAX_BODY_BYTES:
                raise FramingError(f"longer than {MAX_BODY_BYTES} bytes")
            if piece:
                yield piece

    def stop(self) -> None:
        """Cut the exchange. Takes no lock: safe in a signal handler."""
        self._stopped = True
        connection = self._connection
        if connection is not None:
            connection.shut()

    def _ready(self) -> Connection:
        """Return a connection that is kept, or open one."""
        self._raise_if_stopped()
        authority = self.url.split("/", 3)[2]
        try:
            route = self._transport.route(self.url)
            self._connection = connection = self._transport.take(route)
            if connection is None:
                self._connection = connection = Connection(route, self._raise_if_stopped)
                connection.open(self._end)
        except TransportError:
            raise
        except Exception as error:
            connected = self._connection is not None and self._connection.connected
            raise self._error(errors.before_sending(error, connected=connected, address=authority)) from error
        return connection

    def _write(self, connection: Connection) -> None:
        events: list[h11.Request | h11.Data | h11.EndOfMessage] = [self._request(connection)]
        if self.body:
            events.append(h11.Data(data=self.body))
        events.append(h11.EndOfMessage())
        self.sent = True
        try:
            connection.write(events, self._end)
        except OSError:
            # A server that refuses (401, 413, 429) may have answered before it closed.
            if self._stopped:
                raise
            self._broken_write = True

    def _request(self, connection: Connection) -> h11.Request:
        headers = [("Host", self.url.split("/", 3)[2]), *self.request_headers.items()]
        route = connection.route
        if route.absolute and route.proxy_authorization:
            headers.append(("Proxy-Authorization", route.proxy_authorization))
        headers.append(("Content-Length", str(len(self.body or b""))))
        return h11.Request(method=self.method, target=route.target(self.url), headers=headers)

    def _head(self, connection: Connection) -> h11.Response:
        for _ in range(_MAX_INTERIM_REPLIES + 1):
            event = connection.next_event(self._end)
            if isinstance(event, h11.Response):
                return event
            if not isinstance(event, h11.InformationalResponse) or event.status_code == _SWITCHING:
                raise ConnectionError("the connection ended without a reply")
        raise FramingError(f"more than {_MAX_INTERIM_REPLIES} interim replies")

    def _is_clean(self, connection: Connection, kind: type[BaseException] | None) -> bool:
        if kind is not None or self._stopped or self._broken_write or self.status is None or self._framing:
            return False
        try:
            return connection.finish(_GRACE_SECONDS)
        except Exception:  # noqa: BLE001 - the answer is here; the connection is not used again
            return False

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


def _framing_problem(head: bytes) -> str:
    """Return what h11 accepts although a proxy on the way may have read it in another way."""
    lengths = _LENGTH.findall(head)
    if len(lengths) > 1 or any(b"," in value for value in lengths):
        return "more than one Content-Length"
    if lengths and _ENCODING.search(head):
        return "both Content-Length and Transfer-Encoding"
    return ""


def _decoder(encoding: str) -> Callable[[bytes, int], bytes]:
    """Return what decodes one layer of *encoding*, to a given number of bytes at most."""
    if encoding.strip().lower() in {"", "identity"}:
        return lambda data, _most: data
    if encoding.strip().lower() not in {"gzip", "x-gzip", "deflate"}:
        raise FramingError(f"an unknown Content-Encoding: {encoding}")
    inflate = zlib.decompressobj(_ZLIB_OR_GZIP)

    def decode(data: bytes, most: int) -> bytes:
        try:
            return inflate.decompress(data, most)
        except zlib.error as error:
            raise FramingError(f"not valid {encoding}") from error

    return decode
