"""The ASGI application: logs each request, applies the fault, calls the handler, and sends the answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from airflow_provider_agentforce.emulator import (
    admin,
    agent_api,
    data_api,
    oauth,
    session_trace,
    testing_api,
    trace,
)
from airflow_provider_agentforce.emulator.errors import ERRORS, ApiError, ErrorSpec, for_status, render
from airflow_provider_agentforce.emulator.exchange import (
    API_BASE,
    PREVIEW_BASE,
    Handler,
    OrgRequest,
    OrgResponse,
)
from airflow_provider_agentforce.emulator.faults import Fault
from airflow_provider_agentforce.emulator.models import RequestRecord, is_loopback
from airflow_provider_agentforce.emulator.org import Org
from airflow_provider_agentforce.emulator.tls import is_salesforce

_ANY_METHOD = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_SESSION = f"{API_BASE}/sessions/{{session_id}}"
_DATA = "/services/data/v{version}"
_PLAN = f"{PREVIEW_BASE}/preview/sessions/{{session_id}}/plans/{{plan_id}}"
# Method, path, operation and handler.
_ROUTES: tuple[tuple[str, str, str, Handler], ...] = (
    ("POST", "/services/oauth2/token", "token", oauth.token),
    ("GET", "/services/oauth2/userinfo", "other", oauth.user_info),
    ("GET", "/agentforce/bootstrap/nameduser", "other", oauth.named_user),
    ("POST", f"{API_BASE}/agents/{{agent_id}}/sessions", "start", agent_api.start),
    ("POST", f"{_SESSION}/messages", "send", agent_api.send),
    ("POST", f"{_SESSION}/messages/stream", "send", agent_api.send),
    ("POST", f"{_SESSION}/feedback", "feedback", agent_api.feedback),
    ("DELETE", _SESSION, "end", agent_api.end),
    ("GET", _PLAN, "trace", trace.plan),
    ("GET", "/services/data", "other", data_api.versions),
    ("GET", _DATA, "other", data_api.resources),
    ("GET", f"{_DATA}/query", "query", data_api.query),
    ("GET", f"{_DATA}/query/{{locator}}", "query", data_api.query_more),
    ("GET", f"{_DATA}/sobjects/{{type}}/describe", "query", data_api.describe),
    ("GET", f"{_DATA}/sobjects/{{type}}/{{id}}", "query", data_api.record),
    ("PATCH", f"{_DATA}/composite/sobjects", "write", data_api.collections),
    ("PATCH", f"{_DATA}/composite/sobjects/{{type}}/{{field}}", "write", data_api.collections_by_external_id),
    ("GET", f"{_DATA}/einstein/audit/otel/{{session_id}}", "session_trace", session_trace.session_trace),
    ("POST", "/services/Soap/m/{version}", "test", testing_api.list_definitions),
    *(
        (method, f"{_DATA}/einstein/{{api}}/runs{path}", "test", handler)
        for method, path, handler in (
            ("POST", "", testing_api.start),
            ("GET", "/{run_id}", testing_api.status),
            ("GET", "/{run_id}/results", testing_api.results),
            ("POST", "/{run_id}/cancel", testing_api.cancel),
        )
    ),
)


def build_app(org: Org) -> ASGIApp:
    """Return the ASGI application of ``org``."""
    own: list[BaseRoute] = [
        Route(path, _Endpoint(org, operation, handler), methods=[method])
        for method, path, operation, handler in _ROUTES
    ]
    rest = Route("/{path:path}", _Endpoint(org, "other", _nothing_here), methods=_ANY_METHOD)
    app = FastAPI(routes=[*own, *admin.routes(org), rest], openapi_url=None, docs_url=None, redoc_url=None)
    return LoopbackOnly(app, salesforce=org.settings.tls is not None)


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
    """Answer like the handler, or as the fault says: before the org acts, after it, or instead of it."""
    fault = request.fault
    if fault is not None and fault.replaces_answer and not fault.after:
        return await _not_acted(request, fault)
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


async def _not_acted(request: OrgRequest, fault: Fault) -> OrgResponse:
    await asyncio.sleep(fault.delay)
    if fault.operation == "send":
        agent_api.note_not_acted(request, fault)
    return _changed(_fault_response(fault, request), fault)


def _error_response(spec: ErrorSpec, request: OrgRequest, values: dict[str, Any]) -> OrgResponse:
    # Default values for the placeholders of a documented text.
    blanks = {"agent_id": "My_Agent", "session_id": "unknown", "field": "userId", "detail": "Bad Request"}
    known = {**blanks, "sequence_id": 1, "definition": "My_Tests", **request.params, **values}
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
    """Apply the changes to parts of the answer that a fault names."""
    response.cut = fault.cut
    if fault.body is not None:
        response.pieces = None
        response.content, content_type = _body(fault.body)
        # The org's own answer keeps its content type, so that the client's parser for it reads the broken
        # body.
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
    """Refuse requests that a web page could have caused: a foreign Host (DNS rebinding) or a foreign Origin.

    :param salesforce: also accept Salesforce's hosts, because the proxy redirects them here.
    """

    def __init__(self, app: ASGIApp, *, salesforce: bool = False) -> None:
        self._app = app
        self._salesforce = salesforce

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request that comes from this machine under its own name."""
        headers = dict(scope["headers"])
        host, origin = headers.get(b"host", b""), headers.get(b"origin")
        known = _is_known(b"//" + host, salesforce=self._salesforce)
        allowed = known and (origin is None or _is_known(origin))
        app = self._app if allowed else PlainTextResponse("Loopback hosts only.\n", status_code=403)
        # Clients whose instance URL ends with a slash ask for //services/data, and an org answers.
        scope = {**scope, "path": "/" + scope["path"].lstrip("/")}
        # A stopped server cancels waiting requests, and a killed client leaves an incomplete one: neither can
        # be answered.
        try:
            await app(scope, receive, send)
        except (asyncio.CancelledError, ClientDisconnect):
            return


def _is_known(url: bytes, *, salesforce: bool = False) -> bool:
    try:
        host = urlsplit(url.decode("latin-1")).hostname or ""
    except ValueError:
        return False
    return is_loopback(host) or (salesforce and is_salesforce(host))
