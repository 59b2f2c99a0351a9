"""One socket and its HTTP/1.1 conversation."""

from __future__ import annotations

import errno
import math
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import h11

from airflow_provider_agentforce.client.answer_reader import MAX_BODY_BYTES
from airflow_provider_agentforce.client.transport.errors import (
    DeadlineError,
    FramingError,
    RouteError,
    WireError,
    is_foreign,
)
from airflow_provider_agentforce.client.transport.routes import Route

# Head, sizes of chunks and their extensions, on top of the body.
_MAX_OVERHEAD = 1024 * 1024
_MAX_HEAD = 64 * 1024
_CONNECT_SECONDS = 10.0
_PROXY_AUTHENTICATION = 407
_SLICE = 0.1
_LATE = "no reply in time"
_PIECE = 16 * 1024
_CLOSED_BY_PEER = getattr(select, "POLLRDHUP", select.POLLHUP)  # the first is Linux's
# Servers close idle connections after 2 s (gunicorn) to some minutes. A request on a connection that is just
# being closed cannot be told from one that was acted on, so an older connection is not used again.
MAX_IDLE_SECONDS = 1.5
_T = TypeVar("_T")


class Connection:
    """A connection to a host or, through a proxy, to a host behind it.

    :ivar connected: whether a request can be sent, or only TLS is missing.
    :ivar kept: whether it was used before.
    :ivar cut: whether it was cut from another thread or a signal handler.
    :ivar max_body: bytes that the content of the reply under way may have.
    :ivar head: bytes of the reply's head, as far as they have arrived.
    :param check: raises when the exchange was stopped; called while connecting.
    """

    _sock: socket.socket | None = None  # for __del__, should a signal cut the constructor

    def __init__(self, route: Route, check: Callable[[], None]) -> None:
        self.route = route
        self.connected = False
        self.kept = False
        self.cut = False
        self.max_body = MAX_BODY_BYTES
        self.head = b""
        self._check = check
        self._pid = os.getpid()
        # Servers wait longer for the first request than for another one.
        self._idle_since = math.inf
        self._received = 0
        self._content = 0
        self._needs_data = True
        self._poll = select.poll()
        # Not a new one for each read: all threads that wait for a reply would have one at the same time.
        self._buffer = memoryview(bytearray(_PIECE))
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)

    def open(self, end: float) -> None:
        """Connect, and ask for the tunnel and TLS where the route has them.

        :param end: when to give up at the latest, on the monotonic clock.
        """
        end = min(end, time.monotonic() + _CONNECT_SECONDS)
        self._connect(end)
        if self.route.tunnelled:
            self._open_tunnel(end)
        self.connected = True
        if self.route.context is not None:
            assert self._sock is not None  # noqa: S101 - there is a connection
            self._sock = secure = self.route.context.wrap_socket(
                self._sock, server_hostname=self.route.host, do_handshake_on_connect=False
            )
            # A stop during the wrapping cut only the socket that is now detached.
            self._check()
            self._complete(secure.do_handshake, end)

    @property
    def usable(self) -> bool:
        """Whether it is of this process, was not idle for long, and its peer has sent nothing meanwhile."""
        if self._pid != os.getpid() or time.monotonic() - self._idle_since > MAX_IDLE_SECONDS:
            return False
        return not self._readable(0.0) or self._has_only_tls_to_read()

    def encode(self, events: Sequence[h11.Request | h11.Data | h11.EndOfMessage]) -> bytes:
        """Return what *events* are on the wire."""
        return b"".join([self._http.send(event) for event in events])

    def write(self, data: bytes, end: float) -> None:
        """Send *data*."""
        assert self._sock is not None  # noqa: S101 - open() has made it
        self._needs_data = True
        left = memoryview(data)
        while left:
            sent = self._complete(partial(self._sock.send, left), end)
            if not sent:  # gevent's TLS sockets do not say that they have to wait
                self._wait(select.POLLOUT, end)
            left = left[sent:]

    def next_event(self, end: float) -> h11.Event:
        """Return what the peer sends next.

        :raises FramingError: it sends more than a reply may hold.
        """
        while True:
            if self._needs_data:
                self._receive(end)
            event = self._http.next_event()
            self._needs_data = event is h11.NEED_DATA
            if type(event) is h11.Data:
                self._content += len(event.data)
            elif type(event) is h11.InformationalResponse:
                self.head = self._http.trailing_data[0]
            elif type(event) is h11.Response:
                self.head = self.head[: len(self.head) - len(self._http.trailing_data[0])]
            if not self._needs_data:
                return event  # type: ignore[return-value]

    def _receive(self, end: float) -> None:
        assert self._sock is not None  # noqa: S101 - open() has made it
        left = end - time.monotonic()
        if left <= 0 or not self._readable(left):
            raise DeadlineError(_LATE)
        size = self._complete(partial(self._sock.recv_into, self._buffer), end, waits_for=select.POLLIN)
        data = bytes(self._buffer[:size])
        if self._http.their_state is h11.SEND_RESPONSE:
            self.head += data
        self._received += len(data)
        overhead = self._received - self._content
        if overhead > _MAX_OVERHEAD or self._received > self.max_body + _MAX_OVERHEAD:
            raise FramingError("longer than a reply may be")
        self._http.receive_data(data)

    def finish(self, seconds: float) -> bool:
        """Read the end of a reply whose content is whole, if it comes within *seconds*.

        :returns: whether the connection can be used again.
        """
        end = time.monotonic() + seconds
        while self._http.their_state is h11.SEND_BODY:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if time.monotonic() >= end or not self._readable(end - time.monotonic()):
                    return False
                event = self.next_event(time.monotonic() + _SLICE)
            if type(event) is h11.Data and event.data.strip():
                return False
        return self.reusable

    @property
    def closed_by_peer(self) -> bool:
        """Whether the other side sent its end of the connection."""
        return self._http.trailing_data[1]

    @property
    def reusable(self) -> bool:
        """Whether the exchange ended cleanly, with nothing left over, and both sides keep the connection."""
        done = self._http.our_state is h11.DONE and self._http.their_state is h11.DONE
        return done and not self.cut and self._http.trailing_data == (b"", False)

    def rest(self) -> None:
        """Get ready for another request."""
        self.kept = True
        self._http.start_next_cycle()
        self._received = self._content = 0
        self.head = b""
        self._idle_since = time.monotonic()

    def close(self) -> None:
        """Close the socket. A child of a fork closes its own copy only."""
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def __del__(self) -> None:
        self.close()

    def shut(self) -> None:
        """Cut the connection both ways, so that a blocked read returns. Safe in a signal handler."""
        self.cut = True
        sock = self._sock
        # In a child of a fork it would cut the parent's call.
        if sock is not None and self._pid == os.getpid():
            with suppress(OSError):  # already closed, or not yet connected
                # Not SSLSocket.shutdown, which forgets the TLS state that another thread is using.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _connect(self, end: float) -> None:
        addresses = socket.getaddrinfo(*self.route.first, type=socket.SOCK_STREAM)
        error: Exception | None = None
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            # All addresses of a name share the time, so that one that drops packets leaves some to the next.
            share = (end - time.monotonic()) / (len(addresses) - number)
            try:
                self._sock = sock = socket.socket(family, kind, protocol)
            except OSError as failed:  # the system has no IPv6, for example
                error = error or failed
                continue
            try:
                self._connect_to(sock, address, time.monotonic() + share)
            except (OSError, WireError) as failed:
                if is_foreign(failed):
                    raise
                error = failed
                sock.close()
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._poll.register(sock, select.POLLIN | _CLOSED_BY_PEER)
                return
        raise error or WireError("the name has no address")

    def _connect_to(self, sock: socket.socket, address: object, end: float) -> None:
        sock.setblocking(False)
        code = sock.connect_ex(address)  # type: ignore[arg-type]
        if code not in {0, errno.EINPROGRESS}:
            raise OSError(code, os.strerror(code))
        poll = select.poll()
        poll.register(sock, select.POLLOUT)
        while not poll.poll(max(0.0, min(_SLICE, end - time.monotonic())) * 1000):
            self._check()
            if time.monotonic() >= end:
                raise WireError("no connection in time")
        self._check()
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def _open_tunnel(self, end: float) -> None:
        kept, self._http = self._http, h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
        headers = [("Host", self.route.authority)]
        if self.route.proxy_authorization:
            headers.append(("Proxy-Authorization", self.route.proxy_authorization))
        ask = h11.Request(method="CONNECT", target=self.route.authority, headers=headers)
        self.write(self.encode([ask, h11.EndOfMessage()]), end)
        reply = self.next_event(end)
        while isinstance(reply, h11.InformationalResponse):
            reply = self.next_event(end)
        status = reply.status_code if isinstance(reply, h11.Response) else None
        if status == _PROXY_AUTHENTICATION:
            raise RouteError("it answered 407 to CONNECT, because it needs a valid user and password")
        if status is None or not 200 <= status < 300:  # noqa: PLR2004
            raise WireError(f"it answered {status or 'nothing'} to CONNECT")
        if self._http.trailing_data[0]:
            raise WireError("the proxy sent bytes that belong to no reply")
        self._http, self._received, self.head = kept, 0, b""

    def _readable(self, seconds: float) -> bool:
        sock = self._sock
        if sock is None or (isinstance(sock, ssl.SSLSocket) and sock.pending()):
            return True
        return bool(self._poll.poll(max(0.0, seconds) * 1000))

    def _has_only_tls_to_read(self) -> bool:
        """Return whether the bytes that have arrived are a part of TLS, such as a session ticket."""
        if isinstance(self._sock, ssl.SSLSocket):
            try:
                self._sock.recv(1)
            except ssl.SSLWantReadError:
                return True
            except OSError as error:
                if is_foreign(error):
                    raise
        return False

    def _complete(self, call: Callable[[], _T], end: float, *, waits_for: int = select.POLLOUT) -> _T:
        """Return the result of *call* on the socket, which never blocks, as soon as it has one.

        :param waits_for: what an unencrypted socket waits for.
        """
        while True:
            try:
                return call()
            except ssl.SSLWantReadError:
                event = select.POLLIN
            except ssl.SSLWantWriteError:
                event = select.POLLOUT
            except BlockingIOError:
                event = waits_for
            self._wait(event, end)

    def _wait(self, event: int, end: float) -> None:
        poll = select.poll()
        poll.register(self._sock, event)  # type: ignore[arg-type]
        left = end - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise DeadlineError(_LATE)
