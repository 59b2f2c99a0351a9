"""An org with limits and a fixed delay per call, in a process of its own, that counts what reaches it.

A session is open from the arrival of its start to the reply to its end, the strictest way to count. A start
above the cap is refused at once (HTTP 429); every other call but the token is answered after the delay, and
no thread waits for it. A message names its record in its first word, so that one asked twice is seen. A
query finds the agent with its version. It answers every message and checks nothing else; the emulator does
that.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
import uuid
from collections import Counter, deque
from dataclasses import asdict, dataclass
from typing import Any

from server import INFORM, LENGTH, ServerProcess, access_token, json_reply

AGENT_ID = "0XxEM0000000001"
KEY = "key"
SECRET = "secret"  # noqa: S105 - made up
_ANSWER = json_reply({"messages": [INFORM], "_links": {}})
_ENDED = json_reply({"messages": [{"type": "SessionEnded", "reason": "ClientRequest"}], "_links": {}})
_VERSION = {"Id": "0X9EM0000000001", "Status": "Active", "VersionNumber": 1}
_AGENT = {"Id": AGENT_ID, "DeveloperName": "Agent", "BotVersions": {"records": [_VERSION]}}
_FOUND = json_reply({"records": [_AGENT], "done": True})


@dataclass(frozen=True)
class Terms:
    """What the org allows.

    :param delay: seconds per call.
    :param cap: sessions open at once.
    :param token_lifetime: seconds.
    :param starts: session starts in any ``window``; ``None``: no bound.
    :param window: seconds, instead of the hour of a real org.
    """

    delay: float = 0.5
    cap: int = 50
    token_lifetime: int = 1800
    starts: int | None = None
    window: float = 3600.0


class LimitedOrg(ServerProcess):
    """The process, from the outside."""

    def __init__(self, terms: Terms) -> None:
        super().__init__(__file__, json.dumps(asdict(terms)))
        self.terms = terms

    def ideal(self, conversations: int, calls: int = 3) -> float:
        """Return the seconds that so many conversations take if no place is ever free."""
        return conversations * calls * self.terms.delay / self.terms.cap

    def connection(self, **limits: int) -> str:
        """Return the Airflow connection to it, as JSON.

        :param limits: extras; unless given, the org's own cap, and an hourly limit that never comes.
        """
        extra = {
            "max_concurrent_sessions": self.terms.cap,
            "max_sessions_per_hour": 1_000_000,
            **limits,
        }
        return json.dumps(
            {
                "conn_type": "agentforce",
                "host": self.url,
                "login": KEY,
                "password": SECRET,
                "extra": {"agent_id": AGENT_ID, "api_url": self.url, **extra},
            }
        )


class _Org:
    """The org, from the inside."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._open: set[str] = set()
        self._starts: deque[float] = deque()
        self._messages: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()

    def counts(self) -> dict[str, int]:
        """Return the counts.

        ``twice`` are messages beyond the first one of a record.
        """
        messages = self._messages.total()
        return {
            **dict.fromkeys(("tokens", "starts", "refused", "ends", "peak"), 0),
            **self._counts,
            "open": len(self._open),
            "messages": messages,
            "twice": messages - len(self._messages),
        }

    def answer(self, method: bytes, path: bytes, body: bytes) -> tuple[bytes, float, str]:
        """Return the reply, after how many seconds it comes, and the session that has ended then."""
        if path.endswith(b"/messages"):
            self._messages[json.loads(body)["message"]["text"].partition(" ")[0]] += 1
            return _ANSWER, self._terms.delay, ""
        if path.endswith(b"/sessions"):
            return self._start()
        if method == b"DELETE":
            self._counts["ends"] += 1
            return _ENDED, self._terms.delay, path.rpartition(b"/")[2].decode()
        if b"/query" in path:
            return _FOUND, 0.0, ""
        self._counts["tokens"] += 1
        token = access_token(self._terms.token_lifetime)
        return json_reply({"access_token": token, "token_type": "Bearer"}), 0.0, ""

    def ended(self, session_id: str) -> None:
        """Free the place of a session."""
        self._open.discard(session_id)

    def _start(self) -> tuple[bytes, float, str]:
        wait = self._hourly_wait()
        if wait or len(self._open) >= self._terms.cap:
            self._counts["refused"] += 1
            return _refusal(wait), 0.0, ""
        session_id = str(uuid.uuid4())
        self._starts.append(time.monotonic())
        self._open.add(session_id)
        self._counts["starts"] += 1
        self._counts["peak"] = max(self._counts["peak"], len(self._open))
        reply = json_reply({"sessionId": session_id, "_links": {}, "messages": [INFORM]})
        return reply, self._terms.delay, ""

    def _hourly_wait(self) -> float:
        if self._terms.starts is None:
            return 0.0
        now = time.monotonic()
        while self._starts and self._starts[0] <= now - self._terms.window:
            self._starts.popleft()
        full = len(self._starts) >= self._terms.starts
        return self._starts[0] + self._terms.window - now if full else 0.0


def _refusal(wait: float) -> bytes:
    body: dict[str, object] = {
        "status": 429,
        "error": "TooManyRequestsError",
        "message": "Too many requests for the server to handle",
    }
    return json_reply(body, "429 Too Many Requests", f"Retry-After: {int(wait) + 1}\r\n" if wait else "")


class _Line(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, org: _Org) -> None:
        self._org = org
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way to answer."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Take what has come, and answer when it is a whole request."""
        self._got += data
        end = self._got.find(b"\r\n\r\n")
        if end < 0:
            return
        length = LENGTH.search(self._got, 0, end)
        if len(self._got) < end + 4 + (int(length.group(1)) if length else 0):
            return
        method, path, _ = self._got.split(b" ", 2)
        reply, delay, ended = self._org.answer(method, path, self._got[end + 4 :])
        self._got = b""
        asyncio.get_running_loop().call_later(delay, self._reply, reply, ended)

    def _reply(self, reply: bytes, ended: str) -> None:
        self._org.ended(ended)
        if not self._transport.is_closing():
            self._transport.write(reply)


async def _serve(terms: Terms) -> None:
    loop, org = asyncio.get_running_loop(), _Org(terms)
    server = await loop.create_server(lambda: _Line(org), "127.0.0.1", 0, backlog=512)
    questions = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(questions), sys.stdin)
    print(server.sockets[0].getsockname()[1], flush=True)
    while await questions.readline():
        print(json.dumps(org.counts()), flush=True)
    server.close()


def main(terms: dict[str, Any]) -> None:
    """Serve until standard input ends; answer each of its lines with the counts."""
    asyncio.run(_serve(Terms(**terms)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
