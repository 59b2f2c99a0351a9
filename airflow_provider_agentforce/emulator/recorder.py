"""Forwards calls to an org, and writes the answers of its agent as a script for the emulator."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import requests
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from airflow_provider_agentforce.emulator.app import LoopbackOnly
from airflow_provider_agentforce.emulator.exchange import OrgResponse
from airflow_provider_agentforce.emulator.models import is_loopback
from airflow_provider_agentforce.emulator.recorded_script import RecordedCall, RecordedScript
from airflow_provider_agentforce.emulator.server import ThreadedServer
from airflow_provider_agentforce.emulator.tls import is_salesforce

if TYPE_CHECKING:
    from typing_extensions import Self

_AGENT_API = "/einstein/ai-agent/"
_SALESFORCE_API = "https://api.salesforce.com"
# Seconds: to connect, and between two bytes of an answer.
_TIMEOUT = (10, 300)
_OF_THE_CONNECTION = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
    *("transfer-encoding", "upgrade", "host", "content-length", "content-encoding", "accept-encoding"),
    *("date", "server"),
}


@dataclass(frozen=True)
class Upstream:
    """The org that answers.

    :param my_domain: origin of its My Domain, such as ``https://acme.my.salesforce.com``.
    :param api: origin of its Agent API; ``""``: that of Salesforce, or *my_domain* on this machine.
    :raises ValueError: neither Salesforce by https, nor this machine.
    """

    my_domain: str
    api: str = ""

    def __post_init__(self) -> None:
        for name, url in (("my_domain", self.my_domain), ("api", self.api)):
            object.__setattr__(self, name, _origin(url) if url else "")
        if not self.api:
            local = is_loopback(urlsplit(self.my_domain).hostname or "")
            object.__setattr__(self, "api", self.my_domain if local else _SALESFORCE_API)

    @classmethod
    def of_connection(cls, text: str) -> Self:
        """Read the org from the JSON of an Airflow connection.

        :raises ValueError: it is not one.
        """
        try:
            fields = json.loads(text)
            extra = fields.get("extra") or {}
            extra = json.loads(extra) if isinstance(extra, str) else extra
            host = fields["host"]
            return cls(host if "://" in host else f"https://{host}", str(extra.get("api_url") or ""))
        except (AttributeError, KeyError, TypeError, json.JSONDecodeError):
            # Without the text, which contains the secret.
            raise ValueError("--conn must be a connection as JSON, with a host.") from None

    def url_of(self, path: str) -> str:
        """Return the origin that answers a call of *path*."""
        return self.api if path.startswith(_AGENT_API) else self.my_domain


class Recorder:
    """A server that forwards calls. Use it as a context manager; the script is written when it stops.

    :param upstream: the org.
    :param output: path of the script, which must not exist; it is rewritten after each session.
    :param port: TCP port; 0 picks a free one.
    :raises ValueError: the file exists.
    :raises OSError: the port is in use.
    """

    def __init__(self, upstream: Upstream, output: str | Path, *, port: int = 0) -> None:
        self._upstream = upstream
        self._output = Path(output)
        if self._output.exists():
            raise ValueError(f"{self._output} exists already. Choose another file with --output.")
        self.script = RecordedScript()
        self._serving = False
        self._writing = threading.Lock()
        self._server = ThreadedServer(LoopbackOnly(self._forward), host="127.0.0.1", port=port, keep_alive=5)
        self.url = f"http://127.0.0.1:{self._server.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Serve, with a script that is empty so far."""
        self._write()
        self._server.start()
        self._serving = True

    def stop(self) -> None:
        """End the server and write the script, once."""
        if self._serving:
            self._serving = False
            self._server.stop()
            self._write()

    def _write(self) -> None:
        unfinished = self._output.with_name(self._output.name + ".part")
        with self._writing:
            unfinished.write_text(self.script.yaml(), encoding="utf-8")
            unfinished.replace(self._output)

    async def _forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        body = (await request.body()).replace(self.url.encode(), self._upstream.my_domain.encode())
        lost = OrgResponse(drop=True)
        try:
            reply = await asyncio.to_thread(self._ask, request, body)
            answer = await self._answer(reply, send)
        except requests.RequestException:
            # It is not known whether the org acted, so no HTTP status may be the answer.
            await lost.finish(scope, receive, send)
            return
        self.script.take(
            RecordedCall(
                method=request.method,
                path=request.url.path,
                query=request.url.query,
                headers=dict(request.headers.items()),
                body=body,
                status=reply.status_code,
                answer_headers={name.lower(): value for name, value in reply.headers.items()},
                answer=answer,
            )
        )
        if request.method == "DELETE":
            await asyncio.to_thread(self._write)

    def _ask(self, request: Request, body: bytes) -> requests.Response:
        """Send the request once. It has a new connection, because one that is reused may be repeated."""
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        headers = {name: value for name, value in request.headers.items() if name not in _OF_THE_CONNECTION}
        return requests.request(
            request.method,
            self._upstream.url_of(request.url.path) + path,
            data=body,
            headers={**headers, "accept-encoding": "identity"},
            # Without it, a .netrc would replace the caller's own credentials.
            auth=lambda prepared: prepared,
            allow_redirects=False,
            stream=True,
            timeout=_TIMEOUT,
        )

    async def _answer(self, reply: requests.Response, send: Send) -> bytes:
        """Forward the answer, a stream piece by piece, and return it."""
        streamed = "text/event-stream" in reply.headers.get("content-type", "")
        headers = {
            name: value for name, value in reply.headers.items() if name.lower() not in _OF_THE_CONNECTION
        }
        if not streamed:
            content = await asyncio.to_thread(lambda: reply.content)
            for origin in (self._upstream.my_domain, self._upstream.api):
                content = content.replace(origin.encode(), self.url.encode())
            await OrgResponse(status=reply.status_code, headers=headers, content=content).send(send)
            return content
        names = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": reply.status_code, "headers": names})
        pieces, received = reply.iter_content(None), b""
        while piece := await asyncio.to_thread(next, pieces, b""):
            received += piece
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return received


def _origin(url: str) -> str:
    parts = urlsplit(url if "://" in url else f"https://{url}")
    host = parts.hostname or ""
    allowed = is_salesforce(host) and parts.scheme == "https"
    if not allowed and not (is_loopback(host) and parts.scheme in ("http", "https")):
        raise ValueError(f"{url!r} is neither a host of Salesforce with https nor on this machine.")
    return f"{parts.scheme}://{parts.netloc}"
