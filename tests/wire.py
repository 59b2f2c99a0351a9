"""Servers on raw sockets, for what no well-behaved server does: resets, stalls, cuts, drips and lies.

A :class:`Server` gives every accepted connection to a behaviour, a function of one :class:`Peer`, in a thread
of its own, and remembers the connections and requests that arrived.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from typing_extensions import Self


@dataclass
class Request:
    """One request as it arrived. ``headers`` has lower-case names."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def response(
    body: bytes | dict | list = b"",
    *,
    status: int = 200,
    headers: dict[str, str] | None = None,
    length: int | None = None,
) -> bytes:
    """Return a whole response. ``length`` lies about the body's; below 0 names none."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content-Type": "application/json", **(headers or {})}
    if length is None:
        length = len(content)
    if length >= 0 and "Transfer-Encoding" not in fields:
        fields["Content-Length"] = str(length)
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content


TOKEN = response({"access_token": "eyJhbGciOiJSUzI1NiJ9.e30.c2ln"})


@dataclass
class Peer:
    """The server's end of one connection."""

    sock: socket.socket
    server: Server
    rest: bytes = b""
    requests: list[Request] = field(default_factory=list)

    def read_request(self) -> Request | None:
        """Return the next request, ``None`` when the client closed."""
        while b"\r\n\r\n" not in self.rest:
            if not self._more():
                return None
        head, _, self.rest = self.rest.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        pairs = (line.split(":", 1) for line in lines)
        headers = {name.lower(): value.strip() for name, value in pairs}
        length = int(headers.get("content-length", 0))
        while len(self.rest) < length:
            if not self._more():
                return None
        body, self.rest = self.rest[:length], self.rest[length:]
        request = Request(method, target, headers, body)
        self.requests.append(request)
        self.server.requests.append(request)
        return request

    def _more(self) -> bool:
        piece = self.sock.recv(65536)
        self.rest += piece
        return bool(piece)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def drip(self, data: bytes, every: float) -> None:
        """Send one byte at a time until the client has enough of it."""
        for byte in data:
            self.send(bytes([byte]))
            if self.server.stopping.wait(every):
                return

    def hang(self) -> None:
        """Say nothing until the client or the test is gone."""
        while not self.server.stopping.is_set():
            if not self.sock.recv(65536):
                return

    def reset(self) -> None:
        """Close with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # A TLS socket would say goodbye first.
        socket.close(self.sock.detach())


Behaviour = Callable[[Peer], None]


class Server:
    """Serves one behaviour on a free loopback port, in plain or over TLS.

    :param tls: wraps every accepted connection; ``None`` for plain.
    :param scheme: of :attr:`url`; default: as ``tls`` says.
    :param port: 0 for a free one.
    """

    def __init__(
        self,
        behaviour: Behaviour,
        *,
        tls: ssl.SSLContext | None = None,
        scheme: str | None = None,
        port: int = 0,
        address: str = "127.0.0.1",
    ) -> None:
        self._behaviour = behaviour
        self._tls = tls
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, port), family=family, backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.scheme = scheme or ("https" if tls else "http")
        host = "localhost" if self.scheme == "https" else f"[{address}]" if ":" in address else address
        self.url = f"{self.scheme}://{host}:{self.port}"
        self.requests: list[Request] = []
        self.accepted = self.most_at_once = self._now = 0
        self._counting = threading.Lock()
        self.stopping = threading.Event()
        self._socks: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        for sock in self._socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        assert not any(thread.is_alive() for thread in self._threads)

    def all_closed(self, seconds: float) -> bool:
        """Tell whether the clients close every connection within *seconds* each."""
        for thread in self._threads:
            thread.join(seconds)
        return not any(thread.is_alive() for thread in self._threads)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            self._socks.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _count(self, change: int) -> None:
        with self._counting:
            self._now += change
            self.most_at_once = max(self.most_at_once, self._now)

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(10)
        self._count(1)
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._socks.append(sock)
            self._behaviour(Peer(sock, self))
        except OSError:
            pass  # the client is gone, which is what many of these tests are about
        finally:
            self._count(-1)
            with contextlib.suppress(OSError):
                sock.close()


def refused_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def answering(*responses: bytes, last_again: bool = False) -> Behaviour:
    """Answer the requests of all connections in turn with ``responses``, then hang."""
    waiting = list(responses)
    lock = threading.Lock()

    def behave(peer: Peer) -> None:
        while peer.read_request() is not None:
            with lock:
                data = waiting[0] if last_again and len(waiting) == 1 else waiting.pop(0) if waiting else None
            if data is None:
                peer.hang()
                return
            peer.send(data)

    return behave


def tunnelling(peer: Peer) -> None:
    """Behave as an HTTP proxy that opens every tunnel it is asked for."""
    request = peer.read_request()
    if request is None or request.method != "CONNECT":
        return
    target = urlsplit(f"//{request.target}")
    with socket.create_connection((target.hostname, target.port), timeout=5) as far:
        peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        pump = threading.Thread(target=_pump, args=(far, peer.sock), daemon=True)
        pump.start()
        _pump(peer.sock, far)
        pump.join(5)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def passing_on(port: int) -> Behaviour:
    """Pass what comes on to a port of this machine, and back."""

    def behave(peer: Peer) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as far:
            pump = threading.Thread(target=_pump, args=(far, peer.sock), daemon=True)
            pump.start()
            _pump(peer.sock, far)
            pump.join(5)

    return behave


class Relay(Server):
    """Passes every connection on to a port of this machine, and counts them in :attr:`accepted`."""

    def __init__(self, port: int) -> None:
        super().__init__(passing_on(port))


def server_context(authority: Any, name: str) -> ssl.SSLContext:
    """Return a TLS context for *name*, issued by a trustme authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context
