"""A server of fixed replies in a process of its own, so that a benchmark measures the client and little else.

It answers every request in one write, without Nagle's delay, and counts the connections that it accepts by
the ``User-Agent`` of their first request. It reads no JSON and checks nothing; the emulator does that.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_AGENT = re.compile(rb"\r\nuser-agent: *([^\r]*)", re.IGNORECASE)
_STOP_SECONDS = 5.0

SESSION_ID = "019d0aac-dcd0-7368-8000-0123456789ab"
SEND_PATH = f"/einstein/ai-agent/v1/sessions/{SESSION_ID}/messages"
INFORM = {
    "type": "Inform",
    "id": "6f0a1c9e-7f0e-4a57-9a25-2d8a4c7be001",
    "metrics": {},
    "feedbackId": "b0c1d2e3-0000-4000-8000-0123456789ab",
    "planId": "c0d1e2f3-0000-4000-8000-0123456789ab",
    "isContentSafe": True,
    "message": "Your order 4711 left the warehouse on Monday and should be with you on Thursday. " * 4,
    "result": [],
    "citedReferences": [],
}


class ServerProcess:
    """A server in a process of its own, which ends with this context manager or with its parent.

    It prints its port, and its counts as JSON for every line that it is given.

    :param command: the file to run, and its arguments.
    """

    def __init__(self, *command: str) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.port = int(self._line())
        self.url = f"http://127.0.0.1:{self.port}"

    def counts(self) -> dict[str, Any]:
        """Return what the server has counted so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("count\n")
        found: dict[str, Any] = json.loads(self._line())
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class FixedServer(ServerProcess):
    """The server of fixed replies, from the outside.

    :param certificate: PEM file with key and chain; none serves plain http.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        super().__init__(__file__, *([str(certificate)] if certificate else []))
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"

    def connections(self) -> Counter[str]:
        """Return how many connections were accepted so far, by user agent."""
        return Counter(self.counts())


def main(certificate: str | None) -> None:
    """Serve until standard input ends; answer each of its lines with the counts."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    counts: Counter[str] = Counter()
    replies = _replies()
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        threading.Thread(target=_accept, args=(listener, context, replies, counts), daemon=True).start()
        print(listener.getsockname()[1], flush=True)
        for _ in sys.stdin:
            print(json.dumps(counts), flush=True)


def _accept(
    listener: socket.socket,
    context: ssl.SSLContext | None,
    replies: dict[str, bytes],
    counts: Counter[str],
) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # the listener is closed: the server ends
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_serve, args=(connection, context, replies, counts), daemon=True).start()


def _serve(
    connection: socket.socket,
    context: ssl.SSLContext | None,
    replies: dict[str, bytes],
    counts: Counter[str],
) -> None:
    known = False
    try:
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True)
        while head := _request(connection):
            if not known:
                found = _AGENT.search(head)
                counts[found.group(1).decode() if found else ""] += 1
                known = True
            connection.sendall(replies[_kind(head.split(b" ", 2))])
    except OSError:
        pass  # the client is gone
    finally:
        connection.close()


def _request(connection: socket.socket) -> bytes:
    """Read one request and return its head, ``b""`` at the end of the connection."""
    got = b""
    while (end := got.find(b"\r\n\r\n")) < 0:
        if not (piece := connection.recv(65536)):
            return b""
        got += piece
    length = LENGTH.search(got, 0, end)
    missing = end + 4 + (int(length.group(1)) if length else 0) - len(got)
    while missing > 0:
        if not (piece := connection.recv(65536)):
            return b""
        missing -= len(piece)
    return got[:end]


def _kind(request_line: list[bytes]) -> str:
    if request_line[0] == b"DELETE":
        return "end"
    if request_line[1].endswith(b"/messages"):
        return "send"
    return "start" if request_line[1].endswith(b"/sessions") else "token"


def _replies() -> dict[str, bytes]:
    return {
        "token": json_reply({"access_token": access_token(1800), "token_type": "Bearer"}),
        "start": json_reply({"sessionId": SESSION_ID, "_links": {}, "messages": []}),
        "send": json_reply({"messages": [INFORM], "_links": {}}),
        "end": json_reply({"messages": [{"type": "SessionEnded", "reason": "ClientRequest"}], "_links": {}}),
    }


def access_token(lifetime: int) -> str:
    """Return a made-up JWT that lives for *lifetime* seconds."""
    now = int(time.time())
    parts = ({"alg": "none"}, {"iat": now, "exp": now + lifetime}, {"made": "up"})
    token = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts)
    return token.replace("=", "")


def json_reply(body: object, status: str = "200 OK", headers: str = "") -> bytes:
    """Return a whole HTTP reply.

    :param headers: more header lines, each with its line end.
    """
    content = json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n{headers}\r\n"
    )
    return head.encode() + content


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
