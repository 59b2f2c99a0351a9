"""The routes of the org, and the one path every request takes: log, fault, handler, answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from airflow_provider_agentforce.emulator import admin, agent_api, evaluations, oauth, soql
from airflow_provider_agentforce.emulator.calls import API_BASE, Answer, Call, Handler
from airflow_provider_agentforce.emulator.errors import ERRORS, ApiError, ErrorSpec, for_status, render
from airflow_provider_agentforce.emulator.faults import Fault
from airflow_provider_agentforce.emulator.models import RequestRecord
from airflow_provider_agentforce.emulator.org import Org
from airflow_provider_agentforce.emulator.settings import is_loopback
from airflow_provider_agentforce.emulator.wire import WireResponse

Endpoint = Callable[[Request], Awaitable[Response]]

_SESSION = f"{API_BASE}/sessions/{{session_id}}"
_RUNS = "/services/data/v{version}/einstein/ai-evaluations/runs"
_ROUTES: tuple[tuple[str, str, str, Handler], ...] = (
    ("POST", "/services/oauth2/token", "token", oauth.token),
    ("POST", f"{API_BASE}/agents/{{agent_id}}/sessions", "start", agent_api.start),
    ("POST", f"{_SESSION}/messages", "send", agent_api.send),
    ("POST", f"{_SESSION}/messages/stream", "send", agent_api.send_stream),
    ("POST", f"{_SESSION}/feedback", "feedback", agent_api.feedback),
    ("DELETE", _SESSION, "end", agent_api.end),
    ("GET", "/services/data/v{version}/query", "query", soql.query),
    ("POST", _RUNS, "test", evaluations.start),
    ("GET", f"{_RUNS}/{{run_id}}", "test", evaluations.status),
    ("GET", f"{_RUNS}/{{run_id}}/results", "test", evaluations.results),
    ("POST", f"{_RUNS}/{{run_id}}/cancel", "test", evaluations.cancel),
)
_ANY_METHOD = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def build_app(org: Org) -> ASGIApp:
    """Return the ASGI application of ``org``."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    for method, path, operation, handler in _ROUTES:
        app.add_route(path, _endpoint(org, operation, handler), methods=[method])
    for method, path, endpoint in admin.routes(org):
        app.add_route(path, endpoint, methods=[method])
    app.add_route("/{path:path}", _endpoint(org, "other", _nothing_here), methods=_ANY_METHOD)
    return LoopbackOnly(app)


async def _nothing_here(_call: Call) -> Answer:
    raise ApiError("wrong_host")


def _endpoint(org: Org, operation: str, handler: Handler) -> Endpoint:
    async def endpoint(request: Request) -> Response:
        call = await _receive(org, operation, request)
        fault = org.faults.take(operation)
        try:
            answer = await _answer(call, handler, fault)
        except BaseException:
            call.close()
            raise

        def note_status(status: int) -> None:
            call.record.status = status
            org.changed()

        return WireResponse(answer, on_status=note_status, on_end=call.close)

    return endpoint


async def _receive(org: Org, operation: str, request: Request) -> Call:
    content = await request.body()
    path = request.url.path
    record = RequestRecord(
        operation=operation,
        method=request.method,
        path=path,
        headers=dict(request.headers.items()),
        body=_readable(content),
        stream=path.endswith("/messages/stream"),
    )
    org.log(record)
    params = {name: str(value) for name, value in request.path_params.items()}
    return Call(org=org, record=record, params=params, query=dict(request.query_params), content=content)


def _readable(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode("utf-8", "replace")


async def _answer(call: Call, handler: Handler, fault: Fault | None) -> Answer:
    """Answer as the handler does, or as the fault says: before the org acts, after it, or in its place."""
    if fault is not None and fault.replaces_answer and not fault.after:
        await asyncio.sleep(fault.delay)
        return _changed(_fault_answer(fault, call), fault)
    try:
        answer = await handler(call)
    except ApiError as refusal:
        answer = _refusal(refusal, call)
        if fault is not None and fault.after:
            # The org did not act, so nothing can go wrong after it: the fault waits for a request that fits.
            call.org.faults.put_back(fault)
            return answer
    if answer.pieces is None and answer.pause:
        await asyncio.sleep(answer.pause)
    if fault is None:
        return answer
    await asyncio.sleep(fault.delay)
    return _changed(_fault_answer(fault, call) if fault.replaces_answer else answer, fault)


def _values(call: Call) -> dict[str, Any]:
    """Return what fills the blanks of a documented error text when nothing better is known."""
    blanks = {"agent_id": "My_Agent", "session_id": "unknown", "field": "userId", "detail": "Bad Request"}
    return {**blanks, **call.params}


def _refusal(refusal: ApiError, call: Call) -> Answer:
    answer = _error_answer(refusal.spec, call, refusal.values)
    answer.headers.update(refusal.headers)
    return answer


def _error_answer(spec: ErrorSpec, call: Call, values: dict[str, Any]) -> Answer:
    headers, content = render(spec, path=call.api_path, values={**_values(call), **values})
    return Answer(status=spec.status, headers=headers, content=content)


def _fault_answer(fault: Fault, call: Call) -> Answer:
    if fault.drop:
        return Answer(drop=True)
    operation, status = fault.operation, fault.status
    spec = ERRORS[fault.error] if fault.error else for_status(operation, status or 0)
    answer = _error_answer(spec, call, {})
    answer.status = status or spec.status
    return answer


def _changed(answer: Answer, fault: Fault) -> Answer:
    """Apply the single changes that a fault names."""
    answer.cut = fault.cut
    if fault.body is not None:
        answer.pieces = None
        answer.content, content_type = _body(fault.body)
        # A usual answer keeps its type, so that a broken body meets the parser it was meant for.
        if fault.replaces_answer or "content-type" not in answer.headers:
            answer.headers["content-type"] = content_type
    if fault.content_type is not None:
        answer.headers["content-type"] = fault.content_type
    answer.headers.update({name.lower(): value for name, value in (fault.headers or {}).items()})
    return answer


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
        # A stopped server cancels what still waits, and a killed client leaves half a request behind: in both
        # cases there is nobody left to tell.
        try:
            await app(scope, receive, send)
        except (asyncio.CancelledError, ClientDisconnect):
            return


def _loopback(url: bytes) -> bool:
    try:
        return is_loopback(urlsplit(url.decode("latin-1")).hostname or "")
    except ValueError:
        return False
