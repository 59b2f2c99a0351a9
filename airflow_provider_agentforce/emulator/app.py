"""The one path that every request takes: log, fault, handler, answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from airflow_provider_agentforce.emulator import admin
from airflow_provider_agentforce.emulator.errors import ERRORS, ApiError, ErrorSpec, for_status, render
from airflow_provider_agentforce.emulator.faults import Fault
from airflow_provider_agentforce.emulator.models import RequestRecord, SessionRecord
from airflow_provider_agentforce.emulator.org import Org
from airflow_provider_agentforce.emulator.server import OrgResponse
from airflow_provider_agentforce.emulator.settings import is_loopback

API_BASE = "/einstein/ai-agent/v1"
_ANY_METHOD = ["GET", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(kw_only=True)
class OrgRequest:
    """One request. ``params`` are the variable parts of the path; ``fault`` is what it is to meet."""

    org: Org
    record: RequestRecord
    params: dict[str, str]
    query: dict[str, str]
    fault: Fault | None
    locked: SessionRecord | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The request headers, names in lower case."""
        return self.record.headers

    @property
    def api_path(self) -> str:
        """The path below the API base, as error bodies show it."""
        return self.record.path.removeprefix(API_BASE)

    def content_type(self) -> str:
        """Return the media type of the body without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def credentials(self, scheme: str) -> str:
        """Return what the ``Authorization`` header holds for ``scheme`` (lower case), empty without it."""
        sent, _, value = self.headers.get("authorization", "").partition(" ")
        return value.strip() if sent.lower() == scheme else ""

    def authorize(self, refusal: str) -> None:
        """Refuse a caller without a valid token.

        :param refusal: the name of the documented error.
        :raises ApiError: that one.
        """
        if not self.org.accepts_token(self.credentials("bearer")):
            raise ApiError(refusal)

    def json_object(self) -> dict[str, Any]:
        """Return the JSON object in the body.

        :raises ApiError: another content type (a 500, as documented), or no JSON object.
        """
        if self.content_type() != "application/json":
            raise ApiError("unsupported_media_type")
        body = self.record.body
        if not isinstance(body, dict):
            raise ApiError("bad_request", detail="The request body is not a JSON object")
        return body

    def lock_session(self) -> SessionRecord:
        """Take the session named in the path for this request; it is given back when the answer is out.

        :raises ApiError: the session is gone or taken.
        """
        self.locked = self.org.lock_session(self.params["session_id"])
        return self.locked

    async def wait_while_held(self) -> None:
        """Wait as long as a test holds this operation."""
        hold = self.org.holds.get(self.record.operation)
        if hold is not None:
            await hold.wait()

    def close(self) -> None:
        """Give back what the request took."""
        if self.locked is not None:
            self.org.unlock_session(self.locked)
            self.locked = None


Handler = Callable[[OrgRequest], Awaitable[OrgResponse]]
# Method, path, operation and handler.
OrgRoute = tuple[str, str, str, Handler]


def json_response(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> OrgResponse:
    """Return ``value`` as a JSON answer."""
    return OrgResponse(
        status=status,
        headers={"content-type": "application/json", **(headers or {})},
        content=json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(),
    )


def build_app(org: Org, routes: Sequence[OrgRoute]) -> ASGIApp:
    """Return the ASGI application of ``org``."""
    own: list[BaseRoute] = [
        Route(path, _Endpoint(org, operation, handler), methods=[method])
        for method, path, operation, handler in routes
    ]
    rest = Route("/{path:path}", _Endpoint(org, "other", _nothing_here), methods=_ANY_METHOD)
    app = FastAPI(routes=[*own, *admin.routes(org), rest], openapi_url=None, docs_url=None, redoc_url=None)
    return LoopbackOnly(app)


async def _nothing_here(_request: OrgRequest) -> OrgResponse:
    raise ApiError("wrong_host")


class _Endpoint:
    """One operation as an ASGI application."""

    def __init__(self, org: Org, operation: str, handler: Handler) -> None:
        self._org = org
        self._operation = operation
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = await self._receive(Request(scope, receive))
        try:
            response = await _respond(request, self._handler)
            if not response.drop:
                request.record.status = response.status
                self._org.changed()
            await response.send(send)
        finally:
            request.close()
        await response.finish(scope, receive, send)

    async def _receive(self, request: Request) -> OrgRequest:
        content = await request.body()
        path = request.url.path
        record = RequestRecord(
            operation=self._operation,
            method=request.method,
            path=path,
            headers=dict(request.headers.items()),
            body=_readable(content),
            stream=path.endswith("/messages/stream"),
        )
        self._org.log(record)
        return OrgRequest(
            org=self._org,
            record=record,
            params={name: str(value) for name, value in request.path_params.items()},
            query=dict(request.query_params),
            fault=self._org.faults.take(self._operation, stream=record.stream),
        )


def _readable(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode("utf-8", "replace")


async def _respond(request: OrgRequest, handler: Handler) -> OrgResponse:
    """Answer as the handler does, or as the fault says: before the org acts, after it, or in its place."""
    fault = request.fault
    if fault is not None and fault.replaces_answer and not fault.after:
        await asyncio.sleep(fault.delay)
        return _changed(_fault_response(fault, request), fault)
    try:
        response = await handler(request)
    except ApiError as refusal:
        response = _error_response(refusal.spec, request, refusal.values)
        response.headers.update(refusal.headers)
        if fault is not None and (fault.after or fault.stream is not None):
            # The org did not act, so nothing can go wrong after it: the fault waits for a request that fits.
            request.org.faults.put_back(fault)
            return response
    if response.pieces is None and response.pause:
        await asyncio.sleep(response.pause)
    if fault is None:
        return response
    await asyncio.sleep(fault.delay)
    return _changed(_fault_response(fault, request) if fault.replaces_answer else response, fault)


def _error_response(spec: ErrorSpec, request: OrgRequest, values: dict[str, Any]) -> OrgResponse:
    # What fills the blanks of a documented text when nothing better is known.
    blanks = {"agent_id": "My_Agent", "session_id": "unknown", "field": "userId", "detail": "Bad Request"}
    known = {**blanks, "sequence_id": 1, **request.params, **values}
    headers, content = render(spec, path=request.api_path, values=known)
    return OrgResponse(status=spec.status, headers=headers, content=content)


def _fault_response(fault: Fault, request: OrgRequest) -> OrgResponse:
    if fault.drop:
        return OrgResponse(drop=True)
    spec = ERRORS[fault.error] if fault.error else for_status(fault.operation, fault.status or 0)
    response = _error_response(spec, request, {})
    response.status = fault.status or spec.status
    return response


def _changed(response: OrgResponse, fault: Fault) -> OrgResponse:
    """Apply the single changes that a fault names."""
    response.cut = fault.cut
    if fault.body is not None:
        response.pieces = None
        response.content, content_type = _body(fault.body)
        # A usual answer keeps its type, so that a broken body meets the parser it was meant for.
        if fault.replaces_answer or "content-type" not in response.headers:
            response.headers["content-type"] = content_type
    if fault.content_type is not None:
        response.headers["content-type"] = fault.content_type
    response.headers.update({name.lower(): value for name, value in (fault.headers or {}).items()})
    return response


def _body(body: dict[str, Any] | list[Any] | str | bytes) -> tuple[bytes, str]:
    if isinstance(body, bytes):
        return body, "application/octet-stream"
    if isinstance(body, str):
        return body.encode(), "text/plain"
    return json.dumps(body).encode(), "application/json"


class LoopbackOnly:
    """Refuse what a web page could have caused: a foreign Host (DNS rebinding) or a foreign Origin."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on when it comes from this machine by its own name."""
        headers = dict(scope["headers"])
        host, origin = headers.get(b"host", b""), headers.get(b"origin")
        allowed = _loopback(b"//" + host) and (origin is None or _loopback(origin))
        app = self._app if allowed else PlainTextResponse("Loopback hosts only.\n", status_code=403)
        # A stopped server cancels what still waits, and a killed client leaves half a request behind: neither
        # can be answered.
        try:
            await app(scope, receive, send)
        except (asyncio.CancelledError, ClientDisconnect):
            return


def _loopback(url: bytes) -> bool:
    try:
        return is_loopback(urlsplit(url.decode("latin-1")).hostname or "")
    except ValueError:
        return False
