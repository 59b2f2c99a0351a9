"""Connections that know three things an HTTP library does not tell: whether a byte of the request left,
whether they idled too long to be trusted, and how to be cut from another thread or a signal handler.

One type of exception covers "never sent", "maybe acted on" and "idle connection closed", so the type cannot
decide whether a message may be sent again. The connection itself can.
"""

from __future__ import annotations

import heapq
import itertools
import os
import socket
import threading
import time
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

# Servers close idle connections after 2 s (gunicorn) to some minutes. A request on a connection that is just
# being closed cannot be told from one that was acted on, so an older connection is not used again.
MAX_IDLE_SECONDS = 1.5


class Attempt:
    """What one HTTP attempt did, as its connection saw it.

    :param starts: whether it starts a session, which nobody can end before the answer has named it.
    :ivar sent: whether a byte of the request was handed to the network.
    :ivar waits: whether all of it was.
    :ivar cut: why it was cut from outside: ``"deadline"``, ``"stopped"`` or ``None``.
    """

    def __init__(self, *, starts: bool = False) -> None:
        self.starts = starts
        self.sent = False
        self.waits = False
        self.done = False
        self.cut: str | None = None
        self.line: _Line | None = None

    def shut(self, why: str) -> None:
        """Cut the connection, so that a blocked read returns. Takes no lock: safe in a signal handler."""
        if not self.done:
            self.cut = self.cut or why
            line = self.line  # its thread may let go of it between two looks
            if line is not None:
                # A server that sees us go may answer with a reset, which would hide that a reply had begun.
                late = self.waits and self.cut == "deadline"
                line.shut(socket.SHUT_RD if late else socket.SHUT_RDWR)


class _Line:
    """A second handle on a connection's socket; it outlives TLS wrapping and http.client's closing."""

    def __init__(self, sock: socket.socket) -> None:
        self._fd = os.dup(sock.fileno())

    def shut(self, how: int) -> None:
        view = socket.socket(fileno=self._fd)
        try:
            view.shutdown(how)
        except OSError:
            pass  # already closed by the other side
        finally:
            view.detach()

    def __del__(self) -> None:
        os.close(self._fd)


_here = threading.local()


def watch(attempt: Attempt | None) -> None:
    """Make the connections that this thread uses report to *attempt*, ``None`` for nobody."""
    _here.attempt = attempt


def _attempt() -> Attempt:
    attempt: Attempt | None = getattr(_here, "attempt", None)
    return attempt or Attempt()


class _Socket(socket.socket):
    """One that takes attributes, as those of TLS do."""


def _kept(_seconds: float | None) -> None:
    """Leave the time-out as it is."""


class _Tracked:
    """Mixed into urllib3's connections."""

    line: _Line | None = None
    idle_since = 0.0
    _in_tunnel = False

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]
        self.line = _attempt().line = _Line(sock)
        seconds = sock.gettimeout()
        sock = _Socket(fileno=sock.detach())
        sock.settimeout(seconds)
        return sock

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        # From here on the watchdog alone keeps the time. A socket with a time-out asks the kernel before
        # every read and write, and urllib3 sets it twice per call; at each the threads change places.
        sock: Any = self.sock  # type: ignore[attr-defined]
        sock.settimeout(None)
        sock.settimeout = _kept

    def _tunnel(self) -> None:
        # The CONNECT to a proxy is no byte of the request.
        self._in_tunnel = True
        try:
            super()._tunnel()  # type: ignore[misc]
        finally:
            self._in_tunnel = False

    def close(self) -> None:
        super().close()  # type: ignore[misc]
        self.line = None  # the other side sees the end only when no handle is left

    def send(self, data: Any) -> None:
        if self.sock is None:  # type: ignore[attr-defined]
            self.connect()
        attempt = _attempt()
        attempt.line = self.line
        if not self._in_tunnel:
            if attempt.cut:
                raise ConnectionAbortedError(attempt.cut)
            attempt.sent = True
        super().send(data)  # type: ignore[misc]

    def getresponse(self) -> Any:
        _attempt().waits = True
        return super().getresponse()  # type: ignore[misc]


class _Http(_Tracked, HTTPConnection):
    pass


class _Https(_Tracked, HTTPSConnection):
    pass


class _FreshPool:
    """Mixed into urllib3's pools: closes a connection that idled too long before it is used."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection = super()._get_conn(timeout)  # type: ignore[misc]
        if time.monotonic() - connection.idle_since > MAX_IDLE_SECONDS:
            connection.close()
        return connection

    def _put_conn(self, conn: Any) -> None:
        if conn is not None:
            conn.idle_since = time.monotonic()
            # Another thread may take it at once; a late cut of this attempt must not meet that one's message.
            _attempt().line = None
        super()._put_conn(conn)  # type: ignore[misc]


class _HttpPool(_FreshPool, HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(_FreshPool, HTTPSConnectionPool):
    ConnectionCls = _Https


POOLS = {"http": _HttpPool, "https": _HttpsPool}


class Watchdog:
    """Cuts attempts at their deadline. A socket counts its time-out anew with every byte received.

    One daemon thread serves all attempts of a process; it sleeps until the earliest deadline.
    """

    def __init__(self) -> None:
        self._running = False
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def guard(self, attempt: Attempt, seconds: float) -> None:
        """Cut *attempt* in *seconds* unless it is done by then."""
        deadline = time.monotonic() + seconds
        with self._changed:
            heapq.heappush(self._deadlines, (deadline, next(self._order), attempt))
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="agentforce-deadlines", daemon=True).start()
            elif self._deadlines[0][0] == deadline:
                self._changed.notify()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._deadlines: list[tuple[float, int, Attempt]] = []
        self._order = itertools.count()
        self._running = False

    def _run(self) -> None:
        with self._changed:
            while self._deadlines:
                deadline, _, attempt = self._deadlines[0]
                left = deadline - time.monotonic()
                if attempt.done or left <= 0:
                    heapq.heappop(self._deadlines)
                    attempt.shut("deadline")
                else:
                    self._changed.wait(left)
            self._running = False


watchdog = Watchdog()
